"""The answer in a few sentences, computed from the data: who is fastest, by how much, how sure, what the API can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from execbench.report import completion
from execbench.report.arms import axes_of, point_words
from execbench.report.asked import ISOLATED, classes, isolated, never_came, of_means, outside
from execbench.report.comparison import records
from execbench.report.completion import lines, once
from execbench.report.locks import explained
from execbench.report.measured import QUANTILES
from execbench.report.numbers import number, with_unit
from execbench.report.ratios import MARGIN, listed, plural, ranking, ratios
from execbench.report.text import inside_api
from execbench.stats.estimate import AT_LEAST

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames
    from execbench.report.setting import Setting

SURE = "How sure:"
"""Begin of the last sentence."""


def _more(setting: Setting) -> str:
    return "Add replications (-r)" if setting.horizon == "terminating" else "Simulate for longer"


def answer(results: Frames, rows: pd.DataFrame, setting: Setting) -> list[str]:
    """Return the sentences for the rows of one point, client and class (what callers wait for)."""
    measured = rows[rows["refused"] == ""]
    known = measured[_is_known(measured, "p50")]
    overloaded = [f"{row['arm']} (+{number(row['growth'])} op/s)" for row in records(measured[measured["growth"] > 0])]
    without = [f"No steady state with {listed(overloaded)}: the backlog grows, so there is no latency to compare."
               ] if overloaded else []  # fmt: skip
    if known.empty:
        return [*_without_quantiles(results, measured, setting, bool(without)), *without]
    kind = str(known["kind"].iloc[0])
    said = [_fastest(results, known, kind, "p50", "the median"), *without]
    said += _tail(results, known, kind, setting)
    if (known["api_share"] > 0).any():
        said.append(_share(known, kind))
    if waited := explained(results, known, MARGIN):
        said.append(waited)
    said.append(_sure(known, setting))
    return said


def _without_quantiles(results: Frames, measured: pd.DataFrame, setting: Setting, overloaded: bool) -> Iterator[str]:
    """Yield what means say where no quantile has support, and what can be done unless arms have no steady state."""
    means = [sentence for _, _, sentence in of_means(results, measured)]
    yield from means
    if not overloaded:
        few = f"{'No' if means else 'Nothing can be said about latency: no'} quantile has enough support."
        yield f"{few} {_more(setting)}."
    if means and (measured["api_share"] > 0).any():
        yield _share(measured, str(measured["kind"].iloc[0]))
    if means:
        yield _sure(measured, setting)


def _sure(rows: pd.DataFrame, setting: Setting) -> str:
    return (
        f"{SURE} 95 % intervals over {rows['replications'].max()} replications; they hold for these costs, of which "
        f"the weakest are {setting.weakest}. What the uncertainty of the costs does to the answer was not explored."
    )


def _is_known(rows: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Whether a figure of each row is a number, not refused and not only a lower bound."""
    return rows[name].notna() & (rows[f"{name}_status"] != AT_LEAST)


def _fastest(results: Frames, known: pd.DataFrame, kind: str, name: str, words: str) -> str:
    order = [(row["arm"], with_unit(row[name], "time")) for row in records(known.sort_values(name, kind="stable"))]
    return ranking(f"At {words}", kind, order, ratios(results, known, name, order[0][0]))


def _tail(results: Frames, known: pd.DataFrame, kind: str, setting: Setting) -> Iterator[str]:
    """Compare the arms at the highest quantile that has support with all of them; say which have not."""
    lacking = []
    for name in reversed([name for name in QUANTILES if name != "p50"]):
        if _is_known(known, name).all():
            yield _fastest(results, known, kind, name, name)
            yield from _hidden(results, known, name)
            break
        lacking.append(name)
    below = [name for name in reversed(lacking) if (known[f"{name}_status"] == AT_LEAST).any()]
    if below:
        yield (f"Some {listed(below)} are only known from below: operations were unfinished at the end of the drain.")
    few = [name for name in reversed(lacking) if name not in below]
    arms = [str(arm) for arm in known["arm"][~_is_known(known, few[-1])]] if few else []
    if few:
        whose = f" with {listed(arms)}" if len(arms) < len(known) else " with all of them" * (len(known) > 1)
        yield f"{listed(few)} {'lacks' if len(few) == 1 else 'lack'} support{whose}. {_more(setting)} to compare there."


