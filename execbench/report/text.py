"""The comparison as text: one table on a wide terminal, stacked 78-column tables for narrow ones, mail and pipes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from execbench.report.comparison import estimate_of, records
from execbench.report.completion import ONCE, figures, once
from execbench.report.notes import LONGEST_IS_A_SUM, few_cycles, notes, remarks, shown, unsteady
from execbench.report.swept import figures_of, point_tables
from execbench.report.tables import Field, arm_words, tables

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from execbench.report.setting import Setting

PLAIN_WIDTH = 78


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

    `said` are the sentences of execbench.report.answer: summary, which stand between tables and footer but for the one
    on what happens `once`, which stands first; `locks` those on locks, by arm. What holds for all tables is said once.
    """
    from rich.text import Text

    swept = frame["point"].nunique() > 1
    if said and not swept and once(frame, setting):
        _show_lines(ONCE, said[0].splitlines(), console)
        said = said[1:]
    general = list(_of_all(frame, swept))
    for (client, kind, _loop), rows in frame.groupby(["client", "kind", "loop"], sort=False) if swept else ():
        _show_swept(rows, f"{client} {kind}", general, console)
        general = []
    for (point, client, kind), rows in () if swept else frame.groupby(["point", "client", "kind"], sort=False):
        if not inside_api(rows):
            continue
        console.print(Text(heading(str(point), str(client), str(kind), rows)), style="bold")
        deferred = rows["mode"].iloc[0] == "deferred"
        speed = list(ARRIVING if rows["since"].iloc[0] == "arrival" else SPEED)
        if setting.horizon == "terminating":  # so many in all, at no rate
            speed = [field for field in speed if field.names != ("throughput",)]
        effects = [field for field in EFFECTS if shown(rows, field.names[0])]
        arms = [arm_words(str(row["arm"])).append(f"\n({row['status']})", style="dim") for row in records(rows)]
        for table in tables(rows, {"arm\n(status)": arms}, (DEFERRED,) if deferred else (speed, effects), console):
            console.print(table)
            console.print()
        _show_notes([*notes(rows), *([] if deferred else general)], console)
        general = general if deferred else []
    if not swept:
        _show_outside(frame, once(frame, setting), console)
    _show_locks(locks or {}, console)
    for sentence in said:
        console.print(Text(sentence))
    if said:
        console.print()
    for line in setting.footer():
        console.print(Text(line), style="dim")


def _of_all(frame: pd.DataFrame, swept: bool) -> Iterator[str]:
    """Yield the notes that hold for every table of a report: those of the first class that callers wait for."""
    waited = frame[(frame["mode"] == "sync") & (frame["operations"] > 0)]
    rows = waited.drop_duplicates(["point", "arm"])
    if rows.empty:
        return
    if (few := few_cycles(rows)) and not swept:
        yield f"few cycles: {few}"
    yield from remarks(rows)
    if shown(rows, "isolated_longest") and not swept:
        yield LONGEST_IS_A_SUM


def _show_notes(found: Sequence[str], console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for note in found:
        console.print(Padding(Text(note), (0, 0, 0, 2)), style="dim")
    console.print()


def _show_lines(title: str, lines: Sequence[str], console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print(Text(title), style="bold")
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 2)))
    console.print()


def _show_outside(frame: pd.DataFrame, first: Sequence[tuple[str, str]], console: Console) -> None:
    """Print the mean latency of what callers wait for and no verb of the API is in, but for what stood `first`."""
    lines = []
    for (client, kind), rows in frame.groupby(["client", "kind"], sort=False):
        measured = [row for row in records(rows) if row["operations"] and not row["refused"]]
        if inside_api(rows) or rows["mode"].iloc[0] != "sync" or not measured or (client, kind) in first:
            continue
        means = figures({str(row["arm"]): estimate_of(row, "mean") for row in measured})
        lines.append(f"{client} {kind}: {', '.join(means)}")
    if lines:
        _show_lines("What waits outside the API, mean latency with its 95 % interval (more in the HTML report)",
                    lines, console)  # fmt: skip


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


def _show_swept(rows: pd.DataFrame, what: str, general: Sequence[str], console: Console) -> None:
    """Print the tables of one class of a study with axes, and what no point has enough support for."""
    from rich.text import Text

    names, without = figures_of(rows, inside_api(rows))
    arms = list(rows["arm"].drop_duplicates())
    console.print(Text(f"{what} ({how_asked(rows)}){f', {arms[0]}' if len(arms) == 1 else ''}"), style="bold")
    for table in point_tables(rows, names, console):
        console.print(table)
        console.print()
    lacking = [f"without enough support at any point: {', '.join(without)}"] if without else []
    _show_notes([*lacking, *unsteady(rows), *general], console)


def inside_api(rows: pd.DataFrame) -> bool:
    """Whether operations of this class ever enter the API; the others are only in the HTML report."""
    return bool((rows["api_share"] > 0).any() or rows["api_share"].isna().all())


def heading(point: str, client: str, kind: str, rows: pd.DataFrame) -> str:
    """`bpf load, cpus = 64 (closed loop, at least 12,345 operations per arm)`."""
    measured = rows[rows["refused"] == ""]["operations"]
    least = f", at least {measured.min():,} operations per arm" if len(measured) else ""
    at = f", {point}" if point else ""
    return f"{client} {kind}{at} ({how_asked(rows)}{least})".strip()


def how_asked(rows: pd.DataFrame) -> str:
    """`closed loop`, or what latency counts from where it is not the begin of an operation that somebody waits for."""
    if rows["mode"].iloc[0] == "deferred":
        return "deferred: nobody waits"
    return f"{rows['loop'].iloc[0]} loop{_since(rows)}"


def _since(rows: pd.DataFrame) -> str:
    return ", from the intended arrival" if rows["since"].iloc[0] == "arrival" else ""
