"""Three statistical laws on top of the exact oracles: what they add is a check of the variates.

The smallest error that matters is declared beside each law; the sizes follow from it (alpha 1e-5, power 0.99), and each
law has a mutant that it finds. Limiting variances without a closed form are from runs of 4e6 and rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.dists import Constant, Exponential, Uniform
from execbench.sim.engine import Class, Engine, Proc, event_key
from execbench.sim.ipi import Interrupts, Round
from execbench.sim.locks import Lock, LockKind
from execbench.sim.probe import Probe
from execbench.sim.rcu import Rcu, RcuRules
from execbench.sim.rng import Streams
from execbench.sim.task import Task
from execbench.stats.laws import judge_distribution, ks_distance, ks_threshold, sample_size, seed_of, two_stage

UNIT = 1_000_000  # ns; mean service, mean masked window, mean grace period: the grid is a millionth of it
FAR = 1 << 60

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Law = Constant | Exponential | Uniform


class Bare:
    """CPUs that are there at once and have no background."""

    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None) -> None: ...

    def gp_start(self, t: int) -> None: ...

    def scan(self, t: int) -> int:
        return 0


def drawn(seed: int, name: str, law: Law, n: int) -> Ints:
    """Variates as a simulation draws them."""
    stream = Streams(seed, 0).stream(name)
    return np.array([law.draw(stream) for _ in range(n)], dtype=np.int64)


# --- M/M/1 ------------------------------------------------------------------------------------------------------------

RHO = 0.5
MM1_DELTA = 0.02  # of a mean service
MM1_VARIANCE = RHO * (2 + 5 * RHO - 4 * RHO**2 + RHO**3) / (1 - RHO) ** 4


def waits_of(gaps: Ints, services: Ints) -> Ints:
    """Lindley's recursion in closed form: the walk less its minimum so far."""
    walk = np.concatenate([[0], np.cumsum(services[:-1] - gaps[1:])])
    waits: Ints = walk - np.minimum.accumulate(walk)
    return waits


def lock_waits(gaps: Sequence[int], services: Sequence[int]) -> list[int]:
    """The same by the simulator: tasks with a CPU each at one lock."""
    engine, waits = Engine(), dict[int, int]()
    lock = Lock(LockKind("lock", "mutex", ""), engine, Probe(), 0)

    def customer(i: int, task: Task, service: int) -> Proc[None]:
        arrival = engine.now
        with (yield from lock.acquire(task)):
            waits[i] = engine.now - arrival
            task.cpu.spend(service)

    at = 0
    for i, (gap, service) in enumerate(zip(gaps, services, strict=True)):
        at += gap
        task = Task(f"customer {i}", Cpu(i, engine, Bare()), engine, 0)
        engine.spawn(task.run(customer(i, task, service)), at, task.cpu.key)
    engine.run(FAR)
    return [waits[i] for i in range(len(waits))]


SERVICE = Exponential(UNIT)


def mm1(seed: int, n: int, service: Law = SERVICE, service_stream: str = "services") -> float:
    """Mean wait in mean services; the first customers also pass through a lock of the simulator."""
    gaps, services = drawn(seed, "gaps", Exponential(UNIT / RHO), n), drawn(seed, service_stream, service, n)
    waits = waits_of(gaps, services)
    assert lock_waits(gaps[:2_000].tolist(), services[:2_000].tolist()) == waits[:2_000].tolist()
    return float(waits.mean()) / UNIT


def test_mm1() -> None:
    verdict = two_stage("M/M/1", RHO / (1 - RHO), MM1_DELTA, sample_size(MM1_VARIANCE, MM1_DELTA), mm1)
    print(verdict)
    assert verdict, str(verdict)


