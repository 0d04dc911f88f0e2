"""Rounds of interrupts: who is a target, when the sender goes on, what its own part and its own interrupts cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Engine, Proc
from execbench.sim.ipi import Interrupts, Round
from execbench.sim.task import Task

FLIGHT, HANDLER = 20, 30


class Bench:
    """CPUs with tasks, and passive ones that answer when told."""

    def __init__(self, cpus: int, merge: bool = True, passive_acks: tuple[int, ...] = ()) -> None:
        self.engine = Engine(merge)
        self.cpus = [Cpu(number, self.engine, self) for number in range(cpus)]
        self.interrupts = Interrupts(self.engine, self, self.cpus)
        self.passive_acks = passive_acks
        self.sends: list[tuple[int, int, int, int | None]] = []
        self.rounds: list[tuple[int, int, int]] = []
        self.how: list[tuple[str, ...]] = []

    def task(self, cpu: int, at: int, body: Callable[[Task], Proc[Any]]) -> None:
        task = Task(f"task {cpu}", self.cpus[cpu], self.engine, 0)
        self.engine.spawn(task.run(body(task)), at, task.cpu.key)

    def working(self, *spends: int) -> Callable[[Task], Proc[None]]:
        """Negative: with interrupts off."""

        def body(task: Task) -> Proc[None]:
            for ns in spends:
                if ns < 0:
                    task.cpu.mask()
                task.cpu.spend(abs(ns))
                if ns < 0:
                    task.cpu.unmask()
            yield from ()

        return body

    def sending(self, own: int = 0, flight: int = FLIGHT, handler: int = HANDLER) -> Callable[[Task], Proc[None]]:
        def body(task: Task) -> Proc[None]:
            round_ = self.interrupts.send(task.cpu, handler, flight)
            task.cpu.mask()
            task.cpu.spend(own)
            task.cpu.unmask()
            yield from task.settle()
            yield from self.interrupts.wait(task, round_)
            went_on = self.engine.now
            yield from task.settle()
            self.rounds.append((round_.done_at, went_on, self.engine.now))
            assert round_.waiting == 0

        return body

    def run(self) -> list[tuple[int, int, int]]:
        self.engine.run(1_000_000)
        return self.rounds

    # the background model
    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None, *how: str) -> None:
        self.how += [how] if how else []
        self.sends.append((t, handler_ns, flight_ns, only))
        for later in self.passive_acks if only is None else (handler_ns,):
            round.expect(1)
            round.acked(t + flight_ns + later)


@pytest.mark.parametrize("merge", [True, False])
def test_the_sender_goes_on_with_the_last_acknowledgement(merge: bool) -> None:
    bench = Bench(3, merge)
    bench.task(1, 0, bench.working(1_000))
    bench.task(2, 0, bench.working(100, -300, 600))
    bench.task(0, 100, bench.sending())
    assert bench.run() == [(430, 430, 430)], "the masked target is the slowest"
    assert [cpu.interruptions for cpu in bench.cpus] == [0, 1, 1]
    assert bench.sends == [(100, HANDLER, FLIGHT, None)]


def test_own_part_that_takes_longer_than_the_round() -> None:
    bench = Bench(2)
    bench.task(1, 0, bench.working(1_000))
    bench.task(0, 100, bench.sending(own=400))
    assert bench.run() == [(150, 500, 500)]


def test_the_sender_takes_interrupts_while_it_waits() -> None:
    bench = Bench(3)
    bench.task(2, 0, bench.working(-900))
    bench.task(0, 100, bench.sending())
    bench.task(1, 870, bench.sending())  # arrives at CPU 0 at 890, handled to 920; CPU 2 unmasks at 900
    assert bench.run() == [(930, 930, 930), (960, 960, 960)]
    bench = Bench(3)
    bench.task(2, 0, bench.working(-900))
    bench.task(0, 100, bench.sending())
    bench.task(1, 905, bench.sending())  # arrives at CPU 0 at 925, behind its acknowledgement at 930 until 955
    assert bench.run() == [(930, 930, 955), (960, 960, 960)]


def test_handlers_are_first_in_first_out_and_preempt_the_plan() -> None:
    bench = Bench(3)
    bench.task(2, 0, bench.working(1_000))
    bench.task(0, 100, bench.sending(handler=200))
    bench.task(1, 150, bench.sending(handler=10))
    # CPU 2 handles 120 to 320 and to 330; CPU 1 had no task at the first send.
    assert bench.run() == [(320, 320, 320), (330, 330, 330)]
    assert bench.cpus[2].stolen == 210


def test_passive_cpus_answer_for_themselves() -> None:
    bench = Bench(2, passive_acks=(40, 700, 60))
    bench.task(1, 0, bench.working(1_000))
    bench.task(0, 100, bench.sending())
    assert bench.run() == [(820, 820, 820)]


def test_a_target_that_turned_passive_in_flight_answers_from_there_and_counts_once() -> None:
    bench = Bench(2)
    bench.task(1, 0, bench.working(110))
    rounds: list[Round] = []

    def body(task: Task) -> Proc[None]:
        rounds.append(bench.interrupts.send(task.cpu, HANDLER, FLIGHT))
        yield from bench.interrupts.wait(task, rounds[0])

    bench.task(0, 100, body)
    bench.run()
    assert bench.sends == [(100, HANDLER, FLIGHT, None), (120, HANDLER, 0, 1)]
    assert (rounds[0].targets, rounds[0].waiting, rounds[0].done_at) == (1, 0, 150)
    assert bench.cpus[1].interruptions == 0, "the background's account has it"


def test_who_runs_a_task_is_busy_and_the_background_is_told_whom_to_spare() -> None:
    bench = Bench(2, passive_acks=(40,))
    bench.task(1, 0, bench.working(1_000))

    def body(task: Task) -> Proc[None]:
        round_ = bench.interrupts.send(task.cpu, HANDLER, FLIGHT, who="busy")
        yield from bench.interrupts.wait(task, round_)
        bench.rounds.append((round_.targets, round_.done_at, bench.engine.now))

    bench.task(0, 100, body)
    assert bench.run() == [(2, 160, 160)]
    assert bench.how == [("busy", "unmasked")]


def test_a_round_without_targets_takes_no_time() -> None:
    bench = Bench(1)
    bench.task(0, 100, bench.sending())
    assert bench.run() == [(-1, 100, 100)]


def test_no_flight_is_shorter_than_a_nanosecond() -> None:
    bench = Bench(2)
    bench.task(1, 0, bench.working(1_000))
    bench.task(0, 100, bench.sending(flight=0, handler=0))
    assert bench.run() == [(101, 101, 101)]
    assert bench.sends == [(100, 0, 1, None)]


@pytest.mark.parametrize("settles", [False, True])
def test_the_sender_goes_on_after_what_running_cpus_do_at_that_ns(settles: bool) -> None:
    bench, order = Bench(3), list[tuple[int, int]]()

    def masked(task: Task) -> Proc[None]:
        task.cpu.mask()
        task.cpu.spend(200)
        if settles:  # then the acknowledgement becomes known only as it comes
            yield from task.settle()
        task.cpu.unmask()
        task.cpu.spend(200)

    def at_the_same_ns(task: Task) -> Proc[None]:
        task.cpu.spend(200)
        yield from task.settle()
        order.append((bench.engine.now, task.cpu.id))

    def sender(task: Task) -> Proc[None]:
        round_ = bench.interrupts.send(task.cpu, 0, FLIGHT)
        yield from bench.interrupts.wait(task, round_)
        order.append((bench.engine.now, task.cpu.id))

    bench.task(1, 0, at_the_same_ns)
    bench.task(2, 0, masked)
    bench.task(0, 100, sender)
    bench.run()
    assert order == [(200, 1), (200, 0)]
