"""CPUs of the lazy model that nothing but their own history distinguishes, in groups of which the same is known.

A group's path is known up to the end of the last handlers that are booked on it; where they begin is drawn when a call
is sent, jump by jump, and kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from execbench.sim.passive import UNMASKED

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.sampling import Groups

__all__ = ["HANDLER", "HELD", "Group", "Known", "Moves", "Pool", "Source", "paths"]

HANDLER = -1
"""Number of the state of a CPU that is in a handler: the last entry of every table by state."""
HELD = 1 << 62
"""End of a handler that nobody knows yet: the CPU is stopped."""

Moves = tuple[tuple[float, int], ...]
"""(time, state from then on)."""
Known = tuple[bool, int, Moves]
"""(seen, z, moves) of a group."""
Group = tuple[int, int, int, bool, int, Moves, tuple[tuple[int, Moves], ...], int, int]
"""(he, x, hs, seen, z, moves, apart, level, n): the path of `n` CPUs is known up to `he`, where the background goes on
in state `x`.

hs and he: start and end of the last booked handlers (hs -1: none are); level: what they waited for (passive.LEVELS,
whatever it is if none are). seen: a quiescent
state was passed since the grace period began, or none is looked for. z: the present state, until the first of `moves`
or until `hs`; between hs and he it is HANDLER. apart: (z, moves) of those CPUs whose path differs from this, but not in
when it is quiescent.
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


def paths(
    seen: bool, z: int, moves: Moves, apart: tuple[tuple[int, Moves], ...], n: int
) -> Iterator[tuple[Known, int]]:
    """Yield each path of a group and how many CPUs are on it."""
    if n > len(apart):
        yield (seen, z, moves), n - len(apart)
    for other, others in apart:
        yield (seen, other, others), 1


