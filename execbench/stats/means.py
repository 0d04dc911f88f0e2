"""Means and ratios of sums over independent replications, with t intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from execbench.stats.estimate import APPROXIMATE, LEVEL, OK, Estimate, refused, t_factor

UNBOUNDED = (-math.inf, math.inf)


def mean_estimate(
    values: Sequence[float] | npt.NDArray[np.float64], *, within: tuple[float, float] = UNBOUNDED, level: float = LEVEL
) -> Estimate:
    """Mean of one value per independent replication with its t interval, cut to `within` (0..1 for a share).

    One replication gives no interval and the mark "approx.". ValueError for values that are not finite.
    """
    x = _finite(values)
    if not x.size:
        return refused(0, "nothing measured")
    mean = float(np.mean(x))
    if x.size < 2:
        return Estimate(mean, math.nan, math.nan, 1, APPROXIMATE, "one replication: no interval")
    error = float(np.std(x, ddof=1)) / math.sqrt(x.size)
    return _with_interval(mean, error, x.size, within, level, float(np.ptp(x)) == 0)


def ratio_estimate(
    numerators: Sequence[float] | npt.NDArray[np.float64],
    denominators: Sequence[float] | npt.NDArray[np.float64],
    *,
    within: tuple[float, float] = UNBOUNDED,
    level: float = LEVEL,
) -> Estimate:
    """Ratio of two sums over replications (rounds per operation, a share of the latency sum) with its t interval.

    The value is sum(numerators) / sum(denominators), never the mean of ratios, so replications count by their
    operations; the interval is the jackknife's over replications, about that value (Cochran, "Sampling Techniques").
    Denominators >= 0; a replication with denominator 0 has no operations and counts as none.
    """
    a, b = _finite(numerators), _finite(denominators)
    if a.size != b.size:
        raise ValueError(f"{a.size} numerators with {b.size} denominators")
    if b.size and float(b.min()) < 0:
        raise ValueError("denominators are numbers from 0 on")
    if bool(np.any(a[b == 0] != 0)):
        raise ValueError("a replication has a numerator but the denominator 0")
    a, b = a[b > 0], b[b > 0]
    if not b.size:
        return refused(0, "nothing measured")
    ratio = float(a.sum() / b.sum())
    if b.size < 2:
        return Estimate(ratio, math.nan, math.nan, 1, APPROXIMATE, "one replication: no interval")
    without = (a.sum() - a) / (b.sum() - b)
    error = math.sqrt((b.size - 1) / b.size * float(np.sum((without - without.mean()) ** 2)))
    same = float(np.ptp(a / b)) == 0
    return _with_interval(ratio, 0.0 if same else error, b.size, within, level, same)


def _with_interval(
    value: float, error: float, n: int, within: tuple[float, float], level: float, same: bool
) -> Estimate:
    half = t_factor(n, level) * error
    note = "equal in all replications" if same else ""
    return Estimate(value, max(within[0], value - half), min(within[1], value + half), n, OK, note)


def _finite(values: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64).ravel()
    if not bool(np.all(np.isfinite(x))):
        raise ValueError("values of replications are finite numbers")
    return x
