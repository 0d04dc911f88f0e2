"""The tables of the HTML page: a block per class of operation, a row per arm, or per point and arm of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from execbench.report import plots
from execbench.report.columns import BY_NAME
from execbench.report.comparison import Frames, estimate_of, records
from execbench.report.completion import ONCE, incomplete, means, once
from execbench.report.notes import LONGEST_IS_A_SUM, few_cycles, remarks, shown, unsteady
from execbench.report.numbers import bounds, unit_for
from execbench.report.swept import points
from execbench.report.tables import figure, unit_words, units_of
from execbench.report.text import heading, how_asked, inside_api
from execbench.stats.estimate import Estimate, refused

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.setting import Setting

Groups: TypeAlias = dict[str, tuple[str, ...]]
OF_ISOLATED = "isolated CPUs, caused by this workload"
GROUPS: Groups = {
    "what callers see": ("throughput", "p50", "p90", "p99", "largest", "api_share"),
    "per operation": ("rounds", "flushes", "interruptions", "stolen"),
    OF_ISOLATED: ("isolated_hourly", "isolated_longest"),
    "memory for text": ("asked", "reserved", "waste", "leaves_4k", "leaves_2m"),
}
ARRIVING_GROUPS: Groups = {
    "what callers see, from the intended arrival": ("throughput", "p50", "p90", "p99", "largest", "queue", "service",
                                                    "api_share"),
    **{title: names for title, names in GROUPS.items() if title != "what callers see"},
}  # fmt: skip
DEFERRED_GROUPS: Groups = {"from the request to its end": ("p50", "p90", "p99", "largest", "api_share"),
                   "per operation": ("rounds", "flushes")}  # fmt: skip
OUTSIDE_GROUPS: Groups = {"what callers see": ("throughput", "mean", "p50", "p90", "p99", "largest")}
SHORT = {"isolated_hourly": "per isolated CPU and hour", "isolated_longest": "longest"}
"""Titles of columns whose group says the rest."""
MOST_COLUMNS = 9
"""Figures of one table; more of them are cut off on a page 1200 pixels wide."""
WITH_INTERVAL = ("throughput", "mean", "p50", "p90", "p99", "api_share", "isolated_hourly")


def blocks(results: Frames, frame: pd.DataFrame, setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield what the page's tables consist of: heading, tables, notes, whether it is folded.

    A study with axes has one block per class of operation. A plain run has what happens `once` in a replication first;
    what enters no verb of the API is folded, unless the workload ends.
    """
    colours = plots.hex_palette(list(dict.fromkeys(frame["arm"])))
    ends = setting.horizon == "terminating"
    if frame["point"].nunique() > 1:
        yield from _swept(frame, colours, ends)
        return
    yield from _once(results, frame, setting, colours)
    yield from _plain(frame, once(frame, setting), colours, ends)


