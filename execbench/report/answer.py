"""The answer in a few sentences, computed from the data: who is fastest, by how much, how sure, what the API can do.

Ratios are those of pooled quantiles; intervals by sectioning over paired replications, widened for the number of
comparisons (Bonferroni), so that all of them hold together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from execbench.report.comparison import records
from execbench.report.measured import QUANTILES, Measured
from execbench.report.numbers import number, with_unit
from execbench.stats.estimate import AT_LEAST, LEVEL
from execbench.stats.quantiles import quantile, sectioning_interval

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames
    from execbench.report.setting import Setting

MARGIN = 0.05
"""Ratios within 1 / 1.05 and 1.05 do not matter to anybody; verdicts are about this margin."""


@dataclass(frozen=True)
class Ratio:
    """How much longer an arm takes than the reference at one quantile, with its joint interval (NaN without one)."""

    arm: str
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval says about the margin."""
        if np.isnan(self.low):
            return "no interval"
        if self.low > 1 / (1 + MARGIN) and self.high < 1 + MARGIN:
            return "equivalent"
        if self.low > 1 + MARGIN:
            return "slower"
        if self.high < 1 / (1 + MARGIN):
            return "faster"
        if self.low > 1 or self.high < 1:
            return ("slower" if self.low > 1 else "faster") + ", size undecided"
        return "undecided"

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{interval} times"


def ratios(results: Frames, rows: pd.DataFrame, quantile_name: str, reference: str) -> list[Ratio]:
    """Return the ratio of each other arm to the reference arm, for rows of one point, client and class."""
    arms = {str(row.arm): _sections(results, row) for row in rows[rows["refused"] == ""].itertuples()}
    base = arms.pop(reference)
    p = QUANTILES[quantile_name]
    level = 1 - (1 - LEVEL) / max(len(arms), 1)
    return [Ratio(arm, *_ratio(own, base, p, level)) for arm, own in arms.items() if own]


def _more(setting: Setting) -> str:
    return "Add replications (-r)" if setting.horizon == "terminating" else "Simulate for longer"


def answer(results: Frames, rows: pd.DataFrame, setting: Setting) -> list[str]:
    """Return the sentences for the rows of one point, client and class (what callers wait for)."""
    measured = rows[rows["refused"] == ""]
    known = measured[_is_known(measured, "p50")]
    overloaded = [f"{row['arm']} (+{number(row['growth'])} op/s)" for row in records(measured[measured["growth"] > 0])]
    without = [f"No steady state with {_listed(overloaded)}: the backlog grows, so there is no latency to compare."
               ] if overloaded else []  # fmt: skip
    if known.empty:
        return without or [f"Nothing can be said about latency: no quantile has enough support. {_more(setting)}."]
    kind = str(known["kind"].iloc[0])
    said = [_fastest(results, known, kind, "p50", "the median"), *without]
    if _is_known(known, "p99").all():
        said.append(_fastest(results, known, kind, "p99", "p99"))
    elif (known["p99_status"] == AT_LEAST).any():
        said.append("Some p99 are only known from below: operations were unfinished at the end of the drain.")
    else:
        said.append(f"Some p99 lack support. {_more(setting)} to compare the tails.")
    said.append(_share(known, kind))
    said.append(f"How sure: 95 % intervals over {known['replications'].max()} replications; they hold for these "
                f"costs, of which the weakest are {setting.weakest}. What the uncertainty of the costs does to the "
                "answer was not explored.")  # fmt: skip
    return said


def _is_known(rows: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Whether a figure of each row is a number, not refused and not only a lower bound."""
    return rows[name].notna() & (rows[f"{name}_status"] != AT_LEAST)


def _fastest(results: Frames, known: pd.DataFrame, kind: str, name: str, words: str) -> str:
    order = known.sort_values(name, kind="stable")
    best = order.iloc[0]
    others = {ratio.arm: ratio for ratio in ratios(results, known, name, str(best["arm"]))}
    sentence = f"At {words} the fastest {kind} is with {best['arm']}: {with_unit(float(best[name]), 'time')}"
    ranked = [others[arm] for arm in order["arm"].iloc[1:]]
    same = [ratio.arm for ratio in ranked if ratio.verdict == "equivalent"]
    open_ = [ratio.arm for ratio in ranked if ratio.verdict == "undecided"]
    slower = [ratio for ratio in ranked if ratio.arm not in (*same, *open_)]
    if not ranked:
        return f"At {words} a {kind} with {best['arm']} takes {with_unit(float(best[name]), 'time')}."
    if not slower:
        last = order.iloc[-1]
        verdict = "cannot be told apart" if open_ else "are equivalent (within 5 %)"
        return (f"At {words} the backends {verdict}: from {with_unit(float(best[name]), 'time')} "
                f"({best['arm']}) to {with_unit(float(last[name]), 'time')} ({last['arm']}).")  # fmt: skip
    if same:
        sentence += f"; {_listed(same)} {'is' if len(same) == 1 else 'are'} equivalent (within 5 %)"
    if open_:
        sentence += f"; {_listed(open_)} cannot be told from it yet"
    if slower:
        sentence += f"; {slower[0].arm} takes {slower[0]} as long"
    if len(slower) > 1:
        sentence += f", and the slowest, {slower[-1].arm}, {slower[-1]}"
    return sentence + "."


def _share(known: pd.DataFrame, kind: str) -> str:
    order = known.sort_values("api_share", kind="stable")
    low, high = order.iloc[0], order.iloc[-1]
    if len(order) == 1:
        return (f"The API can influence {with_unit(float(low['api_share']), 'share')} of the time that {kind}s take; "
                "the rest is the client's own work.")  # fmt: skip
    least, most = (with_unit(float(row["api_share"]), "share") for row in (low, high))
    return (f"The API can influence {least} ({low['arm']}) to {most} ({high['arm']}) of the time that {kind}s take; "
            "the rest is the client's own work.")  # fmt: skip


def _sections(results: Frames, row: Any) -> dict[int, Any]:
    return Measured(results, str(row.cell), str(row.client), str(row.kind), 1).sections


def _ratio(own: dict[int, Any], base: dict[int, Any], p: float, level: float) -> tuple[float, float, float]:
    pooled = quantile(list(own.values()), p) / quantile(list(base.values()), p)
    pairs = [(quantile([own[r]], p), quantile([base[r]], p)) for r in own if r in base]
    if len(pairs) < 2 or not all(0 < one < np.inf for pair in pairs for one in pair):
        return pooled, np.nan, np.nan
    return pooled, *sectioning_interval([a / b for a, b in pairs], pooled, level)


def _listed(names: list[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def summary(results: Frames, frame: pd.DataFrame, setting: Setting) -> list[str]:
    """Return what a terminal says: the whole answer of a plain run, without how sure it is (the footer says so)."""
    found = list(sentences(results, frame, setting))
    return found[0][1][:-1] or found[0][1] if len(found) == 1 else [f"{point}: {said[0]}" for point, said in found]


def sentences(results: Frames, frame: pd.DataFrame, setting: Setting) -> Iterator[tuple[str, list[str]]]:
    """Yield, per point, the words of the point and the answer about the first class that enters the API."""
    waited = frame[(frame["mode"] == "sync") & (frame["api_share"].fillna(0) > 0)]
    first = waited[["client", "kind"]].drop_duplicates().head(1)
    for client, kind in first.itertuples(index=False):
        chosen = frame[(frame["client"] == client) & (frame["kind"] == kind)]
        for point, rows in chosen.groupby("point", sort=False):
            yield str(point), answer(results, rows, setting)
