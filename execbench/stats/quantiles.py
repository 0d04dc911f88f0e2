"""Quantiles of pooled replications, intervals by sectioning, and the rule that says when to refuse the number.

Sources: Asmussen & Glynn, "Stochastic Simulation" (2007), sectioning; Nakayama, "Confidence intervals for quantiles
using sectioning when applying variance-reduction techniques" (2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from execbench.stats.estimate import APPROXIMATE, AT_LEAST, LEVEL, OK, Estimate, refused, t_factor

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Section = tuple[npt.ArrayLike, npt.ArrayLike]
"""Values and how often each occurred: one replication."""

BUCKET_ERROR = 1 / 256
"""Relative error of a value that comes out of a log-linear histogram with 128 buckets per octave."""

CLUSTERS_OK, CLUSTERS_EACH, CLUSTERS_APPROXIMATE = 100, 5, 30
"""Clusters of exceedances in all and in each replication for "ok", in all for "approx."."""

REPLICATIONS_OK = 10
"""Replications from which a sectioning interval is printed without a mark."""


def rank(p: float, n: int) -> int:
    """Least k >= 1 with k / n >= p, `p` being the decimal it prints as (so that 0.07 of 100 is 7, not 8)."""
    return max(1, math.ceil(Fraction(repr(float(p))) * n))


def quantile(sections: Sequence[Section], p: float) -> float:
    """Quantile of the pooled sample: the inverse of its empirical distribution function at 0 < p < 1.

    ValueError without observations, for negative counts, or if values and counts differ in length.
    """
    values, counts = _pool([_section(v, c) for v, c in sections])
    return _quantile(values, counts, p)


def sectioning_interval(section_quantiles: Sequence[float], pooled: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval about the pooled quantile from at least 2 sections, on the log scale.

    Q exp(+- t_{R-1} sqrt(sum_r log^2(Q_r / Q) / ((R - 1) R))). All quantiles must be positive.
    """
    if len(section_quantiles) < 2 or min(*section_quantiles, pooled) <= 0:
        raise ValueError("sectioning on the log scale needs at least 2 sections and positive quantiles")
    half = _half_width(np.log(np.asarray(section_quantiles, dtype=np.float64) / pooled), level)
    return pooled * math.exp(-half), pooled * math.exp(half)


def exceedance_clusters(times: npt.ArrayLike, values: npt.ArrayLike, threshold: float, gap: float) -> int:
    """Runs of values >= threshold in one replication; a run ends where none follows within `gap` (a relaxation time).

    `times` in rising order, in the unit of `gap`. Values equal to the threshold count: a quantile that lies on an atom
    of the distribution is supported by the atom.
    """
    at = np.asarray(times)[np.asarray(values) >= threshold]
    return int(at.size > 0) + int(np.count_nonzero(np.diff(at) > gap))


def quantile_estimate(
    per_replication: Sequence[Section],
    p: float,
    clusters: Sequence[int] | None,
    window_s: float | None,
    *,
    resolution: float = BUCKET_ERROR,
) -> Estimate:
    """Quantile of the pooled replications with its 95 % interval by sectioning, or the reason to refuse it.

    `per_replication`: values >= 0 and counts of each replication; operations that never finished count as +inf.
    `clusters`: per replication the number of clusters of exceedances of this quantile (separated by a relaxation time
    or a busy period); None if nobody counted, then the mark is "approx." at best.
    `window_s`: measured seconds of one replication, from which the seconds that would be needed follow by proportion;
    None: no replication can be longer, so that replications are counted.
    `resolution`: relative error of the values themselves (0 for raw records): no half-width is smaller.
    """
    sections = [_section(v, c) for v, c in per_replication]
    if clusters is not None and len(clusters) != len(sections):
        raise ValueError(f"{len(clusters)} numbers of clusters for {len(sections)} replications")
    if (window_s is not None and not 0 < window_s < math.inf) or not 0 <= resolution < 1:
        raise ValueError(f"a window of {window_s} s and a relative error of {resolution} are impossible")
    values, counts = _pool(sections)
    n = int(counts.sum())
    if n == 0:
        return refused(0, "nothing measured")
    pooled = _quantile(values, counts, p)
    if math.isinf(pooled):
        return _unfinished(values, counts, n)
    status, note = _support(sections, pooled, clusters, window_s)
    if status not in (OK, APPROXIMATE):
        return Estimate(math.nan, math.nan, math.nan, n, status, note)
    own = [_quantile(v, c, p) for v, c in sections if c.sum()]
    status, notes = (OK if status == OK and len(own) >= REPLICATIONS_OK else APPROXIMATE), [note] if note else []
    low, high = _interval(own, pooled, resolution, notes)
    return Estimate(pooled, low, high, n, status, "; ".join(notes))