def _once(
    results: Frames, frame: pd.DataFrame, setting: Setting, colours: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the table of each class that happens once in a replication: its mean, which has an interval, first."""
    for client, kind in once(frame, setting):
        rows = frame[(frame["client"] == client) & (frame["kind"] == kind)]
        table = _table(rows, {"once in each replication": ("largest",)}, colours)
        found = means(results, rows)
        unit = unit_for([one.value for one in found.values()], "time")
        table["groups"][0]["span"] = 2
        table["columns"].insert(0, table["columns"][0] | {"title": "mean", "meaning": ONCE, "unit": unit.name})
        table["columns"][1]["first"] = False
        for row in table["rows"]:
            estimate = found.get(row["arm"], refused(0, "not complete in every replication"))
            row["cells"][0]["first"] = False
            row["cells"].insert(0, _figure(estimate, unit, True, True))
        yield _block(f"{client} {kind} ({rows['replications'].max()} replications)") | {
            "unsteady": [f"{client} {kind}: {words}" for words in incomplete(rows, list(found))],
            "tables": [table],
        }


def _plain(
    frame: pd.DataFrame, before: Sequence[tuple[str, str]], colours: Mapping[str, str], ends: bool
) -> Iterator[dict[str, Any]]:
    """Yield the table of each class that did not stand `before`; what holds for all stands below the first."""
    said = False
    for (client, kind), rows in frame.groupby(["client", "kind"], sort=False):
        if (client, kind) in before:
            continue
        groups = _groups(rows, ends)
        folded = not (ends or inside_api(rows))
        block = _block(heading("", str(client), str(kind), rows), folded)
        block |= {"unsteady": list(unsteady(rows)), "tables": [_table(rows, part, colours) for part in _parts(groups)]}
        if not (said or folded) and rows["mode"].iloc[0] != "deferred":
            said = True
            block |= _general(rows, groups)
        yield block


def _swept(frame: pd.DataFrame, colours: Mapping[str, str], ends: bool) -> Iterator[dict[str, Any]]:
    """Yield one block per class of operation and loop, a row for each point and arm; columns without figures go."""
    for number, ((client, kind, _), rows) in enumerate(frame.groupby(["client", "kind", "loop"], sort=False)):
        groups = {title: tuple(name for name in group if rows[name].notna().any())
                  for title, group in _groups(rows, ends).items()}  # fmt: skip
        groups = {title: group for title, group in groups.items() if group}
        tables = [_table(rows, part, colours, points(rows)) for part in _parts(groups)]
        block = _block(f"{client} {kind} ({how_asked(rows)})") | {"unsteady": list(unsteady(rows)), "tables": tables}
        yield block | (_general(rows, groups) if number == 0 else {})


def _block(heading: str, folded: bool = False) -> dict[str, Any]:
    return {"heading": heading, "folded": folded, "unsteady": [], "few_cycles": "", "remarks": [], "isolated": ""}


def _general(rows: pd.DataFrame, groups: Groups) -> dict[str, Any]:
    """What holds for all tables of a page."""
    return {"few_cycles": few_cycles(rows), "remarks": list(remarks(rows)),
            "isolated": LONGEST_IS_A_SUM if OF_ISOLATED in groups else ""}  # fmt: skip


def _groups(rows: pd.DataFrame, ends: bool) -> Groups:
    """Return the columns of a class: what nobody waits for has few, what ends has no rate, not all enter the API."""
    groups = ARRIVING_GROUPS if rows["since"].iloc[0] == "arrival" else GROUPS
    if rows["mode"].iloc[0] == "deferred":
        groups = DEFERRED_GROUPS
    elif not inside_api(rows):
        groups = OUTSIDE_GROUPS
    kept = {title: tuple(name for name in group if not (ends and name == "throughput"))
            for title, group in groups.items()}  # fmt: skip
    return {title: group for title, group in kept.items() if shown(rows, group[0])}


def _parts(groups: Groups) -> list[Groups]:
    """Return the groups of one table, or of two above each other where one would not fit on a page."""
    if sum(map(len, groups.values())) <= MOST_COLUMNS:
        return [groups]
    (first, names), *rest = groups.items()
    return [{first: names}, dict(rest)]


def _table(
    rows: pd.DataFrame, groups: Groups, colours: Mapping[str, str], axes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Return one table: its groups of columns, the columns, a row per arm and, with `axes`, point."""
    names = [name for group in groups.values() for name in group]
    firsts = {group[0] for group in groups.values()}
    units = units_of(rows)
    leads = axes or {}
    return {
        "leads": list(leads),
        "arms": not leads or rows["arm"].nunique() > 1,
        "groups": [{"title": title, "span": len(group)} for title, group in groups.items()],
        "columns": [
            {"title": SHORT.get(name, BY_NAME[name].title), "meaning": BY_NAME[name].meaning, "first": name in firsts,
             "unit": "1/s" if BY_NAME[name].scale == "rate" else unit_words(name, units[name])} for name in names
        ],
        "rows": [
            {"leads": values, "arm": row["arm"], "status": row["status"], "refused": row["refused"],
             "colour": colours[row["arm"]], "cells": [_cell(row, name, units[name], name in firsts) for name in names]}
            for row, *values in zip(records(rows), *leads.values(), strict=True)
        ],
    }  # fmt: skip


def _cell(row: Mapping[str, Any], name: str, unit: Any, first: bool) -> dict[str, Any]:
    return _figure(estimate_of(row, name), unit, name in WITH_INTERVAL, first)


def _figure(estimate: Estimate, unit: Any, beside: bool, first: bool) -> dict[str, Any]:
    """Return value, interval and note of one figure; intervals that do not stand `beside` it are shown on demand."""
    interval = bounds(*(value / unit.factor for value in (estimate.value, estimate.low, estimate.high)))
    said = [] if beside or not interval else [f"95 %: {interval}"]
    said += [part for part in (estimate.status, estimate.note) if part and part != "ok"]
    return {"value": figure(estimate, unit, beside), "interval": interval if beside else "", "first": first,
            "note": "; ".join(said), "marked": estimate.status != "ok"}  # fmt: skip
