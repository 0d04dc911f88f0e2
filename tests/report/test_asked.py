"""What the answer speaks of: the classes that a workload asks about, those outside the API, isolated CPUs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from execbench.report.answer import sentences, summary
from execbench.report.asked import classes, isolated, never_came
from execbench.report.comparison import comparison
from execbench.report.html import page
from execbench.report.ratios import mean_ratios
from execbench.report.setting import setting_of
from execbench.report.text import render
from execbench.stats.estimate import t_factor

PAIR = ("module_alloc", "alloc-write-map")
SLOW = {"module_alloc": 3.0, "alloc-write-map": 1.0}
LOADS = (100, 200, 300)


def outside(results, kind, times, client="bpf"):
    """Add a class with so many operations in the three replications (ns of a mean each) that no verb is in."""
    rows = [{"cell": cell, "replication": r, "client": client, "kind": kind, "metric": metric, "unit": "1",
             "value": value, "n": n}
            for cell, arm in zip(results.cells["cell"], results.cells["arm"], strict=True)
            for r, n in enumerate(LOADS)
            for metric, value in (("throughput", 1.0), ("latency_sum", n * times[arm][r]), ("api_sum", 0.0))
            ]  # fmt: skip
    results.frames["metrics"] = pd.concat([results.frames["metrics"], pd.DataFrame(rows)], ignore_index=True)


@pytest.fixture(scope="module")
def two(make_results):
    """Two arms; one class inside the API, `bpf load`; `bpf attach` and the two loops of a client are outside."""
    results = make_results(replications=3)
    results.cells = results.cells[results.cells["arm"].isin(PAIR)]
    outside(results, "attach", {arm: (1e3 * slow, 1.1e3 * slow, 1.2e3 * slow) for arm, slow in SLOW.items()})
    for loop in ("fit", "fix"):
        outside(results, loop, dict.fromkeys(PAIR, (5e6, 5e6, 5e6)), client="loops")
    return results


def asking(results, *asks):
    results.study["asks"] = list(asks)
    return comparison(results), setting_of(results)


@pytest.fixture
def frames(two, monkeypatch):
    """Compare without looking for a client `loops`, which is made up."""
    monkeypatch.setattr("execbench.report.comparison.arrivals", lambda client: frozenset())
    return two


def test_the_answer_is_about_the_class_that_the_workload_names(frames):
    assert classes(*asking(frames)) == [("bpf", "load")]
    assert classes(*asking(frames, "bpf attach")) == [("bpf", "attach")]
    assert classes(*asking(frames, "loops", "bpf load")) == [("loops", "fit"), ("loops", "fix"), ("bpf", "load")]
    frame, setting = asking(frames, "bpf load", "bpf attach")
    [(_, said)] = sentences(frames, frame, setting)
    assert said[0].startswith("bpf load: At the median the fastest load is with alloc-write-map: ")
    assert any(
        one.startswith("In the mean of bpf attach the fastest operation is with alloc-write-map") for one in said
    )
    assert [one.startswith("How sure") for one in said] == [False] * (len(said) - 1) + [True]
    assert not any(one.startswith("How sure") for one in summary(frames, frame, setting))


def test_a_class_outside_the_api_is_answered_by_means_and_their_ratio(frames):
    """Means over all operations, so replications count by their number; the jackknife by hand."""
    frame, setting = asking(frames, "bpf attach")
    [(_, said)] = sentences(frames, frame, setting)
    mean = (100 * 1.0 + 200 * 1.1 + 300 * 1.2) / 600
    assert said[0] == (f"In the mean of bpf attach the fastest operation is with alloc-write-map: {mean:.2f} us; "
                       "module_alloc takes 3.00 [3.00, 3.00] times as long.")  # fmt: skip
    assert said[1] == "No verb of the API is in it."
    assert said[0] in page(frames, frame, setting)
    text = " ".join(render(frame, setting, said=summary(frames, frame, setting)).split())
    row = frame[(frame["kind"] == "attach") & (frame["arm"] == "module_alloc")].iloc[0]
    assert row["mean"] == pytest.approx(3e3 * mean)
    low, high = row["mean_low"] / 1e3, row["mean_high"] / 1e3
    assert f"bpf attach: 3.40 [{low:.2f}, {high:.2f}] us (module_alloc), " in text


def test_the_ratio_of_means_is_that_of_all_operations_with_the_jackknifes_interval():
    own, base = {0: (10.0, 1.0), 1: (90.0, 3.0), 2: (40.0, 2.0)}, {0: (5.0, 1.0), 1: (20.0, 2.0), 2: (35.0, 3.0)}
    [found] = mean_ratios({"a": own, "b": base}, "b")
    assert found.value == pytest.approx((140 / 6) / (60 / 6))
    without = [(130 / 5) / (55 / 5), (50 / 3) / (40 / 4), (100 / 4) / (25 / 3)]
    half = t_factor(3, 0.95) * np.sqrt(2 / 3 * sum((one - np.mean(without)) ** 2 for one in without))
    assert found.high == pytest.approx(found.value + half)
    assert found.low == max(found.value - half, 0)


def test_classes_in_which_arms_do_not_differ_share_a_sentence(frames):
    frame, setting = asking(frames, "loops")
    [(_, said)] = sentences(frames, frame, setting)
    assert said[:2] == ["In the means of loops fit and fix the backends are equivalent (within 5 %).",
                        "No verb of the API is in them."]  # fmt: skip


def test_what_never_came_is_said_and_what_came(frames):
    frame, setting = asking(frames, "bpf laod")
    assert never_came(frame, setting).startswith(
        "The workload asks about bpf laod, of which no operation was measured; measured: bpf load, bpf attach, "
    )
    [(_, said)] = sentences(frames, frame, setting)
    assert said[0] == never_came(frame, setting)
    assert said[1].startswith("At the median the fastest load"), "as without"
    assert never_came(*asking(frames, "bpf load", "loops")) == ""


def test_where_no_quantile_has_support_the_means_are_compared(frames):
    frame, setting = asking(frames)
    for name in ("p50", "p90", "p99"):
        frame[name] = np.nan
    said = summary(frames, frame, setting)
    assert said[0].startswith("In the mean of bpf load the fastest operation is with alloc-write-map: ")
    assert said[1] == "No quantile has enough support. Simulate for longer."
    assert said[2].startswith("The API can influence 2")


def test_isolated_cpus_are_in_the_answer_least_to_most_with_intervals(make_results, add_isolated):
    results = make_results(replications=10)
    frame, setting = comparison(results), setting_of(results)
    assert isolated(frame) == []
    add_isolated(results)
    metrics = results.frames["metrics"]
    dear = results.cells.loc[results.cells["arm"] == "module_alloc", "cell"].iloc[0]
    none = results.cells.loc[results.cells["arm"] == "bpf_prog_pack", "cell"].iloc[0]
    ours = metrics["metric"].str.startswith("isolated_")
    metrics.loc[ours & (metrics["cell"] == dear), "value"] *= 2
    metrics.loc[ours & (metrics["cell"] == none), "value"] = 0.0
    frame = comparison(results)
    [said] = isolated(frame)
    assert said.startswith(
        "Interruptions of an isolated CPU per hour, by this workload alone: 0 [0, 0] (bpf_prog_pack), "
        "1,320,000 [1,050,000, 1,590,000] (alloc-write-map), "
    )
    assert said.endswith("2,640,000 [2,100,000, 3,180,000] (module_alloc); the longest takes 28 us (module_alloc).")
    assert said in summary(results, frame, setting)
    assert said in page(results, frame, setting)


def test_isolated_cpus_are_in_the_answer_of_every_point(make_results, add_isolated):
    results = make_results(replications=2, points=(2, 64))
    add_isolated(results)
    said = summary(results, comparison(results), setting_of(results))
    assert [one.partition(",")[0] for one in said] == [f"cpus = {n}: Interruptions of an isolated CPU per hour"
                                                       for n in (2, 64)]  # fmt: skip
    assert all("At the median the fastest load" in one for one in said)
