"""Buckets tile the integers, merging is the union, quantiles and clusters equal those of the raw values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execbench.record.histogram import (
    RELATIVE_ERROR,
    Clusters,
    Histogram,
    bounds,
    bucket_of,
    buckets_of,
    mid,
    mids_of,
)
from execbench.stats import exceedance_clusters, quantile
from execbench.stats.quantiles import BUCKET_ERROR

TOP = 2**63 - 1
times = st.one_of(
    st.integers(0, 1000),
    st.integers(0, 10**12),
    st.integers(0, 62).flatmap(lambda e: st.integers(max(0, 2**e - 2), 2**e + 2)),
    st.integers(TOP - 300, TOP),
)
fixed = settings(deadline=None, derandomize=True, max_examples=200)


def test_every_integer_below_256_has_its_own_bucket() -> None:
    assert [bucket_of(ns) for ns in range(256)] == list(range(256))
    assert [bounds(b) for b in range(256)] == [(ns, ns) for ns in range(256)]


def test_bounds_tile_the_integers() -> None:
    expected = 0
    for bucket in range(bucket_of(TOP) + 1):
        low, high = bounds(bucket)
        assert low == expected and high >= low
        expected = high + 1
    assert expected == TOP + 1


def test_an_octave_has_128_buckets() -> None:
    for exponent in range(8, 62):
        assert bucket_of(2 ** (exponent + 1)) - bucket_of(2**exponent) == 128


@fixed
@given(times)
def test_a_bucket_holds_its_values_within_the_stated_error(ns: int) -> None:
    bucket = bucket_of(ns)
    low, high = bounds(bucket)
    assert low <= ns <= high and low <= mid(bucket) <= high
    # RELATIVE_ERROR is 1/256, compared in integers.
    assert abs(mid(bucket) - ns) * 256 <= ns


def test_the_stated_error_is_reached_and_known_to_the_statistics() -> None:
    worst = max(Fraction(abs(mid(bucket_of(ns)) - ns), ns) for ns in range(1, 2**14))
    assert worst <= RELATIVE_ERROR < worst * Fraction(256, 255)
    assert RELATIVE_ERROR == BUCKET_ERROR


@fixed
@given(st.lists(times))
def test_arrays_agree_with_scalars(values: list[int]) -> None:
    buckets = buckets_of(np.array(values, dtype=np.int64))
    assert buckets.dtype == np.int32
    assert buckets.tolist() == [bucket_of(ns) for ns in values]
    assert mids_of(buckets).tolist() == [mid(b) for b in buckets.tolist()]


@fixed
@given(st.lists(times), st.lists(times))
def test_merging_gives_the_histogram_of_the_union(left: list[int], right: list[int]) -> None:
    a, b, union = Histogram(), Histogram(), Histogram()
    for ns in left:
        a.add(ns)
    b.add_all(np.array(right, dtype=np.int64))
    for ns in left + right:
        union.add(ns)
    a.merge(b)
    assert a == union and a.n == len(left) + len(right)
    assert Histogram.from_columns(*a.columns()) == a


@fixed
@given(st.lists(times, min_size=1), st.sampled_from([0.001, 0.07, 0.25, 0.5, 0.9, 0.99, 0.999]))
def test_the_quantile_is_within_the_relative_error_of_the_exact_one(values: list[int], p: float) -> None:
    histogram = Histogram()
    for ns in values:
        histogram.add(ns)
    exact = sorted(values)[math.ceil(Fraction(str(p)) * len(values)) - 1]
    assert abs(histogram.quantile(p) - exact) * 256 <= exact
    assert quantile([histogram.weighted()], p) == float(histogram.quantile(p))


def test_the_quantile_reads_p_as_a_decimal() -> None:
    histogram = Histogram()
    histogram.add_all(np.arange(1, 101))
    assert [histogram.quantile(p) for p in (0.07, 0.29, 0.57, 0.99, 1.0)] == [7, 29, 57, 99, 100]


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 ns, not -1"):
        bucket_of(-1)
    with pytest.raises(ValueError, match="from 0 ns, not -5"):
        buckets_of(np.array([3, -5]))
    with pytest.raises(ValueError, match="whole nanoseconds"):
        buckets_of(np.array([3.5]))
    with pytest.raises(ValueError, match="no quantile"):
        Histogram().quantile(0.5)


events = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8)), max_size=40)


@fixed
@given(events, st.integers(0, 10))
def test_clusters_at_every_threshold_equal_the_direct_count(steps: list[tuple[int, int]], gap: int) -> None:
    at = np.cumsum([step for step, _ in steps]).astype(np.int64)
    buckets = np.array([bucket for _, bucket in steps], dtype=np.int64)
    clusters = Clusters(gap)
    for t, bucket in zip(at.tolist(), buckets.tolist(), strict=True):
        clusters.add(t, bucket)
    direct = [exceedance_clusters(at, buckets, threshold, gap) for threshold in range(10)]
    assert [clusters.runs(b) for b in range(10)] == direct
    assert [clusters.supporting(b) for b in range(10)] == [max(direct[b:]) for b in range(10)]
    again = Clusters.from_columns(gap, *clusters.columns())
    assert [again.runs(b) for b in range(10)] == direct
