"""All seaborn and matplotlib calls: the plots of a report, as inline SVG with one fixed colour per arm.

SVG holds no date and fixed identifiers, so equal data gives equal bytes under one version of matplotlib.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from execbench.record.histogram import bounds, mids_of
from execbench.report.measured import TOTAL
from execbench.report.numbers import unit_for, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

    from execbench.report.comparison import Frames

PHASES = ("queue", "copy", "verify", "jit", "alloc", "write", "finalize", "seal", "publish")
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "execbench", "svg.fonttype": "none",  # text stays text: small, selectable
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.labelsize": 9, "xtick.labelsize": 8,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "ytick.labelsize": 8,
    "legend.fontsize": 8, "legend.frameon": False, "hatch.linewidth": 0.7,
    "grid.color": "#e3e3e3", "grid.linewidth": 0.6,
}  # fmt: skip
WIDTH = 9.6


def palette(arms: Sequence[str]) -> dict[str, Any]:
    """Return a colour per arm, by its place in the order given; safe for the usual kinds of colour blindness."""
    import seaborn as sns

    colours = sns.color_palette("colorblind", 10)
    return {arm: colours[number % len(colours)] for number, arm in enumerate(arms)}


def hex_palette(arms: Sequence[str]) -> dict[str, str]:
    """Return the same colours as `#rrggbb`."""
    from matplotlib.colors import to_hex

    return {arm: to_hex(colour) for arm, colour in palette(arms).items()}


def lines(arms: Sequence[str], remarks: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return how each arm's line is drawn, so that lines are told apart without colour and where they coincide.

    Colour, dashes and marker by the place of the arm; a line that is drawn later is thinner than those below it and has
    its markers elsewhere. `remarks` of some arms stand in the legend behind their names.
    """
    colours, last = palette(arms), max(len(arms) - 1, 1)
    return {
        arm: {"color": colours[arm], "linestyle": DASHES[number % len(DASHES)], "linewidth": 3.0 - 1.8 * number / last,
              "marker": MARKERS[number % len(MARKERS)], "markersize": 5.5, "markeredgecolor": "white",
              "markeredgewidth": 0.5, "markevery": (0.15 * number / len(arms), 0.15), "zorder": 2 + number / len(arms),
              "label": f"{arm} ({words})" if (words := (remarks or {}).get(arm)) else arm}
        for number, arm in enumerate(arms)
    }  # fmt: skip


def coinciding(panels: Mapping[str, Mapping[str, np.ndarray[Any, Any]]]) -> dict[str, str]:
    """Say of an arm whose line cannot be seen alone why: it is 0, or the same as an earlier arm's in all panels.

    `panels` has the values of each arm's line (NaN where it has none) by the name of the panel.
    """
    said: dict[str, str] = {}
    arms = list(next(iter(panels.values()), {}))
    for number, arm in enumerate(arms):
        zero = [name for name, of in panels.items() if not np.any(np.nan_to_num(of[arm]))]
        same = [other for other in arms[:number]
                if all(np.array_equal(of[arm], of[other], equal_nan=True) for of in panels.values())]  # fmt: skip
        if zero and len(zero) == len(panels):
            said[arm] = "0 throughout"
        elif same:
            said[arm] = f"same as {same[0]}"
        elif zero:
            said[arm] = f"0 {' and '.join(zero)}"
    return said


@contextmanager
def drawing(rows: int, columns: int, height: float, **kwargs: Any) -> Iterator[tuple[Figure, Any]]:
    """Make a figure in the style of the report; warnings of seaborn about its own use of libraries stay unseen."""
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), mpl.rc_context({**sns.axes_style("whitegrid"), **STYLE}):
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(rows, columns, **kwargs)


