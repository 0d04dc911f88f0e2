"""Passive CPUs as processes: every jump of every CPU is an event. The definition that execbench.sim.lazy must equal.

Nothing is skipped and nothing is known ahead. What happens to a CPU up to and including the present is caught up with
before anybody looks at it, so the order of simultaneous events has no influence.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from execbench.sim import portable
from execbench.sim.engine import Class, event_key
from execbench.sim.powers import cumulative

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.engine import Engine, Proc
    from execbench.sim.passive import Acks
    from execbench.sim.rng import Stream

__all__ = ["ExplicitCpus", "Visits"]


class Visits(Protocol):
    """Where the background comes from; times are ns."""

    def initial(self, cpu: int) -> tuple[int, float, int]:
        """Return the state at time 0, how much of its visit is left, and the state that follows."""

    def visit(self, cpu: int, x: int) -> tuple[float, int]:
        """Return the length of a new visit to `x` and the state that follows."""


class ExplicitCpus:
    """Passive CPUs by events (contract: execbench.sim.passive.PassiveCpus)."""

    def __init__(
        self, engine: Engine, chain: Chain, cpus: int, named: Sequence[int], restart: int, stream: Stream,
        visits: Visits | None = None,
    ) -> None:  # fmt: skip
        """`cpus` CPUs, all passive, in states drawn from pi; `named` are those that may become active.

        A CPU that its last task leaves begins in state `restart`. Draws come from `stream`, or all from `visits`.
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

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Acks, only: int | None = None) -> None:
        """Enqueue a call on every passive CPU, or on `only`; acknowledged as each handler starts."""
        targets = list(self._passive.values()) if only is None else [self._passive[only]]
        round.expect(len(targets))
        for cpu in targets:
            cpu.send(t, handler_ns, t + flight_ns, round)

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


class _Cpu:
    """One passive CPU.

    The background is in `x`, or stands still and goes on in `x` after the handlers; `jump_at` is its next jump, or
    `left` what its visit still lasts. At most one of these is set: `arrives`, when the interrupt on its way is
    delivered; `waits`, it was delivered to a masked state; `starts`, when the handler starts. `ends`: the running
    handler's end.
    """

    __slots__ = (
        "_awaited", "_engine", "_key", "_life", "_passive", "_states", "_visits", "arrives", "ends", "interruptions",
        "jump_at", "left", "number", "queue", "resume", "seen", "starts", "stolen", "then", "waits", "x",
    )  # fmt: skip

    def __init__(self, engine: Engine, chain: Chain, visits: Visits, number: int) -> None:
        self._engine = engine
        self._key = event_key(Class.INTERRUPT, number)
        self._states = chain.states
        self._visits = visits
        self._life = 0  # number of the process that walks it
        self._passive = True
        self._awaited: float = 0.0  # when that process wakes up
        self.number = number
        self.queue: list[tuple[int, Acks]] = []
        self.x, self.left, self.then = visits.initial(number)
        self.jump_at: float = self.left
        self.resume = self.x
        self.arrives: int | None = None
        self.starts: int | None = None
        self.ends: int | None = None
        self.waits = False
        self.seen = True
        self.interruptions = 0
        self.stolen = 0

    # --- what others do to it ---------------------------------------------------------------------------------------

    def send(self, t: int, c: int, d: int, round_: Acks) -> None:
        """Enqueue a call of `c` ns; interrupt the CPU at d unless an interrupt is on its way."""
        self.catch_up(t)
        on_its_way = bool(self.queue)
        self.queue.append((c, round_))
        self.stolen += c
        if on_its_way:
            return
        self.interruptions += 1
        if self.ends is not None and d <= self.ends:
            self.starts, self.resume = self.ends, self.x
        else:
            self.arrives = d
        if d > t:
            self._engine.call_at(max(d, self.ends or d), self._key, self._wake_up)
        else:
            self.catch_up(t)

    def free_at(self, t: int) -> int:
        """Leave the background for a task; return when it can run, with every handler that is booked behind it."""
        self.catch_up(t)
        self._life += 1
        self._passive = False
        busy = t
        while self.queue or self.ends is not None:
            busy = math.ceil(self._due())
            self.catch_up(busy)
        if busy > t:
            return busy
        if not self._states[self.x].masked:
            return t + self._states[self.x].wake
        at: float = t
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
        if due < math.inf:
            self._engine.spawn(self._walk(self._life), math.ceil(due), self._key)

    def _walk(self, life: int) -> Proc[None]:
        while life == self._life:
            self.catch_up(self._engine.now)
            self._awaited = self._due()
            if self._awaited == math.inf:
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
        if self.waits and not self._states[self.x].masked:
            # The interrupt is taken before anything else; the visit begins behind its handler.
            self.waits = False
            self.starts, self.resume, self.jump_at = math.ceil(at), self.x, math.inf
        else:
            self.seen = self.seen or self._states[self.x].qs

    def _arrive(self) -> None:
        at, self.arrives = self.arrives, None
        assert at is not None
        state = self._states[self.x]
        if state.masked:
            self.waits = True
            return
        self.left, self.jump_at = self.jump_at - at, math.inf
        self.starts, self.resume = at + state.wake, state.after_interrupt
        if self._passive and self.starts > self._engine.now:
            self._engine.call_at(self.starts, self._key, self._wake_up)

    def _start(self) -> None:
        """Run the handlers of everything that is queued."""
        at, self.starts = self.starts, None
        assert at is not None
        done = at
        for c, round_ in self.queue:
            done += c
            round_.acked(done)
        self.queue.clear()
        if self.resume != self.x:
            self.x = self.resume
            self.left, self.then = self._visits.visit(self.number, self.x)
        self.ends = done
        if done + self.left < self._awaited and self._passive:
            self.walk_on()

    def _end(self) -> None:
        at, self.ends = self.ends, None
        assert at is not None
        if self.starts != at:  # else the next handler follows, and the background stands still
            self.jump_at = at + self.left
            self.seen = self.seen or self._states[self.x].qs


class Drawn:
    """Visits drawn from the law of a chain; lognormal ones too."""

    def __init__(self, chain: Chain, stream: Stream) -> None:
        """Draw from `stream`."""
        self._chain = chain
        self._stream = stream
        self._pi = cumulative(chain.pi)

    def initial(self, cpu: int) -> tuple[int, float, int]:
        """Return a state from pi; what is left of its visit has the law of the residual life."""
        x = bisect(self._pi, self._stream.u())
        left, then = self.visit(cpu, x)
        sigma = self._chain.states[x].sigma
        if sigma:  # the visit that covers a given instant is longer by exp(sigma^2), and the instant is uniform in it
            left *= portable.exp(sigma * sigma) * self._stream.u()
        return x, left, then

    def visit(self, cpu: int, x: int) -> tuple[float, int]:
        """Return length and successor of a new visit to `x`."""
        rate = self._chain.leave[x]
        if not rate:
            return math.inf, x
        sigma, u = self._chain.states[x].sigma, self._stream.u()
        if sigma:
            left = portable.exp(sigma * (portable.ndtri(u) - sigma / 2.0)) / rate
        else:
            left = -portable.log(u) / rate
        return left, bisect(self._chain.jump[x], self._stream.u())