class Pool:
    """The groups, and how handlers are booked on them."""

    __slots__ = (
        "_after", "_blank", "_draws", "_masked", "_outside", "_qs", "_since", "_spared", "_stopped_at", "_waits",
        "_wake", "cpu", "groups", "interruptions", "longest", "n", "stolen",
    )  # fmt: skip

    def __init__(self, chain: Chain, draws: Source, cpu: int, n: int) -> None:
        """`n` CPUs at time 0, in states as `draws` says; `cpu` is their number, or -1."""
        states = chain.states
        self._draws = draws
        self._blank = [0] * len(states)
        self._masked = [state.masked for state in states]
        self._waits = (  # by what is called: at-once, interrupts, threads
            [False] * (len(states) + 1),
            [*(state.masked for state in states), False],
            [*(state.masked or not state.qs for state in states), False],
        )
        self._qs = [*(state.qs for state in states), False]
        self._spared = {
            "busy": [*(state.eqs for state in states), False],
            "kernel": [*(state.user for state in states), False],
        }
        self._outside = [*(state.eqs + state.user for state in states), 0]  # who is spared here is the same
        self._wake = [*(state.wake for state in states), 0]
        self._after = [state.after_interrupt for state in states]
        self.cpu = cpu
        self.n = n
        self.interruptions = 0
        self.stolen = 0
        self.longest = 0
        self._since = 0  # what began earlier is in `longest`
        self._stopped_at = HELD  # when the first of the CPUs that are stopped was taken
        self.groups: list[Group] = [
            (0, x, -1, True, x, (), (), UNMASKED, count) for x, count in enumerate(draws.initial(cpu, n)) if count
        ]

    def _reach(self, free: Groups, watched: Groups, t: int, d: int, c: int, level: int) -> int:
        """Book the handlers of CPUs that nothing was known of at t any more; return when the last is done."""
        last = 0
        if free or watched:
            kept, moved = self._blank.copy(), self._blank.copy()
            if free:
                self._draws.split(self.cpu, free, t, d, kept, moved)
            if watched:
                unseen = self._blank.copy(), self._blank.copy()
                self._draws.split_watching(self.cpu, watched, t, d, kept, moved, *unseen)
                last = max(last, self._book(*unseen, False, t, d, c, level))
            last = max(last, self._book(kept, moved, True, t, d, c, level))
        return last

    def _book(
        self, kept: list[int], moved: list[int], seen: bool, t: int, d: int, c: int, level: int
    ) -> int:  # fmt: skip
        """Book the handlers of CPUs that were free at t, counted by state; return when the last is done."""
        wake, after, book, waits = self._wake, self._after, self.groups.append, self._waits[level]
        last = 0
        apart: dict[int, list[tuple[int, Moves]]] = {}
        if any(moved):
            for x, n in enumerate(moved):
                if n:
                    last = max(last, self._follow(x, n, t, (seen, x, ()), d, c, level, kept, apart))
        for x, n in enumerate(kept):
            if n:
                others = tuple(apart[x]) if x in apart else ()
                if waits[x]:
                    done = self._wait(x, n, (seen, x, ()), d, c, level, others)
                else:
                    hs = d + wake[x]
                    done = hs + c
                    book((done, after[x], hs, seen, x, (), others, level, n))
                if done > last:
                    last = done
        return last

    def _behind(self, x: int, n: int, he: int, known: Known, d: int, c: int, level: int) -> int:
        """Book handlers on CPUs that come back to state `x` at `he`, behind others, for a call delivered at d."""
        waits = self._waits[level]
        if d <= he and not waits[x]:
            self.groups.append((he + c, x, he, *known, (), level, n))
            return he + c
        seen, z, moves = known
        known = seen, z, (*moves, (he, x))
        kept, moved = self._blank.copy(), self._blank.copy()
        d = max(d, he)
        self._draws.split(self.cpu, {(he, x): n}, he, d, kept, moved)
        last = self._follow(x, moved[x], he, known, d, c, level) if moved[x] else 0
        if kept[x] and waits[x]:
            return max(last, self._wait(x, kept[x], known, d, c, level))
        if kept[x]:
            hs = d + self._wake[x]
            self.groups.append((hs + c, self._after[x], hs, *known, (), level, kept[x]))
            last = max(last, hs + c)
        return last

    def _wait(
        self, x: int, n: int, known: Known, d: int, c: int, level: int,
        apart: tuple[tuple[int, Moves], ...] = (),
    ) -> int:  # fmt: skip
        """Book the handlers of CPUs that let none start at d, in state `x`, behind the states in which they wait.

        The last of them have the paths `apart`.
        """
        seen, z, before = known
        waits, first = self._waits[level], n - len(apart)
        last = 0
        for i, (at, y) in enumerate(self._draws.jumps(self.cpu, x, n, d)):
            if i >= first:
                z, before = apart[i - first]
            moves = before
            while waits[y]:
                moves = (*moves, (at, y))
                step = self._draws.jump(self.cpu, y, at, math.inf)
                assert step is not None
                at, y = step
            hs = math.ceil(at)
            done = hs + c
            self.groups.append((done, y, hs, seen, z, moves, (), level, 1))
            if done > last:
                last = done
        return last

    def _follow(
        self, x: int, n: int, t: int, known: Known, d: int, c: int, level: int,
        kept: list[int] | None = None, apart: dict[int, list[tuple[int, Moves]]] | None = None,
    ) -> int:  # fmt: skip
        """Book the handlers of CPUs that leave `x` between t and d, jump by jump.

        Those that are as quiescent all the way as in `x` are like CPUs that were at the end of it all along: they are
        added to `kept`, if there is such a count, and to `apart` if their way was idle where the end is not, or back.
        """
        seen, z, before = known
        quiescent, idle, wake = self._qs, self._outside, self._wake
        qs, waits = quiescent[x], self._waits[level]
        last = 0
        for path in self._draws.flights(self.cpu, x, n, t, d):
            y = path[-1][1]
            if kept is not None and not any(quiescent[w] is not qs for _, w in path):
                kept[y] += 1
                if idle[x] != idle[y] or any(idle[w] != idle[y] for _, w in path):
                    assert apart is not None
                    apart.setdefault(y, []).append((x, tuple(path)))
                continue
            moves = (*before, *path)
            if waits[y]:
                done = self._wait(y, 1, (seen, z, moves), d, c, level)
            else:
                hs = d + wake[y]
                done = hs + c
                self.groups.append((done, self._after[y], hs, seen, z, moves, (), level, 1))
            if done > last:
                last = done
        return last

    # --- what is known ------------------------------------------------------------------------------------------------

    def take_longest(self, t: int) -> int:
        """Return the longest interruption (ns) that began since this was last asked, up to the end of the ns `t`."""
        self.account(t)
        self._since = t + 1
        longest, self.longest = self.longest, 0
        return longest

    def account(self, t: int) -> None:
        """Note how long the interruptions take that have begun up to t, before they are forgotten."""
        for he, _, hs, _, z, moves, _, level, _ in self.groups:
            before, waits = z, self._waits[UNMASKED]
            for i, (at, then) in enumerate(moves):  # others may have been taken before its turn
                if then == HANDLER and self._since <= at <= t:
                    end = math.ceil(moves[i + 1][0]) if i + 1 < len(moves) else hs
                    self._taken(math.ceil(at), end, before, waits)
                before = then
            if self._since <= hs <= t:
                self._taken(hs, he, before, self._waits[level])
        self._since = t

    def _taken(self, hs: int, he: int, before: int, waits: list[bool]) -> None:
        """Note one interruption of a CPU in state `before`: with its wake-up, unless it had to wait for a jump."""
        begin = hs - (0 if waits[before] else self._wake[before])
        if he == HELD:
            self._stopped_at = min(self._stopped_at, begin)
        else:
            self.longest = max(self.longest, he - begin)

    def _passed(self, moves: Moves, t: int) -> bool:
        """Say whether one of the moves up to t leads into a quiescent state."""
        return any(at <= t and self._qs[then] for at, then in moves)

    def _states_at(self, t: int, free: Groups) -> list[int]:
        kept, never = self._blank.copy(), self._blank.copy()
        self._draws.split(self.cpu, free, t, t, kept, never)
        return kept

    def _resume(self, t: int, states: list[int], seen: list[bool]) -> None:
        """Let CPUs go on from their states at t."""
        for x, n in enumerate(states):
            if n:
                self.groups.append((t, x, -1, seen[x], x, (), (), UNMASKED, n))
