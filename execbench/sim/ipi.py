"""Inter-processor interrupts: one round of function calls on many CPUs and the wait for the slowest of them.

Mirrors kernel/smp.c:smp_call_function_many_cond with wait=1: the sender queues one call per target, raises the
interrupts, runs its own part with interrupts off and spins until every target has acknowledged. A round costs the
simulation one event for the sender and one per *active* target, whatever the number of passive ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.sim.engine import Class, Engine, Event, Proc, event_key

if TYPE_CHECKING:
    from execbench.sim.cpu import Background, Cpu
    from execbench.sim.task import Task


class Round:
    """Acknowledgements of one broadcast: how many are not known yet and when the last known one comes."""

    __slots__ = ("done_at", "engine", "key", "targets", "waiter", "waiting")

    def __init__(self, engine: Engine, key: int) -> None:
        """Expect nobody yet; key ranks the event that resumes the sender."""
        self.engine = engine
        self.key = key
        self.waiting = 0
        self.targets = 0
        self.done_at = -1
        self.waiter: Event | None = None

    def expect(self, n: int) -> None:
        """Wait for `n` more acknowledgements."""
        self.waiting += n
        self.targets += n

    def acked(self, at: int, n: int = 1) -> None:
        """`n` acknowledgements are certain now, the last of them comes at `at` (ns, not in the past)."""
        self.waiting -= n
        if at > self.done_at:
            self.done_at = at
        if not self.waiting and self.waiter is not None:
            self.engine.schedule(self.waiter, max(self.done_at, self.engine.now), self.key)


class Interrupts:
    """Sends rounds to every CPU of the machine but the sender's."""

    __slots__ = ("active", "background", "engine", "rounds")

    def __init__(self, engine: Engine, background: Background, active: list[Cpu]) -> None:
        """`active` are the CPUs that may ever host a task."""
        self.engine = engine
        self.background = background
        self.active = active
        self.rounds = 0

    def send(self, sender: Cpu, handler_ns: int, flight_ns: int) -> Round:
        """Enqueue a call of `handler_ns` on every other CPU now; a running target starts on it after `flight_ns`.

        No flight is shorter than 1 ns: a target's interrupts of this nanosecond have been taken before the send.
        """
        engine = self.engine
        flight_ns = max(flight_ns, 1)
        assert sender.task is not None
        round_ = Round(engine, sender.task.resume_key)
        self.rounds += 1
        due = engine.now + flight_ns
        for cpu in self.active:
            if cpu.task is not None and cpu is not sender:
                round_.expect(1)
                engine.call_at(due, event_key(Class.INTERRUPT, cpu.id), _delivery(cpu, handler_ns, round_))
        self.background.send(engine.now, handler_ns, flight_ns, round_)
        return round_

    def wait(self, task: Task, round_: Round) -> Proc[None]:
        """Spin until every target has acknowledged; the sender's own plan must be settled."""
        engine, cpu = self.engine, task.cpu
        if round_.waiting:
            round_.waiter = engine.event()
            yield round_.waiter
        elif round_.done_at > engine.now and not engine.try_advance(round_.done_at, round_.key):
            yield engine.event_at(round_.done_at, round_.key)
        cpu.start_plan()


class _delivery:  # noqa: N801 - reads as the action it is
    """Deliver one call to an active CPU; an object, because a closure per target costs more."""

    __slots__ = ("cpu", "ns", "round")

    def __init__(self, cpu: Cpu, ns: int, round_: Round) -> None:
        self.cpu = cpu
        self.ns = ns
        self.round = round_

    def __call__(self) -> None:
        self.cpu.deliver(self.ns, self.round)
