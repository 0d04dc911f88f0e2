"""Log-linear histograms of nanoseconds, and clusters of exceedances for every threshold at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from execbench.stats.quantiles import rank

Ints = npt.NDArray[np.int64]

SUB_BITS = 7
"""128 buckets in each octave; below 256 every integer has its own."""

RELATIVE_ERROR = 1 / 256
"""No value differs from the mid value of its bucket by more than this share of itself."""


def bucket_of(ns: int) -> int:
    """Number of the bucket that holds `ns`; ValueError if it is negative."""
    if ns < 0:
        raise ValueError(f"a histogram holds times from 0 ns, not {ns}")
    octave = ns.bit_length() - SUB_BITS - 1
    # The leading 8 bits are 128..255, so octave * 128 + them continues where the exact part ends.
    return ns if octave <= 0 else (octave << SUB_BITS) + (ns >> octave)


def buckets_of(ns: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """`bucket_of` for an array of integers below 2**63."""
    x = np.asarray(ns)
    if x.size and not np.issubdtype(x.dtype, np.integer):
        raise ValueError(f"a histogram holds whole nanoseconds, not {x.dtype}")
    x = x.astype(np.int64)
    if x.size and int(x.min()) < 0:
        raise ValueError(f"a histogram holds times from 0 ns, not {int(x.min())}")
    # From 2**53 on the conversion may round up to the next octave, but only where the leading bits are all ones, and
    # there both octaves give the same number: (o << 7) + 255 = (o + 1 << 7) + 127.
    octave = np.maximum(np.frexp(x.astype(np.float64))[1].astype(np.int64) - SUB_BITS - 1, 0)
    return np.asarray((octave << SUB_BITS) + (x >> octave), dtype=np.int32)


def bounds(bucket: int) -> tuple[int, int]:
    """Least and largest integer that the bucket holds, both inclusive."""
    if bucket < 0:
        raise ValueError(f"buckets are numbered from 0, not {bucket}")
    octave = max((bucket >> SUB_BITS) - 1, 0)
    low = (bucket - (octave << SUB_BITS)) << octave
    return low, low + (1 << octave) - 1


def mid(bucket: int) -> int:
    """The integer that stands for a bucket: the lower of its one or two middle ones."""
    low, high = bounds(bucket)
    return (low + high) // 2


def mids_of(buckets: npt.ArrayLike) -> Ints:
    """`mid` for an array of bucket numbers."""
    b = np.asarray(buckets, dtype=np.int64)
    octave = np.maximum((b >> SUB_BITS) - 1, 0)
    low = (b - (octave << SUB_BITS)) << octave
    return np.asarray(low + (((np.int64(1) << octave) - 1) >> 1), dtype=np.int64)


class Histogram(dict[int, int]):
    """Bucket number -> count of whole nanoseconds; two of them merge into the histogram of the union."""

    __slots__ = ()

    def add(self, ns: int, count: int = 1) -> None:
        """Count one value, or `count` equal ones."""
        bucket = bucket_of(ns)
        self[bucket] = self.get(bucket, 0) + count

    def add_all(self, ns: npt.ArrayLike) -> None:
        """Count every value of an array of integers."""
        buckets, counts = np.unique(buckets_of(ns), return_counts=True)
        self._add_buckets(buckets, counts)

    def merge(self, other: Histogram) -> None:
        """Add the counts of `other` to this one."""
        for bucket, count in other.items():
            self[bucket] = self.get(bucket, 0) + count

    @property
    def n(self) -> int:
        """How many values were counted."""
        return sum(self.values())

    def quantile(self, p: float) -> int:
        """Inverse of the empirical distribution: mid value of the first bucket that reaches the share `p`.

        `p` in (0, 1] is taken as the decimal it prints as. Within RELATIVE_ERROR of the quantile of the values
        themselves. ValueError when nothing was counted.
        """
        n = self.n
        if not n or not 0 < p <= 1:
            raise ValueError(f"no quantile {p} of {n} values: p lies in (0, 1] and at least one value is needed")
        wanted, seen = rank(p, n), 0
        for bucket in sorted(self):
            seen += self[bucket]
            if seen >= wanted:
                return mid(bucket)
        raise AssertionError("the counts sum to n")

    def columns(self) -> tuple[npt.NDArray[np.int32], Ints]:
        """Bucket numbers in rising order and their counts, as columns of a table."""
        order = sorted(self)
        return np.array(order, dtype=np.int32), np.array([self[b] for b in order], dtype=np.int64)

    @classmethod
    def from_columns(cls, buckets: npt.ArrayLike, counts: npt.ArrayLike) -> Histogram:
        """The histogram of such columns; equal buckets of several rows add up."""
        made = cls()
        made._add_buckets(buckets, counts)
        return made

    def weighted(self) -> tuple[Ints, Ints]:
        """Mid values in ns and counts: one replication as `stats.quantile_estimate` takes it."""
        buckets, counts = self.columns()
        return mids_of(buckets), counts

    def _add_buckets(self, buckets: npt.ArrayLike, counts: npt.ArrayLike) -> None:
        pairs: Iterable[tuple[Any, Any]] = zip(np.asarray(buckets).tolist(), np.asarray(counts).tolist(), strict=True)
        for bucket, count in pairs:
            self[bucket] = self.get(bucket, 0) + count


class Clusters:
    """Clusters of large values, counted for every threshold in one pass.

    At a threshold b, values in bucket b or above are one cluster as long as each follows the one before it by no more
    than `gap_ns` (the relaxation time of the system). A value of bucket v at time t therefore begins a cluster exactly
    at the thresholds above m and up to v, m being the largest bucket of the last `gap_ns`: a maximum over a sliding
    window, constant work per value, whatever the number of thresholds.
    """

    __slots__ = ("_recent", "_steps", "gap_ns")

    def __init__(self, gap_ns: int) -> None:
        if gap_ns < 0:
            raise ValueError(f"the gap between clusters is at least 0 ns, not {gap_ns}")
        self.gap_ns = gap_ns
        self._recent: deque[tuple[int, int]] = deque()  # (time, bucket), buckets falling: the front is the maximum
        self._steps: dict[int, int] = {}  # differences of "clusters by threshold"

    def add(self, t_ns: int, bucket: int) -> None:
        """Count a value of `bucket` seen at `t_ns`; times must not fall."""
        recent = self._recent
        while recent and recent[0][0] < t_ns - self.gap_ns:
            recent.popleft()
        largest = recent[0][1] if recent else -1
        if bucket > largest:
            steps = self._steps
            steps[largest + 1] = steps.get(largest + 1, 0) + 1
            steps[bucket + 1] = steps.get(bucket + 1, 0) - 1
        while recent and recent[-1][1] <= bucket:
            recent.pop()
        recent.append((t_ns, bucket))

    def runs(self, bucket: int) -> int:
        """Clusters of values in this bucket or above."""
        return sum(change for at, change in self._steps.items() if at <= bucket)

    def supporting(self, bucket: int) -> int:
        """Largest number of clusters at this threshold or any above: what supports a quantile in this bucket.

        At a low threshold a busy system is one endless cluster, yet it holds at least as many separated large values
        as any higher threshold has clusters.
        """
        best = now = self.runs(bucket)
        for at in sorted(self._steps):
            if at > bucket:
                now += self._steps[at]
                best = max(best, now)
        return best

    def columns(self) -> tuple[npt.NDArray[np.int32], Ints]:
        """Threshold bucket and change of the number of clusters at it, as columns of a table (changes sum to 0)."""
        order = sorted(at for at, change in self._steps.items() if change)
        return np.array(order, dtype=np.int32), np.array([self._steps[at] for at in order], dtype=np.int64)

    @classmethod
    def from_columns(cls, gap_ns: int, buckets: npt.ArrayLike, changes: npt.ArrayLike) -> Clusters:
        """The counts of such columns, to be read (what came last before them is not kept)."""
        made = cls(gap_ns)
        for at, change in zip(np.asarray(buckets).tolist(), np.asarray(changes).tolist(), strict=True):
            made._steps[at] = made._steps.get(at, 0) + change
        return made
