"""Chi-square test of cell counts against probabilities that are known exactly, and its power."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from execbench.stats.laws import ALPHA

LEAST_EXPECTED = 20.0
"""Cells that expect fewer are merged into one.

The customary 5 is for tests at 5 %: at 1e-5 the upper tail of a single such cell is twenty times too heavy.
"""


@dataclass(frozen=True)
class ChiSquare:
    """Outcome: statistic, degrees of freedom, p-value, and whether p > alpha."""

    statistic: float
    freedom: int
    p_value: float
    passed: bool

    def __bool__(self) -> bool:
        return self.passed


def chi_square(observed: npt.ArrayLike, probabilities: npt.ArrayLike, alpha: float = ALPHA) -> ChiSquare:
    """Whether counts of independent observations follow the probabilities (same shape, sum 1 to 1e-9).

    Rare cells are merged into one. A count in a cell of probability 0 fails outright.
    """
    from scipy.special import chdtrc

    counts = np.asarray(observed, dtype=np.float64).ravel()
    law = _law(probabilities, counts.size)
    if bool(np.any(counts[law == 0] > 0)):
        return ChiSquare(math.inf, 0, 0.0, False)
    n = float(counts.sum())
    parts = _merged(law, n, counts, law * n)
    if parts[0].size < 2:
        raise ValueError("fewer than two cells expect enough observations: nothing is tested")
    statistic = float(np.sum((parts[0] - parts[1]) ** 2 / parts[1]))
    freedom = parts[0].size - 1
    p = float(chdtrc(freedom, statistic))
    return ChiSquare(statistic, freedom, p, p > alpha)


def chi_square_power(probabilities: npt.ArrayLike, truth: npt.ArrayLike, n: int, alpha: float = ALPHA) -> float:
    """Chance that `chi_square` with n observations rejects the probabilities when `truth` holds instead.

    Noncentral chi-square approximation (Cohen); 1 minus rounding where `truth` reaches a cell of probability 0 often.
    """
    from scipy.special import chdtri, chndtr

    law = _law(probabilities, np.asarray(probabilities).size)
    other = _law(truth, law.size)
    outside = float(other[law == 0].sum())
    expected, shifted = _merged(law, float(n), law * n, other * n)
    if expected.size < 2:
        raise ValueError("fewer than two cells expect enough observations: nothing is tested")
    freedom = expected.size - 1
    apart = float(np.sum((shifted - expected) ** 2 / expected))
    miss = float(chndtr(float(chdtri(freedom, alpha)), freedom, apart))
    return 1 - miss * (1 - outside) ** n


def _merged(law: npt.NDArray[np.float64], n: float, *columns: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Each column with its rare cells summed into one."""
    order = np.argsort(-law, kind="stable")
    order = order[law[order] > 0]
    expected = law[order] * n
    # Fewest last: what is too rare even together takes the rarest of the others along.
    keep = int(np.count_nonzero(expected >= LEAST_EXPECTED))
    if keep and float(expected[keep:].sum()) < LEAST_EXPECTED and keep < order.size:
        keep -= 1
    merged = []
    for column in columns:
        kept = column[order]
        merged.append(kept if keep == order.size else np.append(kept[:keep], kept[keep:].sum()))
    return merged


def _law(probabilities: npt.ArrayLike, size: int) -> npt.NDArray[np.float64]:
    law = np.asarray(probabilities, dtype=np.float64).ravel()
    if law.size != size or bool(np.any(law < 0)) or abs(float(law.sum()) - 1) > 1e-9:
        raise ValueError(f"{law.size} probabilities for {size} cells; they are at least 0 and sum to 1")
    return law
