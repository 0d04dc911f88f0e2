"""The sentences of the answer agree with the data."""

from __future__ import annotations

import pytest

from execbench.report.answer import Ratio, answer, ratios, sentences
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


def test_one_answer_per_point(swept):
    assert [point for point, _ in sentences(*swept)] == ["cpus = 2", "cpus = 64", "cpus = 256"]