def svg(figure: Figure) -> str:
    """Return the figure as one <svg> element, without XML prologue and metadata."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def latency_plot(results: Frames, cells: pd.DataFrame, client: str, kind: str) -> str:
    """Distribution of the latency per arm: the share done within x, and on the right the share still running (tail)."""
    arms = _arms(cells)
    data = _histograms(results, cells, client, kind, (TOTAL,))
    totals = results.table("totals")
    totals = totals[(totals["client"] == client) & (totals["kind"] == kind)]
    unfinished = totals.groupby("cell")["unfinished"].sum()
    laws: dict[str, np.ndarray[Any, Any]] = {}
    for arm, rows in data.groupby("arm", sort=False):
        counts = rows.groupby("bucket")["count"].sum().sort_index()
        ends = np.array([bounds(int(b))[1] for b in counts.index], dtype=float)
        done = counts.cumsum().to_numpy() / (counts.sum() + unfinished[rows["cell"].unique()].sum())
        laws[str(arm)] = np.stack([ends, done])
    styles = lines(arms, coinciding({"": laws}))
    ends_of_body: list[float] = []
    with drawing(1, 2, 3.6) as (figure, (body, tail)):
        for arm, (ends, done) in laws.items():
            body.step(ends, done, where="post", **styles[arm])
            within = np.searchsorted(done[:-1], (0.001, 0.99))  # without the last: 99 % may never be done
            ends_of_body += ends[within].tolist()
            # The tail begins at 1 and ends with the largest operation: 1/n, then nothing.
            tail.step(ends, np.concatenate([[1.0], 1 - done[:-1]]), where="pre", **styles[arm])
        body.set(xscale="log", ylim=(0, 1), xlim=(min(ends_of_body) / 1.2, max(ends_of_body) * 1.2))
        tail.set(yscale="log", xscale="log")
        body.set(xlabel=f"latency of a {kind} (log scale)", ylabel=f"share of {kind}s done [%]")
        tail.set(xlabel=f"latency of a {kind} (log scale)", ylabel=f"share of {kind}s that take longer [%]")
        body.set_title("Body: share done within")
        tail.set_title("Tail: share that takes longer")
        _log_ticks(body.xaxis, _time)
        _log_ticks(tail.xaxis, _time)
        _log_ticks(tail.yaxis, _percent)
        body.yaxis.set_major_formatter(lambda share, _: f"{share * 100:g}")
        _legend_below(figure, body)
    return svg(figure)


def phase_plot(results: Frames, cells: pd.DataFrame, client: str, kinds: Sequence[str]) -> str:
    """Mean time of each phase per arm: the whole first class, and what passes inside the API in all the classes."""
    inside = api_phases(client)
    means = [_phase_means(results, cells, client, kind) for kind in kinds]
    parts = [one[[phase for phase in one.columns if phase in inside]] for one in means]
    taken = list(parts[0].columns)
    for i, kind in enumerate(kinds[1:], 1):  # a phase that an earlier class has too is told apart by its class
        parts[i] = parts[i].rename(columns={phase: f"{phase} ({kind})" for phase in parts[i].columns if phase in taken})
        taken += list(parts[i].columns)
    api = pd.concat(parts, axis=1)
    inside = inside | {*taken}
    colours = _phase_colours([*means[0].columns, *api.columns], inside)
    with drawing(1, 2, 1.4 + 0.36 * len(means[0]), sharey=True) as (figure, (whole, part)):
        _bars(whole, means[0], colours, inside)
        _bars(part, api, colours, inside)
        whole.set_title(f"Mean {kinds[0]}, by phase")
        part.set_title("Inside the API only: " + ", ".join(kinds))
        handles = {label: handle for axes in (whole, part)
                   for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=8,
                      title="hatched: inside the API", title_fontsize=8)  # fmt: skip
    return svg(figure)


def api_phases(client: str) -> frozenset[str]:
    """Return the phases of a client's operations that pass inside the backend's verbs."""
    from execbench.registry.plugins import class_for

    phases: frozenset[str] = class_for("clients", client, "report").api_phases  # type: ignore[attr-defined]
    return phases


def disturbance_plot(results: Frames, cells: pd.DataFrame) -> str:
    """What the other CPUs see over time, per arm: interruptions per CPU and second, the share of time stolen."""
    data = _others(results, cells)
    series = {str(arm): rows[["interruptions_per_s", "stolen_share"]].to_numpy()
              for arm, rows in data.groupby("arm", sort=False)}  # fmt: skip
    styles = lines(_arms(cells), coinciding({"": series}))
    with drawing(1, 2, 3.3, sharex=True) as (figure, (hits, stolen)):
        for arm, rows in data.groupby("arm", sort=False):
            hits.plot(rows["t_ns"] / 1e9, rows["interruptions_per_s"], **styles[str(arm)])
            stolen.plot(rows["t_ns"] / 1e9, rows["stolen_share"] * 100, **styles[str(arm)])
        hits.set(xlabel="simulated time [s]", ylabel="interruptions per CPU [1/s]", ylim=(0, None))
        stolen.set(xlabel="simulated time [s]", ylabel="CPU time stolen [%]", ylim=(0, None))
        hits.set_title("Interruptions of the other CPUs")
        stolen.set_title("Share of their time")
        _legend_below(figure, hits)
    return svg(figure)


def axis_plot(frame: pd.DataFrame, key: str) -> str:
    """Figures of a sweep along one axis, per arm: median latency with its interval, rounds, interruptions.

    `frame` is the comparison with a numeric column `axis` in place of the points; refused arms keep their colours.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    colours = palette(arms)
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
            for arm, rows in frame.groupby("arm", sort=False):
                here = rows.sort_values("axis")
                panel.plot(here["axis"], here[name] / factor, **{**styles[str(arm)], "markevery": 1})
                panel.fill_between(here["axis"], here[f"{name}_low"] / factor, here[f"{name}_high"] / factor,
                                   color=colours[str(arm)], alpha=0.15, linewidth=0)  # fmt: skip
            panel.set(xlabel=key, ylabel=title)
            _axis_scale(panel, frame["axis"].to_numpy(float), frame[name].to_numpy(float))
        _legend_below(figure, axes[0])
    return svg(figure)


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


