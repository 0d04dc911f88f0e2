"""Tasks RCU, Tasks Rude and the older Tasks Trace: one kthread each, a queue of requests, slow grace periods.

kernel/rcu/tasks.h: a request wakes the kthread; grace periods follow one another with a sleep of gp_sleep between, and
what is queued meanwhile shares the next. Callbacks alone wake nobody where they are lazy: their timer does after a
quarter of a second, or the 33rd of them, or a synchronous request. One queue (rcu_task_enqueue_lim = 1 until it is
contended). Timeouts are those of the timer wheel, on PREEMPT_RT too: its hrtimer has the slack to fire at a tick.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from execbench.sim.engine import Class, Proc, event_key
from execbench.sim.rcu_kthread import Entry, GracePeriods, Kthread, Wheel, serve

if TYPE_CHECKING:
    from execbench.sim.ipi import Interrupts
    from execbench.sim.rcu import Rcu
    from execbench.sim.rng import Stream
    from execbench.sim.task import Task

_LAZY_LIMIT = 32
"""Callbacks that may wait for company (rcu_task_lazy_lim)."""
_URGENT = 3
"""Grace periods that need no timer after a synchronous request (urgent_gp)."""
_LAZY_TIMERS = event_key(Class.TIMER, 1 << 33)


class RcuTasksKthread(ABC):
    """What the flavours of kernel/rcu/tasks.h have in common; a flavour says how long its grace period lasts."""

    flavour: ClassVar[str]
    name: ClassVar[str]

    def __init__(self, rcu: Rcu, interrupts: Interrupts, wheel: Wheel, number: int) -> None:
        """`number` tells its kthread from others."""
        self.engine = rcu.engine
        self.rcu = rcu
        self.rules = rcu.rules
        self.interrupts = interrupts
        self.wheel = wheel
        self.gp_sleep = rcu.rules.hz // 10
        self.periods = GracePeriods(self.flavour, rcu.engine, rcu.probe)
        self.kthread = Kthread(self.name, number, rcu.engine, rcu.rules.flavours.wakeup_ns, self._rcu_tasks_kthread)
        self._queued = 0  # entries that have not been invoked
        self._urgent = 0
        self._waits = True  # the kthread waits for requests (cbs_wait)
        self._timer = False
        self._timer_key = _LAZY_TIMERS + number

    # --- requests ---------------------------------------------------------------------------------------------------

    def synchronize(self, task: Task) -> Proc[None]:
        """Block `task` until a grace period that starts after now has ended (synchronize_rcu_tasks_generic)."""
        yield from task.settle()
        begin = self.engine.now
        self._enqueue(task, wakeme=True)
        yield from task.block()
        self.periods.waited(task, begin)

    def call(self, callback: Callable[[], None]) -> None:
        """Invoke `callback` after a grace period that starts after now (call_rcu_tasks_generic)."""
        self._enqueue(callback, wakeme=False)

    def _enqueue(self, entry: Entry, wakeme: bool) -> None:
        if self.rules.flavours.lazy:
            wake = wakeme or self._queued == _LAZY_LIMIT
            if not wake and not self._timer:
                self._arm()
            elif wake:
                self._urgent = _URGENT
        else:
            wake = not self._queued
        self.periods.ask(entry)
        self._queued += 1
        if wake:
            self._wake()

    def _wake(self) -> None:
        if self._waits:
            self._waits = False
            self.kthread.rouse(self.engine.now)

    def _arm(self) -> None:
        self._timer = True
        at = self.wheel.timeout(self.engine.now, -(-self.rules.hz // 4))
        self.engine.call_at(at, self._timer_key, self._lazy_timer)

    def _lazy_timer(self) -> None:
        """Make callbacks that have waited long enough urgent (call_rcu_tasks_generic_timer)."""
        self._timer = False
        if self._queued:
            self._urgent = self._urgent or 1
            self._arm()
            self._wake()

    # --- the kthread ------------------------------------------------------------------------------------------------

    def _rcu_tasks_kthread(self, kthread: Kthread) -> Proc[None]:
        while True:
            yield from kthread.settle()
            while not self._need_gp():
                self._waits = True
                yield from kthread.block()
                yield from kthread.settle()
            self.periods.start()
            yield from self.wait_gp(kthread)
            yield from kthread.settle()
            entries = self.periods.end()
            serve(entries, self.engine.now, self.rules.wake_ns)
            self._queued -= len(entries)
            yield from self.sleep(kthread, self.gp_sleep)

    def _need_gp(self) -> bool:
        """Say whether what is queued wants a grace period now (rcu_tasks_need_gpcb)."""
        if not self.periods.wanted:
            return False
        if not self.rules.flavours.lazy:
            return True
        if self._urgent:
            self._urgent -= 1
            return True
        return False

    def sleep(self, kthread: Kthread, jiffies: int) -> Proc[None]:
        """Sleep on the timer wheel (schedule_timeout_idle)."""
        yield from kthread.settle()
        yield from kthread.sleep_until(self.wheel.timeout(self.engine.now, jiffies))

    @abstractmethod
    def wait_gp(self, kthread: Kthread) -> Proc[None]:
        """Live through one grace period (gp_func)."""


class TasksRcu(RcuTasksKthread):
    """Every task has switched voluntarily, been in user mode, or been idle: rcu_tasks_wait_gp.

    Whether a scan finds a task that has not is no property of CPUs: the machine states the chance, the same for every
    scan. 6.1 waits for exiting tasks by an SRCU domain that is idle otherwise, some tens of microseconds: left out.
    """

    flavour = "tasks"
    name = "rcu_tasks_kthread"

    def __init__(self, rcu: Rcu, interrupts: Interrupts, wheel: Wheel, number: int, chance: Stream) -> None:
        """`chance` draws whether a scan finds a hold-out."""
        super().__init__(rcu, interrupts, wheel, number)
        self._chance = chance

    def wait_gp(self, kthread: Kthread) -> Proc[None]:
        """rcu_tasks_pregp_step, the scan of the task list, check_all_holdout_tasks, rcu_tasks_postgp."""
        yield from self.rcu.synchronize(kthread)
        fract, hz = self.rules.hz // 10, self.rules.hz
        while (yield from self._scan(kthread)):
            yield from self.sleep(kthread, fract)
            fract = min(fract + 1, hz)
        yield from self.rcu.synchronize(kthread)

    def _scan(self, kthread: Kthread) -> Proc[bool]:
        rules = self.rules.flavours
        kthread.cpu.spend(rules.scan_ns)
        yield from kthread.settle()
        found = self._chance.u() < rules.holdout
        self.periods.scanned(int(found))
        return found


class TasksRudeRcu(RcuTasksKthread):
    """A context switch on every CPU, idle ones too: schedule_on_each_cpu of an empty work (rcu_tasks_rude_wait_gp).

    On each CPU the kworker must get to run, so not before the CPU has left spans with interrupts or preemption off.
    """

    flavour = "rude"
    name = "rcu_tasks_rude_kthread"

    def wait_gp(self, kthread: Kthread) -> Proc[None]:
        """Wait for all of them."""
        rules = self.rules.flavours
        round_ = self.interrupts.send(kthread.cpu, rules.switch_ns, rules.flight_ns, who="all", until="preemptible")
        self.periods.scanned(round_.targets)
        yield from self.interrupts.wait(kthread, round_)


class TasksTraceRcu(RcuTasksKthread):
    """Every task is outside its readers (sleepable BPF): rcu_tasks_wait_gp with the functions of Tasks Trace.

    Whoever runs on a CPU when the grace period begins is on the list of hold-outs, idle tasks too; the first pass over
    it interrupts each that still runs, a later pass finds the answer. Every CPU is interrupted: an upper bound, because
    one that turned to another task meanwhile is not. No reader is ever found: no client has sleepable programs.
    (CONFIG_TASKS_TRACE_RCU_READ_MB off: needs RCU_EXPERT.)
    """

    flavour = "trace"
    name = "rcu_tasks_trace_kthread"

    def __init__(self, rcu: Rcu, interrupts: Interrupts, wheel: Wheel, number: int) -> None:
        """Shorter sleeps than the others."""
        super().__init__(rcu, interrupts, wheel, number)
        self.gp_sleep = max(rcu.rules.hz // 200, 1)

    def wait_gp(self, kthread: Kthread) -> Proc[None]:
        """rcu_tasks_trace_pregp_step, rcu_tasks_trace_postscan, check_all_holdout_tasks_trace until none is left."""
        rules, hz = self.rules.flavours, self.rules.hz
        yield from self.rcu.synchronize(kthread)
        fract = self.gp_sleep
        yield from self.sleep(kthread, fract)
        round_ = self.interrupts.send(kthread.cpu, rules.handler_ns, rules.flight_ns, who="all", until="unmasked")
        left = round_.targets
        self.periods.scanned(left)
        while left:
            fract = min(fract + 1, hz)
            yield from self.sleep(kthread, fract)
            yield from kthread.settle()
            left = round_.waiting or int(round_.done_at > self.engine.now)
            self.periods.scanned(left)
