"""The toy machine of the suite: costs of whole numbers, a quiet background, features of each architecture."""

from __future__ import annotations

from typing import Any

from execbench.catalogue import CATALOGUE
from execbench.costs import Cost, CostTable, Evidence
from execbench.registry.instances import client_costs

TOY_FEATURES: dict[str, dict[str, Any]] = {
    "x86_64": {"apic": "x2apic", "ipi": "shorthand", "invlpgb": False, "fred": False, "its": False,
               "fineibt": False, "ibpb_on_cbpf": False},
    "arm64": {"idc": False, "dic": False, "rodata_full": True, "bbml": False, "tlbi_range": True},
    "riscv64": {"rfence": "ipi"},
}  # fmt: skip
"""Features of the toy machine of each architecture."""


def toy_costs() -> CostTable:
    """Return a table in which every cost is a whole number of ns, no two alike, so that a mistaken name shows.

    The costs of all clients are there too: some backends are about one client's world (user space).
    """
    rows = {**CATALOGUE, **{f"client.{client}.{cost}": entry for client, costs in client_costs().items()
                            for cost, entry in costs.items()}}  # fmt: skip
    return CostTable(
        {
            name: Cost(name, 1000 * (10 + i), 1, 10**6, entry.per, "constant", None, Evidence.ASSUMED, "toy", "input")
            for i, (name, entry) in enumerate(rows.items())
        }
    )


def toy_background() -> dict[str, Any]:
    """Return a background that idles half of the time and works in user mode otherwise."""
    state = {"fraction": 0.5, "mean": 100_000, "masked": False, "qs": True}
    return {"rule": "symmetric-flux", "restart": "idle-shallow", "states": {"user": state, "idle-shallow": dict(state)}}
