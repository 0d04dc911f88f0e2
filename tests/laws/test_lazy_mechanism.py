"""The lazy model's mechanism is the explicit one, to the nanosecond: both live through the same pre-drawn visits.

No statistics: every acknowledgement, interruption, handler time, hold-out count and activation must be equal, on
random schedules in which rounds of two senders overlap, scans fall in between and most times are tied. Calls go to
interrupts that can be masked or not, and to threads, to all CPUs and to busy ones; the machine is stopped in between.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from execbench.sim.chain import Chain, State
from execbench.sim.engine import Class, Engine, event_key
from execbench.sim.explicit import ExplicitCpus
from execbench.sim.lazy import LazyCpus
from execbench.sim.passive import Until, Who
from execbench.sim.rng import Streams
from execbench.sim.sampling import Groups

# user, kernel, two masked states that lead into each other, idle, nohz_full user mode (with a wake-up, which proves
# more), a masked state that is quiescent.
# An interrupt of user mode leaves the CPU in the kernel, where a thread that comes behind it must wait.
STATES = (
    State("user", False, True, 0, 1),
    State("kernel", False, False, 0, 1),
    State("masked-a", True, False, 0, 2),
    State("masked-b", True, False, 0, 3),
    State("shallow", False, True, 2, 4, eqs=True),
    State("deep", False, True, 5, 4, eqs=True, user=True),
    State("away", True, True, 0, 6),
)
RATES = tuple(tuple(0.0 if i == j else 0.02 for j in range(7)) for i in range(7))
CHAIN = Chain(STATES, RATES, (1 / 7,) * 7)
STREAM = Streams(1, 0).stream("unused")


class Path:
    """The k-th visit of a CPU since its last restart lasts, and is followed by, what a table says."""

    def __init__(self, seed: int, grid: float) -> None:
        self.seed, self.grid = seed, grid
        self.lives: dict[int, int] = {}
        self.visits: dict[int, int] = {}

    def restart(self, cpu: int) -> None:
        self.lives[cpu] = self.lives.get(cpu, 0) + 1
        self.visits[cpu] = 0

    def visit(self, cpu: int, x: int) -> tuple[float, int]:
        k = self.visits[cpu] = self.visits.get(cpu, 0) + 1
        draw = scrambled(self.seed, cpu, self.lives.get(cpu, 0), k, x)
        return (draw % 30 + 1) * self.grid, (x + 1 + draw // 30 % 6) % 7

    def initial(self, cpu: int) -> tuple[int, float, int]:
        x = scrambled(self.seed, cpu) % 7
        return x, *self.visit(cpu, x)


def scrambled(*numbers: int) -> int:
    """A number below 2^40 that depends on all of the given ones (multiplicative hashing)."""
    draw = 0
    for number in numbers:
        draw = (draw + number + 1) * 0x9E3779B97F4A7C15 % (1 << 64)
        draw ^= draw >> 31
    return draw >> 24


class PathSource:
    """Reads the background off a path, one CPU at a time (execbench.sim.lazy.Source)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.x: dict[int, int] = {}
        self.left: dict[int, float] = {}
        self.then: dict[int, int] = {}
        self.at: dict[int, float] = {}

    def initial(self, cpu: int, n: int) -> list[int]:
        tally = [0] * 7
        if n:
            self.x[cpu], self.left[cpu], self.then[cpu] = self.path.initial(cpu)
            tally[self.x[cpu]] = 1
        return tally

    def enter(self, cpu: int, x: int) -> None:
        self.x[cpu] = x
        self.left[cpu], self.then[cpu] = self.path.visit(cpu, x)

    def split(self, cpu: int, groups: Groups, t: int, d: int, kept: list[int], moved: list[int]) -> None:
        self._split(cpu, groups, t, d, True, kept, moved)

    def split_watching(
        self, cpu: int, groups: Groups, t: int, d: int,
        kept: list[int], moved: list[int], kept_unseen: list[int], moved_unseen: list[int],
    ) -> None:  # fmt: skip
        self._split(cpu, groups, t, d, False, kept, moved, kept_unseen, moved_unseen)

    def _split(self, cpu: int, groups: Groups, t: int, d: int, seen: bool, *cells: list[int]) -> None:
        (((t0, x), n),) = groups.items()
        assert n == 1
        if x != self.x[cpu]:
            self.enter(cpu, x)
        self.at[cpu] = t0
        assert seen or not STATES[x].qs
        while self.at[cpu] + self.left[cpu] <= t:
            seen = STATES[self._jump(cpu)].qs or seen
        jumps = self.at[cpu] + self.left[cpu] <= d
        if not jumps:
            self._rest(cpu, d)
        cells[2 * (not seen) + jumps][self.x[cpu]] += 1

    def jump(self, cpu: int, x: int, at: float, until: float) -> tuple[float, int] | None:
        assert x == self.x[cpu]
        if self.at[cpu] + self.left[cpu] > until:
            self._rest(cpu, until)
            return None
        y = self._jump(cpu)
        return self.at[cpu], y

    def jumps(self, cpu: int, x: int, n: int, at: int) -> list[tuple[float, int]]:
        assert n == 1
        step = self.jump(cpu, x, at, at + 10**9)
        assert step is not None
        return [step]

    def flights(self, cpu: int, x: int, n: int, t: int, d: int) -> list[list[tuple[float, int]]]:
        assert n == 1
        path: list[tuple[float, int]] = []
        while (step := self.jump(cpu, self.x[cpu], t, d)) is not None:
            path.append(step)
        return [path]

    def _jump(self, cpu: int) -> int:
        self.at[cpu] += self.left[cpu]
        self.enter(cpu, self.then[cpu])
        return self.x[cpu]

    def _rest(self, cpu: int, until: float) -> None:
        self.left[cpu] = self.at[cpu] + self.left[cpu] - until
        self.at[cpu] = until


