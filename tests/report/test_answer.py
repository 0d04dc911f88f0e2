"""The sentences of the answer agree with the data."""

from __future__ import annotations

import pytest

from execbench.record.histogram import bucket_of
from execbench.report.answer import answer, sentences
from execbench.report.comparison import comparison
from execbench.report.ratios import Ratio, plural, ratios, with_article
from execbench.report.setting import setting_of


@pytest.fixture(scope="module")
def rows(compared):
    frame = compared[0]
    return frame[frame["kind"] == "load"]


def test_fastest_and_slowest(results, rows):
    said = answer(results, rows, setting_of(results))
    assert said[0].startswith("At the median the fastest load is with bpf_prog_pack: 31")
    assert "the slowest, rw-inplace-finalize[sync=rcu], " in said[0]
    assert any(sentence.startswith("At p99") for sentence in said)
    assert any("The API can influence 2" in sentence and "(module_alloc) to" in sentence for sentence in said)
    assert "was not explored" in said[-1]
    assert not any("execmem" in sentence for sentence in said)


def test_ratio_is_that_of_the_medians_and_its_interval_holds_it(results, rows):
    median = dict(zip(rows["arm"], rows["p50"], strict=True))
    for ratio in ratios(results, rows, "p50", "bpf_prog_pack"):
        assert ratio.value == pytest.approx(median[ratio.arm] / median["bpf_prog_pack"], rel=1e-12)
        assert ratio.low < ratio.value < ratio.high


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.97, 1.03, "equivalent"), (1.06, 1.2, "slower"), (0.8, 0.9, "faster"), (1.01, 1.2, "slower, size undecided"),
     (0.9, 0.99, "faster, size undecided"), (0.9, 1.2, "undecided"), (float("nan"), float("nan"), "no interval")],
)  # fmt: skip
def test_verdicts_are_about_the_margin(low, high, verdict):
    assert Ratio("x", 1.0, low, high).verdict == verdict


def test_equal_arms_are_not_ranked(results, rows):
    two = rows[rows["arm"].isin(["bpf_prog_pack"])]
    twin = two.assign(arm="twin")
    import pandas as pd

    said = answer(results, pd.concat([two, twin]), setting_of(results))
    assert said[0].startswith("At the median the backends are equivalent (within 5 %)")


def _stretched(make_results, arm):
    """Three replications: p99 has no support; the longest fifth of one arm's loads takes eight times as long."""
    results = make_results(replications=3)
    cell = results.cells.loc[results.cells["arm"] == arm, "cell"].iloc[0]
    histograms, peaks = results.frames["histograms"], results.frames["peaks"]
    mine = (histograms["cell"] == cell) & (histograms["kind"] == "load") & (histograms["phase"] == "total")
    counts = histograms[mine].groupby("bucket")["count"].sum().cumsum()
    from_ = counts[counts > 0.8 * counts.iloc[-1]].index[0]
    histograms.loc[mine & (histograms["bucket"] >= from_), "bucket"] += 3 * 128
    slow = (peaks["cell"] == cell) & (peaks["kind"] == "load") & (peaks["latency_ns"].map(bucket_of) >= from_)
    peaks.loc[slow, "latency_ns"] *= 8
    return results


def test_a_tail_without_support_gives_way_to_the_highest_quantile_that_has_it(make_results):
    """The median says nothing about who is slow at p90: the answer does, with both ratios."""
    results = _stretched(make_results, "bpf_prog_pack")
    results.cells = results.cells[results.cells["arm"].isin(["module_alloc", "bpf_prog_pack", "alloc-write-map"])]
    frame = comparison(results)
    said = answer(results, frame[frame["kind"] == "load"], setting_of(results))
    assert said[0].startswith("At the median the fastest load is with bpf_prog_pack: 321 us")
    assert said[1].startswith("At p90 the fastest load is with alloc-write-map")
    assert "the slowest, bpf_prog_pack, " in said[1]
    assert said[2].startswith("The median does not show that: there bpf_prog_pack takes 0.7")
    assert said[2].endswith("times as long as alloc-write-map.")
    assert said[3] == "p99 lacks support with all of them. Simulate for longer to compare there."


def test_a_tail_that_ranks_as_the_median_does_is_not_called_hidden(results, rows):
    assert not any("does not show" in sentence for sentence in answer(results, rows, setting_of(results)))


@pytest.mark.parametrize(
    ("noun", "one", "many"), [("load", "a load", "loads"), ("attach", "an attach", "attaches"),
                              ("unload", "an unload", "unloads"), ("free_init", "a free_init", "free_inits")],
)  # fmt: skip
def test_articles_and_plurals(noun, one, many):
    assert (with_article(noun), plural(noun)) == (one, many)


def test_one_answer_per_point(swept):
    assert [point for point, _ in sentences(*swept)] == ["cpus = 2", "cpus = 64", "cpus = 256"]
