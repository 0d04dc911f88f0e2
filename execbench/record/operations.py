"""Operations of a replication: histograms of their phases, counts of primitives, the share of the API, extremes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest
from typing import Any

import numpy as np

from execbench.kernel.operation import Operation
from execbench.record.histogram import Ints, buckets_of

_MASK = (1 << 63) - 1
_EXTREMES = 8
_SLICE = 512  # finished operations of one class that are booked together
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
        "in_system_half", "index", "latency_ns", "mode", "peaks", "pending", "queue_ns", "unfinished", "units",
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
        self.pending: list[Operation] = []  # finished and not booked yet

    def book(self, phase: str, ns: Ints) -> None:
        """Add times to the histogram of a phase."""
        histogram = self.histograms.setdefault(phase, {})
        buckets, counts = np.unique(buckets_of(ns), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            histogram[bucket] = histogram.get(bucket, 0) + count

    def remember(self, number: Ints, due: Ints, latency: Ints, place: Ints) -> None:
        """Keep the worst operations, and the largest latency of each bin."""
        ns = latency.tolist()
        worst = zip(ns, number.tolist(), due.tolist(), strict=True)
        self.extremes = nlargest(_EXTREMES, [*self.extremes, *worst])
        peaks = self.peaks
        for at, largest in zip(place.tolist(), ns, strict=True):
            if largest > peaks.get(at, -1):
                peaks[at] = largest


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
        self._area += self.duration - (at if self.warmup <= at <= self.duration else self._clip(at))

    def finished(self, operation: Operation) -> None:
        """Every stamp of an operation is certain: it will be booked with others of its class."""
        del self._live[id(operation)]
        self.completed += 1
        of = self._class(operation)
        of.pending.append(operation)
        if len(of.pending) == _SLICE:
            self._book(of)

    def _book(self, of: _Class) -> None:
        """Book the operations that have finished since the last time: arrays, for it is done for every operation."""
        operations, of.pending = of.pending, []
        if not operations:
            return
        due, begin, end = _ints([(op.due, op.begin, op.end) for op in operations])
        started, ended = (np.clip(at, self.warmup, self.duration) for at in (begin, end))
        self._area -= int((self.duration - ended).sum())
        self._overlap += int((ended - started).sum())
        of.completed += int(((end >= self.warmup) & (end < self.duration)).sum())
        of.in_system_half += int(((due < self._half) & (end >= self._half)).sum())
        of.in_system_end += int(((due < self.duration) & (end >= self.duration)).sum())
        by_phases: dict[tuple[str, ...], list[Operation]] = {}
        for op in operations:
            if self.warmup <= op.due < self.duration:
                by_phases.setdefault(tuple(op.names), []).append(op)
        for names, cohort in by_phases.items():
            self._book_cohort(of, names, cohort)

    def _book_cohort(self, of: _Class, names: tuple[str, ...], operations: list[Operation]) -> None:
        """Book operations of the window that went through the same phases, whose names are unique."""
        number, due, api = _ints([(op.number, op.due, op.blamed_ns) for op in operations])
        times = _ints([op.times for op in operations])
        begin, latency = times[0], times[-1] - due
        of.cohort += len(operations)
        of.latency_ns += int(latency.sum())
        of.blamed_ns += int(api.sum())
        inside = self._api.get(operations[0].client, frozenset())
        for name, ns in zip(names, np.diff(times, axis=0), strict=True):
            of.book(name, ns)
            if name in inside:
                api = api + ns
        of.api_ns += int(api.sum())
        of.book("total", latency)
        queued = (begin - due)[begin != due]
        if len(queued):
            of.queue_ns += int(queued.sum())
            of.book("queue", queued)
        mixed = number.astype(np.uint64)
        for at in times.astype(np.uint64):
            mixed = mixed * np.uint64(0x9E3779B1) + at & np.uint64(_MASK)
        of.checksum = (of.checksum + int((mixed ^ mixed >> np.uint64(29)).sum())) & _MASK
        of.remember(number, due, latency, (due - self.warmup) // self._bin)
        if self._raw is not None:
            index = np.full(len(operations), of.index)
            for column, values in zip(self._raw, (index, number, due, begin, times[-1], api), strict=True):
                column.extend(values.tolist())

    def _book_all(self) -> None:
        for of in self._classes.values():
            self._book(of)

    def close(self, at: int, untaken: Mapping[tuple[str, str], Callable[[int], Iterable[int]]]) -> None:
        """Count what was due in the window and has not finished when the run ends at `at` (ns): begun or waiting.

        `untaken`: per client and kind, when the arrivals are due that no thread has taken and that are due before a
        given time. To be called once.
        """
        until = min(at + 1, self.duration)
        for operation in self._live.values():
            if operation.due < until:
                self._left(self._class(operation), operation.due)
        for key, dues in untaken.items():
            for due in dues(until):
                self._left(self._classes.get(key) or self._new_class(key, "sync"), due)

    def _left(self, of: _Class, due: int) -> None:
        of.unfinished += due >= self.warmup
        of.in_system_half += due < self._half
        of.in_system_end += 1

    def _class(self, operation: Operation) -> _Class:
        key = operation.client, operation.kind
        return self._classes.get(key) or self._new_class(key, operation.mode)

    def _new_class(self, key: tuple[str, str], mode: str) -> _Class:
        of = self._classes[key] = _Class(mode, len(self._classes))
        return of

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        """Return where the primitives and units of a new operation are counted: nowhere if it is no cohort's."""
        self._live[id(operation)] = operation
        if self.warmup <= operation.due < self.duration:
            of = self._class(operation)
            return of.counts, of.units
        return {}, {}

    # --- Little -----------------------------------------------------------------------------------------------------

    def _clip(self, at: int) -> int:
        return min(max(at, self.warmup), self.duration)

    def littles_residual(self) -> int:
        """Return the integral of the number in system less the sum of sojourns inside the window: 0, as integers."""
        self._book_all()
        open_ = sum(self.duration - self._clip(operation.begin) for operation in self._live.values() if operation.times)
        return self._area - self._overlap - open_

    @property
    def live(self) -> list[Operation]:
        """Operations that have not finished, begun or not."""
        return list(self._live.values())

    # --- tables -----------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, Columns]:
        """Return histograms, counters, extremes, peaks and, if kept, operations."""
        self._book_all()
        tables = {"totals": self._totals(), "histograms": self._histograms(), "counters": self._counters()}
        tables["extremes"], tables["peaks"] = self._extremes(), self._peaks()
        if self._raw is not None:
            tables["operations"] = self._operations(self._raw)
        return tables

    def classes(self) -> list[tuple[str, str, _Class]]:
        """Return the classes of operations in a stable order."""
        self._book_all()
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


def _ints(rows: Sequence[Sequence[int]]) -> Ints:
    """Return rows of integers as columns."""
    return np.array(rows, np.int64).T


def _row(columns: Columns, *values: Any) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)
