"""Figures as rich tables: figures above each other in a column, as many tables as the width asks for."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from execbench.report.columns import BY_NAME
from execbench.report.comparison import estimate_of, records
from execbench.report.numbers import Unit, bounds, number, unit_for
from execbench.stats.estimate import APPROXIMATE, AT_LEAST, Estimate

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

ASCII_RULE = "    \n    \n -- \n    \n    \n    \n    \n    \n"  # rich draws the third line below the heads
HEAD = 16  # columns that a title may take before it goes on in the next line
FAMILIES = (("p50", "p90", "p99", "largest", "mean"), ("queue", "service"), ("asked", "reserved", "waste"))
Leads: TypeAlias = "Mapping[str, Sequence[Text | str]]"
"""What names the rows of a table: title and one cell per row of each column that stands before the figures."""


@dataclass(frozen=True)
class Field:
    """One column of a table: figures above each other; the interval of a single figure goes below it, or beside it."""

    names: tuple[str, ...]
    with_interval: bool = False
    beside: bool = False


def tables(rows: pd.DataFrame, leads: Leads, blocks: Sequence[Sequence[Field]], console: Console) -> Iterator[Table]:
    """One table if the console is wide enough, else one per block, else as few tables of like width as will do."""
    together = [field for block in blocks for field in block]
    least = _natural_width(console, _table(rows, leads, (), console))
    widths = {field: _natural_width(console, _table(rows, leads, (field,), console)) - least for field in together}
    for choice in ([together], blocks):
        if all(least + sum(widths[field] for field in block) <= console.width for block in choice):
            yield from (_table(rows, leads, block, console) for block in choice)
            return
    room = console.width - least
    fewest = len(_packed(widths, room))
    while len(_packed(widths, room - 1)) == fewest and room > max(widths.values()):
        room -= 1
    yield from (_table(rows, leads, fields, console) for fields in _packed(widths, room))


def arm_words(arm: str) -> Text:
    """An arm's name, its parameters in a line of their own."""
    from rich.text import Text

    return Text(arm.replace("[", "\n[", 1))


def units_of(rows: pd.DataFrame) -> dict[str, Unit]:
    """The unit of each column; columns that are read against each other share one."""
    alone = [(name,) for name in BY_NAME if not any(name in family for family in FAMILIES)]
    return {name: unit_for(rows[list(family)].to_numpy().ravel(), BY_NAME[family[0]].scale)
            for family in (*FAMILIES, *alone) for name in family}  # fmt: skip


def unit_words(name: str, unit: Unit) -> str:
    """What stands below a title: the unit that the column has of its own, or the one chosen for its values."""
    return BY_NAME[name].per_unit or ("/s" if BY_NAME[name].scale == "rate" else unit.name)


def figure(estimate: Estimate, unit: Unit, with_interval: bool = True) -> str:
    """The value in a column's unit with the mark of its status: `~` approximate, `>=` unfinished, `n/a` refused.

    An interval printed beside it may earn it a fourth digit.
    """
    if not estimate.available:
        return "n/a"
    half = (estimate.high - estimate.low) / 2 / unit.factor if with_interval and estimate.has_interval else 0.0
    mark = {APPROXIMATE: "~", AT_LEAST: ">= "}.get(estimate.status, "")
    return mark + number(estimate.value / unit.factor, half)


def _packed(widths: Mapping[Field, int], room: int) -> list[list[Field]]:
    """Fields from left to right, as many in each list as there is room for (but at least one)."""
    lists: list[list[Field]] = []
    left = 0
    for field, width in widths.items():
        if not lists or width > left:
            lists.append([])
            left = room
        lists[-1].append(field)
        left -= width
    return lists


def _natural_width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def _table(rows: pd.DataFrame, leads: Leads, fields: Sequence[Field], console: Console) -> Table:
    """One table: each figure above its interval or its companion."""
    from rich import box
    from rich.table import Table

    rule = box.SIMPLE_HEAD if console.is_terminal else box.Box(ASCII_RULE, ascii=True)
    table = Table(box=rule, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in leads:
        table.add_column(title, overflow="fold")
    units = units_of(rows)
    for field in fields:
        table.add_column(_title(field, units), justify="right", no_wrap=True)
    for row, *names in zip(records(rows), *leads.values(), strict=True):
        table.add_row(*names, *(_cell(row, field, units) for field in fields))
    return table


def _title(field: Field, units: Mapping[str, Unit]) -> str:
    """A figure above its unit, or several figures with their units (said once where they share it)."""
    words = [(BY_NAME[name].title, unit_words(name, units[name])) for name in field.names]
    if len(words) == 1:
        return "\n".join([*textwrap.wrap(words[0][0], HEAD), words[0][1]])
    shared = len({unit for _, unit in words}) == 1
    return "\n".join(title if shared and n else f"{unit} {title}".strip() for n, (title, unit) in enumerate(words))


def _cell(row: Mapping[str, Any], field: Field, units: Mapping[str, Unit]) -> str:
    estimates = [estimate_of(row, name) for name in field.names]
    lines = [figure(estimate, units[name], field.with_interval)
             for estimate, name in zip(estimates, field.names, strict=True)]  # fmt: skip
    if field.with_interval and estimates[0].available:
        factor = units[field.names[0]].factor
        lines.append(bounds(*(value / factor for value in (estimates[0].value, estimates[0].low, estimates[0].high))))
    return (" " if field.beside else "\n").join(lines)
