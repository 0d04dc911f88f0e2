"""Brute force: a tiny machine that tracks every line, translation, cached instruction and fetched byte.

Nothing here is shared with the analysis but the meaning of facts. Whatever a CPU may do by itself it has done: every
present translation is in its TLB, every line that a translation lets it fetch is in its instruction cache and in its
pipeline, in every version that was there to be fetched. A round takes effect on a CPU at some time between its begin
and its end, whatever else happens meanwhile: the machine follows every order of effects. Verdicts ask what is left
anywhere when text is published.

The attribution of synchronization is part of the question, so the machine is run once for every published line, with
the maintenance of those tasks alone that may be relied on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

CPUS = {"a": 0, "b": 1, "f": 2}
"""The CPU of each task."""
LINE = 64
PAGE = 4096
LINES = 2
"""Lines that a page has here: the first two of it."""
ANCIENT = 0
"""The version of every line that instruction caches hold at the beginning, from an earlier life of the frame."""


@dataclass(frozen=True)
class Step:
    """One thing that happens at `t`; rounds happen twice, as `begin` and as `end` with the same number."""

    t: int
    task: str
    what: str
    args: tuple[Any, ...] = ()
    number: int = 0


@dataclass
class Cpu:
    """What one CPU may hold: translations (va page -> tenant, perm), cached lines and fetched lines with versions."""

    tlb: set[tuple[int, Any, str]] = field(default_factory=set)
    icache: set[tuple[int, int, int]] = field(default_factory=set)
    """(frame, line, version)"""
    pipe: set[tuple[int, int, int, int]] = field(default_factory=set)
    """(va page, frame, line, version)"""
    refused: set[int] = field(default_factory=set)
    """Pages at which it may have fetched ahead and been refused."""

    def copy(self) -> Cpu:
        return Cpu(set(self.tlb), set(self.icache), set(self.pipe), set(self.refused))

    def join(self, other: Cpu) -> Cpu:
        return Cpu(self.tlb | other.tlb, self.icache | other.icache, self.pipe | other.pipe,
                   self.refused | other.refused)  # fmt: skip


class Machine:
    """Memory, page tables and CPUs; `counts(step)` says whether maintenance may be relied on in this run."""

    def __init__(self, arch: str, frames: Sequence[int], counts: Any) -> None:
        self.arch = arch
        self.coherent = arch == "x86_64"
        self.counts = counts
        self.memory = {(frame, line): ANCIENT for frame in frames for line in range(LINES)}
        self.versions = 0
        self.begun: dict[int, Step] = {}
        self.table: dict[int, tuple[Any, str]] = {}
        first = Cpu()
        if not self.coherent:
            first.icache = {(frame, line, ANCIENT) for frame, line in self.memory}
        self.worlds: list[dict[frozenset[int], Cpu]] = [{frozenset(): first.copy()} for _ in CPUS]
        self.saturate()

    def states(self) -> Iterator[Cpu]:
        for worlds in self.worlds:
            yield from worlds.values()

    def saturate(self) -> None:
        """Let every CPU cache and fetch whatever it can."""
        for cpu in self.states():
            self._collect(cpu)

    def _collect(self, cpu: Cpu) -> None:
        cpu.tlb |= {(va, area, perm) for va, (area, perm) in self.table.items() if perm != "none"}
        for va, area, perm in cpu.tlb:
            if not perm.endswith("-x"):
                cpu.refused.add(va)
                continue
            for line in range(LINES):
                frame = area.runs[0].pfn
                now = self.memory[frame, line]
                if not self.coherent:
                    cpu.icache.add((frame, line, now))
                    there = {v for f, one, v in cpu.icache if (f, one) == (frame, line)}
                    cpu.pipe |= {(va, frame, line, version) for version in there}
                cpu.pipe.add((va, frame, line, now))
        cpu.refused |= {va for va, (_, perm) in self.table.items() if not perm.endswith("-x")}

    def take(self, step: Step) -> None:
        """Let one step happen, and then every effect of rounds on their way."""
        getattr(self, step.what)(step)
        self.saturate()
        for number, worlds in enumerate(self.worlds):
            for handled in sorted(worlds, key=len):
                self._strike(number, worlds, handled)

    def _strike(self, cpu: int, worlds: dict[frozenset[int], Cpu], handled: frozenset[int]) -> None:
        """Let each round that is on its way to a CPU in this state take effect there, and then the others."""
        for number, step in self.begun.items():
            if number not in handled:
                after = worlds[handled].copy()
                self._effect(cpu, after, step)
                self._collect(after)
                key = handled | {number}
                worlds[key] = after.join(worlds[key]) if key in worlds else after
                self._strike(cpu, worlds, key)

    def map(self, step: Step) -> None:
        area, perm = step.args
        self.table[area.va] = area, perm

    def store(self, step: Step) -> None:
        area, first, lines, _ = step.args
        self.versions += 1
        for line in range(first, first + lines):
            self.memory[area.runs[0].pfn, line] = self.versions

    def begin(self, step: Step) -> None:
        self.begun[step.number] = step

    def end(self, step: Step) -> None:
        """By now the round has taken effect everywhere."""
        del self.begun[step.number]
        for i, worlds in enumerate(self.worlds):
            kept: dict[frozenset[int], Cpu] = {}
            for handled, cpu in worlds.items():
                if step.number in handled:
                    key = handled - {step.number}
                    kept[key] = cpu.join(kept[key]) if key in kept else cpu
            self.worlds[i] = kept

    def _effect(self, number: int, cpu: Cpu, step: Step) -> None:
        kind, *args = step.args
        if kind == "flush":
            va, caller, how = args
            cpu.tlb = {entry for entry in cpu.tlb if va not in (0, entry[0])}
            cpu.pipe = {entry for entry in cpu.pipe if va not in (0, entry[0]) or self._leads(entry[0], entry[1])}
            if how == "ipi" and self.arch == "x86_64" and caller == "cpa_flush" and self.counts(step):
                cpu.pipe.clear()
        elif kind == "icache" and self.counts(step):
            frame, first, lines = args
            cpu.icache = {
                entry for entry in cpu.icache if frame != entry[0] or not first <= entry[1] < first + lines
            }  # fmt: skip
        elif kind == "sync" and self.counts(step):
            own = CPUS[step.task] == number
            if args[0] == "all" or (args[0] == "self") == own:
                cpu.pipe.clear()
                cpu.refused.clear()
        elif kind == "fence" and self.counts(step):
            cpu.icache.clear()
            cpu.pipe.clear()

    def _leads(self, va: int, frame: int) -> bool:
        """Whether the page tables let somebody fetch that frame there."""
        area, perm = self.table.get(va, (None, "none"))
        return perm.endswith("-x") and area.runs[0].pfn == frame


def replayed(arch: str, frames: Sequence[int], steps: Sequence[Step], upto: int, counts: Any) -> Machine:
    """Run the machine over the first `upto` steps."""
    machine = Machine(arch, frames, counts)
    for step in steps[:upto]:
        if step.what in ("map", "store", "begin", "end"):
            machine.take(step)
    return machine


def judge(arch: str, frames: Sequence[int], steps: Sequence[Step]) -> dict[int, set[str]]:
    """Return what is open, by hazard: "icache", "pipe", "closed"; "torn", "whole"; "fault", "right"; and so on."""
    found: dict[int, set[str]] = {hazard: set() for hazard in (1, 2, 3, 4, 5)}
    for i, step in enumerate(steps):
        if step.what == "reach":
            area, first, lines = step.args
            for line in range(first, first + lines):
                found[1] |= _stale(arch, frames, steps, i, area, line)
                found[2] |= _torn(arch, frames, steps, i, area, line)
            found[3] |= _faults(arch, frames, steps, i, area)
            found[4] |= _published(arch, frames, steps, i, area)
        elif step.what == "map":
            found[4] |= _remapped(arch, frames, steps, i)
    found[5] = _inside(steps)
    return found


def _last_store(steps: Sequence[Step], i: int, area: Any, line: int) -> int | None:
    for j in range(i - 1, -1, -1):
        step = steps[j]
        if step.what == "store" and step.args[0] is area and step.args[1] <= line < step.args[1] + step.args[2]:
            return j
    return None


def _stale(arch: str, frames: Sequence[int], steps: Sequence[Step], i: int, area: Any, line: int) -> set[str]:
    at = _last_store(steps, i, area, line)
    if at is None:
        return set()
    writer, publisher, t = steps[at].task, steps[i].task, steps[at].t

    def counts(step: Step) -> bool:
        mine = (writer,) if step.args[0] == "icache" else (writer, publisher)
        return step.task in mine and step.t >= t

    machine = replayed(arch, frames, steps, i, counts)
    frame = area.runs[0].pfn
    now = machine.memory[frame, line]
    if any(version != now for cpu in machine.states() for f, one, version in cpu.icache if (f, one) == (frame, line)):
        return {"icache"}
    there = {
        number
        for number, worlds in enumerate(machine.worlds)
        for cpu in worlds.values()
        if any(entry[:3] == (area.va, frame, line) and entry[3] != now for entry in cpu.pipe)
    }
    mine = {CPUS[writer], CPUS[publisher]}
    if there - mine:
        return {"pipe"}
    if arch == "x86_64" and steps[at].args[3] == "text":
        there -= {CPUS[writer]}  # it stores where it fetches: a jump is enough
    return {"own" if there else "closed"}


def _torn(arch: str, frames: Sequence[int], steps: Sequence[Step], i: int, area: Any, line: int) -> set[str]:
    at = _last_store(steps, i, area, line)
    if at is None:
        return set()
    machine = replayed(arch, frames, steps, at, lambda _: False)
    ways = {(va, tenant) for cpu in machine.states() for va, tenant, perm in cpu.tlb if perm.endswith("-x")}
    return {"torn" if (area.va, area) in ways else "whole"}


def _faults(arch: str, frames: Sequence[int], steps: Sequence[Step], i: int, area: Any) -> set[str]:
    first, lines = steps[i].args[1:]
    stores = [_last_store(steps, i, area, line) for line in range(first, first + lines)]
    last = max((at for at in stores if at is not None), default=None)
    tasks = {steps[i].task} if last is None else {steps[i].task, steps[last].task}
    since = 0 if last is None else steps[last].t
    machine = replayed(arch, frames, steps, i, lambda step: step.task in tasks and step.t >= since)
    for cpu in machine.states():
        if any(va == area.va and not perm.endswith("-x") for va, _, perm in cpu.tlb):
            return {"refusing"}
    mine = {CPUS[task] for task in tasks}
    others = [worlds for number, worlds in enumerate(machine.worlds) if number not in mine]
    if arch == "arm64" and any(area.va in cpu.refused for worlds in others for cpu in worlds.values()):
        return {"refused"}
    return {"right"}


def _published(arch: str, frames: Sequence[int], steps: Sequence[Step], i: int, area: Any) -> set[str]:
    machine = replayed(arch, frames, steps, i, lambda _: False)
    perm = machine.table[area.va][1]
    for cpu in machine.states():
        if any(tenant is area and old.startswith("rw") for _, tenant, old in cpu.tlb) and not perm.startswith("rw"):
            return {"downgrade"}
    return {"flushed"}


def _remapped(arch: str, frames: Sequence[int], steps: Sequence[Step], i: int) -> set[str]:
    area, perm = steps[i].args
    machine = replayed(arch, frames, steps, i + 1, lambda _: False)
    held = {(tenant, old) for cpu in machine.states() for va, tenant, old in cpu.tlb if va == area.va}
    found = set()
    if perm != "none" and any(tenant is not area for tenant, _ in held):
        found.add("reused")
    mine = {old for tenant, old in held if tenant is area}
    if perm != "rw-x" and any(one.startswith("rw") and other.endswith("-x") for one in mine for other in mine - {one}):
        found.add("overlap")
    return found


def _inside(steps: Sequence[Step]) -> set[str]:
    """Follow readers: who came in leaves only because a grace period that began later has ended."""
    found: set[str] = set()
    published: dict[int, tuple[Any, int, int, bool]] = {}
    inside: dict[int, set[int]] = {}
    waits: list[dict[int, set[int]]] = []
    visit = 0
    for step in steps:
        for number, (_, _, _, open_) in published.items():
            if open_:
                visit += 1
                inside[number].add(visit)
        if step.what == "reach":
            published[step.number] = (*step.args, True)
            inside[step.number] = {visit := visit + 1}
        elif step.what == "unreach":
            published[step.number] = (*published[step.number][:3], False)
        elif step.what == "gp-begin":
            waits.append({number: set(readers) for number, readers in inside.items()})
        elif step.what == "gp-end":
            for number, readers in waits.pop().items():
                if number in inside:
                    inside[number] -= readers
        for number, (area, first, lines, open_) in list(published.items()):
            if _destroys(step, area, first, lines):
                found.add("reachable" if open_ else "inside" if inside[number] else "empty")
                del published[number], inside[number]
    return found


def _destroys(step: Step, area: Any, first: int, lines: int) -> bool:
    if step.what == "store":
        target, start, n, _ = step.args
        return target is area and start < first + lines and first < start + n
    return step.what == "map" and step.args[0] is area and not step.args[1].endswith("-x")
