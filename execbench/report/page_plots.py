"""The plots of the HTML page, as SVG inside it, each with its caption."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from execbench.report import plots
from execbench.report.answer import contrasted
from execbench.report.arms import axes_of, point_words, short_key
from execbench.report.comparison import Frames
from execbench.report.text import inside_api

if TYPE_CHECKING:
    import pandas as pd


def run_plots(results: Frames, cells: pd.DataFrame, frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the plots of a plain run: latency and phases of what enters the API, and the disturbance of others."""
    measured = frame[(frame["refused"] == "") & (frame["operations"] > 0)]
    if measured.empty:
        return
    steady = measured[measured["growth"] == 0]
    inside = [(str(client), str(kind)) for (client, kind), rows in steady.groupby(["client", "kind"], sort=False)
              if inside_api(rows)]  # fmt: skip
    for client, kind in inside:
        yield _plot(f"How long {client} {kind} takes", plots.latency_plot(results, cells, client, kind),
                    "Left: share of operations done within a time. Right: share that takes longer, on a logarithmic "
                    "scale, so that 10 %, 1 % and 0.1 % are p90, p99 and p99.9.")  # fmt: skip
    for client in dict.fromkeys(client for client, _ in inside):
        kinds = [kind for name, kind in inside if name == client]
        yield _plot(f"Where the time of {client} goes", plots.phase_plot(results, cells, client, kinds),
                    "Mean time per operation, its total behind each bar. Plain (grey, blue) is the client's own work; "
                    "hatched (yellow to red) passes inside the allocator's verbs and is what a change of the API can "
                    "influence. Panels have their own scales.")  # fmt: skip
    yield _plot(
        "What the other CPUs feel",
        plots.disturbance_plot(results, cells),
        "Isolated CPUs where the machine has any, else CPUs without a thread of the workload, else all; mean over "
        "replications.",
    )


def sweep_plots(cells: pd.DataFrame, frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield a plot per class that callers wait for, axis, and values of the other axes; only the first unfolded."""
    numeric = _numeric(cells)
    frame = contrasted(frame)
    axes = {words: axes_of(words) for words in frame["point"].drop_duplicates()}
    for key in next(iter(axes.values())):
        held: dict[str, list[str]] = {}
        for words, point in axes.items():
            others = point_words({name: value for name, value in point.items() if name != key})
            held.setdefault(others, []).append(words)
        for number, (others, words) in enumerate(held.items()):
            if len(words) > 1:
                chosen = frame[frame["point"].isin(words)]
                values = [axes[point][key] for point in chosen["point"]]
                chosen = chosen.assign(axis=list(map(float, values)) if key in numeric else values)
                yield from _along(chosen, key, others, number > 0)


def _numeric(cells: pd.DataFrame) -> set[str]:
    """Return the axes, by their short names, all of whose values are numbers."""
    points = list(cells["axes"])
    return {short_key(key, points[0]) for key in points[0]
            if all(isinstance(point[key], int | float) and not isinstance(point[key], bool) for point in points)
            }  # fmt: skip


def _along(frame: pd.DataFrame, axis: str, others: str, folded: bool) -> Iterator[dict[str, Any]]:
    for (client, kind, loop), rows in frame.groupby(["client", "kind", "loop"], sort=False):
        if inside_api(rows) and (rows["mode"] == "sync").all():
            at = f", {others}" if others else ""
            yield _plot(f"{client} {kind} by {axis}{at} ({loop} loop)", plots.axis_plot(rows, axis),
                        "Bands or whiskers are 95 % intervals.") | {"folded": folded}  # fmt: skip


def _plot(title: str, svg: str, caption: str) -> dict[str, Any]:
    from markupsafe import Markup

    return {"title": title, "svg": Markup(_inline(svg, re.sub(r"\W+", "-", title))), "caption": caption}


def _inline(svg: str, prefix: str) -> str:
    """Return SVG fit for HTML: no namespaces (HTML knows them), and identifiers that no other plot has."""
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    return re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
