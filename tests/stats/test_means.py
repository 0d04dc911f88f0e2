"""Means and ratios of sums over replications."""

from __future__ import annotations

import math

import numpy as np
import pytest

from execbench.stats import mean_estimate, ratio_estimate


def test_the_mean_has_a_t_interval() -> None:
    got = mean_estimate([1.0, 2.0, 3.0, 4.0])
    half = 3.182446305284263 * math.sqrt(5 / 3 / 4)
    assert (got.value, got.n, got.status, got.note) == (2.5, 4, "ok", "")
    assert (got.low, got.high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-9)
    assert mean_estimate([0.1, 0.9, 0.5], within=(0, 1)).low == 0
    assert mean_estimate([0.1, 0.9, 0.5], within=(0, 1)).high == 1


def test_the_ratio_is_that_of_the_sums() -> None:
    got = ratio_estimate([1.0, 30.0], [1.0, 10.0])
    assert got.value == pytest.approx(31 / 11)
    # Leaving either out: 3 and 1, their mean 2.
    assert got.high - got.value == pytest.approx(12.706204736432095 * math.sqrt(1 / 2 * 2))


def test_equal_denominators_make_the_ratio_a_mean() -> None:
    values = [3.0, 5.0, 4.0, 9.0, 2.0]
    ratio, mean = ratio_estimate(values, [2.0] * 5), mean_estimate(np.array(values) / 2)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((mean.low, mean.value, mean.high))


def test_no_spread_is_said() -> None:
    got = ratio_estimate([2.0, 4.0, 6.0], [3.0, 6.0, 9.0])
    assert got.low == got.value == got.high and got.note == "equal in all replications"
    none = mean_estimate([0.0, 0.0])
    assert (none.low, none.high, none.note) == (0, 0, "equal in all replications")


def test_too_few_replications() -> None:
    for one in (mean_estimate([3.0]), ratio_estimate([6.0], [2.0]), ratio_estimate([6.0, 0.0], [2.0, 0.0])):
        assert (one.value, one.status, one.has_interval, one.n) == (3.0, "approx.", False, 1)
    assert mean_estimate([]).status == ratio_estimate([0.0], [0.0]).status == "n/a (nothing measured)"


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_estimate([1.0, math.nan])
    with pytest.raises(ValueError, match="2 numerators with 1"):
        ratio_estimate([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="denominator 0"):
        ratio_estimate([1.0, 2.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="from 0 on"):
        ratio_estimate([1.0, 2.0], [1.0, -2.0])
