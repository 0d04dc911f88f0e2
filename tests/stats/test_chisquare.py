"""The chi-square test of known probabilities and its power."""

from __future__ import annotations

import numpy as np
import pytest

from execbench.stats.chisquare import chi_square, chi_square_power
from execbench.stats.laws import seed_of


def test_the_statistic() -> None:
    got = chi_square([30, 50, 20], [0.25, 0.5, 0.25])
    assert got.statistic == pytest.approx(25 / 25 + 0 + 25 / 25) and got.freedom == 2
    assert got.p_value == pytest.approx(np.exp(-1)) and got


def test_rare_cells_are_merged() -> None:
    law = [0.5, 0.4, 0.06, 0.03, 0.01]
    got = chi_square([200, 160, 24, 12, 4], law)
    assert got.statistic == pytest.approx(0, abs=1e-9)
    assert got.freedom == 2  # 12 + 4 are still too few, 24 joins them
    assert chi_square([2000, 1600, 240, 120, 40], law).freedom == 4
    with pytest.raises(ValueError, match="nothing is tested"):
        chi_square([4, 6], [0.4, 0.6])


def test_an_impossible_cell_fails() -> None:
    got = chi_square([500, 499, 1], [0.5, 0.5, 0.0])
    assert not got and got.p_value == 0
    assert chi_square([500, 500, 0], [0.5, 0.5, 0.0])


def test_power_is_the_share_of_rejections() -> None:
    law, truth = np.array([0.3, 0.3, 0.2, 0.2]), np.array([0.33, 0.3, 0.2, 0.17])
    rng = np.random.Generator(np.random.Philox(seed_of("power")))
    share = np.mean([not chi_square(row, law, 0.01) for row in rng.multinomial(1500, truth, 2000)])
    assert share == pytest.approx(chi_square_power(law, truth, 1500, 0.01), abs=0.05)
    assert 0.3 < share < 0.95
    assert chi_square_power(law, law, 1500, 0.01) == pytest.approx(0.01)
    assert chi_square_power([0.5, 0.5, 0.0], [0.45, 0.45, 0.1], 500) == pytest.approx(1)


def test_probabilities_sum_to_one() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        chi_square([1, 2], [0.5, 0.4])
