"""Operations of a replication: histograms of their phases, counts of primitives, the share of the API, extremes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from heapq import heappush, heappushpop
from typing import Any

import numpy as np

from execbench.kernel.operation import Operation
from execbench.record.histogram import SUB_BITS, bucket_of

_MASK = (1 << 63) - 1
_EXTREMES = 8
PEAK_BINS = 1024
"""Bins of the window whose largest latency is kept: enough to count clusters of exceedances of any quantile."""

_TOTALS = (
    "operations", "unfinished", "completed", "in_system_half", "in_system_end", "latency_ns", "queue_ns", "api_ns",
    "blamed_ns", "checksum",
)  # fmt: skip
_RAW = ("class", "op", "due", "begin", "end", "api_ns")

Columns = dict[str, Any]


class _Class:
    """Totals over the operations of one kind of one client."""

    __slots__ = (
        "api_ns", "blamed_ns", "checksum", "cohort", "completed", "counts", "extremes", "histograms", "in_system_end",
        "in_system_half", "index", "latency_ns", "mode", "peaks", "plans", "queue_ns", "unfinished", "units",
    )  # fmt: skip

    def __init__(self, mode: str, index: int) -> None:
        self.mode = mode
        self.index = index  # order of first appearance
        self.cohort = self.completed = self.latency_ns = self.api_ns = self.blamed_ns = self.checksum = 0
        self.queue_ns = self.unfinished = self.in_system_half = self.in_system_end = 0
        self.counts: dict[str, int] = {}
        self.units: dict[str, int] = {}
        self.histograms: dict[str, dict[int, int]] = {}
        self.extremes: list[tuple[int, int, int]] = []
        self.peaks: dict[int, int] = {}
        self.plans: dict[tuple[str, ...], list[tuple[dict[int, int], bool]]] = {}

    def histogram(self, phase: str) -> dict[int, int]:
        """Return the histogram of a phase, made on first use."""
        return self.histograms.setdefault(phase, {})

    def plan(self, names: tuple[str, ...], api: frozenset[str]) -> list[tuple[dict[int, int], bool]]:
        """Return, for a sequence of phases, each one's histogram and whether it is inside the API; names are unique."""
        plan = self.plans[names] = [(self.histogram(name), name in api) for name in names]
        return plan


