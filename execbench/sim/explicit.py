"""Passive CPUs as processes: every jump of every CPU is an event. The definition that execbench.sim.lazy must equal.

Nothing is skipped and nothing is known ahead. What happens to a CPU up to and including the present is caught up with
before anybody looks at it, so the order of simultaneous events has no influence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from execbench.sim.engine import Class, event_key
from execbench.sim.passive import AT_ONCE, LEVELS, PREEMPTIBLE
from execbench.sim.touches import Call
from execbench.sim.visits import Drawn, Visits

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.engine import Engine, Proc
    from execbench.sim.passive import Acks, Stop, Until, Who
    from execbench.sim.rng import Stream

__all__ = ["Drawn", "ExplicitCpus", "Visits"]

_HELD = 1 << 62  # end of a handler that nobody knows yet


class ExplicitCpus:
    """Passive CPUs by events (contract: execbench.sim.passive.PassiveCpus)."""

    def __init__(
        self, engine: Engine, chain: Chain, cpus: int, named: Sequence[int], restart: int, stream: Stream,
        visits: Visits | None = None, *, watch: bool = False,
    ) -> None:  # fmt: skip
        """`cpus` CPUs, all passive, in states drawn from pi; `named` are those that may become active.

        A CPU that its last task leaves begins in state `restart`. Draws come from `stream`, or all from `visits`.
        watch: nothing more is done for it here.
        """
        self._engine = engine
        self._restart = restart
        self._visits = Drawn(chain, stream) if visits is None else visits
        others = [cpu for cpu in range(cpus + len(named)) if cpu not in set(named)]
        numbers = sorted([*named, *others[: cpus - len(named)]])
        self._cpus = {number: _Cpu(engine, chain, self._visits, number) for number in numbers}
        self._passive = dict(self._cpus)
        for cpu in self._cpus.values():
            cpu.walk_on()

    def send(
        self, t: int, handler_ns: int, flight_ns: int, round: Acks, only: int | None = None, who: Who = "all",
        until: Until = "unmasked",
    ) -> None:  # fmt: skip
        """Enqueue a call on every passive CPU, or on `only`; acknowledged as each handler starts."""
        targets = list(self._passive.values()) if only is None else [self._passive[only]]
        if who != "all":
            targets = [cpu for cpu in targets if cpu.reached(t, who)]
        round.expect(len(targets))
        for cpu in targets:
            cpu.send(t, t + flight_ns, Call(handler_ns, round, LEVELS[until]))

    def count(self, t: int, who: Who) -> int:
        """Return how many passive CPUs a call to `who` would go to."""
        return sum(who == "all" or cpu.reached(t, who) for cpu in self._passive.values())

    def stop(self, t: int, switch_ns: int, flight_ns: int, stop: Stop, only: int | None = None) -> None:
        """Send the stopper to every passive CPU, or to `only`."""
        targets = list(self._passive.values()) if only is None else [self._passive[only]]
        stop.expect(len(targets))
        for cpu in targets:
            cpu.halt(t, t + flight_ns, switch_ns, stop)

    def release(self, t: int, ns: int) -> None:
        """Let every stopped CPU go."""
        for cpu in self._passive.values():
            if cpu.stop is not None:
                cpu.release(t, ns)

    def activate(self, t: int, cpu: int) -> int:
        """Make a named CPU active; return the first time at which a task can run there."""
        return self._passive.pop(cpu).free_at(t)

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        """Make a named CPU passive in the restart state, behind handlers that are booked until `busy_until`."""
        self._passive[cpu] = self._cpus[cpu]
        self._cpus[cpu].restart(t, self._restart, busy_until)

    def gp_start(self, t: int) -> None:
        """Open the window of a grace period."""
        for cpu in self._passive.values():
            cpu.catch_up(t)
            cpu.seen = cpu.quiescent()

    def scan(self, t: int) -> int:
        """Return how many passive CPUs have passed no quiescent state since the window opened."""
        holdouts = 0
        for cpu in self._passive.values():
            cpu.catch_up(t)
            holdouts += not cpu.seen
        return holdouts

    def interruptions(self, cpu: int | None = None) -> int:
        """Return the interruptions so far of a named CPU, or of all CPUs, while passive."""
        return sum(c.interruptions for c in self._cpus.values()) if cpu is None else self._cpus[cpu].interruptions

    def stolen_ns(self, cpu: int | None = None) -> int:
        """Return the handler time (ns) so far on a named CPU, or on all CPUs, while passive."""
        return sum(c.stolen for c in self._cpus.values()) if cpu is None else self._cpus[cpu].stolen

    def take_longest(self, t: int) -> int:
        """Return the longest interruption (ns) that began since this was last asked, up to t."""
        longest = 0
        for cpu in self._passive.values():
            cpu.catch_up(t)
        for cpu in self._cpus.values():
            longest, cpu.longest = max(longest, cpu.longest), 0
        return longest


class _Batch:
    """Calls that one handler, or one turn of a thread, will take; delivered at `at`."""

    __slots__ = ("at", "calls", "level")

    def __init__(self, at: int, call: Call) -> None:
        self.at = at
        self.calls = [call]
        self.level = call.level


class _Cpu:
    """One passive CPU.

    The background is in `x`, or stands still and goes on in `x` after the handlers; `jump_at` is its next jump, or
    `left` what its visit still lasts. `queue` holds what has not started: calls at once first, then interrupts, then a
    thread's turn. At most one of these is set: `arrives`, when its head is delivered; `waits`, it was delivered to a
    state in which it waits; `starts`, when the handler starts. `ends`: the running handler's end. `stop`: the stopper
    has been sent; `calls` is what came since, `early` what is taken as it gets to its loop, `arrived` when it did.
    """

    __slots__ = (
        "_awaited", "_engine", "_key", "_life", "_passive", "_states", "_visits", "_waits", "arrived", "arrives",
        "calls", "early", "ends", "interruptions", "jump_at", "lead", "left", "longest", "number", "queue", "resume",
        "seen", "starts", "stolen", "stop", "then", "waits", "x",
    )  # fmt: skip

    def __init__(self, engine: Engine, chain: Chain, visits: Visits, number: int) -> None:
        self._engine = engine
        self._key = event_key(Class.INTERRUPT, number)
        self._states = states = chain.states
        self._waits = (  # by what is called: at-once, interrupts, threads
            [False] * len(states),
            [state.masked for state in states],
            [state.masked or not state.qs for state in states],
        )
        self._visits = visits
        self._life = 0  # number of the process that walks it
        self._passive = True
        self._awaited: float = 0.0  # when that process wakes up
        self.number = number
        self.queue: list[_Batch] = []
        self.x, self.left, self.then = visits.initial(number)
        self.jump_at: float = self.left
        self.resume = self.x
        self.arrives: int | None = None
        self.starts: int | None = None
        self.ends: int | None = None
        self.waits = False
        self.lead = 0  # how long before its start the next handler takes the CPU
        self.seen = True
        self.stop: Stop | None = None
        self.arrived: int | None = None
        self.calls: list[Call] = []
        self.early: list[Call] = []
        self.interruptions = self.stolen = self.longest = 0

    # --- what others do to it ---------------------------------------------------------------------------------------

    def send(self, t: int, d: int, call: Call) -> None:
        """Enqueue a call, delivered at d: it joins what waits, or comes behind what waits for less than it does."""
        self.catch_up(t)
        if self.stop is not None and call.level == AT_ONCE:
            call.round.acked(d + call.ns)
        elif self.stop is not None:
            self.calls.append(call)
            self._engine.call_at(d, self._key, partial(self._deliver, d, call))
        else:
            self._enqueue(t, d, call)

    def _enqueue(self, t: int, d: int, call: Call) -> None:
        self.stolen += call.ns
        if self.queue and call.level <= self.queue[-1].level and (call.level != AT_ONCE or not self.queue[-1].level):
            self.queue[-1].calls.append(call)
            return
        self.interruptions += 1
        if self.queue and call.level < self.queue[-1].level:
            self.longest = max(self.longest, call.ns)
            call.round.acked(d + call.ns)
            return
        self.queue.append(_Batch(d, call))
        if len(self.queue) > 1:
            return
        if self.ends is None:
            self.arrives = d
        if d > t or self.ends is not None:
            self._engine.call_at(max(d, self.ends or d), self._key, self._wake_up)
        else:
            self.catch_up(t)

    def reached(self, t: int, who: Who) -> bool:
        """Say whether a call to `who` goes to the CPU."""
        self.catch_up(t)
        state = self._states[self.x]
        return self.stop is not None or self.ends is not None or not (state.eqs if who == "busy" else state.user)

    def halt(self, t: int, d: int, ns: int, stop: Stop) -> None:
        """Send the stopper, delivered at d, `ns` from its loop."""
        self.catch_up(t)
        self.stop = stop
        self._enqueue(t, d, Call(ns, stop, PREEMPTIBLE))

    def _deliver(self, d: int, call: Call) -> None:
        """An interrupt arrives behind the stopper: it is taken in its loop, unless all are there already."""
        self.catch_up(d)
        if call.level == PREEMPTIBLE or call not in self.calls or self.stop is None or self.stop.all_arrived(d):
            return
        self.calls.remove(call)
        if self.arrived is None:
            self.early.append(call)
        else:
            call.round.acked(max(d, self.arrived) + call.ns)

    def release(self, t: int, ns: int) -> None:
        """Let the stopper go at t: `ns` more of its work, then what came meanwhile."""
        self.catch_up(t)
        assert self.arrived is not None
        self.stolen += t + ns - self.arrived
        self.longest = max(self.longest, t + ns - self.lead)
        self.ends, self.stop, self.arrived = t + ns, None, None
        calls, self.calls = self.calls, []
        for call in calls:
            self.send(t, t, call)
        if self.ends + self.left < self._awaited:
            self.walk_on()

    def free_at(self, t: int) -> int:
        """Leave the background for a task; return when it can run, with every handler that is booked behind it."""
        self.catch_up(t)
        self._life += 1
        self._passive = False
        busy = t
        while self.queue or self.ends is not None:
            busy = math.ceil(self._due())
            self.catch_up(busy)
        if not self._states[self.x].masked:
            return busy if busy > t else t + self._states[self.x].wake
        at: float = busy
        while self._states[self.x].masked:
            at = self.jump_at
            self._jump()
        return math.ceil(at)

    def restart(self, t: int, x: int, busy_until: int) -> None:
        """Come back from a task in state `x`, behind handlers until `busy_until`."""
        self._passive = True
        self.x = x
        self.left, self.then = self._visits.visit(self.number, x)
        self.seen = True
        if busy_until > t:
            self.ends, self.jump_at = busy_until, math.inf
        else:
            self.ends, self.jump_at = None, t + self.left
        self.walk_on()

    def quiescent(self) -> bool:
        """Say whether the CPU is in a quiescent state now."""
        return self.ends is None and self._states[self.x].qs

    # --- what it does -----------------------------------------------------------------------------------------------

    def walk_on(self) -> None:
        """Start the process that walks the background from here on; an earlier one ends when it wakes up."""
        self._life += 1
        due = self._due()
        self._awaited = due
        if due < _HELD:
            self._engine.spawn(self._walk(self._life), math.ceil(due), self._key)

    def _walk(self, life: int) -> Proc[None]:
        while life == self._life:
            self.catch_up(self._engine.now)
            self._awaited = self._due()
            if self._awaited >= _HELD:
                return
            yield self._engine.event_at(math.ceil(self._awaited), self._key)

    def _wake_up(self) -> None:
        if self._passive:
            self.catch_up(self._engine.now)

    def _due(self) -> float:
        """Return when something happens to this CPU next."""
        return min(self.jump_at, *(math.inf if at is None else at for at in (self.ends, self.arrives, self.starts)))

    def catch_up(self, t: int) -> None:
        """Live through everything up to and including t: at equal times jumps first, then interrupts in order."""
        while (due := self._due()) <= t:
            if self.jump_at == due:
                self._jump()
            elif self.ends == due:
                self._end()
            elif self.arrives == due:
                self._arrive()
            else:
                self._start()

    def _jump(self) -> None:
        at = self.jump_at
        self.x = self.then
        self.left, self.then = self._visits.visit(self.number, self.x)
        self.jump_at = at + self.left
        if self.waits and not self._waits[self.queue[0].level][self.x]:
            # The call is taken before anything else; the visit begins behind its handler.
            self.waits = False
            self.starts, self.resume, self.lead, self.jump_at = math.ceil(at), self.x, 0, math.inf
        else:
            self.seen = self.seen or self._states[self.x].qs

    def _arrive(self) -> None:
        at, self.arrives = self.arrives, None
        assert at is not None
        state = self._states[self.x]
        if self._waits[self.queue[0].level][self.x]:
            self.waits = True
            return
        self.left, self.jump_at = self.jump_at - at, math.inf
        self.starts, self.resume, self.lead = at + state.wake, state.after_interrupt, state.wake
        if self._passive and self.starts > self._engine.now:
            self._engine.call_at(self.starts, self._key, self._wake_up)

    def _start(self) -> None:
        """Run the handlers of everything that one turn takes."""
        at, self.starts = self.starts, None
        assert at is not None
        done = at
        for call in self.queue.pop(0).calls:
            done += call.ns
            call.round.acked(done)
        if self.resume != self.x:
            self.x = self.resume
            self.left, self.then = self._visits.visit(self.number, self.x)
        if self.stop is not None and not self.queue:
            self.ends, self.arrived, self.lead = _HELD, done, at - self.lead
            for call in self.early:
                call.round.acked(done + call.ns)
            self.early.clear()
            return
        self.ends = done
        self.longest = max(self.longest, done - at + self.lead)
        if self.queue and self._passive:
            self._engine.call_at(max(done, self._engine.now), self._key, self._wake_up)
        if done + self.left < self._awaited and self._passive:
            self.walk_on()

    def _end(self) -> None:
        at, self.ends = self.ends, None
        assert at is not None
        if self.queue and self.queue[0].at <= at and not self._waits[self.queue[0].level][self.x]:
            self.starts, self.resume, self.lead = at, self.x, 0  # the background stands still
            return
        self.jump_at = at + self.left
        self.seen = self.seen or self._states[self.x].qs
        if self.queue and self.queue[0].at <= at:
            self.waits = True
        elif self.queue:
            self.arrives = self.queue[0].at
            if self._passive and self.arrives > self._engine.now:
                self._engine.call_at(self.arrives, self._key, self._wake_up)
