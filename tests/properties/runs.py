"""Short runs of a shipped workload on shipped machines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from execbench.registry.plugins import registered
from execbench.simulate import Replication, World
from execbench.store.digest import digest_of
from execbench.study.expand import Cell, expand
from execbench.study.point import Asked

MACHINES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "machines").glob("*.toml"))


def cells(
    machine: str, *settings: str, workload: str = "bpf", arms: Iterable[str] = (), kernel: str | None = None,
    duration: str = "30ms",
) -> list[Cell]:  # fmt: skip
    """Every arm (all backends if none is named) on a machine, for some tens of milliseconds."""
    small = ["client.bpf.loaded=4"] if workload == "bpf" else []
    asked = Asked.of(
        workload=workload, backends=list(arms) or list(registered("backends")), machine=machine, kernel=kernel,
        duration=duration, warmup="5ms", set=["run.drain=200ms", *small, *settings],
    )  # fmt: skip
    return list(expand(asked).cells)


def run(cell: Cell, replication: int = 0) -> Replication:
    """Simulate a cell; what is left adds up, however the run ended."""
    spec: dict[str, Any] = json.loads(json.dumps(cell.spec))
    world = World(spec, replication, {})
    record = world.run()
    for part in (world.shared.vmap, world.shared.frames, world.shared.direct_map, world.shared.text_map):
        part.check()
    usage = world.backend.usage(world.state)
    assert 0 <= usage.asked <= usage.reserved
    return record


def digest(record: Replication) -> str:
    """The level-1 digest of a record."""
    return digest_of(record.outcome, record.operations, record.tables)


def counters(record: Replication) -> dict[tuple[str, str, str], int]:
    """How often each primitive was used, by kind of operation and mode."""
    table = record.tables["counters"]
    rows = zip(table["kind"], table["mode"], table["primitive"], table["count"], strict=True)
    return {(str(kind), str(mode), str(primitive)): int(count) for kind, mode, primitive, count in rows}
