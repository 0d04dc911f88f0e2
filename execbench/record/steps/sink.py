"""The sink that writes down what a task did in the order of its program: primitives, locks around them, effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from execbench.sim.task import Task


class Step(NamedTuple):
    """One line of a path, or an effect of the line before.

    `depth` locks are held; what: "call", "take", "release", "store", "effect"; n = units of a call, bytes of a store.
    """

    depth: int
    what: str
    name: str
    n: int


@dataclass(slots=True)
class StepSink:
    """Hears what every task does; `take` hands out what one task did since the last time."""

    _steps: dict[str, list[Step]] = field(default_factory=dict)
    _depth: dict[str, int] = field(default_factory=dict)

    def call(self, at: int, task: Task, primitive: str, units: int) -> None:
        """A primitive was called."""
        self._note(task, "call", primitive, units)

    def lock(self, at: int, task: Task, name: str, kind: str, taken: bool) -> None:
        """A lock was taken, or is released."""
        if taken:
            self._note(task, "take", name, 0)
            self._depth[task.name] = self._depth.get(task.name, 0) + 1
        else:
            self._depth[task.name] -= 1
            self._note(task, "release", name, 0)

    def fact(self, at: int, task: Task, event: str, fields: tuple[Any, ...]) -> None:
        """Something came of it."""
        if event == "store" and fields[3] in ("text", "direct-map"):
            self._note(task, "store", f"store:{fields[2]}:{fields[3]}", fields[1])
        elif (effect := _effect(event, fields)) is not None:
            self._note(task, "effect", effect, 0)

    def _note(self, task: Task, what: str, name: str, n: int) -> None:
        self._steps.setdefault(task.name, []).append(Step(self._depth.get(task.name, 0), what, name, n))

    def take(self, task: str) -> list[Step]:
        """Return and forget the steps of the task called `task`."""
        return self._steps.pop(task, [])


_PERMS = {"none": "absent", "rw-nx": "RW NX", "ro-nx": "RO NX", "ro-x": "RO X", "rw-x": "RW X"}


def _effect(event: str, fields: tuple[Any, ...]) -> str | None:
    """Return a fact in words, None for what a path need not show."""
    if event == "map":
        _, _, pages, perm = fields
        return f"{pages} PTE {_PERMS[perm]}"
    if event == "alias":
        kind, _, pages, perm = fields
        return f"{kind} map: {pages} pages {perm}"
    if event == "store":
        _, size, content, through = fields
        return f"{size} B {content} through {through}"
    if event == "serialize":
        _, cpus, why = fields
        return f"serialized: {cpus} ({why})"
    if event == "icache":
        _, _, size, how = fields
        return f"I-cache: {how} {f'{size} B' if size else 'all'}"
    if event == "flush":
        _, _, pages, how, _ = fields
        return f"TLB: {f'{pages} pages' if pages else 'all'} by {how}"
    return None
