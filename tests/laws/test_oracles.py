"""Exact oracles: the engine against independent recursions on the same integers, every customer, to the ns."""

from __future__ import annotations

import bisect
import random
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from execbench.kernel.operation import Operation
from execbench.record.operations import OperationRecorder
from execbench.sim.cpu import Cpu
from execbench.sim.dists import Exponential
from execbench.sim.engine import Engine, Proc
from execbench.sim.ipi import Interrupts, Round
from execbench.sim.locks import Lock, LockKind
from execbench.sim.probe import Probe
from execbench.sim.rcu import Rcu, RcuRules
from execbench.sim.rng import Streams
from execbench.sim.task import Task
from execbench.stats.laws import seed_of

N = 12_000
FAR = 1 << 60


class Bare:
    """CPUs that are there at once and have no background."""

    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None) -> None: ...

    def gp_start(self, t: int) -> None: ...

    def scan(self, t: int) -> int:
        return 0


def integers(name: str, mean: float, n: int) -> list[int]:
    """Exponential variates on the grid, from the streams that a simulation uses."""
    stream, law = Streams(seed_of(name), 0).stream("draws"), Exponential(mean)
    return [law.draw(stream) for _ in range(n)]


# --- FIFO lock = Lindley's recursion ----------------------------------------------------------------------------------


def lindley(gaps: Sequence[int], services: Sequence[int]) -> list[int]:
    """W' = max(0, W + S - A)."""
    waits = [0]
    for gap, service in zip(gaps[1:], services, strict=False):
        waits.append(max(0, waits[-1] + service - gap))
    return waits


class Lifo(Lock):
    """Mutant: the last to come is the first to get the lock."""

    def __init__(self, kind: LockKind, engine: Engine, probe: Probe, handoff_ns: int) -> None:
        super().__init__(kind, engine, probe, handoff_ns)
        self.waiters = Stack()


class Stack(deque):  # type: ignore[type-arg]
    def popleft(self) -> object:
        return self.pop()


