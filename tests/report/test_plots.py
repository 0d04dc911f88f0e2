"""Plots: no warnings, colours fixed by the order of the arms, no dates."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from execbench.report import plots
from execbench.report.arms import arms_of


def test_no_warning_and_no_date(results):
    cells = arms_of(results)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = [plots.latency_plot(results, cells, "bpf", "load"), plots.disturbance_plot(results, cells),
                plots.phase_plot(results, cells, "bpf", ["load", "free"])]  # fmt: skip
    assert all(svg.startswith("<svg") for svg in made)
    assert not any("dc:date" in svg for svg in made)


def test_colours_belong_to_the_place_of_an_arm():
    few, many = plots.hex_palette(["a", "b"]), plots.hex_palette(["a", "b", "c"])
    assert few["b"] == many["b"]
    assert len(set(plots.hex_palette([str(n) for n in range(10)]).values())) == 10


def test_refused_arm_keeps_its_colour(results):
    cells = arms_of(results)
    svg = plots.latency_plot(results, cells, "bpf", "load")
    colours = plots.hex_palette(list(cells["arm"]))
    assert colours["alloc-write-map"] in svg
    assert colours["execmem"] not in svg


def test_lines_are_told_apart_without_colour():
    drawn = list(plots.lines([f"arm-{n}" for n in range(9)]).values())
    looks = [(str(one["linestyle"]), one["marker"]) for one in drawn]
    assert len(set(looks)) == len(looks)
    widths = [one["linewidth"] for one in drawn]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == len(widths)  # what is drawn later leaves the edges of what is below it
    assert len({one["markevery"] for one in drawn}) == len(drawn)
    assert plots.lines(["a"])["a"]["label"] == "a"


def test_lines_that_cannot_be_seen_alone_are_named():
    one, nothing, gap = np.array([1.0, 2.0]), np.zeros(2), np.array([np.nan, 0.0])
    panels = {"hits": {"a": one, "b": one, "c": nothing, "d": nothing, "e": one * 2, "f": gap},
              "time": {"a": one, "b": one, "c": nothing, "d": one, "e": one, "f": gap}}  # fmt: skip
    assert plots.coinciding(panels) == {"b": "same as a", "c": "0 throughout", "d": "0 hits", "f": "0 throughout"}
    assert plots.coinciding({}) == {}


def test_equal_and_empty_lines_are_named_in_the_legend(make_results):
    results = make_results(replications=2)
    cells = arms_of(results)
    svg = plots.disturbance_plot(results, cells)
    assert "bpf_prog_pack (0 throughout)" in svg
    assert "module_alloc (" not in svg
    frame = results.frames["histograms"]
    first, second = cells["cell"].iloc[0], cells["cell"].iloc[1]
    copy = frame[frame["cell"] == first].assign(cell=second)
    results.frames["histograms"] = pd.concat([frame[frame["cell"] != second], copy], ignore_index=True)
    assert "bpf_prog_pack (same as module_alloc)" in plots.latency_plot(results, cells, "bpf", "load")


def test_axis_plot_names_what_is_zero(swept):
    frame = swept[1]
    frame = frame[(frame["kind"] == "load") & (frame["refused"] == "")]
    frame = frame.assign(axis=[float(point.rpartition(" ")[2]) for point in frame["point"]])
    svg = plots.axis_plot(frame, "cpus")
    assert "bpf_prog_pack (0 rounds and interruptions)" in svg
    assert "module_alloc (" not in svg


def test_phases_inside_the_api_are_hatched(results):
    svg = plots.phase_plot(results, arms_of(results), "bpf", ["load", "free"])
    assert "<pattern" in svg
    assert "bpf_jit_free" in svg


def test_machine_where_every_cpu_hosts_a_loader(make_results):
    results = make_results(replications=2, points=(64,))
    for name in ("cpus", "disturbance"):
        frame = results.frames[name]
        results.frames[name] = frame.assign(group="loader") if name == "disturbance" else frame[frame.group == "loader"]
    assert "<svg" in plots.disturbance_plot(results, arms_of(results))
