"""The answer in a few sentences, computed from the data: who is fastest, by how much, how sure, what the API can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from execbench.report import completion
from execbench.report.arms import axes_of, point_words
from execbench.report.comparison import records
from execbench.report.completion import lines, once
from execbench.report.locks import explained
from execbench.report.measured import QUANTILES
from execbench.report.numbers import number, with_unit
from execbench.report.ratios import MARGIN, listed, plural, ranking, ratios
from execbench.stats.estimate import AT_LEAST

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames
    from execbench.report.setting import Setting


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
        return without or [f"Nothing can be said about latency: no quantile has enough support. {_more(setting)}."]
    kind = str(known["kind"].iloc[0])
    said = [_fastest(results, known, kind, "p50", "the median"), *without]
    said += _tail(results, known, kind, setting)
    said.append(_share(known, kind))
    if waited := explained(results, known, MARGIN):
        said.append(waited)
    said.append(f"How sure: 95 % intervals over {known['replications'].max()} replications; they hold for these "
                f"costs, of which the weakest are {setting.weakest}. What the uncertainty of the costs does to the "
                "answer was not explored.")  # fmt: skip
    return said


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

    Of a study the first sentence of each point. Where something happens `once` in a plain run, the first sentence
    holds its means, a line per class; it stands before the tables.
    """
    found = list(sentences(results, frame, setting))
    if any(point for point, _ in found):
        return [f"{point}: {said[0]}" for point, said in found]
    plain = frame["point"].nunique() == 1
    means = ["\n".join(lines(results, frame, setting))] if plain and once(frame, setting) else []
    return means + [sentence for _, said in found for sentence in (said[:-1] or said)]


def sentences(results: Frames, frame: pd.DataFrame, setting: Setting) -> Iterator[tuple[str, list[str]]]:
    """Yield, per point, its words and the answer: on what happens `once`, on the first class that enters the API."""
    waited = frame[(frame["mode"] == "sync") & (frame["api_share"].fillna(0) > 0)]
    first = waited[["client", "kind"]].drop_duplicates().head(1)
    for point, rows in contrasted(frame).groupby("point", sort=False):
        said = list(completion.sentences(results, rows, setting))
        for client, kind in first.itertuples(index=False):
            chosen = rows[(rows["client"] == client) & (rows["kind"] == kind)]
            said += answer(results, chosen, setting) if len(chosen) else []
        if said:
            yield str(point), said


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