class Queue:
    """Customers of one lock, each a task with a CPU of its own, and what a recorder makes of their sojourns."""

    def __init__(self, make: type[Lock], gaps: Sequence[int], services: Sequence[int], chunks: int = 1) -> None:
        self.engine, probe, background = Engine(), Probe(), Bare()
        self.lock = make(LockKind("lock", "mutex", ""), self.engine, probe, 0)
        self.waits: dict[int, int] = {}
        self.arrivals: list[int] = []
        self.recorder = OperationRecorder(0, sum(gaps) // 2, {}, raw=False)
        self.chunks = chunks
        at = 0
        for i, (gap, service) in enumerate(zip(gaps, services, strict=True)):
            at += gap
            self.arrivals.append(at)
            task = Task(f"customer {i}", Cpu(i, self.engine, background), self.engine, 0)
            self.engine.spawn(task.run(self.customer(i, task, service)), at, task.cpu.key)

    def customer(self, i: int, task: Task, service: int) -> Proc[None]:
        arrival = self.engine.now
        operation = Operation("queue", "hold", i, arrival, "sync", self.recorder)
        operation.names.append("hold")
        task.cpu.mark(operation.start)
        with (yield from self.lock.acquire(task)):
            self.waits[i] = self.engine.now - arrival
            for chunk in range(self.chunks):
                task.cpu.spend(service * (chunk + 1) // self.chunks - service * chunk // self.chunks)
        task.cpu.mark(operation.finish)

    def run(self, until: int) -> list[int]:
        self.engine.run(until)
        return [self.waits[i] for i in sorted(self.waits)]


@pytest.mark.parametrize("mean_service", [500, 900])
def test_waits_for_a_lock_are_lindleys(mean_service: int) -> None:
    gaps, services = integers("lock gaps", 1_000, N), integers("lock services", mean_service, N)
    queue = Queue(Lock, gaps, services, chunks=3)
    expected = lindley(gaps, services)
    assert queue.run(FAR) == expected
    assert queue.lock.wait_ns == sum(expected)
    assert queue.lock.wait_max_ns == max(expected)
    assert queue.lock.contended == sum(wait > 0 for wait in expected) > N // 3
    queue.lock.sync()
    assert queue.lock.hold_ns == sum(services) and queue.lock.acquisitions == N


def test_a_lock_in_another_order_is_found() -> None:
    gaps, services = integers("lock gaps", 1_000, N), integers("lock services", 500, N)
    waits, expected = Queue(Lifo, gaps, services).run(FAR), lindley(gaps, services)
    assert waits != expected
    assert sum(waits) == pytest.approx(sum(expected), rel=0.1), "the mean hardly knows the order: only the path does"


# --- Little's identity as integers ------------------------------------------------------------------------------------


def in_system(begins: Sequence[int], ends: Sequence[int], low: int, high: int) -> int:
    """The integral of the number in system over [low, high), event by event."""
    area, n, last = 0, 0, low
    for at, change in sorted([(t, 1) for t in begins] + [(t, -1) for t in ends]):
        area += n * max(min(at, high) - last, 0)
        last = min(max(at, low), high)
        n += change
    return area + n * (high - last)


@pytest.mark.parametrize("stop", [0.4, 0.7, 2.0])
def test_littles_identity_holds_in_every_run(stop: float) -> None:
    gaps, services = integers("little gaps", 1_000, N), integers("little services", 900, N)
    queue = Queue(Lock, gaps, services)
    queue.run(int(sum(gaps) * stop))
    assert queue.recorder.littles_residual() == 0
    window = sum(gaps) // 2
    ends = [a + w + s for a, w, s in zip(queue.arrivals, lindley(gaps, services), services, strict=True)]
    sojourns = sum(min(end, window) - min(begin, window) for begin, end in zip(queue.arrivals, ends, strict=True))
    assert in_system(queue.arrivals, ends, 0, window) == sojourns
    wrong = Operation("queue", "hold", N, 0, "sync", queue.recorder)
    wrong.start(5)
    wrong.times[0] = 4  # an operation that is counted in later than its sojourn begins
    assert queue.recorder.littles_residual() == -1


# --- a round = the maximum of its parts -------------------------------------------------------------------------------

Segment = tuple[bool, int]
"""Whether interrupts are off, and how much work (ns)."""


def handler_ends(segments: Sequence[Segment], deliveries: Sequence[tuple[int, int]]) -> list[int]:
    """When each handler (delivered at, ns; in order) ends on a CPU that works through `segments` from time 0 on.

    A handler preempts work with interrupts on, also in its last ns; with interrupts off it waits for the end.
    """
    ends: list[int] = []
    clock = he = 0  # how far the work has come; end of the last handler

    def take(until: int, at: int | None) -> None:
        nonlocal he
        while len(ends) < len(deliveries) and deliveries[len(ends)][0] <= until:
            delivered, ns = deliveries[len(ends)]
            he = max(delivered if at is None else at, he) + ns
            ends.append(he)

    for masked, ns in [*segments, (False, FAR)]:
        if masked:
            take(clock + ns, clock + ns)
            clock = max(clock + ns, he)
            while len(ends) < len(deliveries) and deliveries[len(ends)][0] <= clock:
                take(clock, None)
                clock = max(clock, he)
        else:
            left = ns
            while len(ends) < len(deliveries) and deliveries[len(ends)][0] <= clock + left:
                worked = max(deliveries[len(ends)][0] - clock, 0)
                take(deliveries[len(ends)][0], None)
                left -= worked
                clock = he
            clock += left
    return ends


class Rounds:
    """Senders that broadcast again and again to each other and to targets that work through random segments."""

    def __init__(self, name: str, senders: int, targets: int, rounds: int, masked: bool) -> None:
        rng = random.Random(seed_of(name))
        self.engine = Engine()
        self.cpus = [Cpu(number, self.engine, Bare()) for number in range(senders + targets)]
        self.interrupts = Interrupts(self.engine, Bare(), self.cpus)
        self.sent: list[tuple[int, int, int, int, Round]] = []  # when, sender, flight, handler, round
        self.went_on: list[int] = []
        self.segments: dict[int, list[Segment]] = {}
        for cpu in self.cpus:
            task = Task(f"task {cpu.id}", cpu, self.engine, 0)
            if cpu.id < senders:
                plan = [(rng.randint(0, 400), 10 * rng.randint(1, 4), rng.randint(1, 90)) for _ in range(rounds)]
                body = self.sender(task, plan)
            else:
                self.segments[cpu.id] = [
                    (masked and i % 2 == 1, rng.randint(1, 20_000 if i % 50 == 49 else 600)) for i in range(14 * rounds)
                ]
                body = self.target(task, rng)
            self.engine.spawn(task.run(body), 0, cpu.key)

    def sender(self, task: Task, plan: list[tuple[int, int, int]]) -> Proc[None]:
        for think, flight, handler in plan:
            task.cpu.spend(think)
            yield from task.settle()
            round_ = self.interrupts.send(task.cpu, handler, flight)
            self.sent.append((self.engine.now, task.cpu.id, flight, handler, round_))
            yield from self.interrupts.wait(task, round_)
            self.went_on.append(self.engine.now)
        task.cpu.spend(FAR)
        yield from task.settle()

    def target(self, task: Task, rng: random.Random) -> Proc[None]:
        cpu = task.cpu
        for masked, ns in self.segments[cpu.id]:
            if masked:
                cpu.mask()
            cpu.spend(ns // 2)
            if rng.random() < 0.2:
                yield from task.settle()
            cpu.spend(ns - ns // 2)
            if masked:
                cpu.unmask()
            if rng.random() < 0.5:
                yield from task.settle()
        cpu.spend(FAR)
        yield from task.settle()

    def run(self) -> list[int]:
        """Return when each round was complete, in the order of sending."""
        self.engine.run(1 << 50)
        return [round_.done_at for *_, round_ in self.sent]

    def expected(self, of: Callable[[list[int]], int] = max) -> list[int]:
        """The same from the times of sending alone."""
        parts: list[list[int]] = [[] for _ in self.sent]
        for cpu in self.cpus:
            heard = [
                (at + flight, i, handler)
                for i, (at, sender, flight, handler, _) in enumerate(self.sent)
                if sender != cpu.id
            ]
            heard.sort()
            ends = handler_ends(self.segments.get(cpu.id, []), [(at, ns) for at, _, ns in heard])
            for (_, i, _), end in zip(heard, ends, strict=True):
                parts[i].append(end)
        return [of(part) for part in parts]


@pytest.mark.parametrize(("senders", "targets"), [(1, 3), (3, 2), (4, 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_round_takes_as_long_as_the_slowest_of_its_parts(senders: int, targets: int, masked: bool) -> None:
    world = Rounds(f"rounds {senders} {targets} {masked}", senders, targets, 10_000 // senders, masked)
    done = world.run()
    assert len(done) == 10_000 // senders * senders
    assert done == world.expected()
    assert sorted(world.went_on) == sorted(done), "a sender goes on when the last acknowledgement comes"
    busy = sum(cpu.stolen for cpu in world.cpus)
    assert busy == sum(handler for *_, handler, _ in world.sent) * (senders + targets - 1)


def last_told(self: Round, at: int, n: int = 1) -> None:
    """Mutant of Round.acked: the round ends with the acknowledgement that becomes known last."""
    self.done_at = -1
    ACKED(self, at, n)


def nothing(self: Cpu) -> None:
    """Mutant of Cpu.mask and Cpu.unmask."""


ACKED = Round.acked


@pytest.mark.parametrize("mutant", ["mean", "last", "masked spans"])
def test_a_round_of_other_length_is_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant == "last":
        monkeypatch.setattr(Round, "acked", last_told)
    elif mutant == "masked spans":
        monkeypatch.setattr(Cpu, "mask", nothing)
        monkeypatch.setattr(Cpu, "unmask", nothing)
    world = Rounds("rounds mutant", 2, 2, 2_000, masked=True)
    done = world.run()
    expected = world.expected((lambda parts: sum(parts) // len(parts)) if mutant == "mean" else max)
    wrong = sum(a != b for a, b in zip(done, expected, strict=True))
    print(f"{mutant}: {wrong} of {len(done)} rounds differ")
    assert wrong > len(done) // 10


# --- grace periods = the sequence-number recursion --------------------------------------------------------------------

RULES = RcuRules(
    jiffy_ns=4_000_000, first_fqs=1, next_fqs=1, wake_from_gp=True, direct_wakes=5, init_ns=20_000, cleanup_ns=10_000,
    wake_ns=0, worker_ns=0, second_scan=0.3,
)  # fmt: skip


class Eager(Rcu):
    """Mutant: a request during a grace period is served by that one."""

    def snap(self) -> int:
        return self.completed + 1


def served_at(log: Sequence[tuple[int, int]], arrival: int) -> int:
    """End of the first grace period that starts after the arrival."""
    return log[bisect.bisect_right(log, (arrival, FAR))][1]


def grace_periods(
    make: type[Rcu], name: str, callers: int, calls: int, think_ns: float
) -> tuple[Rcu, list[tuple[int, int]]]:
    """Callers that wait, think and call again; return the machinery and every (arrival, end of the wait)."""
    engine, streams = Engine(), Streams(seed_of(name), 0)
    rcu = make(engine, Probe(), Bare(), RULES, streams.stream("second scan"), streams.stream("tick"))
    rcu.log = []
    waits: list[tuple[int, int]] = []

    def caller(task: Task) -> Proc[None]:
        thinks, law = streams.stream(task.name), Exponential(think_ns)
        for _ in range(calls):
            yield from task.sleep_until(engine.now + law.draw(thinks))
            arrival = engine.now
            yield from rcu.synchronize(task)
            waits.append((arrival, engine.now))

    for number in range(callers):
        task = Task(f"caller {number}", Cpu(number, engine, Bare()), engine, 0)
        engine.spawn(task.run(caller(task)), number, task.cpu.key)
    engine.run(FAR)
    return rcu, waits


@pytest.mark.parametrize("think_ns", [1e5, 2e7, 5e8])
def test_waits_for_grace_periods_are_the_recursion_of_sequence_numbers(think_ns: float) -> None:
    rcu, waits = grace_periods(Rcu, f"gp {think_ns}", callers=12, calls=900, think_ns=think_ns)
    assert rcu.log is not None and len(waits) == 10_800
    assert all(start < end for start, end in rcu.log)
    assert all(end <= start for (_, end), (start, _) in zip(rcu.log, rcu.log[1:], strict=False))
    assert [end for _, end in waits] == [served_at(rcu.log, arrival) for arrival, _ in waits]
    jiffy = RULES.jiffy_ns
    phase = (rcu.log[0][1] - RULES.cleanup_ns) % jiffy
    for start, end in rcu.log:  # a timeout of one jiffy set at t fires at the second tick after t, at every scan
        jiffies, rest = divmod(end - RULES.cleanup_ns - phase, jiffy)
        assert rest == 0 and jiffies - (start - phase) // jiffy in (2, 4)


def test_a_request_served_by_the_running_grace_period_is_found() -> None:
    rcu, waits = grace_periods(Eager, "gp mutant", callers=12, calls=200, think_ns=2e7)
    assert rcu.log is not None
    wrong = sum(end != served_at([*rcu.log, (FAR, FAR)], arrival) for arrival, end in waits)
    print(f"{wrong} of {len(waits)} waits differ")
    assert wrong > len(waits) // 4