class Acked:
    """Keeps what a round is told, whether at once or as it becomes known."""

    def __init__(self) -> None:
        self.targets = 0
        self.n = 0
        self.last = -1

    def expect(self, n: int) -> None:
        self.targets += n

    def acked(self, at: int, n: int = 1) -> None:
        self.n += n
        self.last = max(self.last, at)

    def all_arrived(self, t: int) -> bool:
        return self.n == self.targets and self.last <= t


SEEN = ("scan", "run", "longest", "count")
WHO_UNTIL: dict[str, tuple[Who, Until]] = {
    "send": ("all", "unmasked"),
    "send-busy": ("busy", "unmasked"),
    "call-threads": ("all", "preemptible"),
    "call-busy-threads": ("busy", "preemptible"),
    "force": ("all", "at-once"),
    "force-busy": ("busy", "at-once"),
    "send-kernel": ("kernel", "unmasked"),
}
ONE: dict[str, Until] = {"send-one": "unmasked", "call-one": "preemptible", "force-one": "at-once"}
KINDS = (
    "send", "send", "send", "send-one", "send-busy", "send-busy", "send-kernel", "send-kernel", "count",
    "call-threads", "call-one", "call-busy-threads", "force", "force", "force-one", "force-busy",
    "stop", "stop-one", "release", "release", "gp", "scan", "scan", "switch", "longest",
)  # fmt: skip
PLAIN = ("send", "send", "send", "send-one", "gp", "scan", "scan", "switch")
FORCED = (*PLAIN, "force", "force", "force-one")