def _interval(own: Sequence[float], pooled: float, resolution: float, notes: list[str]) -> tuple[float, float]:
    """Interval about the pooled quantile from each replication's own; what has to be said goes to `notes`."""
    r = len(own)
    if r < 2:
        notes.append("one replication: no interval")
        return math.nan, math.nan
    if r < REPLICATIONS_OK:
        notes.append(_few(own))
    if math.isinf(max(own)):
        notes.append(
            f"no interval: operations unfinished at this quantile in {own.count(math.inf)} of {r} replications"
        )
        return math.nan, math.nan
    if min(own) <= 0:
        half = max(_half_width(np.asarray(own) - pooled, LEVEL), resolution * pooled)
        notes.append("interval on the linear scale: a replication's quantile is 0")
        return max(0.0, pooled - half), pooled + half
    half = _half_width(np.log(np.asarray(own) / pooled), LEVEL)
    # A value x in a bucket with mid value m lies in [m (1 - e), m / (1 - e)].
    least = -math.log1p(-resolution)
    if half < least:
        notes.append(f"half-width is the bucket's relative error, {resolution:.1%}")
    elif half < 4 * least:
        notes.append(f"the bucket's relative error, {resolution:.1%}, exceeds a quarter of the half-width")
    half = max(half, least)
    return pooled * math.exp(-half), pooled * math.exp(half)


def _few(own: Sequence[float]) -> str:
    """What a few replications say without any assumption: their extremes cover the median of a replication's quantile.

    Each lies below that median with probability 1/2, so all R on one side has probability 2 / 2^R.
    """
    sure = 1 - 2.0 ** (1 - len(own))
    return (
        f"{len(own)} replications ({REPLICATIONS_OK} are the rule): their min..max {min(own):.6g}..{max(own):.6g} "
        f"covers the median of a replication's quantile with {100 * sure:.4g} %"
    )


def _support(
    sections: Sequence[tuple[Floats, Ints]], pooled: float, clusters: Sequence[int] | None, window_s: float | None
) -> tuple[str, str]:
    """Status and note from the clusters of exceedances (the number of operations says nothing: they come in runs)."""
    if _constant(sections):
        return OK, "all operations took the same time"
    # Each cluster holds at least one exceedance, so their number is the bound when clusters were not counted.
    each = clusters if clusters is not None else [int(c[v >= pooled].sum()) for v, c in sections]
    total = sum(each)
    if total < CLUSTERS_APPROXIMATE:
        have, unit = (len(each), "replications") if window_s is None else (window_s, "s")
        needed = have * max(CLUSTERS_OK, CLUSTERS_EACH * len(each)) / max(total, 1)
        sign = "~" if total else ">"
        return f"n/a (needs {sign}{_two_digits(needed)} {unit})", f"{total} clusters of exceedances"
    if clusters is None:
        return APPROXIMATE, "clusters of exceedances not counted"
    if total >= CLUSTERS_OK and min(each) >= CLUSTERS_EACH:
        return OK, ""
    return APPROXIMATE, f"{total} clusters of exceedances, {min(each)} in the least replication"


def _constant(sections: Sequence[tuple[Floats, Ints]]) -> bool:
    seen = [v[c > 0] for v, c in sections]
    return min(float(v.min()) for v in seen if v.size) == max(float(v.max()) for v in seen if v.size)


def _unfinished(values: Floats, counts: Ints, n: int) -> Estimate:
    """More operations are unfinished than the quantile leaves above it: all that is known is a lower bound."""
    open_ = int(counts[np.isinf(values)].sum())
    note = f"{open_} of {n} operations unfinished"
    finished = values[np.isfinite(values) & (counts > 0)]
    if not finished.size:
        return refused(n, "no operation finished", note)
    bound = float(finished.max())
    return Estimate(bound, bound, math.inf, n, AT_LEAST, note)


def _half_width(deviations: Floats, level: float) -> float:
    """Half of the t interval over R sections: their spread is taken about the pooled estimate, not their mean."""
    r = deviations.size
    return t_factor(r, level) * math.sqrt(float(np.sum(deviations**2)) / ((r - 1) * r))


def _section(values: npt.ArrayLike, counts: npt.ArrayLike) -> tuple[Floats, Ints]:
    v, c = np.asarray(values, dtype=np.float64).ravel(), np.asarray(counts).ravel().astype(np.int64)
    if v.shape != c.shape:
        raise ValueError(f"{v.size} values with {c.size} counts")
    if v.size and (int(c.min()) < 0 or not float(v.min()) >= 0):
        raise ValueError("values and counts are numbers from 0 on")
    return v, c


def _pool(sections: Sequence[tuple[Floats, Ints]]) -> tuple[Floats, Ints]:
    if not sections:
        return np.empty(0), np.empty(0, dtype=np.int64)
    return np.concatenate([v for v, _ in sections]), np.concatenate([c for _, c in sections])


def _quantile(values: Floats, counts: Ints, p: float) -> float:
    n = int(counts.sum())
    if not 0 < p < 1 or n == 0:
        raise ValueError(f"no quantile {p} of {n} observations: p lies between 0 and 1, and one is needed")
    k = rank(p, n)
    if n == counts.size and int(counts.max()) == 1:  # raw records: no need to sort
        return float(np.partition(values, k - 1)[k - 1])
    order = np.argsort(values, kind="stable")
    return float(values[order][np.searchsorted(np.cumsum(counts[order]), k)])


def _two_digits(seconds: float) -> str:
    """A positive number rounded up to two significant digits, without exponent."""
    unit = math.floor(math.log10(seconds)) - 1
    # Decimal fractions are not exact in binary: without the margin 120.0 could become 130.
    steps = math.ceil(seconds / 10.0**unit - 1e-9)
    return f"{steps * 10**unit}" if unit >= 0 else f"{steps * 10.0**unit:.{-unit}f}"
