"""The plots of a report, as inline SVG: latency, phases, disturbance of others, figures along the axis of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from execbench.record.histogram import bounds, mids_of
from execbench.report.drawing import (
    LEGEND_ROW,
    LETTER,
    POINTS,
    WIDTH,
    apart,
    coinciding,
    drawing,
    hex_palette,
    legend,
    legend_below,
    lines,
    log_span,
    log_ticks,
    percent_words,
    plain,
    say_empty,
    svg,
    time_words,
)
from execbench.report.measured import TOTAL
from execbench.report.numbers import unit_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from execbench.report.comparison import Frames

__all__ = ["axis_plot", "disturbance_plot", "hex_palette", "latency_plot", "phase_plot"]

PHASES = ("queue", "copy", "verify", "jit", "alloc", "write", "finalize", "seal", "publish")
OWN = ("#747474", "#e5e5e5", "#3b9bd3", "#3b3b3b", "#98a5b1", "#1f6d8a", "#163a73", "#48d4f5")
"""Phases of the client itself: greys and blues. Neighbours differ in lightness, all pairs also to the colour-blind."""
INSIDE = ("#b25007", "#f8db7c", "#732931", "#f79309", "#b56569", "#efad87", "#9d8a4d", "#573e07")
"""Phases inside the API: yellows to reds, hatched, chosen as OWN."""
DARK = 0.3
"""Relative luminance below which a colour is hatched and edged in white."""
MOST_BINS = 50
"""Points of a line over time: more of them cover each other."""
GROUPS = {"isolated": "the isolated CPUs", "passive": "the other CPUs", "loader": "the workload's CPUs"}
"""Groups of CPUs and what they are called: the disturbance shown is that of the first that the machine has."""


def latency_plot(results: Frames, cells: pd.DataFrame, client: str, kind: str) -> str:
    """Distribution of the latency per arm: the share done within x, and on the right the share still running (tail)."""
    with drawing(1, 2, 3.6) as (figure, axes):
        draw_latency(axes, _laws(results, cells, client, kind), _arms(cells), kind)
        legend_below(figure, axes[0])
    return svg(figure)


def draw_latency(axes: Sequence[Axes], laws: Mapping[str, np.ndarray[Any, Any]], arms: Sequence[str],
                 kind: str) -> None:  # fmt: skip
    """Draw body and tail of each arm's law: rows of latencies in ns (from 1 on), shares done within, operations."""
    body, tail = axes
    styles = lines(arms, coinciding({"": {arm: law[:2] for arm, law in laws.items()}}))
    in_body: list[float] = []
    for arm, (ends, done, count) in laws.items():
        # From nothing to all: a class whose operations all take the same is one vertical line.
        body.step([ends[0], *ends], [0, *done], where="post", **styles[arm])
        in_body += ends[np.searchsorted(done[:-1], (0.001, 0.99))].tolist()  # without the last: 99 % may never be done
        below = max(1 - done[-1], 0.5 / count[0])  # the largest operation is 1/n, then nothing but what never finished
        tail.step([*ends, ends[-1]], [1, *(1 - done[:-1]), below], where="pre", **styles[arm])
    firsts, lasts = [law[0][0] for law in laws.values()], [law[0][-1] for law in laws.values()]
    body.set(xscale="log", ylim=(-0.02, 1.02), xlim=log_span(min(in_body), max(in_body)))
    tail.set(xscale="log", yscale="log", xlim=log_span(min(firsts), max(lasts)),
             ylim=(0.5 / max(law[2][0] for law in laws.values()), 1.05))  # fmt: skip
    body.set(xlabel=f"latency of {kind} (log scale)", ylabel="share done [%]")
    tail.set(xlabel=f"latency of {kind} (log scale)", ylabel="share that takes longer [%]")
    body.set_title("Body: share done within")
    tail.set_title("Tail: share that takes longer")
    log_ticks(body.xaxis, time_words)
    log_ticks(tail.xaxis, time_words)
    log_ticks(tail.yaxis, percent_words)
    body.yaxis.set_major_formatter(lambda share, _: f"{share * 100:g}")


