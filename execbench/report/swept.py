"""The tables of a study with axes: a row for each point and arm, one table per class of operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from execbench.report.arms import axes_of
from execbench.report.tables import Field, Leads, arm_words, tables

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

WAITED = ("p50", "p90", "p99", "api_share", "rounds", "flushes", "interruptions", "stolen", "leaves_4k", "leaves_2m")
DEFERRED = ("p50", "p90", "p99", "rounds", "flushes")
WITH_INTERVAL = ("p50", "mean")  # the figures that points are compared by
OUTSIDE = ("mean", "p50", "p90", "p99")  # of a class that enters no verb of the API


def figures_of(rows: pd.DataFrame, inside: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the figures that belong into the table of a class, and those that no row has the support for."""
    names = DEFERRED if rows["mode"].iloc[0] == "deferred" else WAITED if inside else OUTSIDE
    known = tuple(name for name in names if rows[name].notna().any())
    return known, tuple(name for name in names if name not in known)


def point_tables(rows: pd.DataFrame, names: tuple[str, ...], console: Console) -> Iterator[Table]:
    """Yield the tables of one class of operation; what a row shares with the one above it is not said again."""
    fields = [Field((name,), with_interval=name in WITH_INTERVAL, beside=True) for name in names]
    yield from tables(rows, _leads(rows), [fields], console)


def points(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Return a column of values for each axis; '' where a value is that of the row above."""
    axes = [axes_of(str(point)) for point in rows["point"]]
    columns: dict[str, list[str]] = {}
    for n, key in enumerate(axes[0], 1):
        path = [tuple(axis.values())[:n] for axis in axes]
        columns[key] = ["" if i and path[i] == path[i - 1] else axis[key] for i, axis in enumerate(axes)]
    return columns


def _leads(rows: pd.DataFrame) -> Leads:
    """Name each row by the values of the axes and by its arm, where there is more than one."""
    arms = {"arm": [arm_words(str(arm)) for arm in rows["arm"]]} if rows["arm"].nunique() > 1 else {}
    return {**points(rows), **arms}
