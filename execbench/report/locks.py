"""Which locks somebody waited for, how long, and who held them: one sentence per lock and arm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from execbench.report.arms import arms_of
from execbench.report.comparison import records
from execbench.report.numbers import number, with_unit

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames

MOST = 4
"""Locks named per arm: those that cost the most waiting."""
LEAST = 0.001
"""Share of one CPU's time spent waiting for a lock below which it is not worth a line."""


class Wait(NamedTuple):
    """What all threads of one arm waited for one lock, over all replications (ns)."""

    arm: str
    point: str
    lock: str
    acquisitions: int
    contended: int
    wait_ns: int
    longest_ns: int
    holder: str
    share: float
    """Waiting threads, on average over the simulated time of all replications."""


def waits(results: Frames, cells: pd.DataFrame) -> Iterator[Wait]:
    """Yield the locks of each arm that cost most waiting, dearest first; none where nobody waited to speak of.

    `cells` are those of execbench.report.arms. The holder is the site that most of the waiting was for, in most
    replications.
    """
    locks = results.table("locks")
    for cell in records(cells):
        mine = locks[(locks["cell"] == cell["cell"]) & (locks["contended"] > 0)]
        simulated = float(cell["duration_ns"]) * max(locks[locks["cell"] == cell["cell"]]["replication"].nunique(), 1)
        found = [_wait(cell, str(lock), rows, simulated) for lock, rows in mine.groupby("lock")]
        found.sort(key=lambda wait: (-wait.wait_ns, wait.lock))
        yield from [wait for wait in found if wait.share >= LEAST][:MOST]


def _wait(cell: dict[str, Any], lock: str, rows: pd.DataFrame, simulated_ns: float) -> Wait:
    holders = rows.groupby("holder")["wait_ns"].sum().sort_values(kind="stable")
    total = int(rows["wait_ns"].sum())
    return Wait(str(cell["arm"]), str(cell["point"]), lock, int(rows["acquisitions"].sum()),
                int(rows["contended"].sum()), total, int(rows["wait_max_ns"].max()), str(holders.index[-1]),
                total / simulated_ns)  # fmt: skip


def sentence(wait: Wait) -> str:
    """Say one wait: `text_mutex: 120 of 9,000 waited, 103 ms the longest, held by kprobe_optimizer; 0.31 threads`."""
    held = f", mostly for {wait.holder}" if wait.holder else ""
    return (
        f"{wait.lock}: {wait.contended:,} of {wait.acquisitions:,} had to wait{held}; "
        f"the longest {with_unit(wait.longest_ns, 'time')}, on average {number(wait.share)} threads waiting"
    )


def contended(results: Frames) -> dict[str, list[str]]:
    """Return the sentences of every arm at which threads waited for locks."""
    by_arm: dict[str, list[str]] = {}
    for wait in waits(results, arms_of(results)):
        name = f"{wait.arm}, {wait.point}" if wait.point else wait.arm
        by_arm.setdefault(name, []).append(sentence(wait))
    return by_arm
