"""Passive CPUs that cost no events and are exact in law.

What lies behind is skipped by the transition matrix, what lies ahead and matters is drawn jump by jump and kept: the
next draw begins where the known path ends, never at the last look. CPUs of which the same is known form one group, so
that a round costs the same for 60 CPUs as for 4000, but for the few that must be followed one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from execbench.errors import InputError
from execbench.sim.engine import Class, event_key
from execbench.sim.passive import AT_ONCE, LEVELS, UNMASKED
from execbench.sim.pool import HANDLER, Source, paths
from execbench.sim.sampling import Draws, Groups
from execbench.sim.touches import Call, Touches

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.engine import Engine
    from execbench.sim.passive import Acks, Stop, Until, Who
    from execbench.sim.rng import Stream

__all__ = ["LazyCpus", "Source"]

_ANY = -1  # number of the CPUs that have none
_DELIVERY = event_key(Class.INTERRUPT, 1 << 39)


class LazyCpus:
    """Passive CPUs by their law (contract: execbench.sim.passive.PassiveCpus)."""

    def __init__(
        self, engine: Engine, chain: Chain, cpus: int, named: Sequence[int], restart: int, stream: Stream,
        source: Source | None = None, *, watch: bool = False,
    ) -> None:  # fmt: skip
        """`cpus` CPUs, all passive, in states drawn from pi; those in `named` keep their identity.

        A CPU that its last task leaves begins in state `restart`. Draws come from `stream`, or all from `source`.
        watch: keep the longest interruption.
        """
        if any(state.sigma for state in chain.states):
            raise InputError(
                "run.cpu_model", "lazy", "exponential, Erlang or mixture visits",
                "fit a mixture of exponentials, or cpu_model = explicit",
            )  # fmt: skip
        draws = Draws(chain, stream) if source is None else source
        self._engine = engine
        self._draws = draws
        self._restart = restart
        self._pools = {cpu: _Pool(chain, draws, cpu, 1) for cpu in named}
        self._crowd = _Pool(chain, draws, _ANY, cpus - len(self._pools))
        self._passive = {_ANY: self._crowd, **self._pools} if self._crowd.n else dict(self._pools)
        self._targets = cpus
        self._stopped = False
        self._watch = watch

    def send(
        self, t: int, handler_ns: int, flight_ns: int, round: Acks, only: int | None = None, who: Who = "all",
        until: Until = "unmasked",
    ) -> None:  # fmt: skip
        """Enqueue a call on every passive CPU, or on the named passive CPU `only`; acknowledged at once if possible."""
        pools = self._passive.values() if only is None else (self._passive[only],)
        if self._watch:
            self._account(t)
        if self._stopped or who != "all" or until != "unmasked":
            self._send(pools, t, handler_ns, t + flight_ns, round, who, until)
            return
        targets = self._targets if only is None else 1
        round.expect(targets)
        if targets:
            last = 0
            for pool in pools:
                done = pool.send(t, handler_ns, t + flight_ns)
                if done > last:
                    last = done
            round.acked(last, targets)

    def _send(self, pools: Iterable[_Pool], t: int, c: int, d: int, round: Acks, who: Who, until: Until) -> None:
        """Send to one pool after the other: whom it reaches, and when it is done, is known of each for itself."""
        last, targets, level = 0, 0, LEVELS[until]
        for pool in pools:
            if pool.stop is not None:
                round.expect(pool.n)
                if level == AT_ONCE:
                    round.acked(d + c, pool.n)
                    continue
                call = Call(c, round, level)
                pool.calls.append(call)
                self._engine.call_at(d, _DELIVERY, partial(pool.deliver, d, call))
            else:
                done, n = pool.touch(t, c, d, who, level)
                targets += n
                last = max(last, done)
        if targets:
            round.expect(targets)
            round.acked(last, targets)

    def count(self, t: int, who: Who) -> int:
        """Return how many passive CPUs a call to `who` would go to."""
        if self._watch:
            self._account(t)
        return sum(pool.count(t, who) for pool in self._passive.values())

    def stop(self, t: int, switch_ns: int, flight_ns: int, stop: Stop, only: int | None = None) -> None:
        """Send the stopper to every passive CPU, or to `only`."""
        if self._watch:
            self._account(t)
        self._stopped = True
        for pool in self._passive.values() if only is None else (self._passive[only],):
            if pool.n:
                stop.expect(pool.n)
                stop.acked(pool.halt(t, switch_ns, t + flight_ns, stop), pool.n)

    def release(self, t: int, ns: int) -> None:
        """Let every stopped CPU go."""
        self._stopped = False
        for pool in self._passive.values():
            if pool.stop is not None:
                pool.release(t, ns)

    def activate(self, t: int, cpu: int) -> int:
        """Make a named CPU active; return the first time at which a task can run there."""
        pool = self._passive.pop(cpu)
        self._targets -= 1
        if self._watch:
            pool.account(max(t, pool.groups[0][0]))
        return pool.free_at(t)

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        """Make a named CPU passive in the restart state, behind handlers that are booked until `busy_until`."""
        pool = self._passive[cpu] = self._pools[cpu]
        self._targets += 1
        self._draws.enter(cpu, self._restart)
        pool.restart(t, self._restart, busy_until)

    def gp_start(self, t: int) -> None:
        """Open the window of a grace period."""
        if self._watch:
            self._account(t)
        for pool in self._passive.values():
            pool.gp_start(t)

    def scan(self, t: int) -> int:
        """Return how many passive CPUs have passed no quiescent state since the window opened."""
        if self._watch:
            self._account(t)
        holdouts = 0
        for pool in self._passive.values():
            holdouts += pool.scan(t)
        return holdouts

    def interruptions(self, cpu: int | None = None) -> int:
        """Return the interruptions so far of a named CPU, or of all CPUs, while passive."""
        if cpu is not None:
            return self._pools[cpu].interruptions
        return self._crowd.interruptions + sum(pool.interruptions for pool in self._pools.values())

    def stolen_ns(self, cpu: int | None = None) -> int:
        """Return the handler time (ns) so far on a named CPU, or on all CPUs, while passive."""
        if cpu is not None:
            return self._pools[cpu].stolen
        return self._crowd.stolen + sum(pool.stolen for pool in self._pools.values())

    def take_longest(self, t: int) -> int:
        """Return the longest interruption (ns) that began since this was last asked, up to t; needs watch=True."""
        return max(pool.take_longest(t) for pool in (self._crowd, *self._pools.values()))

    def _account(self, t: int) -> None:
        for pool in self._passive.values():
            pool.account(t)


class _Pool(Touches):
    """CPUs that nothing but their own history distinguishes: all without a name, or one with."""

    __slots__ = ()

    def send(self, t: int, c: int, d: int) -> int:
        """Enqueue an interrupt's call of `c` ns at t on every CPU, delivered at d; return when the last is done."""
        groups, self.groups = self.groups, []
        quiescent, masked = self._qs, self._masked
        free: Groups = {}
        watched: Groups = {}
        last = joined = 0
        for he, x, hs, seen, z, moves, apart, level, n in groups:
            if t >= he:
                into = free if seen or quiescent[x] or (moves and self._passed(moves, t)) else watched
                at = he, x
                into[at] = into.get(at, 0) + n
                continue
            if t < hs and level != AT_ONCE:  # the queue is not empty: join it
                joined += n
                self.groups.append((he + c, x, hs, seen, z, moves, apart, level, n))
            elif t < hs:  # what waits does not wait for interrupts to be on: come behind it
                for (_, at_first, steps), k in paths(seen, z, moves, apart, n):
                    known = seen, at_first, (*steps, (hs, HANDLER))
                    last = max(last, self._behind(x, k, he, known, d, c, UNMASKED))
                continue
            elif d <= he and not masked[x]:  # a handler runs: the next one follows it
                seen = seen or self._passed(moves, t)
                self.groups.append((he + c, x, he, seen, HANDLER, (), (), UNMASKED, n))
            else:  # a handler runs, but ends before the delivery, or with interrupts off
                known = seen or self._passed(moves, t), HANDLER, ()
                last = max(last, self._behind(x, n, he, known, d, c, UNMASKED))
                continue
            if he + c > last:
                last = he + c
        self.stolen += c * self.n
        self.interruptions += self.n - joined
        return max(last, self._reach(free, watched, t, d, c, UNMASKED))

    def free_at(self, t: int) -> int:
        """Return when a task that becomes runnable on this CPU at t can run there."""
        ((he, x, *_),) = self.groups
        self.groups = []
        if t < he:
            if not self._masked[x]:
                return he
            t = he  # a call that nothing masks leaves the CPU where it was
        x = self._states_at(t, {(he, x): 1}).index(1)
        if not self._masked[x]:
            return t + self._wake[x]
        at: float = t
        while self._masked[x]:
            step = self._draws.jump(self.cpu, x, at, math.inf)
            assert step is not None
            at, x = step
        return math.ceil(at)

    def gp_start(self, t: int) -> None:
        """Forget the quiescent states passed so far; a present one counts."""
        groups, self.groups = self.groups, []
        free: Groups = {}
        for he, x, hs, _, z, moves, apart, level, n in groups:
            if t >= he:
                free[he, x] = free.get((he, x), 0) + n
                continue
            for at, then in moves:
                if at <= t:
                    z = then
            ahead = tuple(move for move in moves if move[0] > t)
            self.groups.append((he, x, hs, self._qs[z] and t < hs, z, ahead, apart, level, n))
        if free:
            self._resume(t, self._states_at(t, free), self._qs)

    def scan(self, t: int) -> int:
        """Return how many CPUs have passed no quiescent state since `gp_start`."""
        groups, self.groups = self.groups, []
        watched: Groups = {}
        holdouts = 0
        for he, x, hs, seen, z, moves, apart, level, n in groups:
            passed = seen or self._passed(moves, t) or (t >= he and self._qs[x])
            if not passed and t >= he:
                watched[he, x] = watched.get((he, x), 0) + n
            else:
                holdouts += 0 if passed else n
                self.groups.append((he, x, hs, passed, z, moves, apart, level, n))
        if watched:
            kept, unseen, never = self._blank.copy(), self._blank.copy(), self._blank.copy()
            self._draws.split_watching(self.cpu, watched, t, t, kept, never, unseen, never)
            self._resume(t, kept, [True] * len(kept))
            self._resume(t, unseen, [False] * len(kept))
            for n in unseen:
                holdouts += n
        return holdouts
