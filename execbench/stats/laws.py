"""Acceptance of a simulated figure by the law it must obey.

The smallest error that matters, `delta`, is declared before anything runs; a test passes iff |estimate - theory| <=
delta. (An interval that contains the theory would pass by being noisy.) The seed is a hash of the test's name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ALPHA = 1e-5
"""Chance that a test of this kind fails although the law holds."""

POWER = 0.99
"""Chance that a test finds the error it is made for."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of one law: whether it passed, with the figures to print when it did not."""

    passed: bool
    estimate: float
    theory: float
    delta: float
    n: int
    stage: int = 1

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        sign = "<=" if self.passed else ">"
        off = abs(self.estimate - self.theory)
        return (
            f"estimate {self.estimate:.6g}, theory {self.theory:.6g}: off by {off:.3g} {sign} delta {self.delta:.3g} "
            f"(n = {self.n:,}, stage {self.stage})"
        )


def seed_of(name: str) -> int:
    """Fixed 64-bit seed of a test: BLAKE2b of its name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def sample_size(variance: float, delta: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """Observations with which a test at level `alpha` finds an error of `delta` with this power.

    `variance` is that of one observation; for correlated ones, n times the limiting variance of their mean. With the
    fixed threshold delta, a false alarm and an overlooked error of 2 delta are both rarer than declared, by so much
    that a quarter of the size still serves `two_stage`.
    """
    if not variance > 0 or not delta > 0 or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError("variance and delta are positive, alpha and power lie between 0 and 1")
    from scipy.special import ndtri

    z = float(ndtri(1 - alpha / 2) + ndtri(power))
    return math.ceil(z * z * variance / (delta * delta))


def error_rates(variance: float, delta: float, n: int) -> tuple[float, float]:
    """P(fail | law holds) and P(pass | error 2 delta) of the threshold delta with n observations."""
    from scipy.special import ndtr

    z = delta / math.sqrt(variance / n)
    return float(2 * ndtr(-z)), float(ndtr(-z) - ndtr(-3 * z))


def judge(estimate: float, theory: float, delta: float, n: int) -> Verdict:
    """Pass iff |estimate - theory| <= delta; an estimate that is not a number fails."""
    return Verdict(abs(estimate - theory) <= delta, estimate, theory, delta, n)


def two_stage(name: str, theory: float, delta: float, n: int, sample: Callable[[int, int], float]) -> Verdict:
    """Cheap acceptance: n / 4 observations, and only if they fail 4 n with a second fixed seed.

    `sample(seed, n)` returns the estimate; `n` comes from `sample_size` with its default figures. Each stage fails
    with chance below 1e-3 if the law holds, both with chance below 1e-6; an error of 2 delta passes the first stage
    with chance below 1e-3. The second stage is sixteen times as exact: it is no retry.
    """
    small, large = math.ceil(n / 4), 4 * n
    first = judge(sample(seed_of(name), small), theory, delta, small)
    if first.passed:
        return first
    second = judge(sample(seed_of(f"{name}/second"), large), theory, delta, large)
    return Verdict(second.passed, second.estimate, theory, delta, large, stage=2)


def ks_threshold(n: int, alpha: float = ALPHA) -> float:
    """Kolmogorov distance that n independent observations exceed with chance at most `alpha` (DKW, Massart 1990)."""
    return math.sqrt(math.log(2 / alpha) / (2 * n))


def ks_distance(values: npt.ArrayLike, cdf: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> float:
    """Largest distance between the empirical distribution of independent values and a continuous law."""
    x = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if not x.size:
        raise ValueError("no values")
    law = np.asarray(cdf(x), dtype=np.float64)
    step = np.arange(x.size + 1) / x.size
    return float(max(np.max(step[1:] - law), np.max(law - step[:-1])))


def judge_distribution(
    values: npt.ArrayLike,
    cdf: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    alpha: float = ALPHA,
) -> Verdict:
    """One-sample Kolmogorov test of independent values: pass iff their distance from the law is below the threshold."""
    n = np.asarray(values).size
    return judge(ks_distance(values, cdf), 0.0, ks_threshold(n, alpha), n)
