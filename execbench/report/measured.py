"""One cell's figures for one client and class of operation, read from the frames with their intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from execbench.record.histogram import Clusters, Histogram, bucket_of
from execbench.stats.estimate import Estimate, refused
from execbench.stats.means import mean_estimate, ratio_estimate
from execbench.stats.quantiles import Section, quantile, quantile_estimate

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.columns import Column
    from execbench.report.comparison import Frames

QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
TOTAL = "total"
NOT_NEGATIVE = (0.0, math.inf)
SHARES = (0.0, 1.0)


class Measured:
    """The figures of one cell, for one client and class of operation or, where nothing is per class, the machine's."""

    def __init__(self, frames: Frames, cell: str, client: str, kind: str, window_ns: int | None) -> None:
        """`window_ns` is the measured time of one replication; None if the workload ends by itself."""
        self._window_s = None if window_ns is None else window_ns / 1e9
        self._mine = (cell, client, kind)
        metrics = frames.table("metrics")
        metrics = metrics[metrics["cell"] == cell]
        self._metrics = {scope: metrics[(metrics["client"] == scope[0]) & (metrics["kind"] == scope[1])]
                         for scope in ((client, kind), (client, ""), ("", ""))}  # fmt: skip
        self._totals = self._own(frames.table("totals"))
        self._histograms = self._own(frames.table("histograms"))
        self._extremes = self._own(frames.table("extremes"))
        self._peaks = self._own(frames.table("peaks"))

    def _own(self, frame: pd.DataFrame) -> pd.DataFrame:
        cell, client, kind = self._mine
        return frame[(frame["cell"] == cell) & (frame["client"] == client) & (frame["kind"] == kind)]

    def operations(self) -> int:
        """Operations of this class whose latency was measured, in all replications."""
        return int(self._values("latency_sum")["n"].sum())

    def estimate(self, column: Column) -> Estimate:
        """The figure of one column with its interval, or why there is none."""
        if column.source in QUANTILES:
            return self._quantile(QUANTILES[column.source])
        if column.source == "largest":
            return self._largest()
        if column.per == "machine":
            return self._per_operation(column.source)
        rows = self._values(column.source)
        if rows.empty:
            return refused(0, "not recorded")
        values, n = rows["value"].to_numpy(float), rows["n"].to_numpy(float)
        if column.per == "maximum":
            return Estimate(float(np.max(values)), math.nan, math.nan, int(n.sum()))
        if column.per == "latency":
            return ratio_estimate(values, self._values("latency_sum")["value"].to_numpy(float), within=SHARES)
        if column.per == "sum":
            return ratio_estimate(values, n, within=NOT_NEGATIVE)
        if column.per == "operation":
            return ratio_estimate(values * n, n, within=NOT_NEGATIVE)
        return mean_estimate(values, within=NOT_NEGATIVE)

    def _per_operation(self, prefix: str) -> Estimate:
        """Totals over all groups of CPUs, per operation of this class: an interrupt never hits its own sender."""
        machine = self._metrics["", ""]
        groups = machine[machine["metric"].str.startswith(prefix)]
        totals = groups.groupby("replication")["value"].sum().sort_index()
        operations = self._values("latency_sum")["n"].to_numpy(float)
        if len(totals) != len(operations):
            return refused(0, "not recorded")
        return ratio_estimate(totals.to_numpy(float), operations, within=NOT_NEGATIVE)

    def _values(self, metric: str) -> pd.DataFrame:
        """One row per replication, in order, of a metric in the narrowest scope that has it."""
        for rows in self._metrics.values():
            found = rows[rows["metric"] == metric]
            if not found.empty:
                break
        return found.sort_values("replication")

    def _quantile(self, p: float) -> Estimate:
        if not self.sections:
            return refused(0, "not recorded")
        pooled = quantile(list(self.sections.values()), p)
        at = bucket_of(int(pooled)) if math.isfinite(pooled) else 0
        clusters = [self._clusters[replication].supporting(at) for replication in self.sections]
        return quantile_estimate(list(self.sections.values()), p, clusters, self._window_s)

    @cached_property
    def sections(self) -> dict[int, Section]:
        """Latencies and their counts by replication; operations that never finished took for ever."""
        rows = self._histograms[self._histograms["phase"] == TOTAL]
        finished = {int(str(replication)): Histogram.from_columns(own["bucket"], own["count"])
                    for replication, own in rows.groupby("replication")}  # fmt: skip
        found: dict[int, Section] = {}
        for replication, unfinished in zip(self._totals["replication"], self._totals["unfinished"], strict=True):
            values, counts = finished.get(int(replication), Histogram()).weighted()
            if unfinished or counts.size:
                found[int(replication)] = (np.append(values.astype(float), math.inf), np.append(counts, unfinished))
        return found

    @cached_property
    def _clusters(self) -> dict[int, Clusters]:
        """Clusters of exceedances per replication, from the largest latency of each time bin: a lower bound."""
        found: dict[int, Clusters] = defaultdict(lambda: Clusters(gap_ns=1))  # in bins: neighbours are one cluster
        peaks = self._peaks.sort_values(["replication", "bin"])
        for replication, place, latency in zip(peaks["replication"], peaks["bin"], peaks["latency_ns"], strict=True):
            found[replication].add(int(place), bucket_of(int(latency)))
        return found

    def _largest(self) -> Estimate:
        """The largest latency and the number of operations it is the largest of: no interval on a maximum."""
        if self._extremes.empty:
            return refused(0, "not recorded")
        value = float(np.max(self._extremes["latency_ns"].to_numpy()))
        return Estimate(value, math.nan, math.nan, self.operations())
