"""The flavours of RCU against independent recursions on the same arrivals and draws, every grace period, to the ns.

For each flavour: who waits is released at the end of the first grace period that started after the request, and the
starts and ends themselves follow from arrivals alone. Shared grace periods have a law only where their lengths are
independent of the arrivals: expedited ones under Poisson arrivals. (Without think times there is none: whether a
woken waiter asks again before the next leader starts is a race.) Tasks, rude and trace rest on the jiffies of a timer
wheel and between grace periods, so the path is all there is to compare.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.dists import Constant, Exponential
from execbench.sim.engine import Class, Proc, event_key
from execbench.sim.ipi import Round
from execbench.sim.rcu import RcuRules
from execbench.sim.rcu_kthread import GracePeriods, Kthread
from execbench.sim.rcu_tasks import TasksRcu, TasksRudeRcu
from execbench.sim.rng import Streams
from execbench.sim.task import Task
from execbench.stats.laws import sample_size, seed_of, two_stage
from tests.sim.rcu_world import FAR, HZ, RULES, Bare, J, Told, World, rules

F = RULES.flavours
CPUS, IDLE = 6, 3
Span = tuple[int, int]
KINDS = ("expedited", "tasks", "rude", "trace", "srcu")
SETS = {kind: rules(trace="srcu" if kind == "srcu" else "holdouts") for kind in KINDS}
THINK = {"expedited": 5e4, "tasks": 2e9, "rude": 2e8, "trace": 4e7, "srcu": 4e7}


def delays(name: str) -> Callable[[int], int]:
    """How much later than the shortest way a CPU answers: now and then much."""
    rng = random.Random(seed_of(name))
    return lambda cpu: int(rng.expovariate(1e-3)) if rng.random() < 0.9 else int(rng.expovariate(3e-8))


def played(kind: str, name: str, made: RcuRules, callers: int = 8, calls: int = 60) -> World:
    """Callers that wait, think and call again, until they have all come to their end."""
    world = World(name, made, CPUS, IDLE, delays(name))
    flavour = world.of("trace" if kind == "srcu" else kind)
    thinks = random.Random(seed_of(f"{name} thinks"))
    world.caller(flavour, *(7 * i for i in range(callers)), think=lambda: int(thinks.expovariate(1 / THINK[kind])),
                 calls=calls)  # fmt: skip
    world.run(FAR)
    assert len(world.waits) == callers * calls
    return world


# --- who is served by which -------------------------------------------------------------------------------------------


def served_at(log: Sequence[Span], arrival: int, at_once: bool) -> int:
    """End of the first grace period that starts after the arrival, or with it where a request starts one at once."""
    ends = [*(end for _, end in log), FAR]
    return ends[(bisect.bisect_left if at_once else bisect.bisect_right)(log, (arrival, -1 if at_once else FAR))]


def released(world: World, kind: str, arrival: int) -> int:
    """When the wait that began at `arrival` must be over."""
    log = world.log("trace" if kind == "srcu" else kind)
    end = served_at(log, arrival, at_once=True)
    return invoked(world, log, end) if kind == "srcu" and end < FAR else end


def invoked(world: World, log: Sequence[Span], end: int) -> int:
    """SRCU: callbacks run at once behind an expedited grace period, in the jiffy after next behind a normal one."""
    start = next(start for start, stop in log if stop == end)
    before = [stop for _, stop in log if stop <= start]
    return end if not before or start >= before[-1] + 25_000 else world.tick(end, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_waiters_are_released_at_the_end_of_the_first_grace_period_behind_their_request(kind: str) -> None:
    world = played(kind, f"served {kind}", SETS[kind])
    log = world.log("trace" if kind == "srcu" else kind)
    assert all(start < end for start, end in log)
    assert all(end <= start for (_, end), (start, _) in pairwise(log)), "one at a time"
    assert len(log) < len(world.waits), "shared"
    assert [end for _, end in world.waits] == [released(world, kind, begin) for begin, _ in world.waits]


def eager(self: GracePeriods) -> int:
    """Mutant of GracePeriods.snap: a request during a grace period is served by that one."""
    return self.completed + 1


@pytest.mark.parametrize("kind", KINDS)
def test_waiters_served_by_the_running_grace_period_are_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GracePeriods, "snap", eager)
    world = World(f"eager {kind}", SETS[kind], CPUS, IDLE, delays(kind))
    world.caller(world.of("trace" if kind == "srcu" else kind), *range(0, 200 * J, J // 40))
    world.run(FAR)
    wrong = sum(end != released(world, kind, begin) for begin, end in world.waits)
    print(f"{kind}: {wrong} of {len(world.waits)} waits differ")
    assert wrong > len(world.waits) // 20


# --- when they start and end ------------------------------------------------------------------------------------------


def normal(world: World, at: int) -> int:
    """End of a normal grace period that is asked for at `at` while none runs and nothing holds out."""
    return world.tick(at + RULES.init_ns, 1) + RULES.cleanup_ns


class Replay:
    """What a kthread does from its start on, with the draws that the world made, in their order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rounds = iter(world.interrupts.sent)
        self.chance = Streams(world.streams.seed, 0).stream("rcu/tasks-holdout")
        self.last = -FAR

    def round_ns(self, cpus: int) -> int:
        sent = next(self.rounds)
        assert len(sent.extra) == cpus
        return F.flight_ns + max(sent.extra)

    def expedited(self, start: int) -> Span:
        end = start + F.exp_gp_ns + F.exp_handler_ns + self.round_ns(CPUS - IDLE)
        return end, end

    def tasks(self, start: int) -> Span:
        at, fract = normal(self.world, start) + F.scan_ns, HZ // 10
        while self.chance.u() < F.holdout:
            at = self.world.tick(at, fract) + F.scan_ns
            fract = min(fract + 1, HZ)
        end = normal(self.world, at)
        return end, self.world.tick(end, HZ // 10)

    def rude(self, start: int) -> Span:
        end = start + F.switch_ns + self.round_ns(CPUS)
        return end, self.world.tick(end, HZ // 10)

    def trace(self, start: int) -> Span:
        at = self.world.tick(normal(self.world, start), 1)
        answered, fract = at + F.handler_ns + self.round_ns(CPUS), 1
        while True:
            fract = min(fract + 1, HZ)
            at = self.world.tick(at, fract)
            if answered <= at:
                return at, self.world.tick(at, 1)

    def srcu(self, start: int) -> Span:
        if start >= self.last + 25_000:
            end = self.expedited(self.expedited(start)[0])[0]
        else:
            begin = start if start == self.last else self.world.tick(start, 1)
            end = normal(self.world, normal(self.world, begin))
        self.last = end
        return end, end


def recursion(arrivals: Sequence[int], one: Callable[[int], Span]) -> Iterator[Span]:
    """Grace periods one after another: the next starts when somebody waits and the kthread is ready."""
    ready, left = -FAR, sorted(arrivals)
    while left:
        start = max(left[0], ready)
        end, ready = one(start)
        yield start, end
        left = [arrival for arrival in left if arrival > start]


def timeline(world: World, kind: str) -> list[Span]:
    """What the recursion says for the arrivals that were."""
    return list(recursion([begin for begin, _ in world.waits], getattr(Replay(world), kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_grace_periods_follow_from_arrivals(kind: str) -> None:
    world = played(kind, f"timeline {kind}", SETS[kind])
    log = world.log("trace" if kind == "srcu" else kind)
    assert len(log) > 50
    assert log == timeline(world, kind)


def without_postgp(self: TasksRcu, kthread: Kthread) -> Proc[None]:
    """Mutant of TasksRcu.wait_gp: no synchronize_rcu behind the last scan."""
    yield from self.rcu.synchronize(kthread)
    fract = HZ // 10
    while (yield from self._scan(kthread)):
        yield from self.sleep(kthread, fract)
        fract += 1


def without_pregp(self: TasksRcu, kthread: Kthread) -> Proc[None]:
    """Mutant of TasksRcu.wait_gp: no synchronize_rcu before the first scan."""
    fract = HZ // 10
    while (yield from self._scan(kthread)):
        yield from self.sleep(kthread, fract)
        fract += 1
    yield from self.rcu.synchronize(kthread)


def of_equal_sleeps(self: TasksRcu, kthread: Kthread) -> Proc[None]:
    """Mutant of TasksRcu.wait_gp: the sleeps do not grow."""
    yield from self.rcu.synchronize(kthread)
    while (yield from self._scan(kthread)):
        yield from self.sleep(kthread, HZ // 10)
    yield from self.rcu.synchronize(kthread)


def polite(self: TasksRudeRcu, kthread: Kthread) -> Proc[None]:
    """Mutant of TasksRudeRcu.wait_gp: idle CPUs are spared."""
    round_ = self.interrupts.send(kthread.cpu, F.switch_ns, F.flight_ns, who="busy", until="preemptible")
    self.periods.scanned(round_.targets)
    yield from self.interrupts.wait(kthread, round_)


def to_everybody(self: Told, sender: Cpu, handler_ns: int, flight_ns: int, who: str = "all", **how: str) -> Round:
    """Mutant of Interrupts.send: idle CPUs are not spared."""
    return TOLD(self, sender, handler_ns, flight_ns, "all", **how)


TOLD = Told.send


@pytest.mark.parametrize(
    ("kind", "cls", "mutant"),
    [
        ("tasks", TasksRcu, without_postgp),
        ("tasks", TasksRcu, without_pregp),
        ("tasks", TasksRcu, of_equal_sleeps),
        ("rude", TasksRudeRcu, polite),
        ("expedited", Told, to_everybody),
    ],
)
def test_grace_periods_of_another_length_are_found(
    kind: str, cls: type, mutant: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cls, "send" if cls is Told else "wait_gp", mutant)
    world = played(kind, f"timeline {kind}", SETS[kind], calls=20)
    log = world.log(kind)
    try:
        expected = timeline(world, kind)
    except (AssertionError, StopIteration):
        print(f"{mutant.__name__}: other CPUs were interrupted")
        return
    wrong = sum(a != b for a, b in zip(log, expected, strict=False))
    print(f"{mutant.__name__}: {wrong} of {len(log)} grace periods differ")
    assert wrong > len(log) // 8


# --- what a complete grace period contains ----------------------------------------------------------------------------


def complete(world: World, spans: Sequence[Span], least: int) -> list[bool]:
    """For each span: do so many complete normal grace periods lie inside, one after another?"""
    assert world.rcu.log is not None
    inner = [(start - world.zero, end - world.zero) for start, end in world.rcu.log]
    return [sum(begin <= start and end <= over for start, end in inner) >= least for begin, over in spans]


def covers(world: World, kind: str) -> list[bool]:
    """Per grace period: two complete normal ones inside, for tasks one of them behind the last scan."""
    if kind == "srcu":
        rounds = [sent.at - world.zero for sent in world.interrupts.sent]
        return complete(world, [(a, b) for a, b in world.log("trace") if not any(a <= t < b for t in rounds)], 2)
    spans = world.log(kind)
    scans = [t for t, what, _ in world.what(kind) if what == "scan"]
    last = [scans[bisect.bisect_left(scans, end) - 1] for _, end in spans]
    behind = complete(world, [(scan, end) for scan, (_, end) in zip(last, spans, strict=True)], 1)
    return [a and b for a, b in zip(complete(world, spans, 2), behind, strict=True)]


@pytest.mark.parametrize("kind", ["tasks", "srcu"])
def test_slow_grace_periods_contain_two_normal_ones(kind: str) -> None:
    found = covers(played(kind, f"contain {kind}", SETS[kind]), kind)
    assert len(found) > 10 and all(found)


@pytest.mark.parametrize("mutant", [without_postgp, without_pregp])
def test_missing_normal_grace_periods_are_found(mutant: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TasksRcu, "wait_gp", mutant)
    world = played("tasks", "contain mutant", SETS["tasks"], calls=10)
    assert not any(covers(world, "tasks"))


# --- the law of shared grace periods ----------------------------------------------------------------------------------

UNIT = 1_000_000
TOY = rules(exp_gp_ns=0, exp_handler_ns=0, flight_ns=0)
GP_DELTA = 0.03  # of the theory


def mean_wait(law: Constant | Exponential, load: float, seed: int, n: int) -> float:
    """Mean wait of `n` Poisson requests, `load` of them per mean grace period, in mean grace periods."""
    streams = Streams(seed, 0)
    lengths, stream, gaps = streams.stream("lengths"), streams.stream("arrivals"), Exponential(UNIT / load)
    world = World(f"toy {seed}", TOY, 1, 0, lambda cpu: law.draw(lengths))
    flavour, total, left, key = world.flavours.expedited, [0, 0], n, event_key(Class.THREAD, 0)

    def wait(task: Task) -> Proc[None]:
        begin = world.engine.now
        yield from flavour.synchronize(task)
        total[0] += world.engine.now - begin
        total[1] += 1

    def arrive() -> None:
        nonlocal left
        task = Task("caller", Cpu(left, world.engine, Bare()), world.engine, 0)
        world.engine.spawn(task.run(wait(task)), world.engine.now, key)
        left -= 1
        if left:
            world.engine.call_at(world.engine.now + gaps.draw(stream), key, arrive)

    world.engine.call_at(0, key, arrive)
    world.engine.run(FAR)
    assert total[1] == n
    return total[0] / n / UNIT


def theory(law: Constant | Exponential, load: float) -> float:
    """E W = E L + (1 - p0) E L^2 / (2 E L), p0 = (1/a) / (1/a + E L / L*(a)), in mean grace periods."""
    square, transform = (1.0, np.exp(-load)) if isinstance(law, Constant) else (2.0, 1 / (1 + load))
    idle = (1 / load) / (1 / load + 1 / transform)
    return float(1 + (1 - idle) * square / 2)


@pytest.mark.parametrize(
    ("law", "load", "variance"),
    [(Constant(UNIT), 0.05, 0.016), (Constant(UNIT), 1.0, 0.13), (Constant(UNIT), 20.0, 0.085),
     (Exponential(UNIT), 0.05, 1.5)],
    ids=lambda value: str(value).partition("(")[0],
)  # fmt: skip
def test_shared_expedited_grace_periods(
    law: Constant | Exponential, load: float, variance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = theory(law, load)
    delta = GP_DELTA * expected
    n = sample_size(variance, delta)
    name = f"shared expedited {type(law).__name__} {load}"
    verdict = two_stage(name, expected, delta, n, lambda seed, size: mean_wait(law, load, seed, size))
    print(n, verdict)
    assert verdict, str(verdict)
    monkeypatch.setattr(GracePeriods, "snap", eager)
    mutant = two_stage(name, expected, delta, n, lambda seed, size: mean_wait(law, load, seed, min(size, 20_000)))
    print("mutant:", mutant)
    assert not mutant
