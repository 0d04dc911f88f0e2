"""Grace periods: sequence rules, jiffies of the timer wheel, scans, callbacks at ticks, wake-ups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Class, Engine, Proc, event_key
from execbench.sim.ipi import Round
from execbench.sim.probe import Probe
from execbench.sim.rcu import Rcu, RcuRules
from execbench.sim.rng import Streams
from execbench.sim.task import Task

J = 1_000
RULES = RcuRules(
    jiffy_ns=J, first_fqs=1, next_fqs=2, wake_from_gp=True, direct_wakes=2, init_ns=10, cleanup_ns=20, wake_ns=3,
    worker_ns=50, second_scan=0.0,
)  # fmt: skip
THREAD = event_key(Class.THREAD, 0)


class Bench:
    """RCU over passive CPUs whose hold-outs are told in advance; times are relative to the first tick."""

    def __init__(self, rules: RcuRules = RULES, holdouts: tuple[int, ...] = ()) -> None:
        self.engine, self.probe = Engine(), Probe()
        self.holdouts = list(holdouts)
        self.asked: list[tuple[str, int]] = []
        streams = Streams(7, 0)
        self.rcu = Rcu(self.engine, self.probe, self, rules, streams.stream("chance"), streams.stream("tick"))
        self.rcu.log = []
        self.zero = self.rcu._timeout(10 * J, 0)  # a tick of the kthread's wheel
        self.waits: list[tuple[int, int]] = []

    def caller(self, at: int, cpu: int = 0) -> None:
        def body() -> Proc[None]:
            begin = self.engine.now
            yield from self.rcu.synchronize(task)
            self.waits.append((begin - self.zero, self.engine.now - self.zero))

        task = Task(f"caller {at}", Cpu(cpu, self.engine, self), self.engine, 0)
        self.engine.spawn(task.run(body()), self.zero + at, task.cpu.key)

    def call(self, at: int, cpu: int = 0) -> None:
        def invoked() -> None:
            self.waits.append((at, self.engine.now - self.zero))

        t = self.zero + at
        self.engine.call_at(t, THREAD, lambda: self.rcu.call(cpu, invoked, t))

    def run(self) -> list[tuple[int, int]]:
        self.engine.run(self.zero + 1_000 * J)
        return sorted(self.waits)

    @property
    def periods(self) -> list[tuple[int, int]]:
        assert self.rcu.log is not None
        return [(start - self.zero, end - self.zero) for start, end in self.rcu.log]

    # passive CPUs
    def gp_start(self, t: int) -> None:
        self.asked.append(("start", t - self.zero))

    def scan(self, t: int) -> int:
        self.asked.append(("scan", t - self.zero))
        return self.holdouts.pop(0) if self.holdouts else 0

    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None) -> None: ...


@pytest.mark.parametrize(("at", "end"), [(0, 2 * J), (J // 2, 2 * J), (J - 11, 2 * J), (J - 10, 3 * J)])
def test_a_timeout_of_one_jiffy_fires_at_the_second_tick(at: int, end: int) -> None:
    bench = Bench()
    bench.caller(at)
    assert bench.run() == [(at, end + 20 + 3)]
    assert bench.periods == [(at + 10, end + 20)]
    assert bench.asked == [("start", at + 10), ("scan", end)]


def test_holdouts_are_asked_again_after_further_jiffies() -> None:
    bench = Bench(holdouts=(3, 1))
    bench.caller(0)
    assert bench.run() == [(0, 8 * J + 23)]
    assert [at for what, at in bench.asked if what == "scan"] == [2 * J, 5 * J, 8 * J]
    assert (bench.rcu.grace_periods, bench.rcu.scans, bench.rcu.completed) == (1, 3, 1)


def test_a_second_scan_for_another_reason_happens_once_in_a_grace_period() -> None:
    bench = Bench(replace(RULES, second_scan=1.0))
    bench.caller(0)
    assert bench.run() == [(0, 5 * J + 23)]


def test_who_comes_during_a_grace_period_waits_for_the_next() -> None:
    bench = Bench()
    for at in (0, 9, 11, 1_500, 2_019):
        bench.caller(at)
    ends = dict(bench.run())
    assert ends[9] == 2_023 and ends[0] == 2_026, "the latest is woken first"
    assert bench.periods == [(10, 2_020), (2_020, 4_020)]
    assert ends[2_019] == 4_023 and ends[1_500] == 4_026
    assert ends[11] == 4_029 + 50, "behind the first two a worker wakes"


def test_a_request_before_the_next_start_joins_it() -> None:
    bench = Bench()
    for at in (0, 9, 1_500, 2_021):
        bench.caller(at)
    ends = dict(bench.run())
    assert max(ends[0], ends[9]) < 2_020 + 100 < ends[1_500] < 4_020 + 100 < ends[2_021], "the next starts at once"


def test_without_requests_there_are_no_grace_periods() -> None:
    bench = Bench()
    bench.caller(0)
    bench.caller(50 * J)
    bench.run()
    assert [start for start, _ in bench.periods] == [10, 50 * J + 10]


def test_snap_is_rcu_seq_snap() -> None:
    rcu = Bench().rcu
    assert rcu.snap() == 1
    rcu.running = True
    assert rcu.snap() == 2


def test_ticks_and_timeouts_are_strictly_later() -> None:
    bench = Bench()
    tick = bench.rcu.next_tick(bench.zero)
    assert bench.zero < tick <= bench.zero + J
    assert bench.rcu.next_tick(tick) == tick + J and bench.rcu.next_tick(tick - 1) == tick
    assert bench.rcu._timeout(bench.zero, 1) == bench.rcu._timeout(bench.zero + J - 1, 1) == bench.zero + 2 * J


def test_callbacks_are_noticed_and_run_at_ticks() -> None:
    bench = Bench()
    for at in (100, 200, 1_100):
        bench.call(at)
    bench.call(150, cpu=1)
    ticks = [bench.rcu.next_tick(bench.zero + at) - bench.zero for at in (0, J)]
    ends = dict(bench.run())
    noticed = [next(tick for tick in (*ticks, ticks[1] + J) if tick > at) for at in (100, 1_100)]
    for at, seen in zip((100, 1_100), noticed, strict=True):
        end = next(end for start, end in bench.periods if start > seen)
        assert ends[at] == bench.rcu.next_tick(bench.zero + end) - bench.zero
    assert ends[200] == ends[100] == ends[150], "one grace period serves both CPUs"


def test_without_the_direct_wake_up_a_waiter_is_a_callback() -> None:
    bench = Bench(replace(RULES, wake_from_gp=False))
    bench.caller(100)
    bench.call(100, cpu=1)
    (one, other) = bench.run()
    assert one == other


def test_listeners_hear_grace_periods_and_waits() -> None:
    bench = Bench(holdouts=(2,))
    heard: list[tuple[Any, ...]] = []

    class Sink:
        def gp(self, *fields: Any) -> None:
            heard.append(fields)

        def wait(self, begin: int, end: int, task: Task, *fields: Any) -> None:
            heard.append((begin, end, task.name, *fields))

    bench.probe.attach(Sink())
    bench.caller(0)
    bench.run()
    zero = bench.zero
    assert heard == [
        (zero, "rcu", 1, "request", 1),
        (zero + 10, "rcu", 1, "start", 0),
        (zero + 2 * J, "rcu", 1, "scan", 2),
        (zero + 5 * J, "rcu", 1, "scan", 0),
        (zero + 5 * J + 20, "rcu", 1, "end", 1),
        (zero, zero + 5 * J + 23, "caller 0", "gp", "rcu", "", False),
    ]
