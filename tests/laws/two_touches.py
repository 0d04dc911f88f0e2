"""One CPU touched twice, 8 us apart: what can be seen of it, its law from the generator alone, and both models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import expm

from execbench.sim.chain import Chain
from execbench.sim.engine import Engine
from execbench.sim.explicit import ExplicitCpus
from execbench.sim.lazy import LazyCpus
from execbench.sim.passive import Until, Who
from execbench.sim.rng import Stream, Streams
from execbench.stats.laws import seed_of

Vector = npt.NDArray[np.float64]
Cell = tuple[int, int, int, int]
"""(first class, coalesced / behind / free, second class, quiescent state seen)."""

HANDLER, FLIGHT = 1_500, 500
SHALLOW, DEEP = 1_000, 4_000
APART = 8_000
"""Between two touches, ns: long enough that all three of free, behind and coalesced are common."""

# Everything lasts a few us, so that two touches see the same visits.
CHAIN = Chain.from_machine(
    {
        "states": {
            "user": {"fraction": 0.25, "mean": "5us", "qs": True},
            "kernel": {"fraction": 0.25, "mean": "6us"},
            "irqs-off": {"fraction": 0.20, "mean": "12us", "masked": True},
            "nested": {"fraction": 0.05, "mean": "4us", "masked": True, "dist": {"erlang": 2}},
            "idle": {"fraction": 0.15, "mean": "15us", "qs": True, "wake": "shallow"},
            "deep": {"fraction": 0.10, "mean": "60us", "qs": True, "wake": "deep", "after_interrupt": "idle"},
        },
        "restart": "idle",
    },
    {"shallow": SHALLOW, "deep": DEEP}.__getitem__,
)
STATES, SIZE = CHAIN.states, len(CHAIN.states)
IDLE = CHAIN.index("idle")

Model = Callable[[Engine, int, Stream], "LazyCpus | ExplicitCpus"]


def lazy_cpus(engine: Engine, cpus: int, stream: Stream) -> LazyCpus:
    return LazyCpus(engine, CHAIN, cpus, [], IDLE, stream)


def explicit_cpus(engine: Engine, cpus: int, stream: Stream) -> ExplicitCpus:
    return ExplicitCpus(engine, CHAIN, cpus, [], IDLE, stream)


MODELS: dict[str, Model] = {"lazy": lazy_cpus, "explicit": explicit_cpus}


class Last:
    """The last acknowledgement of a round."""

    def __init__(self) -> None:
        self.waiting = self.targets = 0
        self.at = -1

    def expect(self, n: int) -> None:
        self.waiting += n
        self.targets += n

    def acked(self, at: int, n: int = 1) -> None:
        self.waiting -= n
        self.at = max(self.at, at)

    def all_arrived(self, t: int) -> bool:
        return not self.waiting and self.at <= t


class Touch(NamedTuple):
    """Whom a call goes to and what it waits for; which states those are."""

    who: Who = "all"
    until: Until = "unmasked"

    @property
    def waits(self) -> list[bool]:
        return [state.masked or (self.until == "preemptible" and not state.qs) for state in STATES]

    @property
    def spares(self) -> Vector:
        return np.array([float(self.who == "busy" and state.eqs) for state in STATES])


COALESCED, BEHIND, FREE = 0, 1, 2
SPARED = 4


def first_class(delay: int) -> int:
    """What a touch shows of the state: delay of the handler after the delivery."""
    return {0: 0, SHALLOW: 1, DEEP: 2}.get(delay, 3)


# --- the law ----------------------------------------------------------------------------------------------------------


def generators() -> tuple[Vector, Vector]:
    """Q, and Q on pairs (state, quiescent state seen), index = seen * SIZE + state."""
    q = np.array(CHAIN.rates)
    np.fill_diagonal(q, -q.sum(axis=1))
    pairs = np.zeros((2 * SIZE, 2 * SIZE))
    for seen in (0, 1):
        for x in range(SIZE):
            for y in range(SIZE):
                then = 1 if STATES[y].qs and x != y else seen
                pairs[seen * SIZE + x, then * SIZE + y] += q[x, y]
    return q, pairs


def windows(q: Vector, waits: list[bool], x: int, longest: int) -> Vector:
    """P(the wait of a call for a CPU in x ends within the r-th ns, followed by y), by [r, y]."""
    stopped = q.copy()
    for y in range(SIZE):
        if not waits[y]:
            stopped[y] = 0.0
    step, at, out = expm(stopped), np.eye(SIZE)[x], np.zeros((longest + 1, SIZE))
    free = ~np.array(waits)
    before = np.zeros(SIZE)
    for r in range(1, longest + 1):
        at = at @ step
        ended = np.where(free, at, 0.0)
        out[r] = ended - before
        before = ended
    return out


def second_delays(q: Vector, waits: list[bool]) -> Vector:
    """P(delay class of a handler delivered to a free CPU in state z), by [z, class]."""
    out = np.zeros((SIZE, 4))
    for z, state in enumerate(STATES):
        if not waits[z]:
            out[z, first_class(state.wake)] = 1.0
            continue
        ends = windows(q, waits, z, DEEP).sum(axis=1)
        out[z, 1], out[z, 2] = ends[SHALLOW], ends[DEEP]
        out[z, 3] = 1.0 - ends[SHALLOW] - ends[DEEP]
    return out


def law_of(touch: Touch) -> dict[Cell, float]:
    """P(first class, coalesced / behind / free, second class, seen), computed from Q alone.

    A grace period opens at the first touch, is scanned at the second. The class of a second handler that follows the
    first one is 0.
    """
    q, pairs = generators()
    waits, spares = touch.waits, touch.spares
    quiescent = np.array([state.qs for state in STATES])
    start = np.concatenate([np.where(quiescent, 0.0, CHAIN.pi), np.where(quiescent, CHAIN.pi, 0.0)])
    spared = start * np.tile(spares, 2)
    delivered = ((start - spared) @ expm(pairs * FLIGHT)).reshape(2, SIZE)
    longest = APART + FLIGHT
    # known[r, y, seen]: the first handler starts r ns after its delivery and leaves the CPU in y.
    known = np.zeros((longest + 1, SIZE, 2))
    later = np.zeros(2)  # waiting for longer than that
    for x, state in enumerate(STATES):
        for seen in (0, 1):
            p = delivered[seen, x]
            if waits[x]:
                ends = p * windows(q, waits, x, longest)
                known[:, :, seen] += ends
                later[seen] += p - ends.sum()
            else:
                known[state.wake, state.after_interrupt, seen] += p
    delays = second_delays(q, waits)
    to_delivery = expm(q * FLIGHT)
    ns, ns_pairs = expm(q), expm(pairs)
    gone, gone_pairs = np.eye(SIZE), np.eye(2 * SIZE)  # over the gap since the first handler's end
    cells: dict[Cell, float] = {}

    def add(first: int, kind: int, second: int, seen: int, p: float) -> None:
        if p:
            cells[first, kind, second, seen] = cells.get((first, kind, second, seen), 0.0) + p

    def add_free(first: int, at: Vector) -> None:
        """A CPU that is free at the second touch, in a state of law `at` by [seen, state]."""
        reached = (at * (1.0 - spares)) @ to_delivery @ delays
        for seen in (0, 1):
            add(first, FREE, SPARED, seen, float(at[seen] @ spares))
            for second in range(4):
                add(first, FREE, second, seen, float(reached[seen, second]))

    add_free(SPARED, (spared @ expm(pairs * APART)).reshape(2, SIZE))
    for seen in (0, 1):
        add(3, COALESCED, 0, seen, float(later[seen]))
    for r in range(longest, -1, -1):  # in the order of growing gaps
        begin = FLIGHT + r
        end = begin + HANDLER
        if end <= APART:
            if end < APART:
                gone_pairs = gone_pairs @ ns_pairs
        elif end < APART + FLIGHT:
            gone = gone @ ns
        first = first_class(r)
        for y in range(SIZE):
            for seen in (0, 1):
                p = float(known[r, y, seen])
                if begin > APART:
                    add(first, COALESCED, 0, seen, p)
                elif end >= APART + FLIGHT:
                    add(first, BEHIND, 0, seen, p)
                elif end > APART:  # the handler ends on the way of the second call
                    for second in range(4):
                        add(first, FREE, second, seen, p * float(gone[y] @ delays[:, second]))
                elif p:
                    add_free(first, p * gone_pairs[(seen or quiescent[y]) * SIZE + y].reshape(2, SIZE))
    assert math.isclose(sum(cells.values()), 1.0, abs_tol=1e-9)
    return cells


# --- the models -------------------------------------------------------------------------------------------------------


def two_touches(model: Model, name: str, n: int, touch: Touch) -> Iterator[Cell]:
    """Touch `n` CPUs twice, each alone in its machine, and observe what acknowledgements and counters tell."""
    stream = Streams(seed_of(name), 0).stream("background")
    for _ in range(n):
        engine = Engine()
        cpu = model(engine, 1, stream)
        one, two = Last(), Last()
        engine.run(1_000)
        cpu.gp_start(1_000)
        cpu.send(1_000, HANDLER, FLIGHT, one, None, *touch)
        t = 1_000 + APART
        engine.run(t)
        seen = 1 - cpu.scan(t)
        before = cpu.interruptions()
        cpu.send(t, HANDLER, FLIGHT, two, None, *touch)
        joined = cpu.interruptions() == before
        until = t
        while two.waiting:
            until += 20_000
            engine.run(until)
        first = first_class(one.at - 1_000 - FLIGHT - HANDLER) if one.targets else SPARED
        if not two.targets:
            yield first, FREE, SPARED, seen
        elif joined:
            yield first, COALESCED, 0, seen
        elif t + FLIGHT <= one.at:
            yield first, BEHIND, 0, seen
        else:
            yield first, FREE, first_class(two.at - t - FLIGHT - HANDLER), seen


def counted(cells: dict[Any, float], seen: Iterable[Any]) -> tuple[list[int], list[float]]:
    """Counts and probabilities by cell; what has no cell counts in one of probability 0."""
    counts = dict.fromkeys([*cells, None], 0)
    for cell in seen:
        counts[cell if cell in counts else None] += 1
    return list(counts.values()), [*cells.values(), 0.0]
