"""Numbers for people: units, digits, intervals."""

from __future__ import annotations

import math

import pytest

from execbench.report.numbers import bounds, interval, number, unit_for, with_unit


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [(0, 0, "0"), (3, 0, "3"), (2.4, 0, "2.40"), (312.4, 0, "312"), (1234.5, 0, "1234"), (0.01234, 0, "0.0123"),
     (312.44, 0.3, "312.4"), (12.3, 5, "12.3"), (math.nan, 0, "-"), (math.inf, 0, "inf"), (1e-9, 0, "0.000000"),
     (16384, 0, "16,384"), (9999, 0, "9999"), (2_641_536.4, 0, "2,640,000"), (2_641_536.4, 4e4, "2,640,000"),
     (2_641_536.4, 4e3, "2,642,000"), (-12345.6, 0, "-12,300")],
)  # fmt: skip
def test_three_digits_and_a_fourth_for_a_narrow_interval(value, half, text):
    assert number(value, half) == text


def test_interval_has_the_decimals_of_its_value():
    assert interval(12.34, 11.94, 12.84) == "12.3 [11.9, 12.8]"
    assert interval(12.34, math.nan, math.nan) == "12.3"


def test_interval_of_a_large_value_is_rounded_like_it():
    assert interval(2_641_536, 2_531_111, 2_751_961) == "2,640,000 [2,530,000, 2,750,000]"
    assert bounds(10_500.2, 9_900.4, 11_100.6) == "[9900, 11,100]"


def test_wide_interval_has_no_more_digits_than_it_deserves():
    assert bounds(0.67, 0.2, 1310.4) == "[0, 1310]"


def test_one_unit_per_column_by_its_median():
    assert unit_for([900.0, 2e6, 3e6], "time").name == "ms"
    assert unit_for([0.0, 0.0], "time").name == "ns"
    assert unit_for([math.nan, 5e3], "time").name == "us"
    assert unit_for([3 * 2**20], "size").name == "MiB"


def test_figures_in_sentences():
    assert with_unit(312_000, "time") == "312 us"
    assert with_unit(0.0123, "share") == "1.23 %"