@pytest.mark.parametrize(
    ("service", "stream"),
    [(Exponential(1.02 * UNIT), "services"), (Uniform(0, 2 * UNIT), "services"), (Exponential(UNIT), "gaps")],
    ids=["2 % longer", "another law of the same mean", "drawn from the stream of the gaps"],
)
def test_mm1_finds_wrong_variates(service: Law, stream: str) -> None:
    n = sample_size(MM1_VARIANCE, MM1_DELTA)

    def wrong(seed: int, size: int) -> float:  # the size of the first stage serves both: a mutant needs no precision
        return mm1(seed, min(size, n // 4), service, stream)

    verdict = two_stage("M/M/1", RHO / (1 - RHO), MM1_DELTA, n, wrong)
    print(verdict)
    assert not verdict


# --- broadcasts -------------------------------------------------------------------------------------------------------

ROUNDS, TARGETS = 6_000, 4
"""A law that is off by twice the threshold (0.064) in Kolmogorov's distance passes with chance below 1e-5."""


def broadcasts(seed: int, targets: int) -> Floats:
    """How long each of ROUNDS broadcasts waited for its slowest target, in mean windows, flight and handler apart.

    Targets turn interrupts off again as soon as they are on, for exponential times. What is left of such a window is
    exponential whatever happened before, so the parts of a round are independent, stationary and independent of
    earlier rounds, without a gap between rounds.
    """
    engine, streams, background = Engine(), Streams(seed, 0), Bare()
    cpus = [Cpu(number, engine, background) for number in range(targets + 1)]
    interrupts = Interrupts(engine, background, cpus)
    flight, handler = 1_000, 2_000
    extra: list[int] = []

    def target(task: Task) -> Proc[None]:
        law, stream = Exponential(UNIT), streams.stream(task.name)
        while len(extra) < ROUNDS:
            for _ in range(4):
                task.cpu.mask()
                task.cpu.spend(law.draw(stream))
                task.cpu.unmask()
            yield from task.settle()

    def sender(task: Task) -> Proc[None]:
        task.cpu.spend(UNIT)
        for _ in range(ROUNDS):
            yield from task.settle()
            sent = engine.now
            yield from interrupts.wait(task, interrupts.send(task.cpu, handler, flight))
            extra.append(engine.now - sent - flight - handler)
            task.cpu.spend(UNIT // 10)

    for cpu in cpus:
        task = Task(f"task {cpu.id}", cpu, engine, 0)
        engine.spawn(task.run(target(task) if cpu.id else sender(task)), 0, cpu.key)
    engine.run(FAR)
    return np.array(extra) / UNIT


def slowest(n: int) -> Callable[[Floats], Floats]:
    """F(x)^n."""

    def cdf(x: Floats) -> Floats:
        return np.asarray((1 - np.exp(-np.maximum(x, 0))) ** n, dtype=np.float64)

    return cdf


def test_broadcasts_wait_for_the_slowest_of_independent_parts() -> None:
    verdict = judge_distribution(broadcasts(seed_of("broadcasts"), TARGETS), slowest(TARGETS))
    print(verdict)
    assert verdict, str(verdict)


def mean_part(self: Round, at: int, n: int = 1) -> None:
    """Mutant of Round.acked: the round takes as long as its parts on average (parts are told one by one)."""
    now = self.engine.now
    self.done_at = at if self.done_at < 0 else self.done_at + (at - self.done_at) // (self.targets - self.waiting + 1)
    self.waiting -= n
    if not self.waiting and self.waiter is not None:
        self.engine.schedule(self.waiter, max(self.done_at, now), self.key)


@pytest.mark.parametrize("mutant", ["mean instead of maximum", "a target forgotten"])
def test_broadcasts_of_another_law_are_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = TARGETS
    if mutant == "a target forgotten":
        targets -= 1
    else:
        monkeypatch.setattr(Round, "acked", mean_part)
    values = broadcasts(seed_of("broadcasts"), targets)
    distance = ks_distance(values, slowest(TARGETS))
    print(f"{mutant}: distance {distance:.3f}, threshold {ks_threshold(ROUNDS):.3f}")
    assert not judge_distribution(values, slowest(TARGETS))
    assert distance > 2 * ks_threshold(ROUNDS), "the declared smallest error"


# --- shared grace periods ---------------------------------------------------------------------------------------------

GP_DELTA = 0.03  # of the theory
TOY = RcuRules(
    jiffy_ns=1, first_fqs=0, next_fqs=0, wake_from_gp=True, direct_wakes=5, init_ns=0, cleanup_ns=0, wake_ns=0,
    worker_ns=0, second_scan=0.0,
)  # fmt: skip


class Toy(Rcu):
    """Grace periods of independent lengths instead of jiffies; who is served by which is the machinery's."""

    def __init__(self, engine: Engine, streams: Streams, law: Law) -> None:
        super().__init__(engine, Probe(), Bare(), TOY, streams.stream("second scan"), streams.stream("tick"))
        self.law, self.lengths = law, streams.stream("grace periods")

    def _timeout(self, now: int, jiffies: int) -> int:
        return now + self.law.draw(self.lengths)


class Eager(Toy):
    """Mutant: a request during a grace period is served by that one."""

    def snap(self) -> int:
        return self.completed + 1


class Caller:
    """Stands for a blocked task: adds up how long its kind waited."""

    __slots__ = ("since", "total")

    def __init__(self, since: int, total: list[int]) -> None:
        self.since = since
        self.total = total

    def wake(self, at: int) -> None:
        self.total[0] += at - self.since
        self.total[1] += 1


def mean_wait(make: type[Toy], law: Law, load: float, seed: int, n: int) -> float:
    """Mean wait of `n` Poisson requests, `load` of them per mean grace period, in mean grace periods."""
    engine, streams = Engine(), Streams(seed, 0)
    rcu, gaps, stream = make(engine, streams, law), Exponential(UNIT / load), streams.stream("arrivals")
    total, left, key = [0, 0], n, event_key(Class.THREAD, 0)

    def arrive() -> None:
        nonlocal left
        rcu._waiters.setdefault(rcu._request(), []).append(Caller(engine.now, total))  # type: ignore[arg-type]
        left -= 1
        if left:
            engine.call_at(engine.now + gaps.draw(stream), key, arrive)

    engine.call_at(0, key, arrive)
    engine.run(FAR)
    assert total[1] == n
    return total[0] / n / UNIT


def theory(law: Law, load: float) -> float:
    """E W = E L + (1 - p0) E L^2 / (2 E L), p0 = (1/a) / (1/a + E L / L*(a)), in mean grace periods."""
    square, transform = (1.0, np.exp(-load)) if isinstance(law, Constant) else (2.0, 1 / (1 + load))
    idle = (1 / load) / (1 / load + 1 / transform)
    return float(1 + (1 - idle) * square / 2)


LOADS = [
    (Constant(UNIT), 0.05, 0.016),
    (Constant(UNIT), 1.0, 0.13),
    (Constant(UNIT), 20.0, 0.085),
    (Exponential(UNIT), 0.05, 1.5),
    (Exponential(UNIT), 1.0, 9.0),
    (Exponential(UNIT), 20.0, 130.0),
]


@pytest.mark.parametrize(("law", "load", "variance"), LOADS, ids=lambda value: str(value).partition("(")[0])
def test_shared_grace_periods(law: Law, load: float, variance: float) -> None:
    expected = theory(law, load)
    delta = GP_DELTA * expected
    n = sample_size(variance, delta)
    name = f"shared grace periods {type(law).__name__} {load}"
    verdict = two_stage(name, expected, delta, n, lambda seed, size: mean_wait(Toy, law, load, seed, size))
    print(verdict)
    assert verdict, str(verdict)

    def wrong(seed: int, size: int) -> float:
        return mean_wait(Eager, law, load, seed, min(size, 40_000))

    mutant = two_stage(name, expected, delta, n, wrong)
    print("mutant:", mutant)
    assert not mutant


@pytest.mark.parametrize("callers", [2, 16, 64])
@pytest.mark.parametrize(("make", "rounds"), [(Toy, 2), (Eager, 1)])
def test_callers_without_think_time_wait_for_exactly_two_grace_periods(
    make: type[Toy], rounds: int, callers: int
) -> None:
    engine = Engine()
    rcu = make(engine, Streams(1, 0), Constant(UNIT))
    waits: list[int] = []

    def caller(task: Task) -> Proc[None]:
        for i in range(40):
            begin = engine.now
            yield from rcu.synchronize(task)
            if i:  # the first waits tell when the callers came
                waits.append(engine.now - begin)

    for number in range(callers):
        task = Task(f"caller {number}", Cpu(number, engine, Bare()), engine, 0)
        engine.spawn(task.run(caller(task)), number, task.cpu.key)
    engine.run(FAR)
    assert len(waits) == 39 * callers
    assert waits == [rounds * UNIT] * len(waits)