def _phase_means(results: Frames, cells: pd.DataFrame, client: str, kind: str) -> pd.DataFrame:
    """Return the mean ns per operation of each phase (columns, in order) and arm (rows), within the buckets' error."""
    data = _histograms(results, cells, client, kind)
    ns = pd.Series(mids_of(data["bucket"].to_numpy()), index=data.index) * data["count"]
    sums = ns.groupby([data["arm"], data["phase"]], sort=False).sum().unstack("phase", fill_value=0)
    operations = data[data["phase"] == TOTAL].groupby("arm", sort=False)["count"].sum()
    means = sums.drop(columns=TOTAL).div(operations, axis=0).reindex(operations.index)
    rank = {phase: number for number, phase in enumerate(PHASES)}
    return means[sorted(means.columns, key=lambda phase: rank.get(str(phase), len(rank)))]


def _bars(axes: Axes, means: pd.DataFrame, colours: Mapping[str, Any], inside: frozenset[str]) -> None:
    """Draw stacked horizontal bars, first arm on top; phases inside the API are hatched."""
    unit = unit_for([float(means.sum(axis=1).max())], "time")
    left = np.zeros(len(means))
    places = np.arange(len(means))
    for phase in means.columns:
        width = means[phase].to_numpy() / unit.factor
        axes.barh(places, width, left=left, height=0.7, color=colours[phase], edgecolor="white", linewidth=0.4,
                  hatch="////" if phase in inside else None, label=phase)  # fmt: skip
        left += width
    axes.set_yticks(places, [arm.replace("[", "\n[", 1) for arm in map(str, means.index)])
    axes.set_ylim(len(means) - 0.5, -0.5)
    axes.set_xlabel(f"mean time per operation [{unit.name}]")
    axes.grid(visible=False, axis="y")


def _phase_colours(phases: Iterable[str], inside: frozenset[str]) -> dict[str, Any]:
    """Return greys for what the client does itself and, unlike the colours of the arms, warm ones inside the API."""
    import seaborn as sns

    unique = list(dict.fromkeys(phases))
    api, own = [p for p in unique if p in inside], [p for p in unique if p not in inside]
    greys = sns.color_palette("light:#6b7280", len(own) + 1)[1:]
    return dict(zip([*api, *own], [*sns.color_palette("flare", len(api)), *greys], strict=True))


def _others(results: Frames, cells: pd.DataFrame) -> pd.DataFrame:
    """Return, per arm and time bin, interruptions per CPU and second and stolen share, of CPUs without a loader.

    Where every CPU hosts a loader, of those.
    """
    keys = ["cell", "replication", "group"]
    data = results.table("disturbance").merge(results.table("cpus")[[*keys, "cpus"]], on=keys)
    data = data[data["cell"].isin(cells["cell"]) & (data["cpus"] > 0)]
    passive = data[data["group"] != "loader"]
    data = data if passive.empty else passive
    sums = data.groupby(["cell", "t_ns"], sort=False)[["interruptions", "stolen_ns", "cpus"]].sum().reset_index()
    arm_of: Mapping[Any, Any] = dict(zip(cells["cell"], cells["arm"], strict=True))
    sums = sums.assign(arm=sums["cell"].map(arm_of))
    starts = np.unique(sums["t_ns"].to_numpy())
    bin_ns = float(np.min(np.diff(starts))) if starts.size > 1 else 1e9
    sums["interruptions_per_s"] = sums["interruptions"] / sums["cpus"] / (bin_ns / 1e9)
    sums["stolen_share"] = sums["stolen_ns"] / sums["cpus"] / bin_ns
    order = {arm: number for number, arm in enumerate(_arms(cells))}
    return sums.sort_values(["arm", "t_ns"], key=lambda c: c.map(order) if c.name == "arm" else c, kind="stable")


def _axis_scale(panel: Axes, places: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
    """Use a logarithmic axis where the places span more than a decade, and for values that do and are never 0."""
    if places.min() > 0 and places.max() / places.min() > 10:
        panel.set_xscale("log", base=2)
        panel.set_xticks(np.unique(places), [f"{place:g}" for place in np.unique(places)])
        panel.minorticks_off()
    known = values[np.isfinite(values)]
    if known.size and known.min() > 0 and known.max() / known.min() > 10:
        panel.set_yscale("log")
        _log_ticks(panel.yaxis, lambda value: f"{value:g}")
    else:
        panel.set_ylim(0, None)


def _log_ticks(axis: XAxis | YAxis, words: Callable[[float], str]) -> None:
    """Label a logarithmic axis in words at its decades, and at two steps between them where it spans few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    few = low > 0 and high / low < 300
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axis.set_minor_formatter(NullFormatter())


def _time(ns: float) -> str:
    return with_unit(ns, "time")


def _percent(share: float) -> str:
    return f"{share * 100:.4g}"


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    widest = max(map(len, labels), default=1)
    one_row = sum(map(len, labels)) + 7 * len(labels) <= 150
    columns = len(labels) if one_row else max(1, 130 // (widest + 7))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
