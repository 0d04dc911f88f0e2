"""Synchronization that somebody forced: whose it was, when it began and when it was complete."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from execbench.record.audit.facts import Fact
from execbench.record.audit.platform import STATE_DECIDES, STOPPED, Platform
from execbench.record.audit.translations import NEVER


class _Of:
    """What one task has forced so far (ns)."""

    __slots__ = ("entry", "fences", "others", "own", "rounds", "stops")

    def __init__(self) -> None:
        self.others = NEVER
        """When the latest synchronization of all other CPUs began that is complete."""
        self.own = NEVER
        """The same of the task's own CPU."""
        self.entry = NEVER
        """When every CPU was last told to synchronize before it enters text."""
        self.fences: list[tuple[int, int]] = []
        """(end, begin) of maintenance of all instruction caches, by their ends."""
        self.rounds: list[tuple[int, int]] = []
        """(end, begin) of synchronization of all other CPUs, by their ends."""
        self.stops: list[tuple[int, int]] = []
        """(end, begin) of times in which the task had all other CPUs stopped."""

    def take(self, begin: int, end: int) -> None:
        """Note a complete round that synchronized all other CPUs."""
        self.rounds.append((end, begin))
        self.others = max(self.others, begin)


class Forced:
    """The synchronization of every task; rounds of others are nobody's but theirs."""

    def __init__(self, platform: Platform) -> None:
        """`platform` says which flush interrupts synchronize whom they interrupt."""
        self._interrupted = platform.facts.interrupted
        self._mm_serializes = platform.arch in ("x86_64", "arm64")
        self._fences = platform.arch == "riscv64"  # the stopper leaves by fence.i
        self._tasks: dict[int, _Of] = {}
        self._keep: list[Any] = []  # tasks seen, so that no two share an identity

    def of(self, task: Any) -> _Of:
        """Return what a task has forced."""
        known = self._tasks.get(id(task))
        if known is None:
            known = self._tasks[id(task)] = _Of()
            self._keep.append(task)
        return known

    def serialize(self, fact: Fact) -> None:
        """Take a round, or this CPU's own synchronization."""
        begin, cpus, why = fact.fields
        of = self.of(fact.task)
        stopped = why in STOPPED
        begun = fact.t if stopped else begin  # the stopper synchronizes on its way out
        if cpus in ("all", "others"):
            of.take(begun, fact.t)
        if cpus in ("all", "self"):
            of.own = max(of.own, begun)
        if stopped:
            of.stops.append((fact.t, begin))
            if self._fences:
                of.fences.append((fact.t, fact.t))

    def flush(self, fact: Fact) -> None:
        """Take a flush that the API sends in any case, where its interrupt synchronizes."""
        begin, _, _, how, caller = fact.fields
        if how == "ipi" and self._interrupted and caller not in STATE_DECIDES:
            of = self.of(fact.task)
            of.take(begin, fact.t)
            of.own = max(of.own, begin)

    def icache(self, fact: Fact) -> None:
        """Take maintenance of whole instruction caches; a local fence is this CPU's alone."""
        begin, _, size, how = fact.fields
        of = self.of(fact.task)
        if how == "fence.i-local":
            of.own = max(of.own, begin)
        elif size == 0:
            of.fences.append((fact.t, begin))
            of.rounds.append((fact.t, begin))

    def entry(self, fact: Fact) -> None:
        """Take the promise that every CPU synchronizes before it enters text."""
        self.of(fact.task).entry = fact.t

    def closed_mm(self, fact: Fact) -> None:
        """Take the way back from a temporary mm: loading CR3 serializes, and so does the ISB behind TTBR0."""
        if self._mm_serializes:
            of = self.of(fact.task)
            of.own = max(of.own, fact.t)

    def fence(self, tasks: tuple[Any, ...], since: int) -> int | None:
        """Return when the first maintenance of all instruction caches was complete that began at `since` or later."""
        ends = []
        for task in tasks:
            fences = self.of(task).fences
            ends += [end for end, begin in fences[bisect_left(fences, (since, NEVER)) :] if begin >= since][:1]
        return min(ends, default=None)

    def others(self, tasks: tuple[Any, ...]) -> int:
        """Return when the latest synchronization began of all CPUs but those of these tasks."""
        return max(self.of(task).others for task in tasks)

    def own(self, task: Any, tasks: tuple[Any, ...]) -> int:
        """Return when the latest synchronization began of the CPU of one of these tasks, by itself or by another."""
        return max(self.of(one).own if one is task else self.of(one).others for one in tasks)

    def rounds(self, task: Any) -> list[tuple[int, int]]:
        """Return (end, begin) of every synchronization of all other CPUs by a task."""
        return self.of(task).rounds

    def entered(self, tasks: tuple[Any, ...]) -> int:
        """Return when CPUs were last told to synchronize on entry."""
        return max(self.of(task).entry for task in tasks)

    def stopped(self, task: Any, t: int) -> bool:
        """Say whether a task had stopped all other CPUs at `t`."""
        return any(begin <= t <= end for end, begin in self.of(task).stops)
