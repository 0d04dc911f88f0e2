"""The table as text: fits its width, says what has to be said."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest

from execbench.report.arms import serves_data
from execbench.report.comparison import comparison
from execbench.report.notes import few_cycles, notes, remarks
from execbench.report.setting import loop_words, setting_of
from execbench.report.text import render, show


@pytest.mark.parametrize("width", [60, 78, 100, 120, 140, 160])
def test_every_figure_fits_at_any_width(compared, width):
    text = render(*compared, width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for needed in ("p50", "p90", "p99", "largest", "API share", "rounds", "flushes", "interrupts", "stolen", "asked",
                   "reserved", "wasted", "4K leaves", "2M leaves", "(shipped)", "(retired)", "(proposed)"):  # fmt: skip
        assert needed in words, needed


def test_one_table_where_there_is_room(compared):
    frame, setting = compared
    tables = [render(frame, setting, width).count("rw-inplace-finalize\n") + render(frame, setting, width).count(
        "rw-inplace-finalize ") for width in (160, 78)]  # fmt: skip
    assert tables[0] < tables[1]


def test_arms_with_brackets_are_not_taken_for_markup(compared):
    text = render(*compared)
    assert "[sync=merged-flush]" in text
    assert "[sync=none]" in text


def test_refusal_and_footer(compared):
    words = " ".join(render(*compared).split())
    assert "n/a execmem: needs arm64: <sub-page> permissions" in words
    assert "Simulated: server-64 (x86_64, 64 CPUs), kernel 6.18" in words
    assert "10 replications, seed 1" in words
    assert "Closed loop: 2 bpf threads, think time exponential, mean 3.00 ms" in words
    assert "Weakest evidence among the costs used: assumed" in words
    assert "sampling only: cost uncertainty not explored" in words


def test_open_loop_is_said(make_results):
    results = make_results(replications=2)
    results.cells["spec"] = results.cells["spec"].str.replace('"rate": null', '"rate": 200.0')
    text = " ".join(render(comparison(results), setting_of(results)).split())
    assert "open loop" in text
    assert "latency counts from the intended arrival" in text
    assert "losed loop" not in text


def test_plain_text_is_ascii_without_colour(compared):
    text = render(*compared)
    assert text.isascii()
    assert "\x1b" not in text


def test_terminal_has_colour_and_lines(compared):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    show(*compared, console)
    text = console.file.getvalue()
    assert "\x1b[" in text
    assert "─" in text


def test_isolated_cpus_are_shown_only_where_the_machine_has_some(make_results, add_isolated):
    """A table without isolated CPUs does not mention them; with some, their rate and the longest stand there."""
    results = make_results(replications=10)
    plain = render(comparison(results), setting_of(results))
    assert "isolated" not in plain
    add_isolated(results)
    frame = comparison(results)
    text = render(frame, setting_of(results), width=200)
    for words in ("interrupts of an", "isolated CPU by", "this workload", "1/h", "longest on an"):
        assert words in text
    # Nine replications of 1,200,000 and one of twice as much: the mean with its t interval, thousands set apart.
    assert "1,320,000" in text
    assert "[1,050,000, 1,590,000]" in text
    assert frame["isolated_hourly_low"].iloc[0] == pytest.approx(1.32e6 - 2.262157 * 1.2e5)
    assert "14" in text.split("longest")[1]  # the longest of all replications, in us
    words = " ".join(text.split())
    assert words.count("every handler takes its median cost") == 1  # below what callers wait for, not below the rest
    assert "it is a sum of constants" in words


def test_isolated_figures_have_their_unit():
    from execbench.report.columns import BY_NAME

    assert BY_NAME["isolated_hourly"].unit == "1/h"
    assert BY_NAME["interruptions"].unit == "1"
    assert BY_NAME["p50"].unit == "ns"


def test_marks_are_grouped_and_what_holds_for_all_tables_is_said_once(make_results):
    results = make_results(replications=3)
    frame = comparison(results)
    load = frame[frame["kind"] == "load"]
    frame = pd.concat([load, load.assign(kind="attach"), frame[frame["kind"] == "free"]])
    frame["shared"] = True
    words = " ".join(render(frame, setting_of(results)).split())
    assert words.count("several classes of operation ran") == 1
    assert words.count("~ approximate, few replications: p50 and p90 of all 6 arms") == 3
    needed = {float(one) for one in re.findall(r"needs ~([\d.]+)", " ".join(load["p99_status"]))}
    assert f"p99 of all 6 arms (needs ~{min(needed):g} to ~{max(needed):g} s)" in words
    assert words.count("few clusters of exceedances: p99") == 3


def test_arms_are_named_where_not_all_are_marked(make_results):
    frame = comparison(make_results(replications=10)).query("kind == 'load'")
    for arm in ("module_alloc", "alloc-write-map"):
        frame.loc[frame["arm"] == arm, ["p90_status", "p90_note"]] = ["approx.", "3 clusters of exceedances"]
    assert "~ approximate, few clusters of exceedances: p90 of module_alloc and alloc-write-map" in "\n".join(
        notes(frame)
    )


def test_a_client_has_threads_for_each_kind_that_it_weights():
    open_ = {"threads": 1, "rate": 10.0, "fentry": 4.0, "raw_tp": 4.0, "xdp": 1.0, "tail_call": 8.0, "struct_ops": 0.5}
    said = "Open loop: bpf-attach at 10/s on one bpf-attach thread for each of 5 kinds; latency"
    assert loop_words("bpf-attach", open_).startswith(said)
    closed = open_ | {"rate": None, "xdp": 0.0, "tail_call": 0.0, "struct_ops": 0.0, "threads": 2, "think": 1_000_000}
    assert loop_words("bpf-attach", closed).startswith(
        "Closed loop: 2 bpf-attach threads for each of 2 kinds, think time 1.00 ms divided by its kind's share of the "
        "weights; "
    )
    assert "for each" not in loop_words("bpf-attach", {"threads": 2, "rate": 10.0, "xdp": 1.0, "fentry": 0.0})
    assert loop_words("kprobes", {"threads": 1, "think": 1_000_000}).startswith(
        "Closed loop: one kprobes thread, think"
    )


def test_few_cycles_name_an_arm_once_however_many_points_it_has(swept):
    rows = swept[1][swept[1]["kind"] == "load"].assign(few_cycles="rox clean (2)")
    arms = list(rows["arm"].drop_duplicates())
    assert few_cycles(rows) == f"rox clean (2) with {', '.join(arms)}"


def test_arms_that_serve_different_kinds_are_told_apart_once(compared):
    """What is asked of them differs by the modules' data; of arms that serve alike, or without modules, nothing."""
    frame, setting = compared
    load = frame[frame["kind"] == "load"]
    assert not load["serves_data"].notna().any()
    note = "serve data of modules, too"
    assert not any(note in one for one in remarks(load))
    both = pd.concat([load, load.assign(point="b")]).assign(serves_data=False)
    for serves in (False, True, [True if arm == "module_alloc" else None for arm in both["arm"]]):
        assert not any(note in one or "serves data" in one for one in remarks(both.assign(serves_data=serves)))
    both["serves_data"] = both["arm"].isin(["module_alloc", "alloc-write-map", "execmem"])
    [said] = [one for one in remarks(both) if note in one]
    assert said.startswith("memory: module_alloc and alloc-write-map serve data of modules, too, bpf_prog_pack, ")
    text = " ".join(render(frame.assign(serves_data=frame["arm"] == "module_alloc"), setting).split())
    assert text.count("module_alloc serves data of modules, too") == 1


@pytest.mark.parametrize(
    ("backend", "clients", "serves"),
    [("execmem", ("module",), True), ("module_alloc", ("bpf", "module"), True), ("jit_text_alloc", ("module",), False),
     ("execmem", ("bpf", "kprobes"), None), ("nowhere", ("module",), None)],
)  # fmt: skip
def test_the_registry_says_whether_an_arm_serves_the_data_of_modules(backend, clients, serves):
    spec = {"workload": {"clients": {name: {} for name in clients}}, "backend": {"name": backend, "plugin": None}}
    assert serves_data(spec) is serves
    assert serves_data(spec | {"backend": {"name": backend, "plugin": "12345678"}}) is None
