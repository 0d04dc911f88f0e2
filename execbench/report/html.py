"""The report as one self-contained HTML page: question, answer, table, plots, how it was run, costs, assumptions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from execbench.errors import CannotWrite
from execbench.report import plots
from execbench.report.answer import sentences
from execbench.report.arms import arms_of
from execbench.report.checks import FEW_CYCLES
from execbench.report.columns import BY_NAME
from execbench.report.comparison import Frames, estimate_of, records
from execbench.report.locks import contended
from execbench.report.numbers import bounds, number
from execbench.report.tables import figure, unit_words, units_of
from execbench.report.text import (
    LONGEST_IS_A_SUM,
    few_cycles,
    heading,
    inside_api,
    remarks,
    shown,
    unsteady,
)
from execbench.units import show_time

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.setting import Setting

OF_ISOLATED = "isolated CPUs, caused by this workload"
GROUPS = {
    "what callers see": ("throughput", "p50", "p90", "p99", "largest", "api_share"),
    "per operation": ("rounds", "flushes", "interruptions", "stolen"),
    OF_ISOLATED: ("isolated_hourly", "isolated_longest"),
    "memory for text": ("asked", "reserved", "waste", "leaves_4k", "leaves_2m"),
}
ARRIVING_GROUPS = {
    "what callers see, from the intended arrival": ("throughput", "p50", "p90", "p99", "largest", "queue", "service",
                                                    "api_share"),
    **{title: names for title, names in GROUPS.items() if title != "what callers see"},
}  # fmt: skip
DEFERRED_GROUPS = {"from the request to its end": ("p50", "p90", "p99", "largest", "api_share"),
                   "per operation": ("rounds", "flushes")}  # fmt: skip
SHORT = {"isolated_hourly": "per isolated CPU and hour", "isolated_longest": "longest"}
"""Titles of columns whose group says the rest."""
Groups: TypeAlias = dict[str, tuple[str, ...]]
MOST_COLUMNS = 9
"""Figures of one table; more of them are cut off on a page 1200 pixels wide."""
WITH_INTERVAL = ("throughput", "p50", "p90", "p99", "api_share", "isolated_hourly")
DOCS = Path(__file__).parents[1] / "docs"


class Directory(Frames, Protocol):
    """Results that have a place on disk."""

    @property
    def dir(self) -> Path:
        """The results directory."""


def write_report(results: Directory, frame: pd.DataFrame, setting: Setting) -> Path:
    """Write `report.html` into the results directory and return its path; CannotWrite if that fails."""
    path = results.dir / "report.html"
    temporary = path.with_name(f".report.{os.getpid()}")
    try:
        temporary.write_text(page(results, frame, setting, str(results.dir)), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise CannotWrite(str(path), f"cannot be written ({error.strerror or error})", "make room") from error
    return path


def page(results: Frames, frame: pd.DataFrame, setting: Setting, directory: str = "DIR") -> str:
    """Return the whole page; text from files and plug-ins is escaped, plots are inline SVG."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    cells = arms_of(results)
    swept = cells["point"].nunique() > 1
    return environment.get_template("report.html.j2").render(
        setting=setting,
        answers=list(sentences(results, frame, setting)),
        blocks=list(_blocks(frame, swept, setting.horizon == "terminating")),
        sweep_plots=list(_sweep_plots(cells, frame)) if swept else [],
        plots=[] if swept else list(_plots(results, cells, frame)),
        primitives=_primitives(results, frame) if not swept else {"rows": [], "arms": []},
        locks=contended(results),
        times=f"{show_time(setting.duration_ns)} simulated, the first {show_time(setting.warmup_ns)} not measured",
        versions=results.study.get("versions", {}),
        evidence=setting.evidence(),
        assumptions=assumptions(),
        pages=shipped_pages(),
        few=FEW_CYCLES,
        directory=directory,
        folded_costs=True,
    )


def assumptions() -> list[tuple[str, list[str]]]:
    """Return the numbered assumptions under their sections: the headings of docs/assumptions.md, so that both agree."""
    found: list[tuple[str, list[str]]] = []
    for level, words in re.findall(r"^(##|###) (.*)$", (DOCS / "assumptions.md").read_text("utf-8"), re.MULTILINE):
        if level == "##":
            found.append((words, []))
        else:
            found[-1][1].append(words.replace("`", ""))
    return found


def shipped_pages() -> list[tuple[str, str]]:
    """Return title and place of every page of documentation inside the package."""
    return [(path.read_text("utf-8").partition("\n")[0].removeprefix("# "), f"execbench/docs/{path.name}")
            for path in sorted(DOCS.glob("*.md"))]  # fmt: skip