def phase_plot(results: Frames, cells: pd.DataFrame, client: str, kinds: Sequence[str]) -> str:
    """Mean time of each phase per arm: the whole first class, then of each class what passes inside the API.

    The client's own phases come first in a bar, those inside the API end it; legends have the order of the bars.
    """
    inside = api_phases(client)
    means = {kind: _phase_means(results, cells, client, kind, inside) for kind in kinds}
    whole = means[kinds[0]]
    named = list(dict.fromkeys(str(phase) for of in means.values() for phase in of.columns if phase in inside))
    api = {kind: of[[phase for phase in named if phase in of.columns]] for kind, of in means.items()}
    panels = {f"{kinds[0]}, all phases": whole} | {f"{kind}, inside the API": of for kind, of in api.items()}
    if len(kinds) == 1 and not set(whole.columns) - inside:
        panels = {f"{kinds[0]}, all inside the API": whole}
    arms = [arm for arm in _arms(cells) if any(arm in of.index for of in means.values())]
    rows = -(-len(panels) // 3)
    columns = -(-len(panels) // rows)
    own = [str(phase) for phase in whole.columns if phase not in inside]
    looks = _phase_looks(own, named)
    with drawing(rows, columns, rows * (0.85 + 0.36 * len(arms)), sharey=True, squeeze=False) as (figure, grid):
        places = list(grid.flat)
        for axes, (title, of) in zip(places, panels.items(), strict=False):
            draw_bars(axes, of.reindex(arms), looks)
            axes.set_title(fill(title, 100 // columns))
        for unused in places[len(panels) :]:
            unused.remove()
        _phase_legends(figure, {"client's own work": own, "inside the API": named}, looks)
    return svg(figure)


def api_phases(client: str) -> frozenset[str]:
    """Return the phases of a client's operations that pass inside the backend's verbs."""
    from execbench.registry.plugins import class_for

    phases: frozenset[str] = class_for("clients", client, "report").api_phases  # type: ignore[attr-defined]
    return phases


def disturbance_plot(results: Frames, cells: pd.DataFrame) -> str:
    """What other CPUs see over time, per arm: interruptions per CPU and second, the share of time stolen.

    Of isolated CPUs where the machine has any, else of those without a thread of the workload, else of all.
    """
    data, group, bin_ns = _others(results, cells)
    series = {str(arm): rows[["interruptions_per_s", "stolen_share"]].to_numpy()
              for arm, rows in data.groupby("arm", sort=False)}  # fmt: skip
    styles = lines(_arms(cells), coinciding({"": series}))
    with drawing(1, 2, 3.3, sharex=True) as (figure, (hits, stolen)):
        for arm, rows in data.groupby("arm", sort=False):
            middles = (rows["t_ns"] + bin_ns / 2) / 1e9
            hits.plot(middles, rows["interruptions_per_s"], **styles[str(arm)])
            stolen.plot(middles, rows["stolen_share"] * 100, **styles[str(arm)])
        hits.set(ylabel="interruptions per CPU [1/s]", ylim=(0, None))
        stolen.set(ylabel="CPU time stolen [%]", ylim=(0, None))
        hits.set_title(f"Interruptions of {GROUPS[group]}")
        stolen.set_title(f"Share of the time of {GROUPS[group]}")
        for panel in (hits, stolen):
            panel.set_xlabel(f"simulated time [s], means over {time_words(bin_ns)}")
            panel.yaxis.set_major_formatter(plain)
        legend_below(figure, hits)
    return svg(figure)


def axis_plot(frame: pd.DataFrame, key: str) -> str:
    """Figures of a sweep along one axis, per arm: median latency with its interval, rounds, interruptions.

    `frame` is the comparison with a column `axis` in place of the points: numbers give lines, words give points side
    by side in the order given. Refused arms keep their colours.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    words = None if pd.api.types.is_numeric_dtype(frame["axis"]) else [str(v) for v in dict.fromkeys(frame["axis"])]
    if words is not None:
        frame = frame.assign(axis=[float(words.index(str(value))) for value in frame["axis"]])
    frame = frame[frame["refused"] == ""]
    unit = unit_for(frame["p50"].to_numpy(), "time")
    panels = (("p50", f"median latency [{unit.name}]", unit.factor), ("rounds", "rounds per operation", 1.0),
              ("interruptions", "interruptions per operation", 1.0))  # fmt: skip
    tables = {name: frame.pivot(index="arm", columns="axis", values=name) for name, _, _ in panels}
    rank = {arm: number for number, arm in enumerate(arms)}
    styles = lines(arms, coinciding({
        name: {arm: table.loc[arm].to_numpy(float) for arm in sorted(table.index, key=rank.__getitem__)}
        for name, table in tables.items()
    }))  # fmt: skip
    with drawing(1, 3, 3.5) as (figure, axes):
        for (name, title, factor), panel in zip(panels, axes, strict=True):
            one = frame.assign(value=frame[name] / factor, low=frame[f"{name}_low"] / factor,
                               high=frame[f"{name}_high"] / factor)  # fmt: skip
            (_draw_lines if words is None else _draw_points)(panel, one, styles)
            panel.set(xlabel=key, ylabel=title)
            _value_scale(panel, one)
            if words is None:
                _axis_scale(panel, frame["axis"].to_numpy(float))
            else:
                _word_ticks(panel, words)
        legend_below(figure, axes[0])
    return svg(figure)


def _draw_lines(panel: Axes, one: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw a line per arm with its interval as a band."""
    for arm, rows in one.groupby("arm", sort=False):
        here, style = rows.sort_values("axis"), styles[str(arm)]
        panel.plot(here["axis"], here["value"], **{**style, "markevery": 1})
        panel.fill_between(here["axis"], here["low"], here["high"], color=style["color"], alpha=0.15, linewidth=0)


def _draw_points(panel: Axes, one: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the arms of each value side by side, each with its interval."""
    step = 0.7 / len(styles)
    for number, (arm, rows) in enumerate(one.groupby("arm", sort=False)):
        places = rows["axis"] + (number - (one["arm"].nunique() - 1) / 2) * step
        style = {**styles[str(arm)], "linestyle": "none", "markevery": 1}
        panel.plot(places, rows["value"], **style)
        panel.vlines(places, rows["low"], rows["high"], color=style["color"], linewidth=1.2)


def _arms(cells: pd.DataFrame) -> list[str]:
    """Return all arms in the order given, refused ones too, so that colours do not depend on what was refused."""
    return list(dict.fromkeys(cells["arm"]))


def _histograms(
    results: Frames, cells: pd.DataFrame, client: str, kind: str, phases: Iterable[str] = ()
) -> pd.DataFrame:
    """Return the histograms of these cells with their arm, in the order of the cells; of those in a steady state."""
    data, steady = results.table("histograms"), cells[cells["growth"] == 0]
    data = data[(data["client"] == client) & (data["kind"] == kind) & data["cell"].isin(steady["cell"])]
    if phases := list(phases):
        data = data[data["phase"].isin(phases)]
    arm_of: Mapping[Any, Any] = dict(zip(cells["cell"], cells["arm"], strict=True))
    order = {arm: number for number, arm in enumerate(_arms(cells))}
    data = data.assign(arm=data["cell"].map(arm_of))
    return data.sort_values("arm", key=lambda arm: arm.map(order), kind="stable")


def _laws(results: Frames, cells: pd.DataFrame, client: str, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return, per arm, ends of buckets in ns (0 stands at 1), shares of operations done within, their number."""
    data = _histograms(results, cells, client, kind, (TOTAL,))
    totals = results.table("totals")
    totals = totals[(totals["client"] == client) & (totals["kind"] == kind)]
    unfinished = totals.groupby("cell")["unfinished"].sum()
    laws: dict[str, np.ndarray[Any, Any]] = {}
    for arm, rows in data.groupby("arm", sort=False):
        counts = rows.groupby("bucket")["count"].sum().sort_index()
        ends = np.array([max(bounds(int(b))[1], 1) for b in counts.index], dtype=float)
        begun = float(counts.sum() + unfinished[rows["cell"].unique()].sum())
        laws[str(arm)] = np.stack([ends, counts.cumsum().to_numpy() / begun, np.full(len(ends), begun)])
    return laws


def _phase_means(results: Frames, cells: pd.DataFrame, client: str, kind: str, inside: frozenset[str]) -> pd.DataFrame:
    """Return the mean ns per operation of each phase (columns, those `inside` last) and arm (rows).

    Within the error of the histograms' buckets.
    """
    data = _histograms(results, cells, client, kind)
    ns = pd.Series(mids_of(data["bucket"].to_numpy()), index=data.index) * data["count"]
    sums = ns.groupby([data["arm"], data["phase"]], sort=False).sum().unstack("phase", fill_value=0)
    operations = data[data["phase"] == TOTAL].groupby("arm", sort=False)["count"].sum()
    means = sums.drop(columns=TOTAL).div(operations, axis=0).reindex(operations.index)
    return means[sorted(means.columns, key=lambda phase: (phase in inside, _rank(str(phase))))]


def _rank(phase: str) -> tuple[int, str]:
    return (PHASES.index(phase) if phase in PHASES else len(PHASES), phase)


def _phase_looks(own: Sequence[str], inside: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how a bar of each phase is filled: neighbours differ in lightness, what is inside the API is hatched."""
    from matplotlib.colors import to_rgb

    looks = {}
    for phases, colours, hatch in ((own, OWN, None), (inside, INSIDE, "////")):
        for number, phase in enumerate(phases):
            colour = colours[number % len(colours)]
            dark = luminance(to_rgb(colour)) < DARK
            looks[phase] = {"facecolor": colour, "hatch": hatch, "edgecolor": "white" if dark else "#333333"}
    return looks


def luminance(colour: Sequence[float]) -> float:
    """Return the relative luminance of red, green and blue (0 to 1 each). Source: WCAG 2.2, relative luminance."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def draw_bars(axes: Axes, means: pd.DataFrame, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw stacked horizontal bars of ns per operation, first arm on top, each with its sum in words behind it."""
    sums = means.sum(axis=1)
    most = float(sums.max()) if len(means.columns) else 0.0
    unit = unit_for([most], "time")
    left, places = np.zeros(len(means)), np.arange(len(means))
    for phase in means.columns:
        width = np.nan_to_num(means[phase].to_numpy(float)) / unit.factor
        axes.barh(places, width, left=left, height=0.7, linewidth=0.4, label=phase, **looks[str(phase)])
        left += width
    for place, total, known in zip(places, sums, means.notna().any(axis=1), strict=True):
        axes.annotate(time_words(total) if known else "no operation", (total / unit.factor, place), (3, 0), fontsize=7,
                      textcoords="offset points", va="center", color="#1b1f24" if known else "#5b6470")  # fmt: skip
    axes.set_yticks(places, [_arm_words(str(arm)) for arm in means.index])
    axes.set_ylim(len(means) - 0.5, -0.5)
    axes.set_xlim(0, most / unit.factor * 1.25 or 1)
    axes.set_xlabel(f"mean time per operation [{unit.name}]")
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(plain)
    axes.grid(visible=False, axis="y")


def _arm_words(arm: str) -> str:
    """Break a long name at its parameters."""
    name, bracket, fields = arm.partition("[")
    return f"{name}\n[{fields.replace(',', f',{chr(10)}') if len(fields) > 24 else fields}" if bracket else arm


def _phase_legends(figure: Figure, groups: Mapping[str, Sequence[str]], looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Put a legend per group of phases below the figure, side by side, with the phases in the order of the bars."""
    from matplotlib.patches import Patch

    groups = {title: phases for title, phases in groups.items() if phases}
    rows = 0
    for title, side in zip(groups, ("left", "right") if len(groups) > 1 else ("center",), strict=True):
        handles = [Patch(linewidth=0.4, **looks[phase]) for phase in groups[title]]
        rows = max(rows, legend(figure, handles, groups[title], side, WIDTH / len(groups), title))
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows + 1.5))


def _others(results: Frames, cells: pd.DataFrame) -> tuple[pd.DataFrame, str, float]:
    """Return, per arm and time bin, interruptions per CPU and second and stolen share of one group of CPUs.

    With the name of the group, the first of GROUPS that there is, and the width of the bins in ns.
    """
    keys = ["cell", "replication", "group"]
    data = results.table("disturbance").merge(results.table("cpus")[[*keys, "cpus"]], on=keys)
    data = data[data["cell"].isin(cells["cell"]) & (data["cpus"] > 0)]
    group = next(name for name in GROUPS if (data["group"] == name).any())
    data = data[data["group"] == group]
    starts = np.unique(data["t_ns"].to_numpy())
    one = int(np.min(np.diff(starts))) if starts.size > 1 else 10**9
    bin_ns = one * -(-len(starts) // MOST_BINS)
    data = data.assign(t_ns=starts[0] + (data["t_ns"] - starts[0]) // bin_ns * bin_ns)
    sums = data.groupby(["cell", "t_ns"], sort=False)[["interruptions", "stolen_ns", "cpus"]].sum().reset_index()
    arm_of: Mapping[Any, Any] = dict(zip(cells["cell"], cells["arm"], strict=True))
    sums = sums.assign(arm=sums["cell"].map(arm_of))
    sums["interruptions_per_s"] = sums["interruptions"] / sums["cpus"] / (one / 1e9)  # `cpus` adds up over bins too
    sums["stolen_share"] = sums["stolen_ns"] / sums["cpus"] / one
    order = {arm: number for number, arm in enumerate(_arms(cells))}
    sums = sums.sort_values(["arm", "t_ns"], key=lambda c: c.map(order) if c.name == "arm" else c, kind="stable")
    return sums, group, float(bin_ns)


def _axis_scale(panel: Axes, places: np.ndarray[Any, Any]) -> None:
    """Use a logarithmic axis where the places span more than a decade; label each place for which there is room."""
    places = np.unique(places)
    if places.min() > 0 and places.max() / places.min() > 10:
        panel.set_xscale("log", base=2)
        panel.minorticks_off()
    apart(panel.xaxis, list(places), [f"{place:.10g}" for place in places], WIDTH / 3 * 0.8 * POINTS)


def _word_ticks(panel: Axes, words: Sequence[str]) -> None:
    """Label a word per place, slanted where they would touch."""
    panel.set_xlim(-0.5, len(words) - 0.5)
    room = WIDTH / 3 * 0.8 * POINTS / len(words)
    if max(map(len, words)) * 8 * LETTER > room:
        panel.set_xticks(range(len(words)), words, rotation=25, ha="right", rotation_mode="anchor")
    else:
        panel.set_xticks(range(len(words)), words)
    panel.grid(visible=False, axis="x")


def _value_scale(panel: Axes, one: pd.DataFrame) -> None:
    """Use a logarithmic axis for values that span more than a decade, intervals included, and are never 0."""
    known = one[["value", "low", "high"]].to_numpy(float)
    known = known[np.isfinite(known)]
    if not np.isfinite(one["value"].to_numpy(float)).any():
        say_empty(panel)
    if known.size and known.min() > 0 and known.max() / known.min() > 10:
        panel.set_yscale("log")
        panel.set_ylim(log_span(float(known.min()), float(known.max())))
        log_ticks(panel.yaxis, plain)
    else:
        panel.set_ylim(0, max(float(known.max()) * 1.05, 0) or 1 if known.size else 1)
        panel.yaxis.set_major_formatter(plain)
