"""How much longer one arm takes than another: ratios of pooled quantiles or of means, and what their intervals say.

Intervals are over paired replications (sectioning for quantiles, the jackknife for means), widened for the number of
arms (Bonferroni), so that those of one quantile or mean hold together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from execbench.report.measured import QUANTILES, Measured
from execbench.stats.estimate import LEVEL, t_factor
from execbench.stats.quantiles import quantile, sectioning_interval

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames

MARGIN = 0.05
"""Ratios within 1 / 1.05 and 1.05 do not matter to anybody; verdicts are about this margin."""


@dataclass(frozen=True)
class Ratio:
    """How much longer an arm takes than the reference at one quantile, with its joint interval (NaN without one)."""

    arm: str
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval says about the margin."""
        if np.isnan(self.low):
            return "no interval"
        if self.low > 1 / (1 + MARGIN) and self.high < 1 + MARGIN:
            return "equivalent"
        if self.low > 1 + MARGIN:
            return "slower"
        if self.high < 1 / (1 + MARGIN):
            return "faster"
        if self.low > 1 or self.high < 1:
            return ("slower" if self.low > 1 else "faster") + ", size undecided"
        return "undecided"

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{interval} times"


def ratios(results: Frames, rows: pd.DataFrame, quantile_name: str, reference: str) -> list[Ratio]:
    """Return the ratio of each other arm to the reference arm, for rows of one point, client and class."""
    arms = {str(row.arm): _sections(results, row) for row in rows[rows["refused"] == ""].itertuples()}
    base = arms.pop(reference)
    p = QUANTILES[quantile_name]
    return [Ratio(arm, *_ratio(own, base, p, _joint(arms))) for arm, own in arms.items() if own]


def mean_ratios(values: Mapping[str, Mapping[int, tuple[float, float]]], reference: str) -> list[Ratio]:
    """Return the ratio of each other arm's mean to the reference arm's.

    `values` hold a sum and the number (above 0) of its terms by arm and replication: a mean is the sum of all sums over
    the sum of all numbers. The interval is the jackknife's over the replications that both arms have.
    """
    arms = dict(values)
    base = arms.pop(reference)
    return [Ratio(arm, *_mean_ratio(own, base, _joint(arms))) for arm, own in arms.items()]


def _mean_ratio(
    own: Mapping[int, tuple[float, float]], base: Mapping[int, tuple[float, float]], level: float
) -> tuple[float, float, float]:
    both = sorted(set(own) & set(base))
    if not both:
        return np.nan, np.nan, np.nan
    a, n, b, m = np.array([(*own[r], *base[r]) for r in both], dtype=float).T
    value = float(a.sum() / n.sum() / (b.sum() / m.sum()))
    if len(both) < 2:
        return value, np.nan, np.nan
    without = (a.sum() - a) / (n.sum() - n) / ((b.sum() - b) / (m.sum() - m))
    error = math.sqrt((len(both) - 1) / len(both) * float(np.sum((without - without.mean()) ** 2)))
    half = t_factor(len(both), level) * error
    return value, max(value - half, 0.0), value + half


def _joint(others: Mapping[str, Any]) -> float:
    return 1 - (1 - LEVEL) / max(len(others), 1)


def ranking(words: str, what: str, order: Sequence[tuple[str, str]], found: Sequence[Ratio]) -> str:
    """Say who is fastest and by how much.

    `words` say where ("At the median") and `what` is ranked; `order` are arms and their values in words, fastest first;
    `found` the ratios of the others to the fastest.
    """
    (best, value), (last, most) = order[0], order[-1]
    by_arm = {ratio.arm: ratio for ratio in found}
    ranked = [by_arm[arm] for arm, _ in order[1:]]
    same = [ratio.arm for ratio in ranked if ratio.verdict == "equivalent"]
    open_ = [ratio.arm for ratio in ranked if ratio.verdict == "undecided"]
    slower = [ratio for ratio in ranked if ratio.arm not in (*same, *open_)]
    if not ranked:
        return f"{words} {with_article(what)} with {best} takes {value}."
    if verdict := flat(ranked):
        return f"{words} the backends {verdict}: from {value} ({best}) to {most} ({last})."
    sentence = f"{words} the fastest {what} is with {best}: {value}"
    if same:
        sentence += f"; {listed(same)} {'is' if len(same) == 1 else 'are'} equivalent (within 5 %)"
    if open_:
        sentence += f"; {listed(open_)} cannot be told from it yet"
    sentence += f"; {slower[0].arm} takes {slower[0]} as long"
    if len(slower) > 1:
        sentence += f", and the slowest, {slower[-1].arm}, {slower[-1]}"
    return sentence + "."


def flat(found: Sequence[Ratio]) -> str:
    """Return what can be said of arms of which none is shown to be slower than the fastest; '' if one is."""
    verdicts = {ratio.verdict for ratio in found}
    if not verdicts <= {"equivalent", "undecided"}:
        return ""
    return "cannot be told apart" if "undecided" in verdicts else "are equivalent (within 5 %)"


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def with_article(noun: str) -> str:
    """`a load`, `an attach`: by the first letter, which serves for all classes of operations."""
    return f"{'an' if noun[:1] in tuple('aeiou') else 'a'} {noun}"


def plural(noun: str) -> str:
    """`loads`, `attaches`."""
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _sections(results: Frames, row: Any) -> dict[int, Any]:
    return Measured(results, str(row.cell), str(row.client), str(row.kind), 1).sections


def _ratio(own: dict[int, Any], base: dict[int, Any], p: float, level: float) -> tuple[float, float, float]:
    pooled = quantile(list(own.values()), p) / quantile(list(base.values()), p)
    pairs = [(quantile([own[r]], p), quantile([base[r]], p)) for r in own if r in base]
    if len(pairs) < 2 or not all(0 < one < np.inf for pair in pairs for one in pair):
        return pooled, np.nan, np.nan
    return pooled, *sectioning_interval([a / b for a, b in pairs], pooled, level)
