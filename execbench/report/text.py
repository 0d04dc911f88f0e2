"""The comparison as text: one table on a wide terminal, stacked 78-column tables for narrow ones, mail and pipes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from execbench.report.columns import BY_NAME, WHERE_RECORDED
from execbench.report.comparison import estimate_of, records
from execbench.report.numbers import number, with_unit
from execbench.report.swept import figures_of, point_tables
from execbench.report.tables import Field, arm_words, tables
from execbench.stats.estimate import APPROXIMATE, AT_LEAST, Estimate

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
LONGEST_IS_A_SUM = (
    "longest interruption of an isolated CPU: every handler takes its median cost, without a spread from call to call, "
    "so it is a sum of constants (how much came together), no worst case of a real machine"
)
SHARED = (
    "interrupts, stolen and memory are those of the whole machine, whatever caused them: several classes of operation "
    "ran, and each divides all of it by its own number"
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

    `said` are the sentences of the answer, which stand between tables and footer; `locks` those on locks, by arm.
    """
    from rich.padding import Padding
    from rich.text import Text

    swept = frame["point"].nunique() > 1
    for (client, kind, _loop), rows in frame.groupby(["client", "kind", "loop"], sort=False) if swept else ():
        _show_swept(rows, f"{client} {kind}", console)
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


def _show_swept(rows: pd.DataFrame, what: str, console: Console) -> None:
    """Print the tables of one class of a study with axes, and what no point has enough support for."""
    from rich.padding import Padding
    from rich.text import Text

    names, without = figures_of(rows, inside_api(rows))
    arms = list(rows["arm"].drop_duplicates())
    console.print(Text(f"{what} ({how_asked(rows)}){f', {arms[0]}' if len(arms) == 1 else ''}"), style="bold")
    for table in point_tables(rows, names, console):
        console.print(table)
        console.print()
    if without:
        console.print(Padding(Text(f"without enough support at any point: {', '.join(without)}"), (0, 0, 0, 2)),
                      style="dim")  # fmt: skip
    for note in (*unsteady(rows), *remarks(rows)):
        console.print(Padding(Text(note), (0, 0, 0, 2)), style="dim")
    console.print()


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


def _some(figures: Sequence[str], limit: int = 3) -> str:
    rest = len(figures) - limit
    return ", ".join(figures[:limit]) + (f" and {rest} more" if rest > 0 else "")
