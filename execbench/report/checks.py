"""What has to hold before latencies mean anything: no backlog that grows, and enough turns of slow mechanisms."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from execbench.stats.drift import grows

if TYPE_CHECKING:
    from execbench.report.comparison import Frames

FEW_CYCLES = 20
"""Turns of a periodic or threshold process below which a window has not seen what it does."""


def growth(results: Frames, cell: str, run: Mapping[str, Any], closed: Collection[str] = ()) -> float:
    """Return by how many operations per second the worst backlog of a cell grows; 0 unless one is shown to.

    Class by class: what waits to be loaded and what waits to be freed are different queues.

    Operations in system (waiting arrivals included) at the end of the window less at its middle, over the replications
    that ended as they should. `run` is that of the cell's spec. What a thread of one of the `closed` clients waits for
    cannot pile up: of them only deferred work is looked at.
    """
    replications, totals = results.table("replications"), results.table("totals")
    ended = replications[(replications["cell"] == cell) & (replications["outcome"] == "ok")]["replication"]
    own = totals[(totals["cell"] == cell) & totals["replication"].isin(ended)]
    half_ns: int = (run["duration"] - run["warmup"]) // 2
    worst = 0.0
    metrics = results.table("metrics")
    free = metrics[(metrics["cell"] == cell) & (metrics["metric"] == "api_share_free")]
    deferred = set(zip(free["client"], free["kind"], strict=True))
    for (client, kind), rows in own.groupby(["client", "kind"]):
        if client in closed and (client, kind) not in deferred:
            continue
        change = (rows["in_system_end"] - rows["in_system_half"]).groupby(rows["replication"]).sum()
        if grows(change.tolist()):
            worst = max(worst, float(change.mean()) / half_ns * 1e9)
    return worst


def few_cycles(results: Frames, cell: str) -> str:
    """Return the slow processes of a cell with fewer than FEW_CYCLES turns in the window, all replications together."""
    metrics = results.table("metrics")
    own = metrics[(metrics["cell"] == cell) & metrics["metric"].str.startswith("cycles_")]
    sums = own.groupby("metric")["value"].sum()
    return ", ".join(f"{str(name).removeprefix('cycles_').replace('_', ' ')} ({count:.0f})"
                     for name, count in sums.items() if count < FEW_CYCLES)  # fmt: skip


def undone(results: Frames, cell: str) -> int:
    """Return the largest number of things that a replication of a terminating workload did not come to."""
    metrics = results.table("metrics")
    own = metrics[(metrics["cell"] == cell) & (metrics["metric"] == "undone")]
    return int(own["value"].max()) if len(own) else 0
