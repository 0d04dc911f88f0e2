"""Tasks that compute for long give way at every tick to whom is ready on their CPU, and to nobody else."""

from __future__ import annotations

from functools import partial

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Class, Engine, Proc, event_key
from execbench.sim.ipi import Round
from execbench.sim.task import Task

PERIOD, SWITCH = 1_000, 7


class Nobody:
    """A background that takes no time."""

    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...
    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None) -> None: ...


def history(
    merge: bool, wakes: list[int], interrupts: list[tuple[int, int]], work: int = 5_500
) -> list[tuple[str, int]]:
    """Return what happened when on one CPU: a task computes from 100 on, others come at `wakes` for 300 ns each."""
    engine = Engine(merge)
    cpu = Cpu(0, engine, Nobody())
    seen: list[tuple[str, int]] = []

    def loader(task: Task) -> Proc[None]:
        cpu.spend(50)
        yield from task.compute(work, PERIOD)
        seen.append(("computed", engine.now))

    def other(task: Task, number: int) -> Proc[None]:
        seen.append((f"other {number}", engine.now))
        cpu.spend(300)
        yield from task.settle()

    task = Task("loader", cpu, engine, SWITCH)
    engine.spawn(task.run(loader(task)), 100, cpu.key)
    for number, at in enumerate(wakes):
        task = Task(f"other {number}", cpu, engine, SWITCH)
        engine.spawn(task.run(other(task, number)), at, task.wakeup_key)
    for at, ns in interrupts:
        engine.call_at(at, event_key(Class.INTERRUPT, 0), partial(_hit, engine, cpu, ns))
    engine.run(100_000)
    return seen


def _hit(engine: Engine, cpu: Cpu, ns: int) -> None:
    round_ = Round(engine, 1 << 50)
    round_.expect(1)
    cpu.deliver(ns, round_)


@pytest.mark.parametrize("merge", [True, False])
def test_who_is_ready_gets_the_cpu_at_the_next_tick_of_work(merge: bool) -> None:
    assert history(merge, [], []) == [("computed", 5_650)]
    # ready at 2400: the next whole period of work since 150 is over at 3150; then 300 ns and the switch back
    assert history(merge, [2_400], []) == [("other 0", 3_150), ("computed", 5_650 + 300 + SWITCH)]
    # a handler of 40 ns at 2000 moves that point
    assert history(merge, [2_400], [(2_000, 40)]) == [("other 0", 3_190), ("computed", 5_990 + SWITCH)]
    # and one that comes after somebody has asked moves it as well
    assert history(merge, [2_400], [(3_000, 40)]) == [("other 0", 3_190), ("computed", 5_990 + SWITCH)]
    # in the last, incomplete period nobody gets in between
    assert history(merge, [5_300], []) == [("computed", 5_650), ("other 0", 5_650)]
    # two that wait run one after the other, before the work goes on
    assert history(merge, [2_400, 2_500], []) == [
        ("other 0", 3_150), ("other 1", 3_450), ("computed", 5_650 + 600 + SWITCH)
    ]  # fmt: skip


@pytest.mark.parametrize("merge", [True, False])
def test_the_periods_begin_anew_after_each_time(merge: bool) -> None:
    seen = history(merge, [1_000, 2_000], [])
    # 1150 of the clock: one period; the work goes on at 1457 with its switch and gives way again at 2457
    assert seen == [("other 0", 1_150), ("other 1", 1_457 + PERIOD), ("computed", 5_650 + 2 * (300 + SWITCH))]


@pytest.mark.parametrize("merge", [True, False])
def test_who_waits_already_when_the_work_goes_on_gets_the_next_tick(merge: bool) -> None:
    # the second comes while the first runs, behind the loader: which gets the CPU at 3450 and gives way a period later
    seen = history(merge, [2_400, 3_300], [])
    assert seen == [("other 0", 3_150), ("other 1", 3_457 + PERIOD), ("computed", 5_650 + 2 * (300 + SWITCH))]
