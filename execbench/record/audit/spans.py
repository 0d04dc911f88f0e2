"""A map from ranges of integers to values: what is known of addresses, pages and frames, kept by stretches."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class Spans(Generic[V]):
    """Disjoint ranges [start, end) with a value each, in order; what lies between them has none."""

    __slots__ = ("_ends", "_starts", "_values")

    def __init__(self) -> None:
        """Know nothing."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[V] = []

    def __len__(self) -> int:
        """Return the number of stretches."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        """Yield (start, end, value) in order."""
        return iter(list(zip(self._starts, self._ends, self._values, strict=True)))

    def at(self, point: int) -> V | None:
        """Return the value of one point."""
        i = bisect_right(self._starts, point) - 1
        return self._values[i] if i >= 0 and point < self._ends[i] else None

    def over(self, start: int, end: int) -> list[tuple[int, int, V]]:
        """Return the stretches that overlap [start, end), clipped to it."""
        first, last = self._range(start, end)
        return [
            (max(self._starts[i], start), min(self._ends[i], end), self._values[i]) for i in range(first, last)
        ]  # fmt: skip

    def tiled(self, start: int, end: int) -> list[tuple[int, int, V | None]]:
        """Return stretches that tile [start, end) without a gap; the value is None where there is none."""
        tiles: list[tuple[int, int, V | None]] = []
        at = start
        for low, high, value in self.over(start, end):
            if low > at:
                tiles.append((at, low, None))
            tiles.append((low, high, value))
            at = high
        if at < end:
            tiles.append((at, end, None))
        return tiles

    def put(self, start: int, end: int, value: V) -> None:
        """Give [start, end) one value, whatever it had."""
        self._replace(start, end, [(start, end, value)])

    def drop(self, start: int, end: int) -> None:
        """Forget [start, end)."""
        self._replace(start, end, [])

    def change(self, start: int, end: int, new: Callable[[int, int, V], V]) -> None:
        """Give every stretch that overlaps [start, end) the value new(start, end, old), on the overlap alone."""
        old = self.over(start, end)
        fresh = [(low, high, new(low, high, value)) for low, high, value in old]
        if any(before[2] is not after[2] for before, after in zip(old, fresh, strict=True)):
            self._replace(start, end, fresh)

    def _range(self, start: int, end: int) -> tuple[int, int]:
        first = bisect_right(self._ends, start)
        return first, max(bisect_left(self._starts, end), first)

    def _replace(self, start: int, end: int, new: list[tuple[int, int, V]]) -> None:
        if start >= end:
            return
        first, last = self._range(start, end)
        if first < last and self._starts[first] < start:
            new = [(self._starts[first], start, self._values[first]), *new]
        if first < last and self._ends[last - 1] > end:
            new = [*new, (end, self._ends[last - 1], self._values[last - 1])]
        self._starts[first:last] = [low for low, _, _ in new]
        self._ends[first:last] = [high for _, high, _ in new]
        self._values[first:last] = [value for _, _, value in new]
