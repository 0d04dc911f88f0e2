"""Overload, unfinished operations, slow mechanisms and open loops: what the report says and what it does not print."""

from __future__ import annotations

import json
import math

import pytest

import execbench
from execbench.report.answer import answer, ratios, sentences, summary
from execbench.report.arms import arms_of
from execbench.report.checks import FEW_CYCLES, few_cycles, growth
from execbench.report.comparison import comparison, estimate_of, records
from execbench.report.html import page
from execbench.report.setting import setting_of
from execbench.report.text import render
from execbench.simulate import World
from execbench.study.expand import Asked, expand


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """Open loops far below and far above what two threads can do, about 200 loads a second."""
    out = tmp_path_factory.mktemp("loops")
    asked = {"backends": ["bpf_prog_pack", "alloc-write-map"], "cpus": 4, "duration": "400ms", "warmup": "100ms"}
    return {rate: execbench.run("bpf", **asked, set={"client.bpf.rate": f"{rate}/s"}, out=out / str(rate))
            for rate in (20, 1000)}  # fmt: skip


def text_of(results):
    return " ".join(render(comparison(results), setting_of(results), 150, summary_of(results)).split())


def summary_of(results):
    return summary(results, comparison(results), setting_of(results))


def arm_of(results, arm, kind="load"):
    frame = comparison(results)
    return next(row for row in records(frame) if (row["arm"], row["kind"]) == (arm, kind))


# --- steady state -----------------------------------------------------------------------------------------------------


def test_above_capacity_there_is_no_steady_state_and_no_latency(loops):
    frame = comparison(loops[1000])
    for row in records(frame):
        assert 600 < row["growth"] < 1100  # arrivals less what is done
        for name in ("p50", "p90", "p99", "largest", "queue", "service"):
            assert row[f"{name}_status"].startswith("n/a (no steady state, +")
            assert math.isnan(row[name])
        if row["kind"] == "load":
            assert row["throughput"] > 0
            assert not math.isnan(row["api_share"])
    text = text_of(loops[1000])
    assert "no steady state, the backlog grows, hence no latencies: bpf_prog_pack (+" in text
    assert "No steady state with bpf_prog_pack (+" in text
    html = page(loops[1000], frame, setting_of(loops[1000]))
    assert "no steady state, the backlog grows" in html
    assert "How long bpf load takes" not in html


def test_below_capacity_there_is_one(loops):
    frame = comparison(loops[20])
    assert set(frame["growth"]) == {0.0}
    assert arm_of(loops[20], "bpf_prog_pack")["p50"] > 0
    assert "no steady state" not in text_of(loops[20]).lower()


def test_a_workload_that_ends_is_not_asked_for_a_steady_state(loops):
    spec = loops[1000].cells["spec"].iloc[0]
    cell = loops[1000].cells["cell"].iloc[0]
    assert growth(loops[1000], cell, json.loads(spec)["run"]) > 0

    class Ending:
        study, table = loops[1000].study, loops[1000].table
        cells = loops[1000].cells.assign(spec=loops[1000].cells["spec"].str.replace("steady-state", "terminating"))

    assert set(arms_of(Ending)["growth"]) == {0.0}


def test_growth_is_per_second_of_half_the_window_and_leaves_failed_replications_out(make_results):
    results = make_results(replications=5)
    cell = results.cells["cell"].iloc[0]
    totals = results.frames["totals"]
    mine = (totals["cell"] == cell) & (totals["kind"] == "load")
    totals.loc[mine, "in_system_end"] = [902, 903, 901, 902, 902]
    run = json.loads(results.cells["spec"].iloc[0])["run"]
    assert growth(results, cell, run) == pytest.approx(900 / 2.25)
    replications = results.frames["replications"]
    replications.loc[(replications["cell"] == cell) & (replications["replication"] > 0), "outcome"] = "deadlock"
    assert growth(results, cell, run) == 0


def test_an_overloaded_arm_is_named_beside_the_ranking_of_the_others(make_results):
    results = make_results()
    results.cells = results.cells[:4]
    totals = results.frames["totals"]
    totals.loc[totals["cell"] == results.cells["cell"].iloc[1], "in_system_end"] += 500
    frame = comparison(results)
    said = answer(results, frame[frame["kind"] == "load"], setting_of(results))
    assert "bpf_prog_pack" not in said[0]
    assert said[1].startswith("No steady state with bpf_prog_pack (+222 op/s)")
    _, _, plots = page(results, frame, setting_of(results)).partition("How long bpf load takes")
    latencies, found, _ = plots.partition("What the other CPUs feel")
    assert found
    assert "alloc-write-map" in latencies
    assert "bpf_prog_pack" not in latencies


