"""What has to be said beside the figures: refusals, what the marks mean, and what holds for a whole report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from execbench.report.columns import BY_NAME, WHERE_RECORDED
from execbench.report.comparison import estimate_of, records
from execbench.report.numbers import number
from execbench.report.ratios import listed
from execbench.stats.estimate import APPROXIMATE, AT_LEAST, Estimate

if TYPE_CHECKING:
    import pandas as pd

LONGEST_IS_A_SUM = (
    "longest interruption of an isolated CPU: every handler takes its median cost, without a spread from call to call, "
    "so it is a sum of constants (how much came together), no worst case of a real machine"
)
SHARED = (
    "interrupts, stolen and memory are those of the whole machine, whatever caused them: several classes of operation "
    "ran, and each divides all of it by its own number"
)
NEEDS = re.compile(r"n/a \(needs (.*)\)")
"""The status of a quantile without support: what it would take (stats/quantiles.py: quantile_estimate)."""


def shown(rows: pd.DataFrame, name: str) -> bool:
    """Whether a figure belongs into the table: those that only some machines have where at least one arm has it."""
    return name not in WHERE_RECORDED or bool(rows[name].notna().any())


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
    return "; ".join(f"{words} with {', '.join(dict.fromkeys(names))}" for words, names in arms.items())


def notes(rows: pd.DataFrame) -> Iterator[str]:
    """What has to be said beside the figures of `rows`: refusals, failures, and what the marks mean, briefly."""
    for row in records(rows):
        if row["refused"]:
            yield f"n/a {row['arm']}: {row['refused']}"
        elif row["outcome"]:
            yield f"{row['arm']}: {row['outcome']}"
    yield from unsteady(rows)
    measured = records(rows[(rows["refused"] == "") & (rows["growth"] == 0)])
    marks: dict[str, dict[str, list[str]]] = {}
    needs: dict[str, list[tuple[str, str]]] = {}
    for name, column in BY_NAME.items():
        for row in measured:
            estimate, arm = estimate_of(row, name), str(row["arm"])
            if found := NEEDS.fullmatch(estimate.status):
                needs.setdefault(column.title, []).append((arm, found[1]))
            elif reason := _reason(estimate):
                marks.setdefault(reason, {}).setdefault(column.title, []).append(arm)
    for reason, figures in marks.items():
        yield f"{reason}: {_together(figures, len(measured))}"
    if needs:
        whose = [f"{title} of {_arms([arm for arm, _ in own], len(measured))} ({_range([need for _, need in own])})"
                 for title, own in needs.items()]  # fmt: skip
        yield f"n/a, too few clusters of exceedances: {'; '.join(whose)}"


def remarks(rows: pd.DataFrame) -> Iterator[str]:
    """Yield what holds for the whole run and is said once.

    The window cut it off, the machine's figures are shared, arms are asked for different kinds of memory.
    """
    cut = [f"{row['undone']:,.0f} with {row['arm']}" for row in records(rows) if row["undone"]]
    if cut:
        yield f"cut off by the end of the window, at most still to do: {', '.join(cut)}; lengthen --duration"
    if rows["shared"].iloc[0]:
        yield SHARED
    data, text = ([row["arm"] for row in records(rows.drop_duplicates("arm"))
                   if row["serves_data"] is served and not row["refused"]] for served in (True, False))  # fmt: skip
    if data and text:
        yield (f"memory: {listed(data)} {'serves' if len(data) == 1 else 'serve'} data of modules, too, {listed(text)} "
               "text only: less is asked of these, and the data's own memory is not in their figures")  # fmt: skip


def _reason(estimate: Estimate) -> str:
    """Why a figure is missing or marked, without the numbers that differ from figure to figure; '' if it is not."""
    if estimate.status == AT_LEAST:
        return ">= operations were unfinished at the end"
    if estimate.status == APPROXIMATE:
        few = [words for words in ("clusters of exceedances", "replications (") if words in estimate.note]
        return "~ approximate, few " + " and ".join(few).replace(" (", "") if few else f"~ {estimate.note}"
    return "" if estimate.available or "not recorded" in estimate.status else estimate.status


def _together(figures: Mapping[str, Sequence[str]], of: int) -> str:
    """`p50 and p90 of all arms, p99 of execmem`: figures that have the same arms stand together."""
    by_arms: dict[str, list[str]] = {}
    for title, arms in figures.items():
        by_arms.setdefault(_arms(arms, of), []).append(title)
    return "; ".join(f"{listed(titles)} of {arms}" for arms, titles in by_arms.items())


def _arms(arms: Sequence[str], of: int) -> str:
    return listed(arms) if len(arms) < of or of == 1 else "both arms" if of == 2 else f"all {of} arms"


def _range(needs: Sequence[str]) -> str:
    """`needs ~24 to ~50 s`: the least and the most of what estimates say that they need."""
    order = sorted(dict.fromkeys(needs), key=lambda need: float(need.split()[0].strip("~>")))
    return f"needs {order[0]}" if len(order) == 1 else f"needs {order[0].split()[0]} to {order[-1]}"
