"""An active CPU: its plan of work, the spans with interrupts off in it, and the interrupts that arrive meanwhile.

A plan is what the current task does from `t0` on without needing anybody else: so many ns of work, of which some
stretches run with interrupts off. Handlers preempt it and move what follows: the end of `w` ns of work is the least T
with T = t0 + w + handler time taken in [t0, T]. Whoever wants to know when something in the plan happens leaves a mark
at its offset; the mark is told its time when the plan is settled, and may be asked before.

Threads that must run on the CPU for a moment, and the stopper, are execbench.sim.stopper's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from execbench.sim.engine import Class, Engine, Event, event_key
from execbench.sim.slices import FOREVER, Slice
from execbench.sim.stopper import Stopper

if TYPE_CHECKING:
    from execbench.sim.ipi import Round
    from execbench.sim.locks import Hold, Waiter
    from execbench.sim.passive import Until, Who
    from execbench.sim.task import Task

_SINCE_EARLIER = -1
"""Start of a span with interrupts off that began in a plan which is settled by now."""


class Background(Protocol):
    """What a CPU needs from the model of passive CPUs (execbench.sim.passive)."""

    def activate(self, t: int, cpu: int) -> int:
        """Return the first time at which a task can run on `cpu`, which is active from `t` on."""

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        """Take `cpu` back at `t`; handlers run on it until `busy_until`."""

    def send(
        self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None, who: Who = "all",
        until: Until = "unmasked",
    ) -> None:  # fmt: skip
        """Enqueue a call on all passive CPUs, or on one."""

    def count(self, t: int, who: Who) -> int:
        """Return how many passive CPUs a call to `who` would go to."""

    def stop(self, t: int, switch_ns: int, flight_ns: int, stop: Round, only: int | None = None) -> None:
        """Send the stopper to all passive CPUs, or to one."""

    def release(self, t: int, ns: int) -> None:
        """Let all that are stopped go."""


class Cpu:
    """A CPU that can run tasks; with no task it is passive and lives in the background model."""

    __slots__ = (
        "id", "key", "engine", "background", "task", "ready", "t0", "owed", "log", "spans", "marks", "holds", "cuts",
        "hs", "he", "splits", "masked_from", "masked_depth", "pending", "interruptions", "stolen", "spinner",
        "stop", "slice", "forced", "waits", "stopper", "calls", "held", "parked", "pinned",
    )  # fmt: skip

    def __init__(
        self, number: int, engine: Engine, background: Background, *, preempts: bool = True, slice_ns: int = FOREVER
    ) -> None:
        """Start passive. preempts: the kernel is preemptible. slice_ns: see execbench.sim.slices."""
        self.id = number
        self.key = event_key(Class.THREAD, number)
        self.engine = engine
        self.background = background
        self.task: Task | None = None
        self.ready: deque[Task] = deque()
        self.t0 = 0
        self.owed = 0
        self.log: list[tuple[int, int]] = []
        self.forced: list[tuple[int, int]] = []  # those of the log that ran although interrupts were off
        self.spans: list[tuple[int, int]] = []
        self.marks: list[tuple[int, int | None, Callable[[int], None]]] = []
        self.holds: list[Hold] = []  # locks that the plan releases
        self.cuts: list[int] = []
        self.splits = not engine.merge
        self.hs = self.he = -1
        self.waits = False  # the last booked handlers wait for interrupts to be on
        self.masked_from: int | None = None
        self.masked_depth = 0
        self.pending: list[tuple[int, int, Round]] = []
        self.interruptions = 0
        self.stolen = 0
        self.stop: Event | None = None  # at which the current task finds its plan done
        self.slice = Slice(self, slice_ns)
        self.spinner: Waiter | None = None  # the current task's wait for a mutex, if it spins
        self.stopper = Stopper(self, preempts)
        self.calls = self.stopper.calls  # to threads that wait for this CPU
        self.held = False  # the stopper keeps the CPU, `he` is no more than a bound
        self.parked = False  # the stopper has been sent to it while it is passive: nobody gets it before the release
        self.pinned = False  # the task waits for its calls on other CPUs, and is not preempted

    # --- the plan ---------------------------------------------------------------------------------------------------

    def start_plan(self) -> None:
        """Begin an empty plan now, behind a handler that is still running."""
        now = self.engine.now
        if self.held:
            self.stopper.stretch()
        self.t0 = now
        self.log = [(now, self.he - now)] if self.he > now else []
        self.forced = [] if self.masked_from is None else list(self.log)

    def spend(self, ns: int) -> None:
        """Add work to the plan; no time passes yet."""
        self.owed += ns
        if self.splits:
            self.cut()

    def cut(self) -> None:
        """Let the plan be settled up to here by an event of its own (the unmerged form)."""
        if not self.cuts or self.cuts[-1] < self.owed:
            self.cuts.append(self.owed)

    def time_of(self, work: int) -> int:
        """Return when `work` ns of the plan are done, as far as is known now; a handler goes first at a tie."""
        if self.held:
            self.stopper.stretch()
        at = self.t0 + work
        for taken, ns in self.log:
            if taken > at:
                break
            at += ns
        return at

    def moment(self, work: int, base: int | None) -> int:
        """Return when the mark at `work` happens; base = where the span with interrupts off around it starts."""
        if base is None:
            return self.time_of(work)
        since, at = self.t0 - 1, self.t0 + work
        if base != _SINCE_EARLIER:
            since = self.time_of(base)
            at = since + work - base
        for taken, ns in self.forced:
            if taken > at:
                break
            if taken > since:
                at += ns
        return at

    def mark(self, tell: Callable[[int], None]) -> None:
        """Call `tell(t)` with the time of this point of the plan as soon as it is certain."""
        if self.owed == 0 and not self.log:
            tell(self.t0)
        else:
            self.marks.append((self.owed, self.masked_from, tell))

    def next_stop(self) -> int:
        """Return the time up to which the plan can be settled in one go (every cost by itself when unmerged)."""
        work, base = self.owed, self.masked_from
        if self.cuts:
            work = self.cuts[0]
            base = base if base is not None and base <= work else self._span_around(work)
        pause, at = self.slice.at, self.moment(work, base)
        return at if pause is None or at < pause else pause

    def _span_around(self, work: int) -> int | None:
        return next((w0 for w0, w1 in self.spans if w0 < work < w1), None)

    def pass_quietly(self) -> bool:
        """Settle at once if nothing disturbs the plan and nothing else is due before its end; say whether it did.

        The common case of `Task.settle` and `close_plan` together, without their generality.
        """
        if self.log or self.cuts or self.masked_from is not None or self.calls:
            return False
        owed = self.owed
        if not owed:
            return True
        t0 = self.t0
        if not self.engine.try_advance(t0 + owed, self.key):
            return False
        if self.marks:
            for work, _, tell in self.marks:
                tell(t0 + work)
            self.marks.clear()
        if self.holds:
            for hold in self.holds:
                hold.at = t0 + hold.work
            self.holds.clear()
        if self.spans:
            self.spans.clear()
        self.owed = 0
        self.t0 = t0 + owed
        return True

    def close_plan(self) -> None:
        """Tell every mark its time: the plan is done now."""
        for work, base, tell in self.marks:
            tell(self.moment(work, base))
        for hold in self.holds:
            hold.at = self.moment(hold.work, hold.base)
        self.marks.clear()
        self.holds.clear()
        self.spans.clear()
        self.cuts.clear()
        self.log.clear()
        self.forced.clear()
        self.owed = 0
        self.t0 = self.engine.now
        if self.masked_from is not None:
            self.masked_from = _SINCE_EARLIER

    # --- interrupts -------------------------------------------------------------------------------------------------

    def mask(self) -> None:
        """Turn interrupts off from this point of the plan (local_irq_save)."""
        self.masked_depth += 1
        if self.masked_depth == 1:
            self.masked_from = self.owed

    def unmask(self) -> None:
        """Turn interrupts on again; what waited is taken at this point of the plan."""
        self.masked_depth -= 1
        if self.masked_depth:
            return
        start, self.masked_from = self.masked_from, None
        assert start is not None
        if self.owed > max(start, 0):
            self.spans.append((start, self.owed))
        if self.pending:  # they arrived in an earlier plan or during a wait, so the span began before this plan
            waiting, self.pending = self.pending, []
            at = self.moment(self.owed, start)
            for i, (arrived, ns, round_) in enumerate(waiting):
                self._arrive(arrived if i else max(arrived, self.hs), at, ns, round_)

    def deliver(self, ns: int, round_: Round, at_once: bool = False) -> None:
        """An interrupt with `ns` of handler work arrives now: preempt the plan, or wait until interrupts are on.

        at_once: it does not wait. Where handlers are booked that do, it moves nothing, and runs beside the plan.
        """
        now = self.engine.now
        if self.task is None:
            round_.waiting -= 1
            round_.targets -= 1
            if at_once:
                self.background.send(now, ns, 0, round_, self.id, until="at-once")
            else:
                self.background.send(now, ns, 0, round_, self.id)
            return
        if at_once:
            self._force(now, ns, round_)
            return
        if self.held:
            self.stopper.meanwhile(ns, round_)
            return
        at = self.first_unmasked(now)
        if at is None:
            self.pending.append((now, ns, round_))
        else:
            self._arrive(now, at, ns, round_)

    def deliver_thread(self, ns: int, round_: Round, stops: bool) -> None:
        """A thread is woken for `ns` of work on this CPU; `stops`: it keeps the CPU until the release."""
        now = self.engine.now
        if self.task is not None:
            self.stopper.call(ns, round_, stops)
            return
        round_.waiting -= 1
        round_.targets -= 1
        if stops:
            self.parked = True
            self.background.stop(now, ns, 0, round_, self.id)
        else:
            self.background.send(now, ns, 0, round_, self.id, until="preemptible")

    def first_unmasked(self, at: int) -> int | None:
        """Return the first time from `at` (ns, not before now) on with interrupts on; None if the plan ends without.

        At the very begin of a span an interrupt goes first.
        """
        for w0, w1 in self.spans:
            start = at - 1 if w0 == _SINCE_EARLIER else self.time_of(w0)
            if at <= start:
                return at
            at = max(at, self.moment(w1, w0))
        base = self.masked_from
        if base is not None and (base == _SINCE_EARLIER or at > self.time_of(base)):
            return None
        return at

    def _arrive(self, now: int, at: int, ns: int, round_: Round) -> None:
        """Queue the handler of an interrupt that arrived at `now` and can be taken from `at` on."""
        if now >= self.hs:  # else it joins the batch that has not started yet
            self.interruptions += 1
            self.hs = max(at, self.he)
            self.waits = at > self.engine.now
        begin = max(at, self.he)
        self.he = begin + ns
        self.stolen += ns
        self.log.append((begin, ns))
        round_.acked(self.he)

    def _force(self, now: int, ns: int, round_: Round) -> None:
        """Take an interrupt that nobody can mask, behind a handler that runs."""
        if self.held:
            round_.acked(now + ns)
        elif now < self.hs and self.waits:
            self.interruptions += 1
            self.stolen += ns
            round_.acked(now + ns)
        else:
            self._arrive(now, now, ns, round_)
            self.forced.append(self.log[-1])

    # --- who runs ---------------------------------------------------------------------------------------------------

    def occupy(self, task: Task) -> bool:
        """Give the CPU to `task` if it is free: it first lives through what was drawn for it."""
        if self.task is not None or self.parked:
            self.ready.append(task)
            return False
        self._activate(task)
        self.start_plan()
        return True

    def _activate(self, task: Task) -> None:
        now = self.engine.now
        self.task = task
        self.slice.begin()
        self.hs = now
        self.he = self.background.activate(now, self.id)

    def unpark(self) -> None:
        """The stopper lets the passive CPU go: who became ready meanwhile gets it."""
        self.parked = False
        if self.ready:
            task = self.ready.popleft()
            self._activate(task)
            self.engine.schedule(task.turn, self.engine.now, task.resume_key)

    def stop_earlier(self) -> None:
        """Let the task look at its plan when it is done by what is known now; nobody waits for the old end any more."""
        if self.stop is not None:
            earlier = self.engine.event_at(self.next_stop(), self.key)
            earlier.callbacks = self.stop.callbacks
            self.engine.withdraw(self.stop)
            self.stop = earlier

    def resume(self, he: int, meanwhile: list[tuple[int, Round]]) -> None:
        """The stopper lets the CPU go at `he`, then interrupts that came meanwhile: the plan ends before its bound."""
        self.held, self.he = False, he
        begin, _ = self.log[-1]
        self.log[-1] = begin, he - begin
        for ns, round_ in meanwhile:
            self._arrive(self.engine.now, self.engine.now, ns, round_)
        self.stop_earlier()
        for hold in self.holds:
            if hold.lock.waiters:
                hold.lock.hand_over_at(hold)

    def work_done(self) -> int:
        """Return how much of the plan has been done by now."""
        if self.held:
            self.stopper.stretch()
        now, at, done = self.engine.now, self.t0, 0
        for taken, ns in self.log:
            if taken > now:
                break
            done += taken - at
            at = taken + ns
        return done + max(now - at, 0)

    def interrupt_spinning(self) -> None:
        """Take a task that spins on a mutex off the CPU: another is ready (mutex_optimistic_spin: need_resched)."""
        spinner, self.spinner = self.spinner, None
        if spinner is not None:
            spinner.spins = False
            spinner.task.go_to_sleep()

    def leave(self) -> None:
        """Take the current task off the CPU; the next ready one gets it, or the CPU turns passive."""
        assert not self.masked_depth, f"CPU {self.id}: a task sleeps with interrupts off"
        now = self.engine.now
        if self.ready:
            self.task = self.ready.popleft()
            self.slice.begin()
            self.engine.schedule(self.task.turn, now, self.key)
        else:
            self.task = None
            self.background.deactivate(now, self.id, self.he)