class Bench:
    """One model, on which a schedule is played, and everything that can be seen of it."""

    def __init__(self, model: str, cpus: int, seed: int, grid: float) -> None:
        self.engine = Engine()
        self.path = Path(seed, grid)
        self.cpus = cpus
        self.passive: LazyCpus | ExplicitCpus
        common: Any = (self.engine, CHAIN, cpus, range(cpus), 4, STREAM)
        if model == "lazy":
            self.passive = LazyCpus(*common, PathSource(self.path), watch=True)
        else:
            self.passive = ExplicitCpus(*common, self.path, watch=True)
        self.active: set[int] = set()
        self.stopped: set[int] = set()
        self.stop: Acked | None = None
        self.told: list[Any] = []

    def act(self, kind: str, cpu: int, a: int, b: int) -> None:
        """Do one step: cpu, a and b are its parameters."""
        t, passive = self.engine.now, self.passive
        cpu %= self.cpus
        if kind in WHO_UNTIL:
            who, until = WHO_UNTIL[kind]
            passive.send(t, a, b, self.round(), None, who, until)
        elif kind in ONE and cpu not in self.active:
            passive.send(t, a, b, self.round(), cpu, "all", ONE[kind])
        elif kind == "stop" and self.stop is None:
            self.stop = self.round()
            self.stopped = set(range(self.cpus)) - self.active
            passive.stop(t, a + 1, b, self.stop)
        elif kind == "stop-one" and self.stop is not None and cpu not in self.stopped | self.active:
            if not self.stop.all_arrived(t):
                self.stopped.add(cpu)
                passive.stop(t, a + 1, b, self.stop, cpu)
        elif kind == "release" and self.stop is not None and self.stop.all_arrived(t):
            passive.release(t, a + 1)
            self.stop, self.stopped = None, set()
        elif kind == "count":
            self.told.append(("count", passive.count(t, "busy"), passive.count(t, "kernel")))
        elif kind == "gp":
            passive.gp_start(t)
        elif kind == "scan":
            self.told.append(("scan", t, passive.scan(t)))
        elif kind == "longest":
            self.told.append(("longest", t, passive.take_longest(t)))
        elif kind == "switch" and cpu in self.active:
            self.path.restart(cpu)
            self.active.remove(cpu)
            passive.deactivate(t, cpu, t + a - 2)
        elif kind == "switch" and cpu not in self.stopped:
            self.active.add(cpu)
            self.told.append(("run", t, passive.activate(t, cpu)))
        self.told.append(
            (passive.interruptions(cpu), passive.stolen_ns(cpu), passive.interruptions(), passive.stolen_ns())
        )

    def round(self) -> Acked:
        """Return a new round, which is told everything."""
        self.told.append(Acked())
        return self.told[-1]  # type: ignore[no-any-return]


def run(model: str, cpus: int, schedule: list[tuple[Any, ...]], seed: int, grid: float) -> list[Any]:
    """Play a schedule on one model and return everything that can be seen of it."""
    bench, t = Bench(model, cpus, seed, grid), 0
    for number, (gap, kind, cpu, a, b) in enumerate(schedule):
        t += gap
        # Keys on both sides of those of the CPUs: whether the model's own events come first must not matter.
        key = event_key(Class.SENDER, number) if cpu % 2 else number
        if kind == "longest":
            key = event_key(Class.OBSERVER, number)
        bench.engine.call_at(t, key, partial(bench.act, kind, cpu, a, b))
    for later, kind in ((500, "release"), (900, "longest")):  # all arrive at last, and go on
        bench.engine.call_at(t + later, event_key(Class.OBSERVER, 0), partial(bench.act, kind, 0, 0, 0))
    bench.engine.run(t + 1_000)
    return [(item.targets, item.n, item.last) if isinstance(item, Acked) else item for item in bench.told]


def random_schedule(seed: int, kinds: tuple[str, ...] = KINDS) -> list[tuple[Any, ...]]:
    """Twenty steps: (time since the step before, what, CPU, two parameters)."""
    rng = random.Random(seed)
    return [
        (rng.randint(0, 12), rng.choice(kinds), rng.randint(0, 3), rng.randint(0, 6), rng.randint(0, 8))
        for _ in range(20)
    ]


SCHEDULES = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(KINDS),
        st.integers(0, 3),
        st.integers(0, 6),
        st.integers(0, 8),
    ),
    max_size=30,
)


@settings(max_examples=900, deadline=None, derandomize=True)
@given(st.integers(1, 4), SCHEDULES, st.integers(0, 10**6), st.sampled_from([1.0, 0.375]))
def test_lazy_equals_explicit_to_the_ns(cpus: int, schedule: list[tuple[Any, ...]], seed: int, grid: float) -> None:
    lazy, explicit = (run(model, cpus, schedule, seed, grid) for model in ("lazy", "explicit"))
    assert lazy == explicit
    assert all(n == targets for targets, n, _ in (item for item in lazy if len(item) == 3 and item[0] not in SEEN))