def _hidden(results: Frames, known: pd.DataFrame, name: str) -> Iterator[str]:
    """Say by how much the slowest arm of a tail looks better at the median, if it does."""
    order = [str(arm) for arm in known.sort_values(name, kind="stable")["arm"]]
    there = {ratio.arm: ratio for ratio in ratios(results, known, name, order[0])}
    median = {ratio.arm: ratio for ratio in ratios(results, known, "p50", order[0])}
    worse = [
        arm for arm in order[1:] if there[arm].verdict.startswith("slower") and not median[arm].high >= there[arm].low
    ]
    if worse:
        yield (f"The median does not show that: there {worse[-1]} takes {median[worse[-1]]} as long as {order[0]}.")


def _share(known: pd.DataFrame, kind: str) -> str:
    order = known.sort_values("api_share", kind="stable")
    low, high = order.iloc[0], order.iloc[-1]
    if len(order) == 1:
        return (f"The API can influence {with_unit(float(low['api_share']), 'share')} of the time that "
                f"{plural(kind)} take; the rest is the client's own work.")  # fmt: skip
    least, most = (with_unit(float(row["api_share"]), "share") for row in (low, high))
    return (f"The API can influence {least} ({low['arm']}) to {most} ({high['arm']}) of the time that "
            f"{plural(kind)} take; the rest is the client's own work.")  # fmt: skip


def summary(results: Frames, frame: pd.DataFrame, setting: Setting) -> list[str]:
    """Return what a terminal says: the whole answer of a plain run, without how sure it is (the footer says so).

    Of a study the first sentence of each point, and that on isolated CPUs. Where something happens `once` in a plain
    run, the first sentence holds its means, a line per class; it stands before the tables.
    """
    found = list(sentences(results, frame, setting))
    if any(point for point, _ in found):
        missing = never_came(frame, setting)
        return ([missing] if missing else []) + [
            f"{point}: {' '.join(_first([sentence for sentence in said if sentence != missing]))}"
            for point, said in found
        ]
    plain = frame["point"].nunique() == 1
    means = ["\n".join(lines(results, frame, setting))] if plain and once(frame, setting) else []
    return means + [sentence for _, said in found for sentence in said if not sentence.startswith(SURE)]


def _first(said: Sequence[str]) -> list[str]:
    """Return the sentence on isolated CPUs, if any, and the first of the others."""
    about = [sentence for sentence in said if sentence.startswith(ISOLATED)]
    return [*about, *[sentence for sentence in said if sentence not in about][:1]]


def sentences(results: Frames, frame: pd.DataFrame, setting: Setting) -> Iterator[tuple[str, list[str]]]:
    """Yield, per point, its words and the answer: on what happens `once`, then on what the workload asks about."""
    whole = once(frame, setting)
    asked = [one for one in classes(frame, setting) if one not in whole]
    inside = [one for one in asked if inside_api(frame[(frame["client"] == one[0]) & (frame["kind"] == one[1])])]
    missing = [sentence] if (sentence := never_came(frame, setting)) else []
    for point, rows in contrasted(frame).groupby("point", sort=False):
        said = [*missing, *completion.sentences(results, rows, setting), *isolated(rows)]
        for client, kind in inside:
            chosen = rows[(rows["client"] == client) & (rows["kind"] == kind)]
            about = answer(results, chosen, setting) if len(chosen) else []
            named = len(asked) == 1 or not about or f"{client} {kind}" in about[0]
            said += about if named else [f"{client} {kind}: {about[0]}", *about[1:]]
        if about := list(outside(results, rows, [one for one in asked if one not in inside])):
            said += [*about, _sure(rows[rows["refused"] == ""], setting)]
        sure = [sentence for sentence in said if sentence.startswith(SURE)][-1:]
        if said:
            yield str(point), [sentence for sentence in said if not sentence.startswith(SURE)] + sure


def contrasted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with what is to be compared as its arms: in a study of one arm the values of its first axis."""
    axes = [axes_of(str(point)) for point in frame["point"]] if frame["point"].nunique() > 1 else []
    if not axes or frame["arm"].nunique() > 1:
        return frame
    key = next(key for key in axes[0] if len({axis[key] for axis in axes}) > 1)
    return frame.assign(
        arm=[f"{key} = {axis[key]}" for axis in axes],
        point=[point_words({name: value for name, value in axis.items() if name != key}) for axis in axes],
    )
