"""The comparison as text: one table on a wide terminal, stacked 78-column tables for narrow ones, mail and pipes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from execbench.report.columns import BY_NAME, WHERE_RECORDED
from execbench.report.comparison import estimate_of, records
from execbench.report.numbers import Unit, bounds, number, unit_for, with_unit
from execbench.stats.estimate import APPROXIMATE, AT_LEAST, Estimate

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from execbench.report.setting import Setting

PLAIN_WIDTH = 78
ASCII_RULE = "    \n    \n -- \n    \n    \n    \n    \n    \n"  # rich draws the third line below the heads


@dataclass(frozen=True)
class Field:
    """One column of a table: figures above each other; the interval of a single figure goes below it."""

    names: tuple[str, ...]
    with_interval: bool = False


SPEED = (
    Field(("throughput",), with_interval=True),
    Field(("p50",), with_interval=True),
    Field(("p90",), with_interval=True),
    Field(("p99",), with_interval=True),
    Field(("largest",)),
    Field(("api_share",), with_interval=True),
)
EFFECTS = (
    Field(("rounds", "flushes")),
    Field(("interruptions", "stolen")),
    Field(("isolated_hourly",), with_interval=True),
    Field(("isolated_longest",)),
    Field(("asked", "reserved", "waste")),
    Field(("leaves_4k", "leaves_2m")),
)
ARRIVING = (*SPEED[:-1], Field(("queue", "service")), SPEED[-1])  # what arrives in an open loop waits for its client
DEFERRED = (
    *(field for field in SPEED if field.names != ("throughput",)),
    Field(("rounds", "flushes")),
)
SWEPT = ("p50", "p99", "api_share", "rounds", "interruptions", "stolen")  # what a study with an axis shows in text
OUTSIDE = ("service",)  # of a class that enters no verb of the API
HEAD = 16  # columns that a title may take before it goes on in the next line
LONGEST_IS_A_SUM = (
    "longest interruption of an isolated CPU: every handler takes its median cost, without a spread from call to call, "
    "so it is a sum of constants (how much came together), no worst case of a real machine"
)
SHARED = (
    "interrupts, stolen and memory are those of the whole machine, whatever caused them: several classes of operation "
    "ran, and each divides all of it by its own number"
)
FAMILIES = (("p50", "p90", "p99", "largest"), ("queue", "service"), ("asked", "reserved", "waste"))


def render(
    frame: pd.DataFrame,
    setting: Setting,
    width: int | None = None,
    said: Sequence[str] = (),
    locks: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the comparison as plain text without colour, at most `width` columns wide (78 unless told)."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width or PLAIN_WIDTH, color_system=None, force_terminal=False,
                      legacy_windows=False, emoji=False, highlight=False)  # fmt: skip
    show(frame, setting, console, said, locks)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


def show(
    frame: pd.DataFrame,
    setting: Setting,
    console: Console,
    said: Sequence[str] = (),
    locks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Print the comparison on a rich console: per point, client and class the table, its notes; then the footer.

    `said` are the sentences of the answer, which stand between tables and footer; `locks` those on locks, by arm.
    """
    from rich.padding import Padding
    from rich.text import Text

    swept = frame["point"].nunique() > 1
    for (client, kind, loop), rows in frame.groupby(["client", "kind", "loop"], sort=False) if swept else ():
        if rows["mode"].iloc[0] == "sync":
            names = SWEPT if inside_api(rows) else OUTSIDE
            _show_sweep(rows, f"{client} {kind} ({loop} loop{_since(rows)})", console, names)
    for (point, client, kind), rows in () if swept else frame.groupby(["point", "client", "kind"], sort=False):
        if not inside_api(rows):
            continue
        console.print(Text(heading(str(point), str(client), str(kind), rows)), style="bold")
        deferred = rows["mode"].iloc[0] == "deferred"
        speed = list(ARRIVING if rows["since"].iloc[0] == "arrival" else SPEED)
        if setting.horizon == "terminating":  # so many in all, at no rate
            speed = [field for field in speed if field.names != ("throughput",)]
        effects = [field for field in EFFECTS if shown(rows, field.names[0])]
        for table in _tables(rows, (DEFERRED,) if deferred else (speed, effects), console):
            console.print(table)
            console.print()
        for note in notes(rows):
            console.print(Padding(Text(note), (0, 0, 0, 2)), style="dim")
        console.print()
    if not swept:
        _show_outside(frame, console)
    _show_locks(locks or {}, console)
    for sentence in said:
        console.print(Text(sentence))
    if said:
        console.print()
    for line in setting.footer():
        console.print(Text(line), style="dim")


