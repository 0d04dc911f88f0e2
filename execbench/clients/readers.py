"""Readers: CPUs that enter the text which another client publishes, as packets enter programs and calls probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from execbench.clients.arrivals import Arriving, Loop, Turn, loops
from execbench.clients.limits import at_least
from execbench.contract import Entry, Estimate, Proc, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.sim.dists import Dist, Exponential

COSTS = {
    "event": Entry("event", "what brings the CPU to the text: a packet, a system call, a hit probe, without the text",
                   estimate=Estimate("0.5us", "0.1us", "5us", "assumed: a system call's or a packet's way in")),
    "call": Entry("call", "execute one function of text and leave it",
                  estimate=Estimate("0.2us", "0.02us", "5us", "assumed: some tens to hundreds of instructions")),
}  # fmt: skip
"""What a reader does besides entering, one row per name under `[costs.client.readers]`."""


@dataclass(frozen=True, kw_only=True)
class Readers(Arriving):
    """Threads on CPUs of their own that take events, and enter `calls` functions of published text for each.

    Used beside a client that publishes: each function is drawn with equal chance from all text that is live then and
    kept alive by grace periods (execbench.kernel.published). What the policy of the backend under test asks of who
    enters (lazy-generation: a check, and a serialization where text was written since) is the API's share here.
    """

    name: ClassVar[str] = "readers"
    api_phases: ClassVar[frozenset[str]] = frozenset({"enter"})
    arrivals: ClassVar[frozenset[str]] = frozenset({"event"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = ()

    threads: int = 4
    think: Dist = field(default=Exponential(1e6), metadata={"unit": "time"})
    """Pause before each event: a call rate per reader of about `calls` / pause."""
    calls: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        at_least(self, 1, "calls")

    def start(self, setting: Setting) -> None:
        """Let the readers go at time 0."""
        own = loops(setting, self, "event", self.calls)
        for i, loop in enumerate(own):
            setting.spawn(f"readers/{i}", i, partial(self._reader, setting, loop))

    def _reader(self, setting: Setting, loop: Loop, k: Kernel) -> Proc[None]:
        while (turn := (yield from loop.next(k))) is not None:
            yield from self._event(setting, k, turn)
            yield from loop.done(k, turn)

    def _event(self, setting: Setting, k: Kernel, turn: Turn) -> Proc[None]:
        """One event: in under rcu_read_lock(), find the pointer and enter without sleeping, once for each call."""
        enterable = setting.shared.published.enterable
        k.begin(turn.operation, "event")
        k.task.site = "reader"
        k.spend("client.readers.event")
        for uniform in turn.row[: self.calls]:
            yield from k.settle()  # the pointer is read now, and there is text or there is not
            if not enterable:
                k.count("reader_without_text")
                continue
            k.phase("enter")
            yield from k.enter_text(enterable[int(uniform * len(enterable))])
            k.phase("run")
            k.spend("client.readers.call")
        k.end()
