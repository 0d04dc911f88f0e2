"""Tasks: whoever runs on a CPU (a client's thread, a kworker, a caller of a grace period)."""

from __future__ import annotations

from typing import Any, Protocol

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Class, Engine, Event, Proc, event_key


def _nothing() -> Proc[None]:
    return
    yield


_DONE = _nothing()
"""What there is to wait for when nothing is: a process that has ended, so that no new one is made for it."""
list(_DONE)


class Watcher(Protocol):
    """Who wants to know when a task gives up its CPU to wait, and when it has it again (PF_WQ_WORKER)."""

    def sleeping(self) -> None:
        """The task goes to sleep (kernel/workqueue.c: wq_worker_sleeping)."""

    def running(self) -> None:
        """The task runs again (kernel/workqueue.c: wq_worker_running)."""


class Task:
    """A thread bound to one CPU: it works (its CPU's plan), waits on its CPU, or sleeps and leaves it."""

    __slots__ = (
        "asleep", "cpu", "engine", "name", "op", "resume_key", "site", "switch_in_ns", "turn", "verbs", "wakeup_key",
        "watcher",
    )  # fmt: skip

    def __init__(self, name: str, cpu: Cpu, engine: Engine, switch_in_ns: int) -> None:
        """`switch_in_ns` is what it costs to get on the CPU after a sleep (try_to_wake_up and the switch)."""
        self.name = name
        self.cpu = cpu
        self.engine = engine
        self.switch_in_ns = switch_in_ns
        self.resume_key = event_key(Class.SENDER, engine.tasks)
        self.wakeup_key = event_key(Class.WAKEUP, engine.tasks)
        engine.tasks += 1
        self.turn: Event
        self.asleep: Event | None = None
        self.op: Any = None
        self.verbs = 0  # how deep inside a backend's verbs: waits that others suffer for it are charged to the API
        self.site = ""
        self.watcher: Watcher | None = None

    def run(self, body: Proc[Any]) -> Proc[None]:
        """Run `body` on the CPU from now on, then leave it."""
        yield from self.get_on()
        yield from body
        yield from self.settle()
        self.cpu.leave()

    def settle(self) -> Proc[None]:
        """Let the time of the plan pass; afterwards everything in it has happened."""
        return _DONE if self.cpu.pass_quietly() else self.settle_by_events()

    def settle_by_events(self) -> Proc[None]:
        """The general form of `settle`: interrupts move the plan, or others are due before its end."""
        cpu, engine = self.cpu, self.engine
        if cpu.calls:
            cpu.stopper.place()
        while True:
            if cpu.slice.at == engine.now:
                cpu.slice.end()
            stop = cpu.next_stop()
            if stop > engine.now:
                if not engine.try_advance(stop, cpu.key):
                    cpu.stop = engine.event_at(stop, cpu.key)
                    yield cpu.stop
                    cpu.stop = None
            elif cpu.cuts:
                cpu.cuts.pop(0)
            else:
                cpu.close_plan()
                if not cpu.calls or not cpu.stopper.place():
                    break

    def sleep_until(self, at: int) -> Proc[None]:
        """Give up the CPU until time `at` (ns), e.g. to think; an instant in the past only settles."""
        yield from self.settle()
        engine = self.engine
        if at <= engine.now:
            return
        self.go_to_sleep()
        if not engine.try_advance(at, self.wakeup_key):
            yield engine.event_at(at, self.wakeup_key)
        yield from self.come_back()

    def compute(self, ns: int) -> Proc[None]:
        """Work for `ns` in a loop with cond_resched() in it: it gives way when its slice ends (sim.slices)."""
        cpu = self.cpu
        yield from self.cond_resched()
        while ns:
            cpu.slice.compute(ns)
            yield from self.settle_by_events() if cpu.ready else self.settle()
            ns = cpu.slice.computed()
            if ns and cpu.ready:
                yield from self._give_way()

    def cond_resched(self) -> Proc[None]:
        """Give way if somebody is ready on the CPU and the slice is over; settles."""
        yield from self.settle()
        if self.cpu.slice.over():
            yield from self._give_way()

    def sched_yield(self) -> Proc[None]:
        """Give way if somebody is ready on the CPU; settles."""
        yield from self.settle()
        if self.cpu.ready:
            yield from self._give_way()

    def _give_way(self) -> Proc[None]:
        """Go behind all who are ready."""
        cpu = self.cpu
        self.turn = self.engine.event()
        cpu.ready.append(self)
        cpu.leave()
        yield self.turn
        cpu.start_plan()
        cpu.spend(self.switch_in_ns)

    def block(self) -> Proc[None]:
        """Give up the CPU until somebody calls `wake`; the plan must be settled."""
        self.go_to_sleep()
        self.asleep = self.engine.event()
        yield self.asleep
        yield from self.come_back()

    def go_to_sleep(self) -> None:
        """Leave the CPU for a wait (schedule)."""
        if self.watcher is not None:
            self.watcher.sleeping()
        self.cpu.leave()

    def come_back(self) -> Proc[None]:
        """Get the CPU again after a wait, for what that costs."""
        yield from self.get_on()
        if self.watcher is not None:
            self.watcher.running()
        self.cpu.spend(self.switch_in_ns)

    def wake(self, at: int) -> None:
        """Make a blocked task ready at time `at` (ns, now or later)."""
        event, self.asleep = self.asleep, None
        assert event is not None, f"{self.name} is not asleep"
        self.engine.schedule(event, at, self.wakeup_key)

    def get_on(self) -> Proc[None]:
        """Get the CPU, behind everybody who asked for it before."""
        cpu = self.cpu
        if not cpu.occupy(self):
            self.turn = self.engine.event()
            cpu.interrupt_spinning()
            cpu.slice.asked()
            yield self.turn
            cpu.start_plan()