def test_a_sweep_says_at_which_points(make_results):
    results = make_results(replications=3, points=(2, 64))
    totals = results.frames["totals"]
    totals.loc[totals["cell"] == results.cells["cell"].iloc[0], "in_system_end"] += 500
    text = " ".join(render(comparison(results), setting_of(results)).split())
    assert "no steady state, the backlog grows, hence no latencies: module_alloc, cpus = 2 (+222 op/s)" in text


# --- unfinished -------------------------------------------------------------------------------------------------------


def unfinished(make_results, n):
    results = make_results()
    results.cells = results.cells[:4]
    totals = results.frames["totals"]
    mine = (totals["cell"] == results.cells["cell"].iloc[1]) & (totals["kind"] == "load")
    totals.loc[mine, "unfinished"] = n
    return results


def test_unfinished_operations_are_slower_than_all_others(make_results, compared):
    row = arm_of(unfinished(make_results, 20), "bpf_prog_pack")  # 20 of 520 to 620: p90 is known, p99 is not
    plain = next(row for row in records(compared[0]) if (row["arm"], row["kind"]) == ("bpf_prog_pack", "load"))
    assert row["p50"] > plain["p50"]
    assert row["p90"] > plain["p90"]
    assert row["p99_status"] == "at least"
    assert row["p99"] == pytest.approx(row["largest"], rel=0.01)
    assert row["p99_high"] == math.inf
    assert row["operations"] == plain["operations"]


def test_lower_bounds_are_marked_and_not_ranked(make_results):
    results = unfinished(make_results, 20)
    frame = comparison(results)
    said = answer(results, frame[frame["kind"] == "load"], setting_of(results))
    assert any(sentence.startswith("Some p99 are only known from below") for sentence in said)
    assert ">= operations were unfinished at the end: p99 of bpf_prog_pack" in " ".join(render(
        frame, setting_of(results)).split())  # fmt: skip
    most = unfinished(make_results, 2000)
    frame = comparison(most)
    assert "bpf_prog_pack" not in answer(most, frame[frame["kind"] == "load"], setting_of(most))[0]
    assert page(most, frame, setting_of(most))


def test_a_ratio_has_no_interval_if_one_replication_left_too_many_unfinished(make_results):
    results = unfinished(make_results, 0)
    totals = results.frames["totals"]
    first = (totals["cell"] == results.cells["cell"].iloc[1]) & (totals["replication"] == 0)
    totals.loc[first, "unfinished"] = 1000
    frame = comparison(results)
    rows = frame[frame["kind"] == "load"]
    [ratio] = [one for one in ratios(results, rows, "p50", "module_alloc") if one.arm == "bpf_prog_pack"]
    assert 0 < ratio.value < 1
    assert ratio.verdict == "no interval"
    assert "no interval: operations unfinished" in estimate_of(records(rows)[1], "p50").note


def test_saturated_threads_still_let_the_kworker_free(loops):
    # They never sleep, but their verifier gives way at ticks.
    totals = loops[1000].totals
    frees = totals[totals["kind"] == "free"]
    assert frees["unfinished"].sum() < frees["operations"].sum() / 10
    for row in records(comparison(loops[1000])):
        assert estimate_of(row, "p50").status.startswith("n/a (no steady state")


# --- slow mechanisms --------------------------------------------------------------------------------------------------


def test_cycles_of_slow_processes_are_counted_in_the_window(loops):
    metrics = loops[20].metrics
    own = metrics[metrics["metric"].str.startswith("cycles_")]
    of = own.groupby(["arm", "metric"])["value"].sum().unstack("metric")
    # Frees ask for a grace period each, of at least two jiffies; hardly more fit into 300 ms than its 75 jiffies.
    assert 10 * 3 < of.loc["bpf_prog_pack", "cycles_grace_period"] < 10 * 75 / 2
    assert of.loc["bpf_prog_pack", "cycles_pack_growth"] < FEW_CYCLES
    assert math.isnan(of.loc["alloc-write-map", "cycles_pack_growth"])
    cells = dict(zip(loops[20].cells["arm"], loops[20].cells["cell"], strict=True))
    assert "pack growth (0)" in few_cycles(loops[20], cells["bpf_prog_pack"])
    assert "pack" not in few_cycles(loops[20], cells["alloc-write-map"])
    assert "grace period" not in few_cycles(loops[20], cells["bpf_prog_pack"])
    assert "few cycles: lazy purge (" in text_of(loops[20])
    assert "Few cycles in the window" in page(loops[20], comparison(loops[20]), setting_of(loops[20]))


