"""Locks: FIFO hand-over, released without an event, and who held what for whom.

A release is a point of the holder's plan, which may lie ahead; others see the lock free once that point has happened.
A waiter that finds the holder on a CPU spins (mutex_optimistic_spin, qspinlock) and sleeps otherwise, so its CPU stays
its own in the first case and turns to other work in the second. Who spins on a mutex goes to sleep as soon as another
task is ready on its CPU.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from execbench.sim.engine import Engine, Event, Proc

if TYPE_CHECKING:
    from execbench.sim.cpu import Cpu
    from execbench.sim.probe import Probe
    from execbench.sim.task import Task


@dataclass(frozen=True, slots=True)
class LockKind:
    """A declaration: the lock's name in the kernel, whether its waiters may sleep, and where it is defined."""

    name: str
    kind: str
    source: str


class Hold:
    """One holder's time with the lock: context manager, so that `with (yield from lock.acquire(task)):` reads well."""

    __slots__ = ("at", "base", "cpu", "in_verb", "lock", "site", "since", "task", "work")

    def __init__(self, lock: Lock, task: Task, since: int) -> None:
        """`task` owns the lock since `since` (ns)."""
        self.lock = lock
        self.begin(task, since)

    def begin(self, task: Task, since: int) -> None:
        """Serve `task` from `since` on; an object whose hold is over and known to nobody serves again."""
        self.task = task
        self.since = since
        self.site = task.site
        self.in_verb = task.verbs > 0
        self.cpu: Cpu = task.cpu
        self.work = -1
        self.base: int | None = None
        self.at = -1

    def __enter__(self) -> Hold:
        """Nothing to do: the lock is held since the acquire."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release at this point of the plan; no time passes and no event is made unless somebody waits."""
        cpu = self.cpu
        self.work, self.base = cpu.owed, cpu.masked_from
        if self.work or cpu.log:
            cpu.holds.append(self)
        else:
            self.at = cpu.t0
        if self.lock.waiters:
            self.lock.hand_over_at(self)

    def released_at(self) -> int:
        """Return when the lock is (or was) released, as far as is known now; -1 while no release is planned."""
        if self.at >= 0 or self.work < 0:
            return self.at
        return self.cpu.moment(self.work, self.base)

    def over(self) -> bool:
        """Say whether the release has happened."""
        if self.at >= 0 or self.work < 0:
            return self.at >= 0
        return self.lock.engine.happened(self.cpu.moment(self.work, self.base), self.cpu.key)


class Waiter:
    """A task in the queue of a lock."""

    __slots__ = ("event", "spins", "task")

    def __init__(self, task: Task, event: Event, spins: bool) -> None:
        """`event` happens when the lock is handed over; spins = the task keeps its CPU until then."""
        self.task = task
        self.event = event
        self.spins = spins


class Lock:
    """A FIFO lock with its own account of waits and holds (ns)."""

    __slots__ = (
        "acquisitions", "blame", "contended", "engine", "handoff_ns", "hold", "hold_ns", "kind", "probe", "wait_max_ns",
        "wait_ns", "waiters",
    )  # fmt: skip

    def __init__(self, kind: LockKind, engine: Engine, probe: Probe, handoff_ns: int) -> None:
        """`handoff_ns`: what a waiter pays to see the lock free (the cache line moves)."""
        self.kind = kind
        self.engine = engine
        self.probe = probe
        self.handoff_ns = handoff_ns
        self.hold: Hold | None = None
        self.waiters: deque[Waiter] = deque()
        self.acquisitions = self.contended = self.wait_ns = self.wait_max_ns = self.hold_ns = 0
        self.blame: dict[str, int] = {}

    def acquire(self, task: Task) -> Proc[Hold]:
        """Own the lock: at once if it is free, else behind everybody who came before."""
        if not task.cpu.pass_quietly():
            yield from task.settle_by_events()
        self.acquisitions += 1
        hold = self.hold
        if hold is not None and hold.at >= 0 and not self.waiters:
            self._account(hold, hold.at)
            hold.begin(task, self.engine.now)
            return hold
        self.sync()
        if self.hold is None:
            self.hold = hold = Hold(self, task, self.engine.now)
            return hold
        return (yield from self._contend(task, self.hold))

    def _contend(self, task: Task, holder: Hold) -> Proc[Hold]:
        engine, begin, cpu = self.engine, self.engine.now, task.cpu
        self.contended += 1
        on_cpu = holder.cpu.task is holder.task and not cpu.ready
        waiter = Waiter(task, engine.event(), on_cpu or self.kind.kind == "spinlock")
        self.waiters.append(waiter)
        if len(self.waiters) == 1 and holder.released_at() >= 0:
            self.hand_over_at(holder)
        if not waiter.spins:
            task.go_to_sleep()
        elif self.kind.kind != "spinlock":
            cpu.spinner = waiter
        yield waiter.event
        now = engine.now
        waited = now - begin
        self.wait_ns += waited
        self.wait_max_ns = max(self.wait_max_ns, waited)
        self.blame[holder.site] = self.blame.get(holder.site, 0) + waited
        if holder.in_verb and not task.verbs and task.op is not None:
            task.op.blamed_ns += waited
        if self.probe.wait is not None:
            self.probe.wait(begin, now, task, "lock", self.kind.name, holder.site, holder.in_verb)
        if waiter.spins:
            cpu.spinner = None
            cpu.start_plan()
            cpu.spend(self.handoff_ns)
        else:
            yield from task.come_back()
        assert self.hold is not None
        return self.hold

    def hand_over_at(self, hold: Hold) -> None:
        """Give the lock to the first waiter when the planned release of `hold` happens."""
        if hold.over():
            self._hand_over(hold)
        else:
            self.engine.call_at(hold.released_at(), hold.cpu.key, lambda: self._due(hold))

    def _due(self, hold: Hold) -> None:
        """The release was expected now; an interrupt may have moved it, or somebody who came now has seen it."""
        if self.hold is hold:
            self.hand_over_at(hold)

    def _hand_over(self, hold: Hold) -> None:
        now = self.engine.now
        self._account(hold, now)
        waiter = self.waiters.popleft()
        self.hold = Hold(self, waiter.task, now)
        self.engine.schedule(waiter.event, now, waiter.task.resume_key)

    def _account(self, hold: Hold, end: int) -> None:
        self.hold_ns += end - hold.since
        if self.probe.hold is not None:
            self.probe.hold(hold.since, end, hold.task, self.kind.name, hold.site)

    def sync(self) -> None:
        """Let a release that has happened take effect: the next waiter owns the lock, or nobody does."""
        hold = self.hold
        if hold is None or not hold.over():
            return
        if self.waiters:
            self._hand_over(hold)
        else:
            self._account(hold, hold.released_at())
            self.hold = None
