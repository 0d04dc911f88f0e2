"""What has to hold before latencies mean anything: no backlog that grows, and enough turns of slow mechanisms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from execbench.stats.drift import grows

if TYPE_CHECKING:
    from execbench.report.comparison import Frames

FEW_CYCLES = 20
"""Turns of a periodic or threshold process below which a window has not seen what it does."""


def growth(results: Frames, cell: str, run: Mapping[str, Any]) -> float:
    """Return by how many operations per second a cell's backlog grows, all classes together; 0 unless it is shown to.

    Operations in system (waiting arrivals included) at the end of the window less at its middle, over the replications
    that ended as they should. `run` is that of the cell's spec.
    """
    replications, totals = results.table("replications"), results.table("totals")
    ended = replications[(replications["cell"] == cell) & (replications["outcome"] == "ok")]["replication"]
    own = totals[(totals["cell"] == cell) & totals["replication"].isin(ended)]
    per_replication = (own["in_system_end"] - own["in_system_half"]).groupby(own["replication"]).sum()
    if not grows(per_replication.tolist()):
        return 0.0
    half_ns: int = (run["duration"] - run["warmup"]) // 2
    return float(per_replication.mean()) / half_ns * 1e9


def few_cycles(results: Frames, cell: str) -> str:
    """Return the slow processes of a cell with fewer than FEW_CYCLES turns in the window, all replications together."""
    metrics = results.table("metrics")
    own = metrics[(metrics["cell"] == cell) & metrics["metric"].str.startswith("cycles_")]
    sums = own.groupby("metric")["value"].sum()
    return ", ".join(f"{str(name).removeprefix('cycles_').replace('_', ' ')} ({count:.0f})"
                     for name, count in sums.items() if count < FEW_CYCLES)  # fmt: skip