def _blocks(frame: pd.DataFrame, swept: bool, ends: bool) -> Iterator[dict[str, Any]]:
    """Yield the table of each point, client and class; in a sweep, and for classes outside the API, folded.

    Of a workload that `ends` all classes are shown, and none has a rate.
    """
    colours = plots.hex_palette(list(dict.fromkeys(frame["arm"])))
    for (point, client, kind), rows in frame.groupby(["point", "client", "kind"], sort=False):
        groups = ARRIVING_GROUPS if rows["since"].iloc[0] == "arrival" else GROUPS
        if rows["mode"].iloc[0] == "deferred":
            groups = DEFERRED_GROUPS
        groups = {title: group for title, group in groups.items() if shown(rows, group[0])}
        if ends:
            groups = {title: tuple(name for name in group if name != "throughput") for title, group in groups.items()}
        yield {
            "heading": heading(str(point), str(client), str(kind), rows),
            "folded": swept or not (ends or inside_api(rows)),
            "unsteady": list(unsteady(rows)),
            "few_cycles": few_cycles(rows),
            "remarks": list(remarks(rows)),
            "isolated": LONGEST_IS_A_SUM if OF_ISOLATED in groups else "",
            "tables": [_table(rows, part, colours) for part in _parts(groups)],
        }


def _parts(groups: Groups) -> list[Groups]:
    """Return the groups of one table, or of two above each other where one would not fit on a page."""
    if sum(map(len, groups.values())) <= MOST_COLUMNS:
        return [groups]
    (first, names), *rest = groups.items()
    return [{first: names}, dict(rest)]


def _table(rows: pd.DataFrame, groups: Groups, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return one table: its groups of columns, the columns, a row per arm."""
    names = [name for group in groups.values() for name in group]
    firsts = {group[0] for group in groups.values()}
    units = units_of(rows)
    return {
        "groups": [{"title": title, "span": len(group)} for title, group in groups.items()],
        "columns": [
            {"title": SHORT.get(name, BY_NAME[name].title), "meaning": BY_NAME[name].meaning, "first": name in firsts,
             "unit": "1/s" if BY_NAME[name].scale == "rate" else unit_words(name, units[name])} for name in names
        ],
        "rows": [
            {"arm": row["arm"], "status": row["status"], "refused": row["refused"], "colour": colours[row["arm"]],
             "cells": [_cell(row, name, units[name], name in firsts) for name in names]} for row in records(rows)
        ],
    }  # fmt: skip


def _cell(row: Mapping[str, Any], name: str, unit: Any, first: bool) -> dict[str, Any]:
    """Return value, interval and note of one figure; intervals of what is only counted are shown on demand."""
    estimate = estimate_of(row, name)
    interval = bounds(*(value / unit.factor for value in (estimate.value, estimate.low, estimate.high)))
    beside = name in WITH_INTERVAL
    said = [] if beside or not interval else [f"95 %: {interval}"]
    said += [part for part in (estimate.status, estimate.note) if part and part != "ok"]
    return {"value": figure(estimate, unit, beside), "interval": interval if beside else "", "first": first,
            "note": "; ".join(said), "marked": estimate.status != "ok"}  # fmt: skip


def _plots(results: Frames, cells: pd.DataFrame, frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
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
                    "Mean time per operation. Grey is the client's own work; the hatched part passes inside the "
                    "allocator's verbs and is what a change of the API can influence.")  # fmt: skip
    yield _plot(
        "What the other CPUs feel",
        plots.disturbance_plot(results, cells),
        "CPUs that run no thread of the workload (all CPUs where there is no such), mean over replications.",
    )


def _sweep_plots(cells: pd.DataFrame, frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield a plot per numeric axis and class that callers wait for, at the first value of all other axes."""
    axes = dict(zip(cells["point"], cells["axes"], strict=True))
    points = list(axes.values())
    for key in points[0]:
        values = list(dict.fromkeys(point[key] for point in points))
        if len(values) < 2 or not all(isinstance(value, int | float) for value in values):
            continue
        others = {name: value for name, value in points[0].items() if name != key}
        held = [words for words, point in axes.items() if all(point[name] == value for name, value in others.items())]
        fixed = "".join(f", {name.rpartition('.')[2]} = {value}" for name, value in others.items())
        chosen = frame[frame["point"].isin(held)]
        chosen = chosen.assign(axis=[float(axes[point][key]) for point in chosen["point"]])
        for (client, kind, loop), rows in chosen.groupby(["client", "kind", "loop"], sort=False):
            if inside_api(rows) and (rows["mode"] == "sync").all():
                short = key.rpartition(".")[2]
                yield _plot(f"{client} {kind}, {loop} loop, by {short}", plots.axis_plot(rows, short),
                            f"{client} {kind} ({loop} loop) by {key}{fixed}; bands are 95 % intervals.")  # fmt: skip


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


def _primitives(results: Frames, frame: pd.DataFrame) -> dict[str, Any]:
    """Return counts of kernel primitives per operation: a row per class and primitive, a column per arm."""
    measured = frame[frame["refused"] == ""]
    arms = list(dict.fromkeys(measured["arm"]))
    counters = results.table("counters")
    sums = counters.groupby(["client", "kind", "primitive", "cell"], sort=False)["count"].sum()
    rows = []
    for (client, kind), own in measured.groupby(["client", "kind"], sort=False):
        here = counters[(counters["client"] == client) & (counters["kind"] == kind)]
        for primitive in sorted(here["primitive"].unique()):
            values = [number(float(sums.get((client, kind, primitive, row["cell"]), 0)) / max(row["operations"], 1))
                      for row in records(own)]  # fmt: skip
            rows.append({"operation": f"{client} {kind}", "primitive": primitive, "counts": values})
    return {"arms": arms, "rows": rows}
