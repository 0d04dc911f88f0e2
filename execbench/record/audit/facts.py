"""The facts of a replication as they were told, in the order in which they happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

KEPT: Final = (
    "alias", "fetch", "flush", "freed", "icache", "map", "reach", "serialize", "store", "unreach", "verb", "window",
)  # fmt: skip
"""Events of a task's plan that the audit keeps; `verb` is told by execbench.replay, the others by the facade."""

GENERATION: Final = "text_generation"
"""The primitive by which a writer asks every CPU to synchronize on its next entry (execbench.kernel.sync)."""


class Fact(NamedTuple):
    """One fact: when (ns), who (None: the machine), what, and its fields as execbench.sim.probe lists them.

    `order` is the order of telling: of two facts of one nanosecond the one told first was first in its task's plan.
    """

    t: int
    order: int
    event: str
    task: Any
    fields: tuple[Any, ...]


class FactLog:
    """A sink of the probe that keeps facts; times are certain when they are told, but not told in their order."""

    def __init__(self) -> None:
        """Hear nothing before it is attached."""
        self._facts: list[Fact] = []
        for event in KEPT:
            setattr(self, event, self._hearer(event))

    def _hearer(self, event: str) -> Any:
        facts = self._facts

        def hear(t: int, task: Any, *fields: Any) -> None:
            facts.append(Fact(t, len(facts), event, task, fields))

        return hear

    def gp(self, t: int, flavour: str, seq: int, what: str, n: int) -> None:
        """Keep the begin and the end of a grace period."""
        if what in ("start", "end"):
            self._facts.append(Fact(t, len(self._facts), "gp", None, (flavour, what)))

    def call(self, t: int, task: Any, primitive: str, units: int) -> None:
        """Keep the one primitive that promises something and is no fact by itself."""
        if primitive == GENERATION:
            self._facts.append(Fact(t, len(self._facts), "entry", task, ()))

    def __len__(self) -> int:
        """Return the number of facts."""
        return len(self._facts)

    def __iter__(self) -> Iterator[Fact]:
        """Yield all facts by time; facts of one time in the order in which they were told."""
        return iter(sorted(self._facts, key=lambda fact: (fact.t, fact.order)))
