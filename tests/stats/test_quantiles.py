"""Pooled quantiles, sectioning intervals, and the rule that refuses a number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execbench.stats import exceedance_clusters, quantile, quantile_estimate, sectioning_interval
from execbench.stats.laws import seed_of
from execbench.stats.quantiles import BUCKET_ERROR, Section, rank

ENOUGH = [12] * 10


def sections(name: str, replications: int = 10, n: int = 2000) -> list[Section]:
    rng = np.random.Generator(np.random.Philox(seed_of(name)))
    return [(rng.exponential(1e6, n) + 1, np.ones(n, dtype=np.int64)) for _ in range(replications)]


def test_rank_reads_p_as_the_decimal_it_prints_as() -> None:
    assert 0.07 * 100 > 7
    assert [rank(0.07, 100), rank(0.99, 100), rank(0.5, 5), rank(0.001, 10)] == [7, 99, 3, 1]
    assert rank(float(np.float64(0.07)), 100) == 7


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4)), max_size=8), min_size=1, max_size=4),
    st.sampled_from([0.1, 0.5, 0.9, 0.99]),
)
def test_the_pooled_quantile_is_that_of_the_written_out_sample(data: list[list[tuple[int, int]]], p: float) -> None:
    written = sorted(v for section in data for v, count in section for _ in range(count))
    weighted: list[Section] = [([v for v, _ in s], [c for _, c in s]) for s in data]
    if not written:
        with pytest.raises(ValueError, match="no quantile"):
            quantile(weighted, p)
        return
    assert quantile(weighted, p) == written[rank(p, len(written)) - 1]
    assert quantile([(written, [1] * len(written))], p) == quantile(weighted, p)


def test_the_interval_is_the_formula() -> None:
    own, pooled = [90.0, 100.0, 120.0], 101.0
    spread = math.sqrt(sum(math.log(q / pooled) ** 2 for q in own) / (2 * 3))
    half = 0.95 / math.sqrt(2 * 0.975 * 0.025) * spread  # t of 2 degrees of freedom in closed form
    low, high = sectioning_interval(own, pooled)
    assert low == pytest.approx(pooled * math.exp(-half), rel=1e-9)
    assert high == pytest.approx(pooled * math.exp(half), rel=1e-9)
    with pytest.raises(ValueError, match="positive"):
        sectioning_interval([0.0, 1.0], 1.0)


def test_an_estimate_with_full_support() -> None:
    data = sections("full support")
    got = quantile_estimate(data, 0.99, ENOUGH, 10.0, resolution=0.0)
    assert (got.status, got.note, got.n) == ("ok", "", 20_000)
    assert got.value == quantile(data, 0.99)
    assert (got.low, got.high) == pytest.approx(sectioning_interval([quantile([s], 0.99) for s in data], got.value))


def test_the_result_does_not_depend_on_how_equal_values_are_listed() -> None:
    rng = np.random.Generator(np.random.Philox(seed_of("listing")))
    raw = [rng.integers(300, 900, 500) for _ in range(10)]
    listed = quantile_estimate([(x, np.ones(x.size)) for x in raw], 0.9, ENOUGH, 1.0)
    counted = quantile_estimate([np.unique(x, return_counts=True) for x in raw], 0.9, ENOUGH, 1.0)
    assert listed == counted


@pytest.mark.parametrize(
    ("clusters", "status"),
    [
        ([10] * 10, "ok"),
        ([5] * 5 + [15] * 5, "ok"),
        ([10] * 9 + [9], "approx."),
        ([4] + [20] * 9, "approx."),
        ([3] * 10, "approx."),
        ([3] * 9 + [2], "n/a (needs ~35 s)"),
        ([1] + [0] * 9, "n/a (needs ~1000 s)"),
        ([0] * 10, "n/a (needs >1000 s)"),
        (None, "approx."),
    ],
)
def test_the_support_rule(clusters: list[int] | None, status: str) -> None:
    got = quantile_estimate(sections("support"), 0.99, clusters, 10.0)
    assert got.status == status
    assert got.available == got.has_interval == (not status.startswith("n/a"))
    assert math.isnan(got.value) == status.startswith("n/a")
    assert bool(got.note) == (status != "ok")


def test_uncounted_clusters_are_bounded_by_the_exceedances() -> None:
    got = quantile_estimate(sections("bound", n=100), 0.99, None, 2.0)
    assert got.status == "n/a (needs ~19 s)"  # 1000 operations, 11 at or above their 99 % quantile
    assert got.n == 1000


def test_few_replications() -> None:
    one = quantile_estimate(sections("few", 1), 0.9, [200], 1.0)
    assert one.status == "approx." and not one.has_interval and one.value > 0
    assert one.note == "one replication: no interval"
    data = sections("few", 5)
    five = quantile_estimate(data, 0.9, [40] * 5, 1.0)
    own = [quantile([s], 0.9) for s in data]
    assert five.status == "approx." and five.has_interval
    assert f"min..max {min(own):.6g}..{max(own):.6g}" in five.note and "93.75 %" in five.note
    assert quantile_estimate(sections("few", 9), 0.9, [40] * 9, 1.0).status == "approx."
    assert quantile_estimate(sections("few", 10), 0.9, [40] * 10, 1.0).status == "ok"


def test_the_half_width_is_never_below_the_buckets_relative_error() -> None:
    same: list[Section] = [([1000, 2000], [50, 50])] * 10
    got = quantile_estimate(same, 0.9, ENOUGH, 1.0)
    assert got.status == "ok" and got.note == "half-width is the bucket's relative error, 0.4%"
    assert got.low == pytest.approx(2000 * (1 - BUCKET_ERROR)) and got.high == pytest.approx(2000 / (1 - BUCKET_ERROR))
    assert got.relative_half_width >= BUCKET_ERROR
    raw = quantile_estimate(same, 0.9, ENOUGH, 1.0, resolution=0.0)
    assert (raw.low, raw.value, raw.high, raw.note) == (2000, 2000, 2000, "")
    # 0.7 % of sampling error: wider than the bucket, not four times as wide.
    close: list[Section] = [([1000 * (1 + 0.01 * (-1) ** r)], [100]) for r in range(10)]
    assert "exceeds a quarter" in quantile_estimate(close, 0.5, ENOUGH, 1.0).note


def test_operations_that_all_take_the_same_time_need_no_clusters() -> None:
    got = quantile_estimate([([5000], [30])] * 10, 0.99, [1] * 10, 1.0)
    assert got.status == "ok" and got.value == 5000 and "all operations took the same time" in got.note


def test_unfinished_operations_count_as_infinite() -> None:
    def with_open(share: float) -> list[Section]:
        return [([*range(1, 101), math.inf], [10] * 100 + [int(1000 * share)]) for _ in range(10)]

    fine = quantile_estimate(with_open(0.005), 0.99, ENOUGH, 1.0)
    assert fine.status == "ok" and math.isfinite(fine.high)
    over = quantile_estimate(with_open(0.02), 0.99, ENOUGH, 1.0)
    assert (over.status, over.value, over.low, over.high) == ("at least", 100.0, 100.0, math.inf)
    assert over.note == "200 of 10200 operations unfinished"
    some = [([1, 2, 3], [400, 400, 200])] * 9 + [([1, math.inf], [950, 50])]
    part = quantile_estimate(some, 0.99, ENOUGH, 1.0)
    assert part.value == 3 and not part.has_interval and "in 1 of 10" in part.note
    none = quantile_estimate([([math.inf], [3])] * 10, 0.5, ENOUGH, 1.0)
    assert none.status == "n/a (no operation finished)"


def test_zero_is_a_quantile_too() -> None:
    data: list[Section] = [([0, 7], [60, 40] if r < 5 else [40, 60]) for r in range(10)]
    got = quantile_estimate(data, 0.5, ENOUGH, 1.0)
    assert got.value == 0 and got.low == 0 and got.high > 0 and "linear scale" in got.note
    still = quantile_estimate([([0], [5])] * 10, 0.5, ENOUGH, 1.0)
    assert (still.low, still.value, still.high) == (0, 0, 0)


def test_nothing_measured_and_an_idle_replication() -> None:
    assert quantile_estimate([], 0.5, [], 1.0).status == "n/a (nothing measured)"
    assert quantile_estimate([([], [])] * 10, 0.5, None, 1.0).status == "n/a (nothing measured)"
    idle: list[Section] = [*sections("idle", 9), ([], [])]
    assert quantile_estimate(idle, 0.9, [20] * 9 + [0], 1.0).status == "approx."


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, 99.0])
def test_a_maximum_is_no_quantile(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile_estimate(sections("maximum"), p, ENOUGH, 1.0)


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="9 numbers of clusters for 10"):
        quantile_estimate(sections("bad"), 0.5, [9] * 9, 1.0)
    with pytest.raises(ValueError, match="2 values with 1 counts"):
        quantile([([1, 2], [1])], 0.5)
    with pytest.raises(ValueError, match="from 0 on"):
        quantile([([1, math.nan], [1, 1])], 0.5)
    with pytest.raises(ValueError, match="window"):
        quantile_estimate(sections("bad"), 0.5, ENOUGH, 0.0)


def test_clusters_of_exceedances() -> None:
    times, values = [0, 1, 2, 10, 11, 30], [5, 9, 5, 9, 1, 9]
    assert exceedance_clusters(times, values, 5, 3) == 3
    assert exceedance_clusters(times, values, 5, 8) == 2
    assert exceedance_clusters(times, values, 5, 7.9) == 3
    assert exceedance_clusters(times, values, 9, 0) == 3
    assert exceedance_clusters(times, values, 10, 0) == 0
