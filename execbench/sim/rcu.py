"""Normal RCU: shared grace periods, jiffy-quantised scans, synchronous waiters and deferred callbacks.

Sequence rules of kernel/rcu/rcu.h:rcu_seq_snap: a request made while no grace period runs is served by the next one; a
request made while one runs must wait for the one after. The grace-period kthread (kernel/rcu/tree.c:rcu_gp_fqs_loop)
sleeps on the timer wheel, which never fires early: a timeout of n jiffies set at t fires at (t // J + n + 1) J. At
each wake-up it asks every CPU for a quiescent state. CPUs that run tasks report theirs at their own tick, which comes
before the first scan, so only passive CPUs can hold a grace period up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from execbench.sim.engine import Class, Engine, Proc, event_key

if TYPE_CHECKING:
    from execbench.sim.probe import Probe
    from execbench.sim.rng import Stream
    from execbench.sim.task import Task

_TIMER = event_key(Class.TIMER, 0)


class Holdouts(Protocol):
    """What RCU asks of the passive CPUs."""

    def gp_start(self, t: int) -> None:
        """Open the window of a grace period at `t` (ns)."""

    def scan(self, t: int) -> int:
        """Return how many passive CPUs have passed no quiescent state since then."""


@dataclass(frozen=True, slots=True)
class FlavourRules:
    """What the other flavours need besides; times in ns, which cost nothing unless a table of costs says so."""

    expedited: bool = True  # rcu_normal_after_boot is off: not so with PREEMPT_RT (kernel/rcu/update.c)
    exp_at_once: bool = False  # a task that is not preempted, but in no reader, does not delay rcu_exp_handler's report
    tasks: bool = True  # CONFIG_TASKS_RCU: else call_rcu_tasks and synchronize_rcu_tasks are plain RCU's
    lazy: bool = True  # callbacks wait for company (kernel/rcu/tasks.h: call_rcu_tasks_generic, lazy_jiffies)
    rude: bool = True  # synchronize_rcu_tasks_rude waits at all
    trace: Literal["holdouts", "srcu"] = "holdouts"
    holdout: float = 0.0  # chance that a scan of the task list finds a task that has not switched voluntarily
    exp_gp_ns: int = 0  # expedited: funnel, kworkers, selection of CPUs
    exp_handler_ns: int = 0  # rcu_exp_handler on a target, with entry and exit of the interrupt
    handler_ns: int = 0  # an interrupt that looks at the current task, with entry and exit
    flight_ns: int = 0  # from sending an interrupt until its handler starts
    switch_ns: int = 0  # a context switch
    scan_ns: int = 0  # one scan of the task list
    wakeup_ns: int = 0  # waking a kthread


@dataclass(frozen=True, slots=True)
class RcuRules:
    """What a release and its configuration fix; times in ns."""

    jiffy_ns: int
    first_fqs: int  # jiffies from the start of a grace period to the first scan
    next_fqs: int  # jiffies between scans
    wake_from_gp: bool  # rcu_normal_wake_from_gp: the kthread wakes waiters itself, no callback is needed
    direct_wakes: int  # waiters that the kthread wakes itself (SR_MAX_USERS_WAKE_FROM_GP), the rest by a worker
    init_ns: int  # rcu_gp_init with the kthread's wake-up
    cleanup_ns: int  # rcu_gp_cleanup
    wake_ns: int  # waking one waiter
    worker_ns: int  # getting the worker to run that wakes the rest
    second_scan: float  # chance that the first scan of a grace period finds a holdout for a reason outside the model
    flavours: FlavourRules = FlavourRules()

    @property
    def hz(self) -> int:
        """Return the jiffies of a second."""
        return 1_000_000_000 // self.jiffy_ns


class Rcu:
    """The grace-period kthread, its waiters, and the callback lists of the CPUs."""

    def __init__(
        self, engine: Engine, probe: Probe, cpus: Holdouts, rules: RcuRules, chance: Stream, ticks: Stream
    ) -> None:
        """`ticks` gives the jiffies of this replication a random phase; every CPU ticks with them (skew_tick=0)."""
        self.engine = engine
        self.probe = probe
        self.cpus = cpus
        self.rules = rules
        self._chance = chance
        self._phase = int(ticks.u() * rules.jiffy_ns)
        self.completed = 0
        self.running = False
        self._starting = False
        self._first_scan = False
        self._waiters: dict[int, list[Task]] = {}
        self._batches: dict[int, list[tuple[int, list[Callable[[], None]]]]] = {}
        self._fresh: dict[int, list[Callable[[], None]]] = {}
        self.grace_periods = 0
        self.scans = 0
        self.started_at = 0
        self.log: list[tuple[int, int]] | None = None

    # --- jiffies ----------------------------------------------------------------------------------------------------

    def next_tick(self, after: int) -> int:
        """Return the first tick strictly after `after` (ns)."""
        jiffy, phase = self.rules.jiffy_ns, self._phase
        return (after - phase) // jiffy * jiffy + jiffy + phase

    def _timeout(self, now: int, jiffies: int) -> int:
        jiffy, phase = self.rules.jiffy_ns, self._phase
        return ((now - phase) // jiffy + jiffies + 1) * jiffy + phase

    # --- requests ---------------------------------------------------------------------------------------------------

    def snap(self) -> int:
        """Return the number of the grace period whose end serves a request made now (rcu_seq_snap)."""
        return self.completed + (2 if self.running else 1)

    def synchronize(self, task: Task) -> Proc[None]:
        """Block `task` until a grace period that starts after now has ended (synchronize_rcu).

        With rcu_normal_wake_from_gp the request kicks the kthread at once (start_poll_synchronize_rcu); without it the
        waiter is a callback like any other (call_rcu_hurry), noticed and invoked at ticks.
        """
        yield from task.settle()
        now = self.engine.now
        if self.rules.wake_from_gp:
            self._waiters.setdefault(self._request(), []).append(task)
        else:
            self.call(task.cpu.id, lambda: task.wake(self.engine.now), now)
        yield from task.block()
        if self.probe.wait is not None:
            self.probe.wait(now, self.engine.now, task, "gp", "rcu", "", False)

    def call(self, cpu: int, callback: Callable[[], None], at: int) -> None:
        """Queue `callback` on `cpu` at `at` (ns); it runs at its first tick after a full grace period (call_rcu).

        The CPU notices new callbacks, and the end of their grace period, at its tick (rcu_sched_clock_irq: rcu_core).
        """
        fresh = self._fresh.get(cpu)
        if fresh is None:
            self._fresh[cpu] = fresh = []
            self.engine.call_at(self.next_tick(at), _TIMER + cpu + 1, lambda: self._accelerate(cpu))
        fresh.append(callback)

    def _accelerate(self, cpu: int) -> None:
        fresh = self._fresh.pop(cpu)
        self._batches.setdefault(self._request(len(fresh)), []).append((cpu, fresh))

    def _request(self, n: int = 1) -> int:
        target = self.snap()
        if self.probe.gp is not None:
            self.probe.gp(self.engine.now, "rcu", target, "request", n)
        if not self.running and not self._starting:
            self._starting = True
            self.engine.call_at(self.engine.now + self.rules.init_ns, _TIMER, self._start)
        return target

    # --- the kthread ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        now = self.engine.now
        self._starting, self.running, self.started_at = False, True, now
        self._first_scan = True
        self.grace_periods += 1
        self.cpus.gp_start(now)
        if self.probe.gp is not None:
            self.probe.gp(now, "rcu", self.completed + 1, "start", 0)
        self.engine.call_at(self._timeout(now, self.rules.first_fqs), _TIMER, self._scan)

    def _scan(self) -> None:
        now = self.engine.now
        self.scans += 1
        holdouts = self.cpus.scan(now)
        if self._first_scan:
            self._first_scan = False
            holdouts += self._chance.u() < self.rules.second_scan
        if self.probe.gp is not None:
            self.probe.gp(now, "rcu", self.completed + 1, "scan", holdouts)
        if holdouts:
            self.engine.call_at(self._timeout(now, self.rules.next_fqs), _TIMER, self._scan)
        else:
            self.engine.call_at(now + self.rules.cleanup_ns, _TIMER, self._end)

    def _end(self) -> None:
        now = self.engine.now
        self.completed += 1
        self.running = False
        if self.log is not None:
            self.log.append((self.started_at, now))
        waiters = self._waiters.pop(self.completed, [])
        if self.probe.gp is not None:
            self.probe.gp(now, "rcu", self.completed, "end", len(waiters))
        self._wake(waiters, now)
        for cpu, callbacks in self._batches.pop(self.completed, []):
            self.engine.call_at(self.next_tick(now), _TIMER + cpu + 1, _all_of(callbacks))
        if self._waiters or self._batches:
            self._start()  # the kthread is awake: rcu_gp_init starts the sequence before a waiter just woken can ask

    def _wake(self, waiters: list[Task], now: int) -> None:
        """Wake the latest few from the kthread, the others by a worker behind them (rcu_sr_normal_gp_cleanup)."""
        rules = self.rules
        for position, task in enumerate(reversed(waiters), 1):
            worker = rules.worker_ns if position > rules.direct_wakes else 0
            task.wake(now + position * rules.wake_ns + worker)


def _all_of(callbacks: list[Callable[[], None]]) -> Callable[[], None]:
    def run() -> None:
        for callback in callbacks:
            callback()

    return run
