"""What happens once in each replication of a workload that ends: the whole of it, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from execbench.report.comparison import records
from execbench.report.numbers import interval, unit_for, with_unit
from execbench.report.ratios import flat, listed, mean_ratios, ranking
from execbench.stats.estimate import Estimate
from execbench.stats.means import mean_estimate

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames
    from execbench.report.setting import Setting

ONCE = "Once in each replication, mean over them with its 95 % interval"


def once(frame: pd.DataFrame, setting: Setting) -> list[tuple[str, str]]:
    """Return client and kind of each class that callers wait for and that happens at most once in a replication.

    Only of a workload that ends: elsewhere the window decides how often something happens.
    """
    if setting.horizon != "terminating":
        return []
    waited = frame[(frame["mode"] == "sync") & (frame["operations"] > 0)]
    classes = waited.groupby(["client", "kind"], sort=False)
    return [(str(client), str(kind)) for (client, kind), rows in classes
            if (rows["operations"] <= rows["replications"]).all()]  # fmt: skip


def latencies(results: Frames, cell: str, client: str, kind: str) -> dict[int, float]:
    """Return the latency (ns) of the one operation of a class by replication, where it finished."""
    return {replication: value for replication, (value, _) in sums(results, cell, client, kind).items()}


def sums(results: Frames, cell: str, client: str, kind: str) -> dict[int, tuple[float, float]]:
    """Return the sum of the latencies (ns) of a class and their number by replication, where any operation finished."""
    metrics = results.table("metrics")
    own = metrics[(metrics["cell"] == cell) & (metrics["client"] == client) & (metrics["kind"] == kind)]
    own = own[(own["metric"] == "latency_sum") & (own["n"] > 0)].sort_values("replication")
    columns = own[["replication", "value", "n"]]
    return {int(r): (float(value), float(n)) for r, value, n in columns.itertuples(index=False)}


def means(results: Frames, rows: pd.DataFrame) -> dict[str, Estimate]:
    """Return the mean (ns) of each arm that finished in every replication, for rows of one point, client and class."""
    return {arm: mean_estimate(list(values.values()), within=(0, float("inf")))
            for arm, values in _complete(results, rows).items()}  # fmt: skip


def lines(results: Frames, frame: pd.DataFrame, setting: Setting) -> Iterator[str]:
    """Yield a line per class of `once`: mean and interval of each arm."""
    for client, kind in once(frame, setting):
        rows = frame[(frame["client"] == client) & (frame["kind"] == kind)]
        found = means(results, rows)
        yield f"{client} {kind}: {', '.join([*figures(found), *incomplete(rows, list(found))])}"


def figures(found: Mapping[str, Estimate]) -> list[str]:
    """Return the words for times (ns) by arm, in one unit: `454 [450, 458] ms (module_alloc)`."""
    unit = unit_for([one.value for one in found.values()], "time")
    return [f"{interval(*(v / unit.factor for v in (one.value, one.low, one.high)))} {unit.name} ({arm})"
            for arm, one in found.items()]  # fmt: skip


def sentences(results: Frames, frame: pd.DataFrame, setting: Setting) -> Iterator[str]:
    """Yield what to answer about the classes of `once` at one point; those that do not differ share a sentence."""
    said: list[tuple[str, str, str]] = []
    for client, kind in once(frame, setting):
        name, rows = f"{client} {kind}", frame[(frame["client"] == client) & (frame["kind"] == kind)]
        values = _complete(results, rows)
        if cut := incomplete(rows, list(values)):
            yield f"{name}: {', '.join(cut)}; lengthen --duration to compare."
        if len(values) < 2:
            continue
        order = sorted((sum(own.values()) / len(own), arm) for arm, own in values.items())
        pairs = {arm: {replication: (value, 1.0) for replication, value in own.items()} for arm, own in values.items()}
        found = mean_ratios(pairs, order[0][1])
        named = [(arm, with_unit(mean, "time")) for mean, arm in order]
        said.append((name, flat(found), ranking(f"Over a whole {name} (mean)", "run", named, found)))
    yield from together(said, "Over a whole {} (means)", "or")


def together(said: Sequence[tuple[str, str, str]], words: str, last: str) -> Iterator[str]:
    """Yield a sentence for each class, or one for all that share a verdict.

    `said` are a class's name, what can be said of all arms ('' if they differ), and its own sentence; `words` have a
    place {} for the names of several, a client's name once.
    """
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, verdict, sentence in said:
        alike.setdefault(verdict or name, []).append((name, sentence))
    for verdict, ones in alike.items():
        yield (ones[0][1] if len(ones) == 1 else
               f"{words.format(_names([name for name, _ in ones], last))} the backends {verdict}.")  # fmt: skip


def _names(classes: Sequence[str], last: str) -> str:
    of = {name.partition(" ")[0] for name in classes}
    if len(of) > 1:
        return listed(classes, last)
    return f"{of.pop()} {listed([name.partition(' ')[2] for name in classes], last)}"


def _complete(results: Frames, rows: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Latencies by arm and replication, without arms that did not come to the end in every replication."""
    found = {str(row["arm"]): (latencies(results, row["cell"], row["client"], row["kind"]), row)
             for row in records(rows) if not row["refused"]}  # fmt: skip
    return {arm: own for arm, (own, row) in found.items() if len(own) == row["replications"] and not row["undone"]}


def incomplete(rows: pd.DataFrame, complete: list[str]) -> list[str]:
    """Return the words on the arms that are not among the `complete` ones, none where all are."""
    missing = [str(row["arm"]) for row in records(rows) if not row["refused"] and row["arm"] not in complete]
    return [f"not complete in every replication with {listed(missing)}"] if missing else []
