"""Results -> one tidy frame: a row per arm, client and class of operation, each figure with its 95 % interval.

Population of a quantile: the operations of one class of one client, pooled over replications. Per-operation figures
are ratios of sums over replications; memory is the mean over replications of its time average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from execbench.report.arms import arms_of
from execbench.report.columns import COLUMNS
from execbench.report.measured import Measured
from execbench.report.numbers import number
from execbench.stats.estimate import Estimate, refused

if TYPE_CHECKING:
    import pandas as pd


class Frames(Protocol):
    """What a report reads: the frames of one results directory (see the table schemas of the store)."""

    @property
    def study(self) -> Mapping[str, Any]:
        """The manifest: the command, what the author expected."""

    @property
    def cells(self) -> pd.DataFrame:
        """One row per cell: arm, status, spec."""

    def table(self, name: str) -> pd.DataFrame:
        """One result table of all replications; KeyError if there is none of that name."""


def comparison(results: Frames) -> pd.DataFrame:
    """Return the tidy frame: `cell, point, arm, client, kind, mode, shared, loop, since, status, outcome, refused,
    growth, few_cycles, undone, serves_data, replications, operations` and, for each of COLUMNS, `NAME, NAME_low,
    NAME_high, NAME_status, NAME_note`.

    Base units (ns, bytes, per second, shares of 1). Rows follow the points of a study, then client and class (what a
    caller waits for before what is deferred), then the arms in the order they were given; a refused arm has its reason
    in `refused` and no figures. Latency counts from `since`, "arrival" (intended, open loop) or "begin"; where
    `growth` (op/s of backlog) is not 0 there is no steady state and no latency. `shared`: other classes that enter the
    API ran too, so that per-operation figures of the machine are not this class's alone.
    """
    import pandas as pd

    cells = arms_of(results)
    classes = _classes(results) or [("", "", "sync")]
    shares = results.table("metrics")
    shares = shares[(shares["metric"] == "api_share") & (shares["value"] > 0)]
    shared = len(shares[["client", "kind"]].drop_duplicates()) > 1
    rows = []
    for point in cells["point"].drop_duplicates():
        here = cells[cells["point"] == point]
        for client, kind, mode in classes:
            rows += [_row(results, cell, client, kind) | {"mode": mode, "shared": shared} for cell in records(here)]
    return pd.DataFrame(rows)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as dicts by column name."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def estimate_of(row: Mapping[str, Any], name: str) -> Estimate:
    """Return the estimate that a row of the comparison holds under a column's name."""
    value, low, high = (float(row[f"{name}{suffix}"]) for suffix in ("", "_low", "_high"))
    return Estimate(value, low, high, int(row["operations"]), row[f"{name}_status"], row[f"{name}_note"])


def _classes(results: Frames) -> list[tuple[str, str, str]]:
    """Return client, class of operation and mode ("sync" or "deferred") of all that was measured, sync first."""
    metrics = results.table("metrics")
    kinds = metrics[metrics["metric"] == "throughput"][["client", "kind"]].drop_duplicates()
    free = metrics[metrics["metric"] == "api_share_free"]
    deferred = set(zip(free["client"], free["kind"], strict=True))
    found = [(row["client"], row["kind"], "deferred" if (row["client"], row["kind"]) in deferred else "sync")
             for row in records(kinds)]  # fmt: skip
    return sorted(found, key=lambda one: (one[0], one[2] != "sync"))


def _row(results: Frames, cell: Mapping[str, Any], client: str, kind: str) -> dict[str, Any]:
    replications = results.table("replications")
    mine = replications[replications["cell"] == cell["cell"]]
    row = {key: cell[key] for key in ("cell", "point", "arm", "status", "refused", "growth", "few_cycles", "undone",
                                      "serves_data")}  # fmt: skip
    row["loop"] = cell["loops"].get(client, "closed")
    row["since"] = "arrival" if row["loop"] == "open" and kind in arrivals(client) else "begin"
    row |= {"client": client, "kind": kind, "replications": len(mine), "operations": 0, "outcome": _outcome(mine)}
    measured = Measured(
        results, str(cell["cell"]), client, kind, None if cell["terminating"] else int(cell["window_ns"])
    )
    row["operations"] = measured.operations()
    for column in COLUMNS:
        estimate = refused(0, "refused") if row["refused"] else measured.estimate(column)
        if row["growth"] and column.scale == "time" and column.per in ("operation", "sum"):
            estimate = refused(row["operations"], f"no steady state, +{number(row['growth'])} op/s")
        row |= {column.name: estimate.value, f"{column.name}_low": estimate.low, f"{column.name}_high": estimate.high,
                f"{column.name}_status": estimate.status, f"{column.name}_note": estimate.note}  # fmt: skip
    return row


def arrivals(client: str) -> frozenset[str]:
    """Return the kinds of a client's operations that arrive from outside."""
    from execbench.registry.plugins import class_for

    kinds: frozenset[str] = class_for("clients", client, "report").arrivals  # type: ignore[attr-defined]
    return kinds


def _outcome(replications: pd.DataFrame) -> str:
    """'' when every replication ended as it should, else what happened and how often."""
    bad = replications[replications["outcome"] != "ok"]
    return ", ".join(f"{outcome} in {n} of {len(replications)} replications"
                     for outcome, n in bad["outcome"].value_counts().items())  # fmt: skip
