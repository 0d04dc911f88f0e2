"""The common result of every estimator: a value, its interval, and whether it may be printed."""

from __future__ import annotations

import math
from dataclasses import dataclass

OK = "ok"
APPROXIMATE = "approx."
AT_LEAST = "at least"
NOT_AVAILABLE = "n/a"

LEVEL = 0.95
"""Confidence of every interval in a table."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, in the unit of the data.

    `low` and `high` are NaN where there is no interval, `value` too where the number is refused. `n` is the number of
    observations the value rests on: operations for a quantile, replications for a mean or ratio. `status` is "ok",
    "approx." (print it with this mark), "at least" (operations are unfinished: `value` is a lower bound) or begins
    with "n/a" and says why in brackets. `note` holds what a reader has to know, or nothing.
    """

    value: float
    low: float
    high: float
    n: int
    status: str = OK
    note: str = ""

    @property
    def available(self) -> bool:
        """Whether there is a number to print."""
        return not self.status.startswith(NOT_AVAILABLE)

    @property
    def has_interval(self) -> bool:
        """Whether `low` and `high` are numbers."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def relative_half_width(self) -> float:
        """Half the interval's length as a share of the value; NaN without interval or at 0."""
        if not self.has_interval or self.value == 0:
            return math.nan
        return (self.high - self.low) / 2 / abs(self.value)


def refused(n: int, reason: str, note: str = "") -> Estimate:
    """The estimate that prints no number, and why."""
    return Estimate(math.nan, math.nan, math.nan, n, f"{NOT_AVAILABLE} ({reason})", note)


def t_factor(replications: int, level: float = LEVEL) -> float:
    """Quantile of Student's t for a two-sided interval over at least 2 independent replications, to 1e-10."""
    from scipy.special import stdtrit

    return float(stdtrit(replications - 1, 0.5 + level / 2))
