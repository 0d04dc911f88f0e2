"""What is done many times in a row is written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

LONGEST: Final = 12
"""Rows of the longest block that is looked for."""
_SPARED: Final = 3
"""Rows that a block must spare."""


class Row(NamedTuple):
    """One row of a path: how many locks are held, the step, how often in a row, what came of it, whose words these are.

    `key` is the primitive, lock or fact in the vocabulary. behind: it is the rest of the row before, so that no run of
    rows begins with it.
    """

    depth: int
    verb: str
    times: int
    effects: str
    key: str
    behind: bool = False


class Block(NamedTuple):
    """Rows that are done several times in a row."""

    depth: int
    times: int
    rows: tuple[Row | Block, ...]


Item = Row | Block


def folded(rows: Sequence[Item]) -> tuple[Item, ...]:
    """Return the rows with equal neighbours counted and equal runs of rows as blocks, short ones first."""
    items: tuple[Item, ...] = tuple(rows)
    for period in range(1, LONGEST + 1):
        items = _folded(items, period)
    return items


def _folded(items: tuple[Item, ...], period: int) -> tuple[Item, ...]:
    found: list[Item] = []
    at = 0
    while at < len(items):
        run = items[at : at + period]
        times = _times(items, at, period)
        if times > 1 and _whole(run) and _worth(times, period):
            found.append(_once(run, times))
            at += times * period
        else:
            found.append(items[at])
            at += 1
    return tuple(found)


def _times(items: tuple[Item, ...], at: int, period: int) -> int:
    run, times = items[at : at + period], 1
    while len(run) == period and items[at + times * period : at + (times + 1) * period] == run:
        times += 1
    return times


def _whole(run: tuple[Item, ...]) -> bool:
    """Say whether a run begins where something begins: under no more locks than all of it, and not in mid-step."""
    first = run[0]
    begins = len(run) == 1 or not (isinstance(first, Row) and first.behind)
    return begins and all(item.depth >= first.depth for item in run)


def _worth(times: int, period: int) -> bool:
    return period == 1 or times * period - (period + 1) >= _SPARED


def _once(run: tuple[Item, ...], times: int) -> Item:
    first = run[0]
    if len(run) == 1 and isinstance(first, Row) and first.times == 1:
        return first._replace(times=times)
    return Block(first.depth, times, run)
