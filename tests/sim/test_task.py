"""Tasks give way to who is ready on their CPU when their slice is over and they ask, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Class, Engine, Proc, event_key
from execbench.sim.ipi import Round
from execbench.sim.task import Task

SLICE, SWITCH = 1_000, 7
BEGIN = 150
"""When the loader gets the CPU."""
SPLITS = [[5_500], [100] * 55, [1, 999] * 5 + [500], [40] * 137 + [20]]


class Nobody:
    """A background that takes no time."""

    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...
    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None) -> None: ...


class Machine:
    """One CPU; what its tasks did when."""

    def __init__(self, merge: bool = True) -> None:
        self.engine = Engine(merge)
        self.cpu = Cpu(0, self.engine, Nobody(), slice_ns=SLICE)
        self.seen: list[tuple[str, int]] = []

    def task(self, name: str, at: int, body: Callable[[Task], Proc[None]]) -> None:
        task = Task(name, self.cpu, self.engine, SWITCH)
        self.engine.spawn(task.run(body(task)), at, task.wakeup_key)

    def others(self, wakes: list[int]) -> None:
        """Others come at `wakes` for 300 ns each."""

        def other(task: Task) -> Proc[None]:
            self.seen.append((task.name, self.engine.now))
            self.cpu.spend(300)
            yield from task.settle()

        for number, at in enumerate(wakes):
            self.task(f"other {number}", at, other)

    def run(self) -> list[tuple[str, int]]:
        self.engine.run(100_000)
        return self.seen


def history(
    merge: bool, wakes: list[int], interrupts: list[tuple[int, int]], split: Sequence[int] = (5_500,)
) -> list[tuple[str, int]]:
    """Return what happened when on one CPU: a task computes from BEGIN on, others come at `wakes` for 300 ns each."""
    machine = Machine(merge)
    engine, cpu = machine.engine, machine.cpu

    def loader(task: Task) -> Proc[None]:
        for ns in split:
            yield from task.compute(ns)
        machine.seen.append(("computed", engine.now))

    machine.task("loader", BEGIN, loader)
    machine.others(wakes)
    for at, ns in interrupts:
        engine.call_at(at, event_key(Class.INTERRUPT, 0), partial(_hit, engine, cpu, ns))
    return machine.run()


def _hit(engine: Engine, cpu: Cpu, ns: int) -> None:
    round_ = Round(engine, 1 << 50)
    round_.expect(1)
    cpu.deliver(ns, round_)


@pytest.mark.parametrize("split", SPLITS, ids=len)
@pytest.mark.parametrize("merge", [True, False])
def test_who_is_ready_gets_the_cpu_when_the_slice_ends(merge: bool, split: list[int]) -> None:
    """However the work is divided into calls."""

    def seen(wakes: list[int], interrupts: list[tuple[int, int]]) -> list[tuple[str, int]]:
        return history(merge, wakes, interrupts, split)

    assert seen([], []) == [("computed", 5_650)]
    # ready at 2400: the third slice ends at 3150; then 300 ns and the switch back
    assert seen([2_400], []) == [("other 0", 3_150), ("computed", 5_650 + 300 + SWITCH)]
    # a handler of 40 ns moves the work but not the slice, whether it came before somebody asked or behind
    for at in (2_000, 3_000):
        assert seen([2_400], [(at, 40)]) == [("other 0", 3_150), ("computed", 5_990 + SWITCH)]
    # one that runs then, or begins, goes first
    assert seen([2_400], [(3_140, 40)]) == [("other 0", 3_180), ("computed", 5_990 + SWITCH)]
    assert seen([2_400], [(3_150, 40)]) == [("other 0", 3_190), ("computed", 5_990 + SWITCH)]
    # in the last slice nobody gets in between
    assert seen([5_300], []) == [("computed", 5_650), ("other 0", 5_650)]
    # but if a handler makes the work last longer: 150 ns of it are left
    assert seen([5_300], [(5_400, 650)]) == [("other 0", 6_150), ("computed", 6_450 + SWITCH + 150)]
    # two that wait run one after the other, before the work goes on
    assert seen([2_400, 2_500], []) == [("other 0", 3_150), ("other 1", 3_450), ("computed", 5_650 + 600 + SWITCH)]


@pytest.mark.parametrize("split", SPLITS, ids=len)
@pytest.mark.parametrize("merge", [True, False])
def test_slices_begin_anew_with_each_turn(merge: bool, split: list[int]) -> None:
    seen = history(merge, [1_000, 2_000], [], split)
    assert seen == [("other 0", 1_150), ("other 1", 2_450), ("computed", 5_650 + 2 * (300 + SWITCH))]
    # the second comes while the first runs, behind the loader: which gets the CPU at 3450 for a slice
    seen = history(merge, [2_400, 3_300], [], split)
    assert seen == [("other 0", 3_150), ("other 1", 4_450), ("computed", 5_650 + 2 * (300 + SWITCH))]


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(("ready", "begins"), [(400, 2_650), (2_200, 3_150), (2_650, 3_150)])
def test_a_slice_that_ended_while_the_task_did_other_things_counts(merge: bool, ready: int, begins: int) -> None:
    """Up to 2650 it never asks; then it computes, where a slice that is over has its effect at once."""
    machine = Machine(merge)

    def busy(task: Task) -> Proc[None]:
        for _ in range(25):
            machine.cpu.spend(100)
            yield from task.settle()
        yield from task.compute(3_000)

    machine.task("busy", BEGIN, busy)
    machine.others([ready])
    assert machine.run() == [("other 0", begins)]


@pytest.mark.parametrize("merge", [True, False])
def test_two_tasks_share_a_cpu_though_one_makes_short_computations_only(merge: bool) -> None:
    machine = Machine(merge)
    begins: list[int] = []
    ends: list[int] = []

    def short(task: Task) -> Proc[None]:
        for _ in range(50):
            begins.append(machine.engine.now)
            machine.cpu.spend(10)
            yield from task.compute(90)

    def long(task: Task) -> Proc[None]:
        yield from task.compute(5_000)
        ends.append(machine.engine.now)

    machine.task("short", BEGIN, short)
    machine.task("long", BEGIN + 20, long)
    machine.run()
    gaps = [later - earlier for earlier, later in pairwise(begins)]
    turns = [gap for gap in gaps if gap > 100]
    # four times the long one gets a whole slice, inside of a turn; then it has the rest to itself
    assert turns == [SLICE + 100 + SWITCH] * 4 and gaps.count(100) == 45
    assert ends == [BEGIN + 10_000 + 8 * SWITCH]


def test_slices_cost_no_event_while_nobody_is_ready() -> None:
    found = []
    for computing in (True, False):
        machine = Machine()

        def body(task: Task, machine: Machine = machine, computing: bool = computing) -> Proc[None]:
            for _ in range(20):
                if computing:
                    yield from task.compute(700)
                else:
                    machine.cpu.spend(700)
                    yield from task.settle()

        machine.task("alone", BEGIN, body)
        machine.run()
        found.append(machine.engine.events)
    assert found[0] == found[1]


@pytest.mark.parametrize("merge", [True, False])
def test_cond_resched_waits_for_the_slice_and_sched_yield_does_not(merge: bool) -> None:
    # asked at 200, 250, 300, ..., 1150, when the slice is over
    for what, begins in (("sched_yield", 300), ("cond_resched", 1_150)):
        machine = Machine(merge)

        def body(task: Task, machine: Machine = machine, what: str = what) -> Proc[None]:
            for _ in range(40):
                machine.cpu.spend(50)
                yield from getattr(task, what)()
            machine.seen.append(("done", machine.engine.now))

        machine.task("asking", BEGIN, body)
        machine.others([260])
        assert machine.run() == [("other 0", begins), ("done", BEGIN + 2_000 + 300 + SWITCH)], what