@pytest.mark.parametrize("arm", ["module_alloc", "bpf_prog_pack"])
def test_every_purge_counts_also_a_workers(arm):
    asked = Asked.of(workload="bpf", backends=[arm], cpus=4, duration="600ms", warmup="100ms",
                     set={"kernel.lazy_max_pages": 64})  # fmt: skip
    spec = json.loads(json.dumps(expand(asked).cells[0].spec))
    world, seen = World(spec, 0, {}), []

    class Ear:
        def call(self, t, task, primitive, units):
            if primitive == "vmap_purge" and spec["run"]["warmup"] < t <= spec["run"]["duration"]:
                seen.append(task.op)

    world.machine.probe.attach(Ear())
    table = world.run().tables["metrics"]
    assert dict(zip(table["metric"], table["value"], strict=True))["cycles_lazy_purge"] == len(seen) > 10
    if arm == "bpf_prog_pack":  # module_alloc purges at every set_memory, before the drain work is due
        assert None in seen, "some are done by a worker, for no operation"


# --- open loop --------------------------------------------------------------------------------------------------------


def test_open_loops_count_from_the_intended_arrival_and_show_queue_and_service(loops):
    frame = comparison(loops[20])
    row = arm_of(loops[20], "bpf_prog_pack")
    metrics = loops[20].metrics
    own = metrics[(metrics["arm"] == "bpf_prog_pack") & (metrics["kind"] == "load")]
    latency = own[own["metric"] == "latency_sum"]
    assert row["queue"] > 0
    assert row["queue"] + row["service"] == pytest.approx(latency["value"].sum() / latency["n"].sum(), rel=1e-9)
    text = text_of(loops[20])
    assert "bpf load (open loop, from the intended arrival, " in text
    assert "mean queue" in text
    assert "mean service" in text
    assert set(frame[frame["kind"] == "load"]["since"]) == {"arrival"}
    assert set(frame[frame["kind"] != "load"]["since"]) == {"begin"}
    html = page(loops[20], frame, setting_of(loops[20]))
    assert "what callers see, from the intended arrival" in html


def test_closed_loops_have_no_intended_arrival(compared, results):
    text = render(*compared)
    assert "intended" not in text
    assert "mean queue" not in text
    assert "intended" not in page(results, *compared).partition("How it was run")[0]


def test_open_and_closed_loops_never_share_a_table(make_results):
    results = make_results(replications=2, points=(2, 64))
    specs = results.cells["spec"].tolist()
    results.cells["spec"] = [text.replace('"rate": null', '"rate": 200.0') if '"cpus": 2,' in text else text
                             for text in specs]  # fmt: skip
    frame, setting = comparison(results), setting_of(results)
    text = render(frame, setting)
    tables = text.split("bpf load (")[1:]
    assert {table.partition(")")[0] for table in tables} == {"open loop, from the intended arrival", "closed loop"}
    assert not any("64" in table.partition("----")[0] for table in tables if table.startswith("open"))
    words = " ".join(text.split())
    assert "Open loop: bpf at 200/s on 2 bpf threads" in words
    assert "Closed loop: 2 bpf threads" in words
    html = page(results, frame, setting)
    assert "bpf load by cpus (open loop)" in html
    assert "bpf load by cpus (closed loop)" in html
    assert [point for point, _ in sentences(results, frame, setting)] == ["cpus = 2", "cpus = 64"]


# --- documentation ----------------------------------------------------------------------------------------------------


def test_the_page_lists_the_assumptions_of_the_documentation_and_where_it_is(results, compared):
    from pathlib import Path

    docs = Path(execbench.__file__).parent / "docs"
    html = page(results, *compared)
    headings = [line[4:].replace("`", "") for line in (docs / "assumptions.md").read_text().splitlines()
                if line.startswith("### ")]  # fmt: skip
    assert len(headings) > 20
    for heading in headings:
        assert f"<li>{heading}</li>" in html
    for path in docs.glob("*.md"):
        assert f"<dt>{path.read_text().splitlines()[0].removeprefix('# ')}</dt>" in html
        assert f"<code>execbench/docs/{path.name}</code>" in html
    assert 'href="http' not in html
