"""Cells times replications, less what is finished, as work items: what one worker call computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from execbench.store.parts import Part, task_name

__all__ = ["WorkItem", "batch_size", "finished", "plan"]

_LARGEST: Final = 5
"""Replications per work item at most: what a kill loses at worst, and the grain of the progress bar."""
_ITEMS: Final = 16
"""Work items that a study is cut into if it has enough replications, so that a few workers finish together."""


@dataclass(frozen=True)
class WorkItem:
    """The replications first..last of one cell."""

    cell: str
    first: int
    last: int

    @property
    def name(self) -> str:
        """The name of the item and of its part."""
        return task_name(self.cell, self.first, self.last)

    @property
    def size(self) -> int:
        """Number of replications."""
        return self.last - self.first + 1


def batch_size(replications: int) -> int:
    """Return the replications per item for so many replications of all cells, whatever the number of workers.

    Independent of the workers, so that the files of a study do not depend on where it ran.
    """
    return min(max(replications // _ITEMS, 1), _LARGEST)


def finished(parts: Iterable[Part]) -> dict[str, set[int]]:
    """Return the replication numbers on disk by cell."""
    done: dict[str, set[int]] = {}
    for part in parts:
        done.setdefault(part.cell, set()).update(range(part.first, part.last + 1))
    return done


def plan(cells: Sequence[str], replications: int, done: Mapping[str, Set[int]] | None = None) -> list[WorkItem]:
    """Return the work items for replications 0 .. `replications` - 1 of every cell that are not `done`.

    Items take turns between cells, so that a study which is interrupted has something of every arm.
    """
    size = batch_size(len(cells) * replications)
    per_cell = [_items(cell, replications, size, (done or {}).get(cell, set())) for cell in cells]
    rounds = max((len(items) for items in per_cell), default=0)
    return [items[i] for i in range(rounds) for items in per_cell if i < len(items)]


def _items(cell: str, replications: int, size: int, done: Set[int]) -> list[WorkItem]:
    """Cut the missing replications of one cell into runs of at most `size`, at multiples of `size`."""
    items: list[WorkItem] = []
    for number in range(replications):
        if number in done:
            continue
        if items and items[-1].last == number - 1 and number % size:
            items[-1] = WorkItem(cell, items[-1].first, number)
        else:
            items.append(WorkItem(cell, number, number))
    return items
