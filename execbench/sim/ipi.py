"""Inter-processor interrupts: one round of function calls on many CPUs and the wait for the slowest of them.

Mirrors kernel/smp.c:smp_call_function_many_cond with wait=1: the sender queues one call per target, raises the
interrupts, runs its own part with interrupts off and spins until every target has acknowledged. A round costs the
simulation one event for the sender and one per *active* target, whatever the number of passive ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from execbench.sim.engine import Class, Engine, Event, Proc, event_key

if TYPE_CHECKING:
    from execbench.sim.cpu import Background, Cpu
    from execbench.sim.locks import Lock
    from execbench.sim.passive import Until, Who
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

    def all_arrived(self, t: int) -> bool:
        """Say whether the last acknowledgement has come by `t` (ns, not ahead)."""
        return not self.waiting and self.done_at <= t


class Interrupts:
    """Sends rounds to every CPU of the machine but the sender's."""

    __slots__ = ("active", "background", "engine", "rounds")

    def __init__(self, engine: Engine, background: Background, active: list[Cpu]) -> None:
        """`active` are the CPUs that may ever host a task."""
        self.engine = engine
        self.background = background
        self.active = active
        self.rounds = 0

    def send(self, sender: Cpu, handler_ns: int, flight_ns: int, who: Who = "all", until: Until = "unmasked") -> Round:
        """Enqueue a call of `handler_ns` on every other CPU now; a running target starts on it after `flight_ns`.

        No flight is shorter than 1 ns: a target's interrupts of this nanosecond have been taken before the send.
        who="busy" spares CPUs in an extended quiescent state, "kernel" those in nohz_full user mode; one that runs a
        task is in neither. until="preemptible" calls a thread, which on such a CPU runs as execbench.sim.stopper says;
        "at-once" cannot be masked.
        """
        engine = self.engine
        flight_ns = max(flight_ns, 1)
        round_ = self._round(sender)
        due = engine.now + flight_ns
        for cpu in self.active:
            if cpu.task is not None and cpu is not sender:
                round_.expect(1)
                deliver: Callable[[], None] = _delivery(cpu, handler_ns, round_, until == "at-once")
                if until == "preemptible":
                    deliver = partial(cpu.deliver_thread, handler_ns, round_, False)
                engine.call_at(due, event_key(Class.INTERRUPT, cpu.id), deliver)
        if who == "all" and until == "unmasked":
            self.background.send(engine.now, handler_ns, flight_ns, round_)
        else:
            self.background.send(engine.now, handler_ns, flight_ns, round_, None, who, until)
        return round_

    def count(self, sender: Cpu, who: Who) -> int:
        """Return how many other CPUs a call to `who` would go to now."""
        active = sum(cpu.task is not None and cpu is not sender for cpu in self.active)
        return active + self.background.count(self.engine.now, who)

    def _round(self, sender: Cpu) -> Round:
        assert sender.task is not None
        self.rounds += 1
        return Round(self.engine, sender.task.resume_key)

    def wait(self, task: Task, round_: Round, preemptible: bool = False) -> Proc[None]:
        """Spin until every target has acknowledged; the sender's own plan must be settled.

        preemptible: a thread may get the CPU meanwhile (releases that wait behind put_cpu()).
        """
        engine, cpu = self.engine, task.cpu
        cpu.pinned = not (preemptible and cpu.stopper.preempts)
        if round_.waiting:
            round_.waiter = engine.event()
            yield round_.waiter
        elif round_.done_at > engine.now and not engine.try_advance(round_.done_at, round_.key):
            yield engine.event_at(round_.done_at, round_.key)
        cpu.pinned = False
        cpu.start_plan()

    def send_to(
        self, sender: Cpu, targets: Sequence[Cpu], handler_ns: int, flight_ns: int, at_once: bool = False
    ) -> Round:
        """As `send`, to these other active CPUs only (smp_call_function_many_cond over the CPUs of one mm)."""
        engine = self.engine
        assert sender.task is not None
        round_ = Round(engine, sender.task.resume_key)
        self.rounds += 1
        round_.expect(len(targets))
        due = engine.now + max(flight_ns, 1)
        for cpu in targets:
            engine.call_at(due, event_key(Class.INTERRUPT, cpu.id), _delivery(cpu, handler_ns, round_, at_once))
        return round_

    # --- stopping everybody -------------------------------------------------------------------------------------------

    def stop(self, sender: Cpu, switch_ns: int, flight_ns: int) -> Round:
        """Send the stopper to every other CPU; the round is over when all are in its loop with interrupts off.

        The stopper arrives `switch_ns` after it got the CPU. Nobody else may stop the machine before `release`.
        """
        engine = self.engine
        switch_ns, flight_ns = max(switch_ns, 1), max(flight_ns, 1)
        round_ = self._round(sender)
        due = engine.now + flight_ns
        for cpu in self.active:
            if cpu.task is None:
                cpu.parked = True
            elif cpu is not sender:
                round_.expect(1)
                deliver = partial(cpu.deliver_thread, switch_ns, round_, True)
                engine.call_at(due, event_key(Class.INTERRUPT, cpu.id), deliver)
        self.background.stop(engine.now, switch_ns, flight_ns, round_)
        return round_

    def release(self, ns: int) -> None:
        """Let all CPUs go now; each does `ns` more (1 at least: they see it no sooner)."""
        now, ns = self.engine.now, max(ns, 1)
        self.background.release(now, ns)
        for cpu in self.active:
            if cpu.held:
                cpu.stopper.release(ns)
            elif cpu.parked:
                cpu.unpark()

    def watch(self, locks: Iterable[Lock]) -> None:
        """Let no thread get a CPU whose task holds one of `locks` that is a spinlock, or spins on it."""
        for cpu in self.active:
            cpu.stopper.locks = locks


class _delivery:  # noqa: N801 - reads as the action it is
    """Deliver one call to an active CPU; an object, because a closure per target costs more."""

    __slots__ = ("at_once", "cpu", "ns", "round")

    def __init__(self, cpu: Cpu, ns: int, round_: Round, at_once: bool) -> None:
        self.at_once = at_once
        self.cpu = cpu
        self.ns = ns
        self.round = round_

    def __call__(self) -> None:
        self.cpu.deliver(self.ns, self.round, self.at_once)
