"""The sink that writes down what a task did in the order of its program: primitives, locks around them, effects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from execbench.kernel.locks import READER
from execbench.record.steps.mappings import Mappings
from execbench.sim.memory import VmArea
from execbench.sim.task import Task

USER_TOP: Final = 1 << 47
"""First byte address above user space on all architectures modelled here."""
GONE: Final = " gone"
"""What is said of a writable alias that was and is no more."""


class Step(NamedTuple):
    """One line of a path, or an effect of a line before.

    `depth` locks are held; what: "call", "take", "release", "line" (a fact that is a step of its own), "effect"; n =
    units of a call, pages or bytes of a line; text: what the line or the effect says; cause: the primitive that an
    effect comes from, if the fact names it; irqs_off: interrupts are off on this CPU.
    """

    depth: int
    what: str
    name: str
    n: int = 0
    text: str = ""
    cause: str = ""
    irqs_off: bool = False


@dataclass(slots=True)
class StepSink:
    """Hears what every task does; `take` hands out what one task did since the last time."""

    mappings: Mappings = field(default_factory=Mappings)
    _steps: dict[str, list[Step]] = field(default_factory=dict)
    _idle: dict[str, list[bool]] = field(default_factory=dict)

    def spend(self, at: int, task: Task, cost: str, n: int, ns: int) -> None:
        """The task worked: a lock that is held meanwhile is not let go at once."""
        held = self._idle.get(task.name)
        if held and held[-1]:
            held[:] = [False] * len(held)

    def call(self, at: int, task: Task, primitive: str, units: int) -> None:
        """A primitive was called."""
        self._note(task, "call", primitive, units)

    def lock(self, at: int, task: Task, name: str, kind: str, taken: bool) -> None:
        """A lock was taken, or is released; the units of the release say whether the task worked meanwhile."""
        name = f"fact:{name}:read" if kind == READER else name
        if taken:
            self._note(task, "take", name)
            self._idle.setdefault(task.name, []).append(True)
        else:
            idle = self._idle[task.name].pop()
            self._note(task, "release", name, 0 if idle else 1)

    def wait(self, t0: int, t1: int, task: Task, kind: str, what: str, site: str, in_verb: bool) -> None:
        """The task has waited: a grace period says so only then."""
        if kind == "gp":
            self._note(task, "effect", "wait", text=f"waited for a grace period ({what})")

    def fact(self, at: int, task: Task, event: str, fields: tuple[Any, ...]) -> None:
        """Something came of it."""
        match event:
            case "map":
                self._map(task, *fields)
            case "alias":
                _, pfn, pages, perm = fields
                self._note(task, "line", "fact:direct_map", pages, self.mappings.alias(pfn, pages, perm))
            case "store":
                self._store(task, *fields)
            case "window":
                kind, _, size, opened = fields
                what, name = ("line", "fact:user.alias") if kind == "user" else ("effect", "window")
                self._note(task, what, name, size, f"W alias ({kind})" if opened else f"W alias ({kind}){GONE}")
            case "freed":
                (area,) = fields
                self.mappings.forget(area)
                self._note(task, "line", f"fact:{_space(area)}free_pages", area.pages)
            case "flush" | "serialize" | "icache":
                self._note(task, "effect", event, text=_effect(event, fields), cause=_cause(event, fields))

    def _map(self, task: Task, area: VmArea, first: int, pages: int, perm: str) -> None:
        change = self.mappings.map(area, first, pages, perm)
        for name, n in change.entries:
            if name == "reserve" and area.window == "user":
                continue  # mmap takes no frames, or says so itself
            self._note(task, "line", f"fact:{_space(area)}{name}", n, change.text)

    def _store(self, task: Task, va: int, size: int, content: str, through: str) -> None:
        text = f"{size} B {content} through {through}"
        if through not in ("text", "direct-map", "user"):
            self._note(task, "effect", "store", size, text)
        elif 0 < va < USER_TOP and through != "direct-map":
            where = "at the final address" if through == "text" else "through the alias"
            self._note(task, "line", "fact:user.store", size, where)
        else:
            self._note(task, "line", f"fact:store:{content}:{through}", size, text)

    def _note(self, task: Task, what: str, name: str, n: int = 0, text: str = "", cause: str = "") -> None:
        step = Step(len(self._idle.get(task.name, ())), what, name, n, text, cause, task.cpu.masked_depth > 0)
        self._steps.setdefault(task.name, []).append(step)

    def tasks(self) -> Iterable[str]:
        """Names of the tasks that have done something that nobody has taken yet."""
        return tuple(name for name, steps in self._steps.items() if steps)

    def take(self, task: str) -> list[Step]:
        """Return and forget the steps of the task called `task`."""
        return self._steps.pop(task, [])


def _space(area: VmArea) -> str:
    return "user." if area.window == "user" else ""


def _effect(event: str, fields: tuple[Any, ...]) -> str:
    """Return in words what is flushed, serialized or made visible to instruction fetch, where, and by what."""
    if event == "flush":
        _, _, pages, how, _ = fields
        what = "all" if not pages else "1 page" if pages == 1 else f"{pages} pages"
        return f"TLB: {what} by {how}"
    if event == "serialize":
        _, cpus, why = fields
        return f"serialized: {cpus} ({why})"
    _, _, size, how = fields
    return f"I-cache: {how}{f' {size} B' if size else ''}"


def _cause(event: str, fields: tuple[Any, ...]) -> str:
    """Return why a CPU serializes, who flushes, by what an I-cache is maintained: all are names in the vocabulary."""
    return str(fields[{"serialize": 2, "flush": 4, "icache": 3}[event]])
