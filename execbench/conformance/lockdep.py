"""What the tasks of a run did with locks: in which order they were taken and released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from execbench.sim.task import Task

Expect = Callable[[str, bool, object], None]
"""Takes a rule, whether it holds, and what was seen."""


@dataclass(slots=True, eq=False)
class Lockdep:
    """Hears `lock` of all tasks in the order of the program; `expect` is told every rule."""

    expect: Expect
    _held: dict[str, list[str]] = field(default_factory=dict)
    _order: set[tuple[str, str]] = field(default_factory=set)
    """(lock held, lock taken) pairs."""

    def lock(self, at: int, task: Task, name: str, kind: str, taken: bool) -> None:
        """A lock was taken, or is released."""
        held = self._held.setdefault(task.name, [])
        if taken:
            self._order.update((other, name) for other in held)
            held.append(name)
            return
        self.expect("locks are released in reverse order", held[-1:] == [name], (name, tuple(held)))
        if name in held:
            del held[len(held) - 1 - held[::-1].index(name)]

    def returned(self, task: Task) -> None:
        """A task is in no verb."""
        held = self._held.get(task.name)
        self.expect("a verb returns without a lock", not held, held)

    def close(self) -> None:
        """Nobody does anything any more."""
        circle = _circle(self._order)
        self.expect("locks are taken in one order", not circle, circle)


def _circle(order: set[tuple[str, str]]) -> list[str]:
    """Return a circle among pairs, if there is one: what can wait for what, and in the end for itself."""
    following: dict[str, set[str]] = {}
    for first, second in order:
        following.setdefault(first, set()).add(second)
    for start in sorted(following):
        paths = [[start]]
        seen: set[str] = set()
        while paths:
            path = paths.pop()
            for lock in sorted(following.get(path[-1], ())):
                if lock == start:
                    return [*path, start]
                if lock not in seen:
                    seen.add(lock)
                    paths.append([*path, lock])
    return []