def _show_outside(frame: pd.DataFrame, console: Console) -> None:
    """Print the mean latency of what callers wait for and no verb of the API is in: a line per class."""
    from rich.padding import Padding
    from rich.text import Text

    lines = []
    for (client, kind), rows in frame.groupby(["client", "kind"], sort=False):
        measured = [row for row in records(rows) if row["operations"] and not row["refused"]]
        if inside_api(rows) or rows["mode"].iloc[0] != "sync" or not measured:
            continue
        means = ", ".join(f"{with_unit(row['queue'] + row['service'], 'time')} ({row['arm']})" for row in measured)
        lines.append(f"{client} {kind}: {means}")
    if lines:
        console.print(Text("What waits outside the API, mean latency (more in the HTML report)"), style="bold")
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 2)))
        console.print()


def _show_locks(locks: Mapping[str, Sequence[str]], console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    if not locks:
        return
    console.print(Text("Locks that were waited for, by all threads, warm-up included"), style="bold")
    for arm, sentences in locks.items():
        console.print(Text(arm))
        for sentence in sentences:
            console.print(Padding(Text(sentence), (0, 0, 0, 2)))
    console.print()


def shown(rows: pd.DataFrame, name: str) -> bool:
    """Whether a figure belongs into the table: those that only some machines have where at least one arm has it."""
    return name not in WHERE_RECORDED or bool(rows[name].notna().any())


def _show_sweep(rows: pd.DataFrame, what: str, console: Console, names: Sequence[str]) -> None:
    """Print one small table per figure: a row per arm, a column per point, as many columns as fit."""
    from rich.text import Text

    units = {name: unit_for(rows[name].to_numpy(), BY_NAME[name].scale) for name in names}
    for name in names:
        column = BY_NAME[name]
        unit = "1/s" if column.scale == "rate" else units[name].name
        console.print(Text(f"{what}: {column.title}{f' [{unit}]' if unit else ''}"), style="bold")
        points = list(rows["point"].drop_duplicates())
        while points:
            fitting = len(points)
            while fitting > 1 and _too_wide(console, _points_table(rows, name, points[:fitting], units, console)):
                fitting -= 1
            console.print(_points_table(rows, name, points[:fitting], units, console))
            console.print()
            points = points[fitting:]
    for note in unsteady(rows):
        console.print(Text(note), style="dim")


def _points_table(
    rows: pd.DataFrame, name: str, points: Sequence[str], units: Mapping[str, Unit], console: Console
) -> Table:
    table = _empty_table(console, "arm")
    for point in points:
        table.add_column(point.replace(", ", "\n").replace(" = ", "\n"), justify="right", no_wrap=True)
    for arm, own in rows.groupby("arm", sort=False):
        found = {row["point"]: row for row in records(own)}
        cells = [figure(estimate_of(found[point], name), units[name], False) if point in found else ""
                 for point in points]  # fmt: skip
        table.add_row(_arm_words(str(arm)), *cells)
    return table


def inside_api(rows: pd.DataFrame) -> bool:
    """Whether operations of this class ever enter the API; the others are only in the HTML report."""
    return bool((rows["api_share"] > 0).any() or rows["api_share"].isna().all())


def heading(point: str, client: str, kind: str, rows: pd.DataFrame) -> str:
    """`bpf load, cpus = 64 (closed loop, at least 12,345 operations per arm)`."""
    measured = rows[rows["refused"] == ""]["operations"]
    least = f", at least {measured.min():,} operations per arm" if len(measured) else ""
    at = f", {point}" if point else ""
    how = "deferred: nobody waits" if rows["mode"].iloc[0] == "deferred" else f"{rows['loop'].iloc[0]} loop"
    return f"{client} {kind}{at} ({how}{_since(rows)}{least})".strip()


def _since(rows: pd.DataFrame) -> str:
    return ", from the intended arrival" if rows["since"].iloc[0] == "arrival" else ""


def unsteady(rows: pd.DataFrame) -> Iterator[str]:
    """Yield which arms have no latencies because their backlog grows, and by how much, if there are any."""
    arms = [f"{row['arm']}{', ' * bool(row['point'])}{row['point']} (+{number(row['growth'])} op/s)"
            for row in records(rows) if row["growth"]]  # fmt: skip
    if arms:
        yield f"no steady state, the backlog grows, hence no latencies: {'; '.join(arms)}"


def few_cycles(rows: pd.DataFrame) -> str:
    """Say which slow processes turned too seldom in the window to be in the latencies of which arms; '' if none."""
    arms: dict[str, list[str]] = {}
    for row in records(rows):
        if row["few_cycles"] and row["mode"] == "sync":
            arms.setdefault(row["few_cycles"], []).append(str(row["arm"]))
    return "; ".join(f"{words} with {', '.join(names)}" for words, names in arms.items())


def notes(rows: pd.DataFrame) -> Iterator[str]:
    """What has to be said beside the figures of `rows`: refusals, failures, and what the marks mean, briefly."""
    for row in records(rows):
        if row["refused"]:
            yield f"n/a {row['arm']}: {row['refused']}"
        elif row["outcome"]:
            yield f"{row['arm']}: {row['outcome']}"
    yield from unsteady(rows)
    if few := few_cycles(rows):
        yield f"few cycles: {few}"
    said: dict[str, list[str]] = {}
    for row in records(rows[(rows["refused"] == "") & (rows["growth"] == 0)]):
        for name, column in BY_NAME.items():
            for reason in reasons(estimate_of(row, name)):
                said.setdefault(reason, []).append(f"{column.title} of {row['arm']}")
    for reason, figures in said.items():
        yield f"{reason}: {_some(figures)}"
    yield from remarks(rows)
    if shown(rows, "isolated_longest") and rows["mode"].iloc[0] != "deferred":
        yield LONGEST_IS_A_SUM


def remarks(rows: pd.DataFrame) -> Iterator[str]:
    """Yield what a reader must know of all figures of a class: the window cut it off, the machine's are shared."""
    cut = [f"{row['undone']:,.0f} with {row['arm']}" for row in records(rows) if row["undone"]]
    if cut:
        yield f"cut off by the end of the window, at most still to do: {', '.join(cut)}; lengthen --duration"
    if rows["shared"].iloc[0] and rows["mode"].iloc[0] != "deferred":
        yield SHARED


def reasons(estimate: Estimate) -> Iterator[str]:
    """Why a figure is missing or marked, without the numbers that differ from figure to figure."""
    if estimate.status == AT_LEAST:
        yield ">= operations were unfinished at the end"
    elif estimate.status == APPROXIMATE:
        few = [words for words in ("clusters of exceedances", "replications (") if words in estimate.note]
        yield "~ approximate, few " + " and ".join(few).replace(" (", "") if few else f"~ {estimate.note}"
    elif not estimate.available and "not recorded" not in estimate.status:
        yield estimate.status


def _tables(rows: pd.DataFrame, blocks: Sequence[Sequence[Field]], console: Console) -> Iterator[Table]:
    """One table if the console is wide enough, else one per block, else as few tables of like width as will do."""
    together = [field for block in blocks for field in block]
    arms = _natural_width(console, _table(rows, (), console))
    widths = {field: _natural_width(console, _table(rows, (field,), console)) - arms for field in together}
    for choice in ([together], blocks):
        if all(arms + sum(widths[field] for field in block) <= console.width for block in choice):
            yield from (_table(rows, block, console) for block in choice)
            return
    room = console.width - arms
    least = len(_packed(widths, room))
    while len(_packed(widths, room - 1)) == least and room > max(widths.values()):
        room -= 1
    yield from (_table(rows, fields, console) for fields in _packed(widths, room))


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


def _too_wide(console: Console, table: Table) -> bool:
    return _natural_width(console, table) > console.width


def _table(rows: pd.DataFrame, fields: Sequence[Field], console: Console) -> Table:
    """One table: a row per arm, its name above its status, each figure above its interval or its companion."""
    table = _empty_table(console, "arm\n(status)")
    units = units_of(rows)
    for field in fields:
        table.add_column(_title(field, units), justify="right", no_wrap=True)
    for row in records(rows):
        arm = _arm_words(str(row["arm"]))
        arm.append(f"\n({row['status']})", style="dim")
        table.add_row(arm, *(_cell(row, field, units) for field in fields))
    return table


def _empty_table(console: Console, corner: str) -> Table:
    from rich import box
    from rich.table import Table

    rule = box.SIMPLE_HEAD if console.is_terminal else box.Box(ASCII_RULE, ascii=True)
    table = Table(box=rule, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(corner, overflow="fold")
    return table


def _arm_words(arm: str) -> Text:
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
    return "\n".join(lines)


def figure(estimate: Estimate, unit: Unit, with_interval: bool = True) -> str:
    """The value in a column's unit with the mark of its status: `~` approximate, `>=` unfinished, `n/a` refused.

    An interval printed beside it may earn it a fourth digit.
    """
    if not estimate.available:
        return "n/a"
    half = (estimate.high - estimate.low) / 2 / unit.factor if with_interval and estimate.has_interval else 0.0
    mark = {APPROXIMATE: "~", AT_LEAST: ">= "}.get(estimate.status, "")
    return mark + number(estimate.value / unit.factor, half)


def _some(figures: Sequence[str], limit: int = 3) -> str:
    rest = len(figures) - limit
    return ", ".join(figures[:limit]) + (f" and {rest} more" if rest > 0 else "")
