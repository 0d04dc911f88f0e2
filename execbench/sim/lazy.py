"""Passive CPUs that cost no events and are exact in law.

What lies behind is skipped by the transition matrix, what lies ahead and matters is drawn jump by jump and kept: the
next draw begins where the known path ends, never at the last look. CPUs of which the same is known form one group, so
that a round costs the same for 60 CPUs as for 4000, but for the few that must be followed one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from execbench.errors import InputError
from execbench.sim.sampling import Draws, Groups

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.engine import Engine
    from execbench.sim.passive import Acks
    from execbench.sim.rng import Stream

__all__ = ["LazyCpus", "Source"]

_ANY = -1  # number of the CPUs that have none

_Moves = tuple[tuple[float, bool], ...]
_Group = tuple[int, int, int, bool, bool, _Moves, int]
"""(he, x, hs, seen, qs, moves, n): the path of `n` CPUs is known up to `he`, where the background goes on in state `x`.

hs and he: start and end of the last booked handlers. seen: a quiescent state was passed since the grace period began,
or none is looked for. qs: the present state is quiescent, until the first of `moves` (time, quiescent from then on) or
until `hs`; between hs and he no state is.
"""


class Source(Protocol):
    """Where the background comes from. `cpu` is the number of a named CPU (then n = 1) or -1; times are ns."""

    def initial(self, cpu: int, n: int) -> list[int]:
        """Return how many of `n` CPUs are in each state at time 0."""

    def enter(self, cpu: int, x: int) -> None:
        """Begin a new visit to `x`, at the time at which the CPU is next asked about."""

    def split(self, cpu: int, groups: Groups, t: int, d: int, kept: list[int], moved: list[int]) -> None:
        """Count CPUs whose background went on from groups of (time, state) by their state at t.

        Those that do not jump in (t, d] are added to `kept`, those that do to `moved`.
        """

    def split_watching(
        self, cpu: int, groups: Groups, t: int, d: int,
        kept: list[int], moved: list[int], kept_unseen: list[int], moved_unseen: list[int],
    ) -> None:  # fmt: skip
        """The same, counting apart those that were in no quiescent state up to and including t (nor at the start)."""

    def jump(self, cpu: int, x: int, at: float, until: float) -> tuple[float, int] | None:
        """Return time and target of the next jump of a CPU in `x` at `at`; None if there is none up to `until`."""

    def jumps(self, cpu: int, x: int, n: int, at: int) -> list[tuple[float, int]]:
        """Return time and target of the next jump of each of `n` CPUs in `x` at `at`."""

    def flights(self, cpu: int, x: int, n: int, t: int, d: int) -> list[list[tuple[float, int]]]:
        """Return times and targets of all jumps in (t, d] of each of `n` CPUs that were counted as jumping there."""


class LazyCpus:
    """Passive CPUs by their law (contract: execbench.sim.passive.PassiveCpus)."""

    def __init__(
        self, engine: Engine, chain: Chain, cpus: int, named: Sequence[int], restart: int, stream: Stream,
        source: Source | None = None,
    ) -> None:  # fmt: skip
        """`cpus` CPUs, all passive, in states drawn from pi; those in `named` keep their identity.

        A CPU that its last task leaves begins in state `restart`. Draws come from `stream`, or all from `source`.
        """
        if any(state.sigma for state in chain.states):
            raise InputError(
                "run.cpu_model", "lazy", "exponential, Erlang or mixture visits",
                "fit a mixture of exponentials, or cpu_model = explicit",
            )  # fmt: skip
        draws = Draws(chain, stream) if source is None else source
        self._draws = draws
        self._restart = restart
        self._pools = {cpu: _Pool(chain, draws, cpu, 1) for cpu in named}
        self._crowd = _Pool(chain, draws, _ANY, cpus - len(self._pools))
        self._passive = {_ANY: self._crowd, **self._pools} if self._crowd.n else dict(self._pools)
        self._targets = cpus

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Acks, only: int | None = None) -> None:
        """Enqueue a call on every passive CPU, or on the named passive CPU `only`; acknowledged at once."""
        pools = self._passive.values() if only is None else (self._passive[only],)
        targets = self._targets if only is None else 1
        round.expect(targets)
        if targets:
            last = 0
            for pool in pools:
                done = pool.send(t, handler_ns, t + flight_ns)
                if done > last:
                    last = done
            round.acked(last, targets)

    def activate(self, t: int, cpu: int) -> int:
        """Make a named CPU active; return the first time at which a task can run there."""
        pool = self._passive.pop(cpu)
        self._targets -= 1
        return pool.free_at(t)

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        """Make a named CPU passive in the restart state, behind handlers that are booked until `busy_until`."""
        pool = self._passive[cpu] = self._pools[cpu]
        self._targets += 1
        self._draws.enter(cpu, self._restart)
        pool.groups = [(max(t, busy_until), self._restart, t, True, False, (), 1)]

    def gp_start(self, t: int) -> None:
        """Open the window of a grace period."""
        for pool in self._passive.values():
            pool.gp_start(t)

    def scan(self, t: int) -> int:
        """Return how many passive CPUs have passed no quiescent state since the window opened."""
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


class _Pool:
    """CPUs that nothing but their own history distinguishes: all without a name, or one with."""

    __slots__ = (
        "_after", "_blank", "_draws", "_masked", "_qs", "_wake", "cpu", "groups", "interruptions", "n", "stolen",
    )  # fmt: skip

    def __init__(self, chain: Chain, draws: Source, cpu: int, n: int) -> None:
        states = chain.states
        self._draws = draws
        self._blank = [0] * len(states)
        self._masked = [state.masked for state in states]
        self._qs = [state.qs for state in states]
        self._wake = [state.wake for state in states]
        self._after = [state.after_interrupt for state in states]
        self.cpu = cpu
        self.n = n
        self.interruptions = 0
        self.stolen = 0
        self.groups: list[_Group] = []
        for x, count in enumerate(draws.initial(cpu, n)):
            if count:
                self.groups.append((0, x, 0, True, False, (), count))

    def send(self, t: int, c: int, d: int) -> int:
        """Enqueue a call of `c` ns at t on every CPU, delivered at d; return when the last of them is done."""
        groups, self.groups = self.groups, []
        quiescent = self._qs
        free: Groups = {}
        watched: Groups = {}
        last = joined = 0
        for he, x, hs, seen, qs, moves, n in groups:
            if t >= he:
                into = free if seen or quiescent[x] or (moves and _passed(moves, t)) else watched
                at = he, x
                into[at] = into.get(at, 0) + n
                continue
            if t < hs:  # the queue is not empty: join it
                joined += n
                self.groups.append((he + c, x, hs, seen, qs, moves, n))
            elif d <= he:  # a handler runs: the next one follows it
                self.groups.append((he + c, x, he, seen or _passed(moves, t), False, (), n))
            else:  # a handler runs, but ends before the delivery
                last = max(last, self._behind(x, n, he, seen or _passed(moves, t), d, c))
                continue
            if he + c > last:
                last = he + c
        self.stolen += c * self.n
        self.interruptions += self.n - joined
        if free or watched:
            kept, moved = self._blank.copy(), self._blank.copy()
            if free:
                self._draws.split(self.cpu, free, t, d, kept, moved)
            if watched:
                unseen = self._blank.copy(), self._blank.copy()
                self._draws.split_watching(self.cpu, watched, t, d, kept, moved, *unseen)
                last = max(last, self._book(*unseen, False, t, d, c))
            last = max(last, self._book(kept, moved, True, t, d, c))
        return last

    def _book(self, kept: list[int], moved: list[int], seen: bool, t: int, d: int, c: int) -> int:
        """Book the handlers of CPUs that were free at t, counted by state; return when the last is done."""
        quiescent, masked, wake, after, book = self._qs, self._masked, self._wake, self._after, self.groups.append
        last = 0
        if any(moved):
            for x, n in enumerate(moved):
                if n:
                    last = max(last, self._follow(x, n, t, (seen, quiescent[x], ()), d, c, kept))
        for x, n in enumerate(kept):
            if n:
                if masked[x]:
                    done = self._wait(x, n, (seen, quiescent[x], ()), d, c)
                else:
                    hs = d + wake[x]
                    done = hs + c
                    book((done, after[x], hs, seen, quiescent[x], (), n))
                if done > last:
                    last = done
        return last

    def _behind(self, x: int, n: int, he: int, seen: bool, d: int, c: int) -> int:
        """Book handlers on CPUs that come back to state `x` at `he`, on the way of the interrupt to them."""
        kept, moved = self._blank.copy(), self._blank.copy()
        self._draws.split(self.cpu, {(he, x): n}, he, d, kept, moved)
        known = seen, False, ((he, self._qs[x]),)
        last = self._follow(x, moved[x], he, known, d, c, None) if moved[x] else 0
        if kept[x]:  # not masked: no handler leaves a CPU in a masked state
            hs = d + self._wake[x]
            self.groups.append((hs + c, self._after[x], hs, *known, kept[x]))
            last = max(last, hs + c)
        return last

    def _wait(self, x: int, n: int, known: tuple[bool, bool, _Moves], d: int, c: int) -> int:
        """Book the handlers of CPUs that are masked at d, in state `x`, behind the end of their masked windows."""
        seen, qs, before = known
        masked = self._masked
        last = 0
        for at, y in self._draws.jumps(self.cpu, x, n, d):
            moves = before
            while masked[y]:
                moves = (*moves, (at, self._qs[y]))
                step = self._draws.jump(self.cpu, y, at, math.inf)
                assert step is not None
                at, y = step
            hs = math.ceil(at)
            done = hs + c
            self.groups.append((done, y, hs, seen, qs, moves, 1))
            if done > last:
                last = done
        return last

    def _follow(
        self, x: int, n: int, t: int, known: tuple[bool, bool, _Moves], d: int, c: int, kept: list[int] | None
    ) -> int:
        """Book the handlers of CPUs that leave `x` between t and d, jump by jump.

        Those that are as quiescent all the way as in `x` are like CPUs that were at the end of it all along: they are
        added to `kept`, if there is such a count.
        """
        seen, qs, before = known
        quiescent, masked, wake = self._qs, self._masked, self._wake
        last = 0
        for path in self._draws.flights(self.cpu, x, n, t, d):
            y = path[-1][1]
            moves = tuple([(at, quiescent[z]) for at, z in path])
            if kept is not None and not any(then is not qs for _, then in moves):
                kept[y] += 1
                continue
            moves = before + moves
            if masked[y]:
                done = self._wait(y, 1, (seen, qs, moves), d, c)
            else:
                hs = d + wake[y]
                done = hs + c
                self.groups.append((done, self._after[y], hs, seen, qs, moves, 1))
            if done > last:
                last = done
        return last

    def free_at(self, t: int) -> int:
        """Return when a task that becomes runnable on this CPU at t can run there."""
        ((he, x, _, _, _, _, _),) = self.groups
        self.groups = []
        if t < he:
            return he
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
        for he, x, hs, _, qs, moves, n in groups:
            if t >= he:
                free[he, x] = free.get((he, x), 0) + n
                continue
            for at, then in moves:
                if at <= t:
                    qs = then
            ahead = tuple(move for move in moves if move[0] > t)
            self.groups.append((he, x, hs, qs and t < hs, qs, ahead, n))
        if free:
            self._resume(t, self._states_at(t, free), self._qs)

    def scan(self, t: int) -> int:
        """Return how many CPUs have passed no quiescent state since `gp_start`."""
        groups, self.groups = self.groups, []
        watched: Groups = {}
        holdouts = 0
        for he, x, hs, seen, qs, moves, n in groups:
            passed = seen or _passed(moves, t) or (t >= he and self._qs[x])
            if not passed and t >= he:
                watched[he, x] = watched.get((he, x), 0) + n
            else:
                holdouts += 0 if passed else n
                self.groups.append((he, x, hs, passed, qs, moves, n))
        if watched:
            kept, unseen, never = self._blank.copy(), self._blank.copy(), self._blank.copy()
            self._draws.split_watching(self.cpu, watched, t, t, kept, never, unseen, never)
            self._resume(t, kept, [True] * len(kept))
            self._resume(t, unseen, [False] * len(kept))
            for n in unseen:
                holdouts += n
        return holdouts

    def _states_at(self, t: int, free: Groups) -> list[int]:
        kept, never = self._blank.copy(), self._blank.copy()
        self._draws.split(self.cpu, free, t, t, kept, never)
        return kept

    def _resume(self, t: int, states: list[int], seen: list[bool]) -> None:
        """Let CPUs go on from their states at t."""
        for x, n in enumerate(states):
            if n:
                self.groups.append((t, x, t, seen[x], False, (), n))


def _passed(moves: _Moves, t: int) -> bool:
    """Say whether one of the moves up to t leads into a quiescent state."""
    return any(quiescent and at <= t for at, quiescent in moves)
