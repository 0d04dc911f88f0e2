"""The lazy model's mechanism is the explicit one, to the nanosecond: both live through the same pre-drawn visits.

No statistics: every acknowledgement, interruption, handler time, hold-out count and activation must be equal, on
random schedules in which rounds of two senders overlap, scans fall in between and most times are tied.
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
from execbench.sim.rng import Streams
from execbench.sim.sampling import Groups

# user, kernel, two masked states that lead into each other, shallow and deep idle, a masked state that is quiescent.
STATES = (
    State("user", False, True, 0, 0),
    State("kernel", False, False, 0, 1),
    State("masked-a", True, False, 0, 2),
    State("masked-b", True, False, 0, 3),
    State("shallow", False, True, 2, 4),
    State("deep", False, True, 5, 4),
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


def run(model: str, cpus: int, schedule: list[tuple[Any, ...]], seed: int, grid: float) -> list[Any]:
    """Play a schedule on one model and return everything that can be seen of it."""
    engine = Engine()
    path = Path(seed, grid)
    named = range(cpus)
    passive: LazyCpus | ExplicitCpus
    if model == "lazy":
        passive = LazyCpus(engine, CHAIN, cpus, named, 4, STREAM, source=PathSource(path))
    else:
        passive = ExplicitCpus(engine, CHAIN, cpus, named, 4, STREAM, visits=path)
    active: set[int] = set()
    told: list[Any] = []

    def act(kind: str, cpu: int, a: int, b: int) -> None:
        t = engine.now
        cpu %= cpus
        if kind == "send" or (kind == "send-one" and cpu not in active):
            told.append(Acked())
            passive.send(t, a, b, told[-1], cpu if kind == "send-one" else None)
        elif kind == "gp":
            passive.gp_start(t)
        elif kind == "scan":
            told.append(("scan", t, passive.scan(t)))
        elif kind == "switch" and cpu in active:
            path.restart(cpu)
            active.remove(cpu)
            passive.deactivate(t, cpu, t + a - 2)
        elif kind == "switch":
            active.add(cpu)
            told.append(("run", t, passive.activate(t, cpu)))
        told.append((passive.interruptions(cpu), passive.stolen_ns(cpu), passive.interruptions(), passive.stolen_ns()))

    t = 0
    for number, (gap, kind, cpu, a, b) in enumerate(schedule):
        t += gap
        # Keys on both sides of those of the CPUs: whether the model's own events come first must not matter.
        key = event_key(Class.SENDER, number) if cpu % 2 else number
        engine.call_at(t, key, partial(act, kind, cpu, a, b))
    engine.run(t + 500)
    return [(item.targets, item.n, item.last) if isinstance(item, Acked) else item for item in told]


KINDS = ("send", "send", "send", "send-one", "gp", "scan", "scan", "switch")


def random_schedule(seed: int) -> list[tuple[Any, ...]]:
    """Twenty steps: (time since the step before, what, CPU, two parameters)."""
    rng = random.Random(seed)
    return [
        (rng.randint(0, 12), rng.choice(KINDS), rng.randint(0, 3), rng.randint(0, 6), rng.randint(0, 8))
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


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.integers(1, 4), SCHEDULES, st.integers(0, 10**6), st.sampled_from([1.0, 0.375]))
def test_lazy_equals_explicit_to_the_ns(cpus: int, schedule: list[tuple[Any, ...]], seed: int, grid: float) -> None:
    assert run("lazy", cpus, schedule, seed, grid) == run("explicit", cpus, schedule, seed, grid)
