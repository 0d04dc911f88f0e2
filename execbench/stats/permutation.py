"""Permutation test of the two-sample Kolmogorov distance, for one value per independent replication."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from execbench.stats.laws import ALPHA, seed_of

BATCH_CELLS = 1 << 21
"""Labels shuffled at once: bounds the memory, and no figure depends on it."""


@dataclass(frozen=True)
class Permutation:
    """Outcome: KS distance, p-value, permutations that were drawn, and whether p > alpha."""

    distance: float
    p_value: float
    permutations: int
    passed: bool

    def __bool__(self) -> bool:
        return self.passed


def permutation_test(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    name: str,
    *,
    alpha: float = ALPHA,
    stop_after: int = 20,
) -> Permutation:
    """Whether two samples have the same law, by shuffling who belongs to which.

    `a`, `b`: one value per *independent replication*; pooled operations of one run are not exchangeable. `name` fixes
    the seed. Draws 1 / alpha permutations, fewer if `stop_after` of them reach the observed distance: p is then
    stop_after / drawn, else (reached + 1) / (drawn + 1), valid as a p-value (Besag & Clifford 1991). None is drawn if
    `split_bound` already shows p <= alpha. Ties are allowed.
    """
    x, y = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if not x.size or not y.size or not bool(np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise ValueError("both samples need finite values")
    labels, ends = _merge(x, y)
    scale = x.size * y.size
    observed = int(_distances(labels[None, :], ends, x.size, y.size)[0])
    if x.size == y.size and (bound := split_bound(observed // x.size, x.size)) <= alpha:
        return Permutation(observed / scale, bound, 0, False)
    rng = np.random.Generator(np.random.Philox(seed_of(name)))
    wanted, drawn, reached = round(1 / alpha), 0, 0
    rows = max(1, BATCH_CELLS // labels.size)
    while drawn < wanted:
        size = min(rows, wanted - drawn, 64 if not drawn else rows)
        shuffled = rng.permuted(np.broadcast_to(labels, (size, labels.size)), axis=1)
        hits = np.flatnonzero(_distances(shuffled, ends, x.size, y.size) >= observed)
        if reached + hits.size >= stop_after:
            drawn += int(hits[stop_after - reached - 1]) + 1
            p = stop_after / drawn
            return Permutation(observed / scale, p, drawn, p > alpha)
        reached, drawn = reached + int(hits.size), drawn + size
    p = (reached + 1) / (drawn + 1)
    return Permutation(observed / scale, p, drawn, p > alpha)


def split_bound(steps: int, n: int) -> float:
    """Bound on the share of splits of 2 n values into halves whose KS distance is at least steps / n.

    By the reflection principle C(2n, n + steps) / C(2n, n) of them reach it on one side (Gnedenko & Korolyuk 1951);
    a split that does so on both sides is counted twice, and ties only bring the halves closer.
    """
    log_share = 2 * math.lgamma(n + 1) - math.lgamma(n - steps + 1) - math.lgamma(n + steps + 1)
    return min(1.0, 2 * math.exp(log_share))


def _merge(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """Membership in `x` along the sorted union, and the positions where the distribution functions may be compared."""
    both = np.concatenate([x, y])
    order = np.argsort(both, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(both[order])), both.size - 1)
    return order < x.size, ends


def _distances(labels: npt.NDArray[np.bool_], ends: npt.NDArray[np.intp], nx: int, ny: int) -> npt.NDArray[np.int64]:
    """KS distance of each row, times nx * ny: integers, so that equal distances compare equal."""
    kind = np.int32 if (nx + ny) ** 2 < 2**31 else np.int64
    # F_x - F_y at position i, times nx * ny, is cx * ny - (i + 1 - cx) * nx with cx members of x so far.
    members = np.cumsum(labels, axis=1, dtype=kind)
    if ends.size < labels.shape[1]:
        members = members[:, ends]
    gaps = members * (nx + ny) - ((ends + 1) * nx).astype(kind)
    return np.asarray(np.maximum(gaps.max(axis=1), -gaps.min(axis=1)), dtype=np.int64)
