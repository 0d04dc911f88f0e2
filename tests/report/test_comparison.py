"""The comparison against figures computed here from the same made-up frames."""

from __future__ import annotations

import numpy as np
import pytest

from execbench.record.histogram import mids_of
from execbench.report.columns import COLUMNS
from execbench.report.comparison import comparison, estimate_of, records


@pytest.fixture(scope="module")
def frame(compared):
    return compared[0]


def row(frame, arm, kind="load"):
    [found] = records(frame[(frame["arm"] == arm) & (frame["kind"] == kind)])
    return found


def test_a_row_per_arm_and_class_in_the_order_given(frame, results):
    arms = list(results.cells["arm"])
    assert list(frame["kind"].drop_duplicates()) == ["load", "free"]
    for kind in ("load", "free"):
        assert list(frame[frame["kind"] == kind]["arm"]) == arms
    assert set(frame[frame["kind"] == "free"]["mode"]) == {"deferred"}
    for column in COLUMNS:
        assert {column.name, f"{column.name}_low", f"{column.name}_high", f"{column.name}_status"} <= set(frame.columns)


def test_quantiles_are_those_of_the_pooled_sample(frame, results):
    cell = results.cells.set_index("arm").loc["bpf_prog_pack", "cell"]
    data = results.table("histograms")
    data = data[(data["cell"] == cell) & (data["kind"] == "load") & (data["phase"] == "total")]
    sample = np.sort(np.repeat(mids_of(data["bucket"].to_numpy()), data["count"].to_numpy()))
    for name, p in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        estimate = estimate_of(row(frame, "bpf_prog_pack"), name)
        assert estimate.value == sample[int(np.ceil(p * sample.size)) - 1]
        assert estimate.low < estimate.value < estimate.high
    assert row(frame, "bpf_prog_pack")["operations"] == sample.size


def test_share_of_the_api_is_a_ratio_of_sums(frame, results):
    metrics = results.table("metrics")
    cell = results.cells.set_index("arm").loc["module_alloc", "cell"]
    own = metrics[(metrics["cell"] == cell) & (metrics["kind"] == "load")]
    sums = own.groupby("metric")["value"].sum()
    assert row(frame, "module_alloc")["api_share"] == pytest.approx(sums["api_sum"] / sums["latency_sum"], rel=1e-12)


def test_interruptions_are_per_operation_over_all_groups(frame, results):
    metrics = results.table("metrics")
    cell = results.cells.set_index("arm").loc["module_alloc", "cell"]
    own = metrics[metrics["cell"] == cell]
    total = own[own["metric"].str.startswith("interruptions_")]["value"].sum()
    operations = own[(own["metric"] == "latency_sum") & (own["kind"] == "load")]["n"].sum()
    assert row(frame, "module_alloc")["interruptions"] == pytest.approx(total / operations, rel=1e-12)


def test_refused_arm_has_a_reason_and_no_figures(frame):
    refused = row(frame, "execmem")
    assert refused["refused"].startswith("needs arm64")
    assert all(np.isnan(refused[column.name]) for column in COLUMNS)
    assert all(refused[f"{column.name}_status"].startswith("n/a") for column in COLUMNS)


def test_too_few_exceedances_are_refused_not_printed(make_results):
    frame = comparison(make_results(replications=2))
    assert row(frame, "bpf_prog_pack")["p99_status"] != "ok"


def test_failed_replications_are_counted(make_results):
    results = make_results(replications=3)
    results.frames["replications"].loc[0, "outcome"] = "deadlock"
    arm = results.cells["arm"].iloc[0]
    assert row(comparison(results), arm)["outcome"] == "deadlock in 1 of 3 replications"


def test_rounds_count_replications_by_their_operations(frame, results):
    metrics = results.table("metrics")
    cell = results.cells.set_index("arm").loc["module_alloc", "cell"]
    own = metrics[(metrics["cell"] == cell) & (metrics["kind"] == "load") & (metrics["metric"] == "rounds_per_op")]
    expected = (own["value"] * own["n"]).sum() / own["n"].sum()
    assert row(frame, "module_alloc")["rounds"] == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(own["value"].mean(), rel=1e-12), "the frames must be able to tell the two apart"
