"""What CPUs of the lazy model go through besides plain interrupts: calls to threads, to busy CPUs, at once, stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.sim.passive import AT_ONCE, PREEMPTIBLE, UNMASKED
from execbench.sim.pool import HANDLER, HELD, Group, Pool, Source, paths

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.passive import Acks, Stop, Who
    from execbench.sim.sampling import Groups

__all__ = ["Call", "Touches"]


class Call:
    """A call to CPUs that have been sent the stopper."""

    __slots__ = ("level", "ns", "round")

    def __init__(self, ns: int, round_: Acks, level: int) -> None:
        """`level`: what it waits for (passive.LEVELS)."""
        self.ns = ns
        self.round = round_
        self.level = level


class Touches(Pool):
    """A pool with the touches that are not plain interrupts."""

    __slots__ = ("_arrivals", "_arrived", "calls", "stop")

    def __init__(self, chain: Chain, draws: Source, cpu: int, n: int) -> None:
        """Nobody is stopped."""
        super().__init__(chain, draws, cpu, n)
        self.stop: Stop | None = None
        self._arrived = 0  # when the last CPU is in the stopper's loop
        self._arrivals = 0  # sum of the times at which they get there
        self.calls: list[Call] = []  # what came since the stopper was sent

    def restart(self, t: int, x: int, busy_until: int) -> None:
        """Begin again at t in state `x`, behind handlers that are booked until `busy_until`."""
        self.groups = [(max(t, busy_until), x, -1, True, HANDLER, (), (), UNMASKED, 1)]

    # --- calls that spare idle CPUs, or go to threads, or cannot be masked --------------------------------------------

    def touch(self, t: int, c: int, d: int, who: Who, level: int) -> tuple[int, int]:
        """Enqueue a call of `c` ns at t, delivered at d; return when the last CPU is done and how many it reaches."""
        groups, self.groups = (self.groups, []) if who == "all" else self._split(t, who)
        free: Groups = {}
        watched: Groups = {}
        last = joined = targets = 0
        for he, x, hs, seen, z, moves, apart, waiting, n in groups:
            targets += n
            if t >= he:
                into = free if seen or self._qs[x] or self._passed(moves, t) else watched
                into[he, x] = into.get((he, x), 0) + n
            elif t >= hs:  # a handler runs
                passed = seen or self._passed(moves, t)
                last = max(last, self._behind(x, n, he, (passed, HANDLER, ()), d, c, level))
            elif level > waiting:  # it comes behind what waits
                for (_, at, steps), k in paths(seen, z, moves, apart, n):
                    steps = (*steps, (hs, HANDLER))
                    last = max(last, self._behind(x, k, he, (seen, at, steps), d, c, level))
            elif level == AT_ONCE < waiting:  # it goes before what waits, which does not move
                self.groups.append((he, x, hs, seen, z, moves, apart, waiting, n))
                self.longest = max(self.longest, c)
                last = max(last, d + c)
            else:
                joined += n
                self.groups.append((he + c, x, hs, seen, z, moves, apart, waiting, n))
                last = max(last, he + c)
        self.stolen += c * targets
        self.interruptions += targets - joined
        return max(last, self._reach(free, watched, t, d, c, level)), targets

    def count(self, t: int, who: Who) -> int:
        """Return how many CPUs a call to `who` would go to at t."""
        if who == "all" or self.stop is not None:
            return self.n
        busy, idle = self._split(t, who)
        self.groups = [*busy, *idle]
        return sum(group[-1] for group in busy)

    def _split(self, t: int, who: Who) -> tuple[list[Group], list[Group]]:
        """Return to whom a call goes at t, and whom it spares; present states are drawn."""
        spared = self._spared[who]
        busy: list[Group] = []
        idle: list[Group] = []
        free: Groups = {}
        watched: Groups = {}
        for group in self.groups:
            he, x, hs, seen, z, moves, apart, waiting, n = group
            if t >= he:
                into = free if seen or self._qs[x] or self._passed(moves, t) else watched
                into[he, x] = into.get((he, x), 0) + n
            elif t >= hs:
                busy.append(group)
            else:
                for (_, at, steps), k in paths(seen, z, moves, apart, n):
                    state = next((then for when, then in reversed(steps) if when <= t), at)
                    (idle if spared[state] else busy).append((he, x, hs, seen, at, steps, (), waiting, k))
        kept, unseen, never = self._blank.copy(), self._blank.copy(), self._blank.copy()
        if free:
            self._draws.split(self.cpu, free, t, t, kept, never)
        if watched:
            self._draws.split_watching(self.cpu, watched, t, t, kept, never, unseen, never)
        for states, passed in ((kept, True), (unseen, False)):
            for x, n in enumerate(states):
                if n:
                    (idle if spared[x] else busy).append((t, x, -1, passed, x, (), (), UNMASKED, n))
        return busy, idle

    # --- stopping -----------------------------------------------------------------------------------------------------

    def halt(self, t: int, c: int, d: int, stop: Stop) -> int:
        """Send the stopper at t, delivered at d, `c` ns from its loop; return when the last CPU is there."""
        self._arrived, _ = self.touch(t, c, d, "all", PREEMPTIBLE)
        self.stop = stop
        self._arrivals = sum(group[0] * group[-1] for group in self.groups)
        self.groups = [(HELD, *group[1:]) for group in self.groups]
        return self._arrived

    def deliver(self, t: int, call: Call) -> None:
        """A call arrives at t: an interrupt is taken while stoppers spin, but not behind the last arrival."""
        if call.level == PREEMPTIBLE or call not in self.calls:
            return
        assert self.stop is not None
        if not self.stop.all_arrived(t):
            self.calls.remove(call)
            call.round.acked(max(t, self._arrived) + call.ns, self.n)

    def release(self, t: int, ns: int) -> None:
        """Let the CPUs go at t: `ns` more work of the stopper, then what came meanwhile."""
        self.stop = None
        self.stolen += (t + ns) * self.n - self._arrivals
        self.account(t)
        self.longest, self._stopped_at = max(self.longest, t + ns - self._stopped_at), HELD
        self.groups = [(t + ns, *group[1:]) for group in self.groups]
        calls, self.calls = self.calls, []
        for call in calls:
            last, n = self.touch(t, call.ns, t, "all", call.level)
            call.round.acked(last, n)
