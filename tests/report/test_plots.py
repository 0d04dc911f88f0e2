"""Plots: no warnings, no dates, colours fixed by the order of the arms, nothing drawn out of sight."""

from __future__ import annotations

import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from execbench.report import drawing, plots
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
    drawn = list(drawing.lines([f"arm-{n}" for n in range(9)]).values())
    looks = [(str(one["linestyle"]), one["marker"]) for one in drawn]
    assert len(set(looks)) == len(looks)
    widths = [one["linewidth"] for one in drawn]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == len(widths)  # what is drawn later leaves the edges of what is below it
    assert len({one["markevery"] for one in drawn}) == len(drawn)
    assert drawing.lines(["a"])["a"]["label"] == "a"


def test_lines_that_cannot_be_seen_alone_are_named():
    one, nothing, gap = np.array([1.0, 2.0]), np.zeros(2), np.array([np.nan, 0.0])
    panels = {"hits": {"a": one, "b": one, "c": nothing, "d": nothing, "e": one * 2, "f": gap},
              "time": {"a": one, "b": one, "c": nothing, "d": one, "e": one, "f": gap}}  # fmt: skip
    assert drawing.coinciding(panels) == {"b": "same as a", "c": "0 throughout", "d": "0 hits", "f": "0 throughout"}
    assert drawing.coinciding({}) == {}


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


def seen(line, axes):
    """How much of the axes a drawn line crosses, as shares of its width and height, and what it spans of them."""
    points = axes.transAxes.inverted().transform(axes.transData.transform(line.get_path().vertices))
    parts = np.clip(points, 0, 1)
    return np.abs(np.diff(parts, axis=0)).sum(axis=0), parts.max(axis=0) - parts.min(axis=0)


@pytest.mark.parametrize("ends", [[850_000.0], [1.0], [4.0e9], [850_000.0, 850_001.0]])
def test_constant_latencies_are_drawn_inside_the_axes(ends):
    shares = np.linspace(1 / len(ends), 1, len(ends))
    laws = {arm: np.stack([np.array(ends), shares, np.full(len(ends), 20.0)]) for arm in ("a", "b")}
    with drawing.drawing(1, 2, 3.6) as (figure, axes):
        plots.draw_latency(axes, laws, ["a", "b"], "load")
        figure.draw_without_rendering()
        for panel in axes:
            low, high = panel.get_xlim()
            assert high / low > 2.9  # and not a span without a tick
            assert len([t for t in panel.get_xticks() if low <= t <= high]) >= 3
            for line in panel.get_lines():
                crossed, _ = seen(line, panel)
                assert crossed[1] > 0.9  # from nothing to all, within the limits
                x = line.get_xdata()
                assert low < min(x)
                assert max(x) < high


def test_unfinished_operations_keep_the_tail_up():
    laws = {"a": np.array([[10.0, 20.0], [0.25, 0.5], [40.0, 40.0]])}
    with drawing.drawing(1, 2, 3.6) as (_, axes):
        plots.draw_latency(axes, laws, ["a"], "load")
        assert axes[1].get_lines()[0].get_ydata()[-1] == 0.5
        assert axes[0].get_lines()[0].get_ydata()[-1] == 0.5


def test_ticks_of_a_logarithmic_axis():
    for low, high in ((1, 1e9), (200, 900), (850, 2550), (0.4, 1.05), (1e-4, 1.0)):
        with drawing.drawing(1, 1, 3) as (_, axes):
            axes.set(xscale="log", xlim=(low, high))
            drawing.log_ticks(axes.xaxis, drawing.plain)
            assert axes.get_xlim() == (low, high)
            assert 3 <= len(axes.get_xticks()) <= 7
            labels = [label.get_text() for label in axes.get_xticklabels()]
            assert len(set(labels)) == len(labels)


SEEN_AS = {  # Machado, Oliveira, Fernandes 2009, severity 1.0
    "by most": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, eye):
    """CIE L*a*b* (D65) of a colour as an eye sees it."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
    linear = np.clip(np.array(eye) @ linear, 0, 1)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116
               for v in to_xyz @ linear / to_xyz.sum(axis=1))  # fmt: skip
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colours", [plots.OWN, plots.INSIDE])
def test_phases_are_told_apart(colours):
    for one, other in itertools.pairwise([*colours, colours[0]]):
        light, dark = sorted((plots.luminance(to_rgb(c)) + 0.05 for c in (one, other)), reverse=True)
        assert light / dark >= 1.6, (one, other)
    for eye in SEEN_AS.values():
        for one, other in itertools.combinations(colours, 2):
            assert np.linalg.norm(lab(one, eye) - lab(other, eye)) >= 18, (one, other)


def test_bars_end_with_the_api_and_legends_have_their_order(results):
    svg = plots.phase_plot(results, arms_of(results), "bpf", ["load", "free"])
    words = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    legends = words[words.index("client's own work") :]
    assert legends == ["client's own work", "copy", "verify", "jit", "publish",
                       "inside the API", "alloc", "write", "finalize", "bpf_jit_free"]  # fmt: skip
    means = plots._phase_means(results, arms_of(results), "bpf", "load", plots.api_phases("bpf"))
    assert list(means.columns) == ["copy", "verify", "jit", "publish", "alloc", "write", "finalize"]


def test_isolated_cpus_are_shown_alone(make_results):
    results = make_results(replications=2)
    for name in ("cpus", "disturbance"):
        frame = results.frames[name]
        more = frame[frame["group"] == "passive"].assign(group="isolated", interruptions=0)
        results.frames[name] = pd.concat([frame, more], ignore_index=True)
    svg = plots.disturbance_plot(results, arms_of(results))
    assert "Interruptions of the isolated CPUs" in svg
    assert "module_alloc (0 " not in svg  # its stolen time is kept
    data, group, width = plots._others(results, arms_of(results))
    assert (group, width) == ("isolated", 1e8)
    assert not data["interruptions_per_s"].any()


def test_bins_over_time_are_folded_without_loss(make_results, monkeypatch):
    results = make_results(replications=2)
    fine, _, _ = plots._others(results, arms_of(results))
    monkeypatch.setattr(plots, "MOST_BINS", 10)
    coarse, _, width = plots._others(results, arms_of(results))
    assert width == 5e8
    for column in ("interruptions_per_s", "stolen_share"):
        means = [frame.groupby("arm")[column].mean() for frame in (fine, coarse)]
        np.testing.assert_allclose(means[0], means[1])


def test_axis_of_words_and_many_long_arms(swept):
    frame = swept[1]
    frame = frame[frame["kind"] == "load"]
    frame = frame.assign(axis=[f"server_{point.rpartition(' ')[2]}_vendor" for point in frame["point"]])
    svg = plots.axis_plot(frame, "boot_set")
    assert [svg.count(f"server_{cpus}_vendor") for cpus in (2, 64, 256)] == [3, 3, 3]
    labels = [f"rw-inplace-finalize[sync=merged-flush,alias=a{n}]" for n in range(9)]
    with drawing.drawing(1, 1, 3) as (figure, axes):
        for label in labels:
            axes.plot([1, 2], label=label)
        drawing.legend_below(figure, axes)
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent().transformed(figure.transFigure.inverted())
        assert box.x0 >= 0
        assert box.x1 <= 1
        assert axes.get_position().height * figure.get_figheight() > 1.8  # the legend does not eat the plot
