"""What the question is about: which classes of operation; means of those outside the API; what isolated CPUs feel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from execbench.report.comparison import records
from execbench.report.completion import sums, together
from execbench.report.numbers import interval, with_unit
from execbench.report.ratios import flat, listed, mean_ratios, ranking

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames
    from execbench.report.setting import Setting

ISOLATED = "Interruptions of an isolated CPU per hour"
"""Begin of the sentence on isolated CPUs."""


def classes(frame: pd.DataFrame, setting: Setting) -> list[tuple[str, str]]:
    """Return client and kind of what the workload asks about and was measured; else the first class inside the API.

    Of a client that is named alone, every class that callers wait for.
    """
    came = _came(frame)
    named = [one for wanted in setting.asks for one, mode in came.items() if _meant(one, mode, wanted)]
    waited = frame[(frame["mode"] == "sync") & (frame["api_share"].fillna(0) > 0)]
    inside = waited[["client", "kind"]].drop_duplicates().head(1).itertuples(index=False)
    return list(dict.fromkeys(named)) or [(str(client), str(kind)) for client, kind in inside]


def never_came(frame: pd.DataFrame, setting: Setting) -> str:
    """Say what the workload asks about and was not measured, and what was instead; '' where all of it came."""
    came = _came(frame)
    missing = [wanted for wanted in setting.asks if not any(_meant(one, mode, wanted) for one, mode in came.items())]
    if not missing:
        return ""
    there = listed([" ".join(one) for one in came]) or "nothing"
    return (f"The workload asks about {listed([' '.join(one).strip() for one in missing])}, of which no operation was "
            f"measured; measured: {there}.")  # fmt: skip


def _came(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Client and kind of every class with operations, and its mode."""
    measured = frame[frame["operations"] > 0].drop_duplicates(["client", "kind"])
    return {(str(row["client"]), str(row["kind"])): str(row["mode"]) for row in records(measured)}


def _meant(one: tuple[str, str], mode: str, wanted: tuple[str, str]) -> bool:
    return one == wanted or (wanted[1] == "" and wanted[0] == one[0] and mode == "sync")


def outside(results: Frames, rows: pd.DataFrame, asked: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield what to answer at one point on classes that no verb of the API is in: their means, and the ratios of these.

    Classes in which the arms do not differ share a sentence.
    """
    each = [rows[(rows["client"] == client) & (rows["kind"] == kind)] for client, kind in asked]
    said = [one for own in each for one in of_means(results, own)]
    yield from together(said, "In the means of {}", "and")
    if said:
        yield f"No verb of the API is in {'it' if len(said) == 1 else 'them'}."


def of_means(results: Frames, rows: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield one class of operation, what can be said of all arms, and how their means rank; nothing without any.

    `rows` are those of one point and class. For execbench.report.completion.together. Arms whose backlog grows have no
    mean.
    """
    measured = [row for row in records(rows) if row["operations"] and not row["growth"]]
    values = {str(row["arm"]): sums(results, row["cell"], row["client"], row["kind"]) for row in measured}
    if not values:
        return
    order = sorted((sum(one for one, _ in mine.values()) / sum(n for _, n in mine.values()), arm)
                   for arm, mine in values.items())  # fmt: skip
    found = mean_ratios(values, order[0][1])
    named = [(arm, with_unit(mean, "time")) for mean, arm in order]
    name = f"{measured[0]['client']} {measured[0]['kind']}"
    yield name, flat(found), ranking(f"In the mean of {name}", "operation", named, found)


def isolated(rows: pd.DataFrame) -> list[str]:
    """Return the sentence on what isolated CPUs feel of the rows of one point, on machines that have some."""
    own = rows[(rows["refused"] == "") & rows["isolated_hourly"].notna()].drop_duplicates("arm")
    if own.empty:
        return []
    names = ("isolated_hourly", "isolated_hourly_low", "isolated_hourly_high")
    arms = [f"{interval(*(row[name] for name in names))} ({row['arm']})"
            for row in records(own.sort_values("isolated_hourly", kind="stable"))]  # fmt: skip
    longest = own.sort_values("isolated_longest", kind="stable", na_position="first").iloc[-1]
    takes = f"; the longest takes {with_unit(longest['isolated_longest'], 'time')} ({longest['arm']})"
    return [f"{ISOLATED}, by this workload alone: {', '.join(arms)}{takes if longest['isolated_longest'] > 0 else ''}."]
