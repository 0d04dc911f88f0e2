"""Which locks somebody waited for, how long, and who held them: one sentence per lock and arm, and point or study."""

from __future__ import annotations

import json
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
    for cell in records(cells):
        yield from [wait for wait in _of_cell(results, cell) if wait.share >= LEAST][:MOST]


def _of_cell(results: Frames, cell: dict[str, Any]) -> list[Wait]:
    """Return every lock that somebody waited for in one cell, dearest first."""
    locks = results.table("locks")
    own = locks[locks["cell"] == cell["cell"]]
    simulated = float(cell["duration_ns"]) * max(own["replication"].nunique(), 1)
    found = [_wait(cell, str(lock), rows, simulated) for lock, rows in own[own["contended"] > 0].groupby("lock")]
    return sorted(found, key=lambda wait: (-wait.wait_ns, wait.lock))


def explained(results: Frames, rows: pd.DataFrame, margin: float) -> str:
    """Say which locks go with a large API share, for rows of one point and class; '' where none does.

    An arm is looked at if its share exceeds the least one by more than `margin`, and a lock named if the threads
    waiting for it, beyond those of the arm of least share, are more than `margin` of those inside operations of this
    class: less could not move the mean latency by `margin`. Which class waited is not recorded, nor inside which verb.
    """
    import pandas as pd

    found = [row | _spans(results, str(row["cell"])) for row in records(rows.sort_values("api_share", kind="stable"))]
    dear = [row for row in found if row["api_share"] - found[0]["api_share"] > margin]
    by_arm: dict[str, dict[str, Wait]] = {}
    for wait in waits(results, pd.DataFrame([found[0], *dear])) if dear else ():
        by_arm.setdefault(wait.arm, {})[wait.lock] = wait
    least = by_arm.pop(str(found[0]["arm"]), {})
    said: list[str] = []
    for row in reversed(dear):
        inside = row["operations"] * (row["queue"] + row["service"]) / (row["window_ns"] * row["replications"])
        own = [wait for wait in by_arm.get(str(row["arm"]), {}).values()
               if wait.share - (least[wait.lock].share if wait.lock in least else 0.0) > margin * inside]  # fmt: skip
        if own:
            waiting = "" if said else ", threads wait"
            said.append(f"{'with' if said else 'With'} {row['arm']}{waiting} for {' and '.join(map(_blamed, own))}")
    return f"{'; '.join(said)}; all threads are counted, which operations waited is not recorded." if said else ""


def _blamed(wait: Wait) -> str:
    held = f"mostly held by {wait.holder}, " if wait.holder else ""
    return f"{wait.lock} ({held}up to {with_unit(wait.longest_ns, 'time')})"


def _spans(results: Frames, cell: str) -> dict[str, int]:
    """All of the simulated time of one replication of a cell, and what of it is measured (ns)."""
    run = json.loads(results.cells.loc[results.cells["cell"] == cell, "spec"].iloc[0])["run"]
    return {"duration_ns": run["duration"], "window_ns": run["duration"] - run["warmup"]}


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
    """Return the sentences of every arm, at every point, at which threads waited for locks."""
    by_arm: dict[str, list[str]] = {}
    for wait in waits(results, arms_of(results)):
        name = f"{wait.arm}, {wait.point}" if wait.point else wait.arm
        by_arm.setdefault(name, []).append(sentence(wait))
    return by_arm


def in_short(results: Frames) -> dict[str, list[str]]:
    """Return the sentences of every arm: those of `contended`, or of a study with several points one per lock."""
    cells = arms_of(results)
    return contended(results) if cells["point"].nunique() < 2 else over_points(results, cells)


def over_points(results: Frames, cells: pd.DataFrame) -> dict[str, list[str]]:
    """Return a sentence per arm and lock: at how many points it was waited for, and where the longest wait was.

    `cells` as for `waits`. Of each arm the MOST locks that cost most waiting at all points together, of those that are
    worth a line at one point at least.
    """
    measured = cells[cells["refused"] == ""]
    found = {}
    for arm, own in measured.groupby("arm", sort=False):
        by_lock: dict[str, list[Wait]] = {}
        for cell in records(own):
            for wait in _of_cell(results, cell):
                by_lock.setdefault(wait.lock, []).append(wait)
        dear = [ones for ones in by_lock.values() if max(wait.share for wait in ones) >= LEAST]
        dear.sort(key=lambda ones: (-sum(wait.wait_ns for wait in ones), ones[0].lock))
        if dear:
            found[str(arm)] = [_over(ones, own["point"].nunique()) for ones in dear[:MOST]]
    return found


def _over(ones: list[Wait], points: int) -> str:
    worst = max(ones, key=lambda wait: wait.longest_ns)
    held = f", mostly for {worst.holder}" if worst.holder else ""
    at = "at all" if len(ones) == points else f"at {len(ones)} of"
    return (f"{worst.lock}: waited for {at} {points} points; the longest {with_unit(worst.longest_ns, 'time')} with "
            f"{worst.point}{held}")  # fmt: skip
