"""Threads on CPUs that run tasks: when they get the CPU, what the stopper keeps, what waits for the release."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Engine, Proc
from execbench.sim.ipi import Interrupts, Round
from execbench.sim.locks import Lock, LockKind
from execbench.sim.passive import Until
from execbench.sim.probe import Probe
from execbench.sim.task import Task

FLIGHT, SWITCH = 20, 30
Step = tuple[str, int]


class Bench:
    """CPU 0 calls threads, or stops the machine; the others run tasks; passive CPUs keep account of what they are told.

    Steps of a task: work, masked, settle, lock, unlock, wait (until a time, on its CPU), pinned (for calls), sleep.
    """

    def __init__(self, cpus: int = 2, preempts: bool = True, merge: bool = True) -> None:
        self.engine = Engine(merge)
        self.cpus = [Cpu(i, self.engine, self, preempts=preempts) for i in range(cpus)]
        self.interrupts = Interrupts(self.engine, self, self.cpus)
        self.spinlock = Lock(LockKind("lock", "spinlock", ""), self.engine, Probe(), 0)
        self.interrupts.watch([self.spinlock])
        self.rounds: list[Round] = []
        self.released = -1
        self.marks: dict[str, int] = {}
        self.passive: list[tuple[Any, ...]] = []

    def task(self, cpu: int, at: int, body: Callable[[Task], Proc[Any]], name: str = "") -> None:
        task = Task(name or f"task {cpu}", self.cpus[cpu], self.engine, 0)
        self.engine.spawn(task.run(body(task)), at, task.cpu.key)

    def mark(self, task: Task, name: str) -> None:
        task.cpu.mark(lambda at: self.marks.__setitem__(name, at))

    def doing(self, *steps: Step) -> Callable[[Task], Proc[None]]:
        def body(task: Task) -> Proc[None]:
            hold: Any = None
            for name, ns in steps:
                if name == "masked":
                    task.cpu.mask()
                    task.cpu.spend(ns)
                    task.cpu.unmask()
                elif name == "work":
                    task.cpu.spend(ns)
                elif name == "lock":
                    hold = yield from self.spinlock.acquire(task)
                elif name == "unlock":
                    hold.__exit__(None, None, None)
                else:
                    yield from task.settle()
                    if name == "sleep":
                        yield from task.sleep_until(ns)
                    elif name in ("wait", "pinned"):
                        task.cpu.pinned = name == "pinned"
                        yield self.engine.event_at(ns, task.cpu.key)
                        task.cpu.pinned = False
                        task.cpu.start_plan()
                self.mark(task, f"{task.name}: {name}")
            yield from task.settle()
            self.marks[f"{task.name}: end"] = self.engine.now

        return body

    def calling(self) -> Callable[[Task], Proc[None]]:
        """Call threads, sleep meanwhile."""

        def body(task: Task) -> Proc[None]:
            self.rounds.append(self.interrupts.send(task.cpu, SWITCH, FLIGHT, until="preemptible"))
            yield from ()

        return body

    def stopping(self, work: int, then: int = 5) -> Callable[[Task], Proc[None]]:
        def body(task: Task) -> Proc[None]:
            round_ = self.interrupts.stop(task.cpu, SWITCH, FLIGHT)
            self.rounds.append(round_)
            yield from self.interrupts.wait(task, round_)
            task.cpu.mask()
            task.cpu.spend(work)
            yield from task.settle()
            self.released = self.engine.now
            self.interrupts.release(then)
            task.cpu.unmask()

        return body

    def interrupting(self, ns: int, after: int = 0, until: Until = "unmasked") -> Callable[[Task], Proc[None]]:
        def body(task: Task) -> Proc[None]:
            task.cpu.spend(after)
            yield from task.settle()
            self.rounds.append(self.interrupts.send(task.cpu, ns, FLIGHT, until=until))
            yield from self.interrupts.wait(task, self.rounds[-1])
            self.marks[f"{task.name}: acknowledged"] = self.engine.now

        return body

    def run(self) -> dict[str, int]:
        self.engine.run(100_000)
        assert all(round_.waiting == 0 for round_ in self.rounds)
        assert self.engine.idle(), "nobody waits for a time that never comes"
        return self.marks

    # the background model
    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...

    def send(self, t: int, ns: int, flight: int, round: Round, only: int | None = None, *how: str, **more: str) -> None:
        self.passive.append((t, only, *how, *more.values()))
        if only is not None:
            round.expect(1)
            round.acked(t + flight + ns)

    def stop(self, t: int, ns: int, flight: int, stop: Round, only: int | None = None) -> None:
        self.passive.append(("stop", t, only))
        if only is not None:
            stop.expect(1)
            stop.acked(t + flight + ns)

    def release(self, t: int, ns: int) -> None:
        self.passive.append(("release", t, ns))


# A call at 100 is delivered at 120; the thread takes 30.
PLANS: list[tuple[str, list[Step], int, int]] = [
    # steps, acknowledgement with preemption and without
    ("at once", [("work", 500)], 150, 530),
    ("behind a masked span", [("work", 110), ("masked", 80), ("work", 100)], 220, 320),
    ("in the last ns of a span", [("masked", 120), ("work", 100)], 150, 250),
    ("behind several spans that touch", [("masked", 200), ("masked", 50), ("work", 100)], 230, 380),
    ("behind a spinlock", [("lock", 0), ("work", 200), ("unlock", 0), ("work", 100)], 231, 330),
    ("behind a spinlock whose end is the plan's", [("lock", 0), ("work", 200), ("unlock", 0), ("settle", 0)], 230, 230),
    ("behind a spinlock that is held on", [("lock", 0), ("work", 200), ("settle", 0), ("work", 50), ("unlock", 0),
                                           ("work", 10)], 281, 290),
    ("while it waits", [("work", 110), ("wait", 300), ("work", 40)], 150, 150),
    ("not while it waits for its calls", [("work", 110), ("pinned", 300), ("work", 40)], 330, 370),
    ("between two plans", [("work", 110), ("work", 30), ("settle", 0), ("work", 500)], 150, 170),
    ("asleep by then", [("work", 110)], 150, 150),
]  # fmt: skip


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(("name", "steps", "full", "none"), PLANS, ids=[plan[0] for plan in PLANS])
def test_when_a_thread_gets_the_cpu(name: str, steps: list[Step], full: int, none: int, merge: bool) -> None:
    for preempts, acknowledged in ((True, full), (False, none)):
        bench = Bench(preempts=preempts, merge=merge)
        bench.task(1, 0, bench.doing(*steps))
        bench.task(0, 100, bench.calling())
        bench.run()
        assert bench.rounds[0].done_at == acknowledged, preempts
        asleep = name == "asleep by then"
        assert (bench.cpus[1].interruptions, bench.cpus[1].stolen) == ((0, 0) if asleep else (1, SWITCH))
        assert bench.passive[1:] == ([(120, 1, "preemptible")] if asleep else [])


def test_a_thread_takes_its_time_out_of_the_plan_and_follows_handlers() -> None:
    bench = Bench(3)
    bench.task(1, 0, bench.doing(("work", 200), ("masked", 50), ("work", 10)))
    bench.task(0, 100, bench.calling())
    bench.task(2, 90, bench.interrupting(25))  # runs from 110 to 135; CPU 2 is asleep when the threads are called
    marks = bench.run()
    assert [round_.done_at for round_ in bench.rounds] == [135, 165]
    assert marks["task 1: work"] == 315 and marks["task 1: masked"] == 305 and bench.cpus[1].interruptions == 2


def test_a_computing_task_without_preemption_lets_threads_run_when_its_slice_ends() -> None:
    def computing(task: Task) -> Proc[None]:
        task.cpu.slice.ns = 50
        yield from task.compute(1_000)
        bench.mark(task, "done")

    bench = Bench(preempts=False)
    bench.task(1, 0, computing)
    bench.task(0, 100, bench.calling())
    assert bench.run() == {"done": 1_030}
    assert bench.rounds[0].done_at == 180, "at 150"


def test_what_nothing_masks_comes_at_once_but_threads_wait() -> None:
    bench = Bench(3)
    bench.task(1, 0, bench.doing(("masked", 200), ("work", 10)))
    bench.task(0, 100, bench.calling())
    bench.task(2, 90, bench.interrupting(25, until="at-once"))
    marks = bench.run()
    assert [round_.done_at for round_ in bench.rounds] == [135, 255]
    assert marks["task 1: masked"] == 255 and marks["task 1: work"] == 265, "the mark behind the span goes behind both"


def test_who_is_stopped_answers_at_once_to_what_nothing_masks() -> None:
    """As the firmware's fence while all are held (patch_text of 6.1 on riscv64); it costs nobody's plan anything."""
    bench = Bench(3)

    def body(task: Task) -> Proc[None]:
        round_ = bench.interrupts.stop(task.cpu, SWITCH, FLIGHT)
        yield from bench.interrupts.wait(task, round_)
        task.cpu.mask()
        bench.rounds.append(bench.interrupts.send(task.cpu, 25, FLIGHT, until="at-once"))
        yield from bench.interrupts.wait(task, bench.rounds[0])
        bench.released = bench.engine.now
        bench.interrupts.release(5)
        task.cpu.unmask()

    bench.task(1, 0, bench.doing(("work", 300)))
    bench.task(2, 0, bench.doing(("masked", 300)))
    bench.task(0, 100, body)
    marks = bench.run()
    assert bench.rounds[0].done_at == bench.released == 330 + 45, "CPU 2 unmasks at 300"
    assert marks["task 1: work"] == 300 + (380 - 120)


@pytest.mark.parametrize("merge", [True, False])
def test_everybody_is_held_until_the_last_has_come_and_the_work_is_done(merge: bool) -> None:
    bench = Bench(4, merge=merge)
    bench.task(1, 0, bench.doing(("work", 200), ("work", 100)))
    bench.task(2, 0, bench.doing(("masked", 400), ("work", 100)))
    bench.task(0, 100, bench.stopping(70))
    marks = bench.run()
    assert bench.rounds[0].done_at == 430, "CPU 2 unmasks at 400"
    assert bench.released == 500
    assert marks["task 1: work"] == 685 and bench.cpus[1].stolen == 385, "from 120 to 505"
    assert marks["task 2: masked"] == 505 and marks["task 2: work"] == 605 and bench.cpus[2].stolen == 105
    assert bench.passive == [("stop", 100, None), ("release", 500, 5)]


def test_interrupts_are_taken_in_the_loop_until_all_are_there_and_then_at_the_release() -> None:
    bench = Bench(4)
    bench.task(1, 0, bench.doing(("work", 1_000)))
    bench.task(2, 0, bench.doing(("masked", 400), ("work", 100)))
    bench.task(0, 100, bench.stopping(70))
    bench.task(3, 0, bench.interrupting(8, after=105))  # at CPU 1 at 125: it gets to its loop at 150
    bench.run()
    one = bench.rounds[1]
    assert one.done_at == 408, "CPU 2 takes it as it unmasks, before its stopper; CPU 0 at 133, CPU 1 at 158"
    assert bench.rounds[0].done_at == 438, "CPU 2 has its stopper behind that, CPU 3 when its calls are answered"
    late = Bench(3)
    late.task(1, 0, late.doing(("work", 1_000)))
    late.task(2, 0, late.doing(("work", 130), ("settle", 0), ("work", 10)))
    late.task(0, 100, late.stopping(70))
    sent: list[Round] = []

    def send() -> None:  # a call that is on its way as everybody is stopped, at 150
        sent.append(late.interrupts.send(late.cpus[2], 8, 60))

    late.engine.call_at(110, 0, send)
    late.run()
    assert sent[0].done_at == 233 and late.released == 220, "CPU 1 does 5 ns more, then the call; CPU 0 took it at 220"
    assert late.cpus[1].interruptions == 2


def test_a_task_that_wakes_up_on_a_stopped_cpu_runs_behind_the_stopper() -> None:
    bench = Bench(3)
    bench.task(1, 0, bench.doing(("work", 50), ("sleep", 200), ("work", 10)))
    bench.task(2, 0, bench.doing(("masked", 400), ("work", 100)))
    bench.task(0, 100, bench.stopping(70))
    marks = bench.run()
    assert bench.released == 500
    assert marks["task 1: sleep"] == 500 and marks["task 1: end"] == 510, "the background says when it can run"
    assert not bench.cpus[1].parked


def test_a_lock_held_across_a_stop_is_handed_over_at_its_release() -> None:
    bench = Bench(3)
    mutex = Lock(LockKind("mutex", "mutex", ""), bench.engine, Probe(), 0)

    def holder(task: Task) -> Proc[None]:
        with (yield from mutex.acquire(task)):
            task.cpu.spend(300)
        task.cpu.spend(1_000)

    def waiter(task: Task) -> Proc[None]:
        task.cpu.spend(90)
        with (yield from mutex.acquire(task)):
            bench.marks["granted"] = bench.engine.now
        task.cpu.spend(10)
        bench.mark(task, "waiter")

    bench.task(1, 0, holder)
    bench.task(2, 0, waiter)
    bench.task(0, 100, bench.stopping(70))
    marks = bench.run()
    assert bench.released == 220 and marks == {"granted": 405, "waiter": 415}, "300 and the hold from 120 to 225"


def test_one_cpu_alone_is_stopped_at_once() -> None:
    bench = Bench(1)
    bench.task(0, 100, bench.stopping(70))
    bench.run()
    assert bench.released == 170 and bench.rounds[0].targets == 0
