"""Locks: FIFO hand-over, releases as points of plans, who spins and who sleeps, and the accounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Engine, Proc
from execbench.sim.ipi import Round
from execbench.sim.locks import Lock, LockKind
from execbench.sim.probe import Probe
from execbench.sim.task import Task

HANDOFF, SWITCH = 3, 5


class Bench:
    """CPUs, locks by name, and the times at which tasks got and gave them."""

    def __init__(self, cpus: int, merge: bool = True) -> None:
        self.engine, self.probe = Engine(merge), Probe()
        self.cpus = [Cpu(number, self.engine, self) for number in range(cpus)]
        self.mutex = Lock(LockKind("mutex", "mutex", ""), self.engine, self.probe, HANDOFF)
        self.second = Lock(LockKind("second", "mutex", ""), self.engine, self.probe, HANDOFF)
        self.spinlock = Lock(LockKind("spinlock", "spinlock", ""), self.engine, self.probe, HANDOFF)
        self.seen: list[tuple[int, str]] = []
        self.passive: list[tuple[int, int]] = []

    def task(self, name: str, cpu: int, at: int, body: Callable[[Task], Proc[Any]]) -> Task:
        task = Task(name, self.cpus[cpu], self.engine, SWITCH)
        task.site = f"{name}()"
        self.engine.spawn(task.run(body(task)), at, task.cpu.key)
        return task

    def note(self, what: str) -> Callable[[int], None]:
        return lambda at: self.seen.append((at, what))

    def hold(self, lock: Lock, *spends: int, then: int = 0) -> Callable[[Task], Proc[None]]:
        def body(task: Task) -> Proc[None]:
            with (yield from lock.acquire(task)):
                self.note(f"{task.name} gets {lock.kind.name}")(self.engine.now)
                for ns in spends:
                    task.cpu.spend(ns)
                task.cpu.mark(self.note(f"{task.name} gives {lock.kind.name}"))
            task.cpu.spend(then)
            task.cpu.mark(self.note(f"{task.name} ends"))

        return body

    def run(self) -> list[tuple[int, str]]:
        self.engine.run(1_000_000)
        return sorted(self.seen)

    # the background model
    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        self.passive.append((t, cpu))

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None) -> None: ...


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("lock", ["mutex", "spinlock"])
def test_waiters_get_the_lock_in_the_order_in_which_they_came(lock: str, merge: bool) -> None:
    bench = Bench(4, merge)
    for cpu, at in enumerate((0, 30, 20, 30)):
        bench.task(f"t{cpu}", cpu, at, bench.hold(getattr(bench, lock), 40, 60, then=500))
    seen = bench.run()
    gets = [(at, what[:2]) for at, what in seen if "gets" in what]
    assert gets == [(0, "t0"), (100, "t2"), (203, "t1"), (306, "t3")], "at a tie the CPU with the lower number first"
    assert [at for at, what in seen if "gives" in what] == [100, 203, 306, 409]
    account: Lock = getattr(bench, lock)
    account.sync()
    assert (account.acquisitions, account.contended) == (4, 3)
    assert (account.wait_ns, account.wait_max_ns) == (80 + 173 + 276, 276)
    assert account.hold_ns == 409 and account.hold is None
    assert account.blame == {"t0()": 80 + 173 + 276}, "who held it when the wait began"
    assert bench.passive == [(600, 0), (703, 2), (806, 1), (909, 3)], "everybody kept the CPU"


def test_a_release_makes_no_event_unless_somebody_waits() -> None:
    def events(times: int) -> int:
        bench = Bench(1)

        def body(task: Task) -> Proc[None]:
            for _ in range(times):
                yield from bench.hold(bench.mutex, 100, then=100)(task)

        bench.task("t0", 0, 0, body)
        bench.run()
        assert bench.mutex.acquisitions == times
        return bench.engine.events

    assert events(times=100) == events(times=1)


@pytest.mark.parametrize(("at", "gets", "waits"), [(99, 100, 1), (100, 100, 0), (101, 101, 0)])
def test_a_release_inside_a_plan_is_seen_from_its_ns_on(at: int, gets: int, waits: int) -> None:
    bench = Bench(2)
    bench.task("t0", 0, 0, bench.hold(bench.mutex, 100, then=100))
    bench.task("t1", 1, at, bench.hold(bench.mutex, 10))
    assert (gets, "t1 gets mutex") in bench.run()
    assert bench.mutex.contended == waits


@pytest.mark.parametrize("merge", [True, False])
def test_who_wakes_at_the_ns_of_a_release_finds_the_lock_free(merge: bool) -> None:
    bench = Bench(2, merge)

    def wakes(task: Task) -> Proc[None]:
        task.switch_in_ns = 0
        yield from task.sleep_until(100)
        yield from bench.hold(bench.mutex, 10)(task)

    bench.task("t0", 0, 10, wakes)
    bench.task("t1", 1, 0, bench.hold(bench.mutex, 100, then=100))
    assert (100, "t0 gets mutex") in bench.run()
    assert bench.mutex.contended == 0


def test_at_a_tie_with_the_release_the_lower_cpu_still_finds_the_lock_held() -> None:
    bench = Bench(2)
    bench.task("t1", 1, 0, bench.hold(bench.mutex, 100, then=100))
    bench.task("t0", 0, 100, bench.hold(bench.mutex, 10))
    assert (100, "t0 gets mutex") in bench.run()
    assert (bench.mutex.contended, bench.mutex.wait_ns) == (1, 0)


@pytest.mark.parametrize("waiter_at", [50, 120])
def test_an_interrupt_moves_the_release(waiter_at: int) -> None:
    bench = Bench(2)
    bench.task("t0", 0, 0, bench.hold(bench.mutex, 100, then=100))
    bench.task("t1", 1, waiter_at, bench.hold(bench.mutex, 10))
    round_ = Round(bench.engine, 1 << 50)
    round_.expect(1)
    bench.engine.call_at(90, 1, lambda: bench.cpus[0].deliver(40, round_))
    seen = bench.run()
    assert (140, "t0 gives mutex") in seen and (140, "t1 gets mutex") in seen and round_.done_at == 130


def test_who_gives_and_takes_again_at_once_stands_behind_the_waiter() -> None:
    for merge in (True, False):
        bench = Bench(2, merge)

        def twice(task: Task, bench: Bench = bench) -> Proc[None]:
            yield from bench.hold(bench.mutex, 100)(task)
            yield from bench.hold(bench.mutex, 100)(task)

        bench.task("t0", 0, 0, twice)
        bench.task("t1", 1, 50, bench.hold(bench.mutex, 100))
        gets = [(at, what[:2]) for at, what in bench.run() if "gets" in what]
        assert gets == [(0, "t0"), (100, "t1"), (203, "t0")]
        assert bench.mutex.blame == {"t0()": 50, "t1()": 103}


def sleeps_holding(bench: Bench, lock: Lock, until: int) -> Callable[[Task], Proc[None]]:
    def body(task: Task) -> Proc[None]:
        with (yield from lock.acquire(task)):
            yield from task.sleep_until(until)
            task.cpu.spend(100)

    return body


def test_a_waiter_sleeps_if_the_holder_is_not_on_a_cpu() -> None:
    bench = Bench(2)
    bench.task("t0", 0, 0, sleeps_holding(bench, bench.mutex, 200))
    bench.task("t1", 1, 50, bench.hold(bench.mutex, 10))
    assert (305, "t1 gets mutex") in bench.run()
    assert bench.passive == [(0, 0), (50, 1), (305, 0), (320, 1)]
    assert (320, "t1 ends") in bench.seen, "the switch back costs more than the hand-over"


def test_a_holder_that_waits_for_the_cpu_of_a_waiter_gets_it() -> None:
    bench = Bench(1)
    bench.task("t0", 0, 0, sleeps_holding(bench, bench.mutex, 50))
    bench.task("t1", 0, 10, bench.hold(bench.mutex, 10))
    assert (155, "t1 gets mutex") in bench.run()


def test_who_spins_on_a_mutex_gives_way_to_a_task_that_is_ready() -> None:
    bench = Bench(3)
    # t2 holds the second lock and sleeps on the CPU where t1 comes to spin for the first, held by t0, who spins for t2.
    bench.task("t2", 1, 0, sleeps_holding(bench, bench.second, 500))

    def both(task: Task) -> Proc[None]:
        with (yield from bench.mutex.acquire(task)):
            task.cpu.spend(90)
            yield from bench.hold(bench.second, 10)(task)

    bench.task("t0", 0, 10, both)
    bench.task("t1", 1, 20, bench.hold(bench.mutex, 10))
    seen = bench.run()
    assert (605, "t0 gets second") in seen and (620, "t1 gets mutex") in seen
    assert bench.engine.idle()


def test_listeners_hear_waits_and_holds() -> None:
    bench = Bench(2)

    class Sink:
        heard: list[tuple[Any, ...]] = []  # noqa: RUF012

        def wait(self, begin: int, end: int, task: Task, kind: str, name: str, site: str, in_verb: bool) -> None:
            self.heard.append(("wait", begin, end, task.name, kind, name, site, in_verb))

        def hold(self, begin: int, end: int, task: Task, name: str, site: str) -> None:
            self.heard.append(("hold", begin, end, task.name, name, site))

    bench.probe.attach(Sink())
    task = bench.task("t0", 0, 0, bench.hold(bench.mutex, 100, then=100))
    task.verbs = 1
    bench.task("t1", 1, 60, bench.hold(bench.mutex, 20))
    bench.run()
    bench.mutex.sync()
    assert sorted(Sink.heard) == [
        ("hold", 0, 100, "t0", "mutex", "t0()"),
        ("hold", 100, 123, "t1", "mutex", "t1()"),
        ("wait", 60, 100, "t1", "lock", "mutex", "t0()", True),
    ]
