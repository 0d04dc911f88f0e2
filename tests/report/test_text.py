"""The table as text: fits its width, says what has to be said."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from execbench.report.comparison import comparison
from execbench.report.setting import setting_of
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


def test_sweep_shows_one_table_per_figure(swept):
    text = render(*swept[1:])
    assert "bpf load (closed loop): p50 [us]" in text
    assert "bpf load (closed loop): interrupts" in text
    assert max(map(len, text.splitlines())) <= 78
    assert "(x86_64, 2, 64, 256 CPUs)" in " ".join(text.split())


def test_isolated_cpus_are_shown_only_where_the_machine_has_some(make_results):
    """A table without isolated CPUs does not mention them; with some, their rate and the longest stand there."""
    results = make_results(replications=10)
    plain = comparison(results)
    assert "isolated/h" not in render(plain, setting_of(results))
    metrics = results.frames["metrics"]
    keys = metrics[["cell", "replication"]].drop_duplicates()
    extra = [{"client": "", "kind": "", "cell": cell, "replication": r, "metric": name, "unit": unit, "n": 24,
              "value": value * (1 + (r == 3))}
             for cell, r in keys.itertuples(index=False)
             for name, unit, value in (("isolated_interruptions_per_hour", "1", 1200.0),
                                       ("isolated_longest_ns", "ns", 7_000.0))]  # fmt: skip
    results.frames["metrics"] = pd.concat([metrics, pd.DataFrame(extra)], ignore_index=True)
    text = render(comparison(results), setting_of(results), width=200)
    assert "isolated/h" in text
    assert "14" in text.split("longest")[1]  # the longest of all replications, in us