class OperationRecorder:
    """Aggregates operations whose due time lies in [warmup, duration); memory does not grow with the run."""

    def __init__(self, warmup: int, duration: int, api_phases: Mapping[str, frozenset[str]], raw: bool) -> None:
        """api_phases: per client, the phases spent inside the backend's verbs; raw keeps one row per operation."""
        self.warmup = warmup
        self.duration = duration
        self._half = (warmup + duration) // 2
        self._api = api_phases
        self._bin = max((duration - warmup) // PEAK_BINS, 1)
        self._classes: dict[tuple[str, str], _Class] = {}
        self._live: dict[int, Operation] = {}
        self.completed = 0
        self._area = 0  # integral of the number in system over the window, from begins and ends one by one
        self._overlap = 0  # the same from sojourns
        self._raw = [array("q") for _ in _RAW] if raw else None

    def begun(self, operation: Operation, at: int) -> None:
        """An operation began at `at`."""
        self._area += self.duration - self._clip(at)

    def finished(self, operation: Operation) -> None:
        """Every stamp of an operation is certain."""
        del self._live[id(operation)]
        self.completed += 1
        begin, end = operation.times[0], operation.times[-1]
        self._area -= self.duration - self._clip(end)
        self._overlap += self._clip(end) - self._clip(begin)
        due = operation.due
        of = self._class(operation.client, operation.kind, operation.mode)
        if self.warmup <= end < self.duration:
            of.completed += 1
        if due < self._half <= end:
            of.in_system_half += 1
        if due < self.duration <= end:
            of.in_system_end += 1
        if not self.warmup <= due < self.duration:
            return
        of.cohort += 1
        latency = end - due
        of.latency_ns += latency
        of.blamed_ns += operation.blamed_ns
        api = operation.blamed_ns + self._phases(of, operation)
        of.api_ns += api
        _book(of.histogram("total"), latency)
        if begin != due:
            of.queue_ns += begin - due
            _book(of.histogram("queue"), begin - due)
        self._remember(of, operation, latency)
        if self._raw is not None:
            for column, value in zip(self._raw, (of.index, operation.number, due, begin, end, api), strict=True):
                column.append(value)

    def close(self, at: int, untaken: Mapping[tuple[str, str], Callable[[int], Iterable[int]]]) -> None:
        """Count what was due in the window and has not finished when the run ends at `at` (ns): begun or waiting.

        `untaken`: per client and kind, when the arrivals are due that no thread has taken and that are due before a
        given time. To be called once.
        """
        until = min(at + 1, self.duration)
        for operation in self._live.values():
            if operation.due < until:
                self._left(self._class(operation.client, operation.kind, operation.mode), operation.due)
        for (client, kind), dues in untaken.items():
            for due in dues(until):
                self._left(self._class(client, kind, "sync"), due)

    def _left(self, of: _Class, due: int) -> None:
        of.unfinished += due >= self.warmup
        of.in_system_half += due < self._half
        of.in_system_end += 1

    def _class(self, client: str, kind: str, mode: str) -> _Class:
        key = (client, kind)
        of = self._classes.get(key)
        if of is None:
            of = self._classes[key] = _Class(mode, len(self._classes))
        return of

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        """Return where the primitives and units of a new operation are counted: nowhere if it is no cohort's."""
        self._live[id(operation)] = operation
        if self.warmup <= operation.due < self.duration:
            of = self._class(operation.client, operation.kind, operation.mode)
            return of.counts, of.units
        return {}, {}

    def _phases(self, of: _Class, operation: Operation) -> int:
        """Book every phase under its name and return the time inside the API's verbs."""
        names = tuple(operation.names)
        plan = of.plans.get(names) or of.plan(names, self._api.get(operation.client, frozenset()))
        times = operation.times
        api, before = 0, times[0]
        for (histogram, inside), after in zip(plan, times[1:], strict=True):
            ns = after - before
            before = after
            if inside:
                api += ns
            octave = ns.bit_length() - SUB_BITS - 1
            bucket = ns if octave <= 0 else (octave << SUB_BITS) + (ns >> octave)  # bucket_of, once per phase
            histogram[bucket] = histogram.get(bucket, 0) + 1
        return api

    def _remember(self, of: _Class, operation: Operation, latency: int) -> None:
        """Keep the checksum of exact times, the worst operations, and the largest latency of each bin."""
        mixed = operation.number
        for at in operation.times:
            mixed = mixed * 0x9E3779B1 + at & _MASK
        of.checksum = (of.checksum + (mixed ^ mixed >> 29)) & _MASK
        worst = (latency, operation.number, operation.due)
        if len(of.extremes) < _EXTREMES:
            heappush(of.extremes, worst)
        elif worst > of.extremes[0]:
            heappushpop(of.extremes, worst)
        place = (operation.due - self.warmup) // self._bin
        if latency > of.peaks.get(place, -1):
            of.peaks[place] = latency

    # --- Little -----------------------------------------------------------------------------------------------------

    def _clip(self, at: int) -> int:
        return min(max(at, self.warmup), self.duration)

    def littles_residual(self) -> int:
        """Return the integral of the number in system less the sum of sojourns inside the window: 0, as integers."""
        open_ = sum(self.duration - self._clip(operation.begin) for operation in self._live.values() if operation.times)
        return self._area - self._overlap - open_

    @property
    def live(self) -> list[Operation]:
        """Operations that have not finished, begun or not."""
        return list(self._live.values())

    # --- tables -----------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, Columns]:
        """Return histograms, counters, extremes, peaks and, if kept, operations."""
        tables = {"totals": self._totals(), "histograms": self._histograms(), "counters": self._counters()}
        tables["extremes"], tables["peaks"] = self._extremes(), self._peaks()
        if self._raw is not None:
            tables["operations"] = self._operations(self._raw)
        return tables

    def classes(self) -> list[tuple[str, str, _Class]]:
        """Return the classes of operations in a stable order."""
        return [(client, kind, self._classes[client, kind]) for client, kind in sorted(self._classes)]

    def _totals(self) -> Columns:
        """Return exact sums, and a checksum of every stamp of every operation that no order of finishing changes."""
        columns: Columns = {name: [] for name in ("client", "kind", *_TOTALS)}
        for client, kind, of in self.classes():
            _row(columns, client, kind, of.cohort, *(getattr(of, name) for name in _TOTALS[1:]))
        return columns

    def _histograms(self) -> Columns:
        columns: Columns = {"client": [], "kind": [], "phase": [], "bucket": [], "count": []}
        for client, kind, of in self.classes():
            for phase in sorted(of.histograms):
                for bucket, count in sorted(of.histograms[phase].items()):
                    _row(columns, client, kind, phase, bucket, count)
        return columns

    def _counters(self) -> Columns:
        columns: Columns = {"client": [], "kind": [], "mode": [], "primitive": [], "count": [], "units": []}
        for client, kind, of in self.classes():
            for name, count in sorted(of.counts.items()):
                _row(columns, client, kind, of.mode, name, count, count + of.units.get(name, 0))
        return columns

    def _operations(self, raw: list[array[int]]) -> Columns:
        """Return one row per operation by class and number, 8 bytes a value; taken apart column by column."""
        keys = {of.index: name for name, of in self._classes.items()}
        index, number = (np.frombuffer(column, np.int64) for column in raw[:2])
        order = np.lexsort((number, index))
        by_class = index[order].tolist()
        columns: Columns = {"client": [keys[i][0] for i in by_class], "kind": [keys[i][1] for i in by_class]}
        del by_class
        for name, column in zip(_RAW[1:], raw[1:], strict=True):
            columns[name] = np.frombuffer(column, np.int64)[order]
        return columns

    def _extremes(self) -> Columns:
        columns: Columns = {"client": [], "kind": [], "rank": [], "op": [], "t_ns": [], "latency_ns": []}
        for client, kind, of in self.classes():
            for rank, (latency, number, due) in enumerate(sorted(of.extremes, reverse=True), 1):
                _row(columns, client, kind, rank, number, due, latency)
        return columns

    def _peaks(self) -> Columns:
        columns: Columns = {"client": [], "kind": [], "bin": [], "latency_ns": []}
        for client, kind, of in self.classes():
            for place, latency in sorted(of.peaks.items()):
                _row(columns, client, kind, place, latency)
        return columns


def _book(histogram: dict[int, int], ns: int) -> None:
    bucket = bucket_of(ns)
    histogram[bucket] = histogram.get(bucket, 0) + 1


def _row(columns: Columns, *values: Any) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)
