"""Plots: no warnings, colours fixed by the order of the arms, no dates."""

from __future__ import annotations

import warnings

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
