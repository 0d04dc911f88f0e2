"""Free ranges of a line of integers, searched lowest address first."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from operator import sub
from typing import NamedTuple

_LOAD = 64


class Fit(NamedTuple):
    """A found place: where it starts and how many holes below it were passed over."""

    start: int
    passed: int


class Holes:
    """Maximal free ranges [start, end), sorted and never adjacent, in buckets that know their widest hole.

    The bucket maximum plays the part of the kernel's augmented tree (`subtree_max_size` in mm/vmalloc.c): a search
    skips whole buckets that hold nothing large enough, so thousands of small holes cost tens of comparisons.
    """

    __slots__ = ("_ends", "_heads", "_starts", "_widest", "free")

    def __init__(self) -> None:
        self._starts: list[list[int]] = []
        self._ends: list[list[int]] = []
        self._heads: list[int] = []
        self._widest: list[int] = []
        self.free = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for starts, ends in zip(self._starts, self._ends, strict=True):
            yield from zip(starts, ends, strict=True)

    def __len__(self) -> int:
        return sum(map(len, self._starts))

    def first_fit(self, low: int, high: int, size: int, align: int = 1, length: int = 0) -> Fit | None:
        """Return the lowest aligned place of `size` inside [low, high), or None.

        Holes shorter than `length` are not considered: a search that adjusts for alignment asks for more than it
        takes.
        """
        need = max(size, length)
        passed = 0
        for bucket in range(max(0, bisect_right(self._heads, low) - 1), len(self._heads)):
            if self._heads[bucket] >= high:
                break
            starts = self._starts[bucket]
            if self._widest[bucket] < need:
                passed += len(starts)
                continue
            for i, width in enumerate(map(sub, self._ends[bucket], starts)):
                if width >= need:
                    hole = starts[i]
                    start = hole if hole > low else low
                    start = -(-start // align) * align
                    if start + size <= min(hole + width, high):
                        return Fit(start, passed + i)
            passed += len(starts)
        return None

    def take(self, start: int, end: int) -> None:
        """Remove [start, end) from the hole that contains it; ValueError if part of it is not free."""
        bucket, i = self._at(start)
        if end <= start or bucket < 0 or self._ends[bucket][i] < end:
            raise ValueError(f"[{start}, {end}) is not free")
        starts, ends = self._starts[bucket], self._ends[bucket]
        width = ends[i] - starts[i]
        if starts[i] == start:
            if ends[i] == end:
                del starts[i], ends[i]
            else:
                starts[i] = end
        else:
            if ends[i] != end:
                starts.insert(i + 1, end)
                ends.insert(i + 1, ends[i])
            ends[i] = start
        self.free -= end - start
        if width == self._widest[bucket] or len(starts) > _LOAD:
            self._settle(bucket)
        else:  # not empty, for a wider hole is in it
            self._heads[bucket] = starts[0]

    def give(self, start: int, end: int) -> None:
        """Add [start, end), merging with its neighbours; ValueError if part of it is free already."""
        bucket, i = self._at(start)
        after, j = (bucket, i + 1) if bucket >= 0 and i + 1 < len(self._starts[bucket]) else (bucket + 1, 0)
        follows = after < len(self._starts)
        if (
            end <= start
            or (bucket >= 0 and self._ends[bucket][i] > start)
            or (follows and self._starts[after][j] < end)
        ):
            raise ValueError(f"[{start}, {end}) is free already or empty")
        joins_low = bucket >= 0 and self._ends[bucket][i] == start
        joins_high = follows and self._starts[after][j] == end
        if joins_low:
            self._ends[bucket][i] = self._ends[after][j] if joins_high else end
            if joins_high:
                del self._starts[after][j], self._ends[after][j]
        elif joins_high:
            self._starts[after][j] = start
        elif bucket >= 0:
            self._starts[bucket].insert(i + 1, start)
            self._ends[bucket].insert(i + 1, end)
        else:
            self._insert_first(start, end)
        self.free += end - start
        if joins_low and joins_high and after != bucket:  # a hole has left its bucket
            self._settle(after)
        place, hole = (after, j) if joins_high and not joins_low else (max(bucket, 0), i if joins_low else i + 1)
        starts = self._starts[place]
        if len(starts) > _LOAD:
            self._settle(place)
        else:
            self._heads[place] = starts[0]
            self._widest[place] = max(self._widest[place], self._ends[place][hole] - starts[hole])

    def largest(self, low: int, high: int) -> int:
        """Return the length of the widest hole, cut to [low, high)."""
        best = 0
        for starts, ends, widest in zip(self._starts, self._ends, self._widest, strict=True):
            if widest > best:
                whole = low <= starts[0] and ends[-1] <= high
                cut = widest if whole else max(min(e, high) - max(s, low) for s, e in zip(starts, ends, strict=True))
                best = max(best, cut)
        return best

    def total(self, low: int, high: int) -> int:
        """Return how much of [low, high) is free."""
        if not self._heads or (low <= self._heads[0] and self._ends[-1][-1] <= high):
            return self.free
        return sum(max(0, min(e, high) - max(s, low)) for s, e in self)

    def check(self) -> None:
        """Raise AssertionError unless holes are sorted, apart, and every bucket's figures are right."""
        flat = list(self)
        for (low, end), (start, _) in pairwise(flat):
            if not low < end < start:
                raise AssertionError(f"holes [{low}, {end}) and [{start}, ...) are out of order or adjacent")
        for head, widest, starts, ends in zip(self._heads, self._widest, self._starts, self._ends, strict=True):
            if head != starts[0] or widest != max(map(sub, ends, starts)):
                raise AssertionError(f"bucket at {head}: head {starts[0]}, widest {widest}")
        if self.free != sum(e - s for s, e in flat):
            raise AssertionError(f"free: running total {self.free}, recount {sum(e - s for s, e in flat)}")

    def _at(self, place: int) -> tuple[int, int]:
        """Return (bucket, index) of the last hole that starts at or below `place`, or (-1, -1)."""
        bucket = bisect_right(self._heads, place) - 1
        return (bucket, bisect_right(self._starts[bucket], place) - 1) if bucket >= 0 else (-1, -1)

    def _insert_first(self, start: int, end: int) -> None:
        """Insert a hole below all others."""
        if self._starts:
            self._starts[0].insert(0, start)
            self._ends[0].insert(0, end)
        else:
            self._starts.append([start])
            self._ends.append([end])
            self._heads.append(start)
            self._widest.append(end - start)

    def _settle(self, bucket: int) -> None:
        """Restore the figures of a changed bucket; drop an empty one, halve a full one."""
        starts, ends = self._starts[bucket], self._ends[bucket]
        if not starts:
            del self._starts[bucket], self._ends[bucket], self._heads[bucket], self._widest[bucket]
            return
        if len(starts) > _LOAD:
            half = len(starts) // 2
            self._starts.insert(bucket + 1, starts[half:])
            self._ends.insert(bucket + 1, ends[half:])
            self._heads.insert(bucket + 1, starts[half])
            self._widest.insert(bucket + 1, max(map(sub, ends[half:], starts[half:])))
            del starts[half:], ends[half:]
        self._heads[bucket] = starts[0]
        self._widest[bucket] = max(map(sub, ends, starts))
