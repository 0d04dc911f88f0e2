"""A CPU's plan: what is done when, with interrupts on and off, split or in one piece, and who runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Class, Engine, Proc, event_key
from execbench.sim.ipi import Round
from execbench.sim.task import Task

Body = Callable[["Bench"], Proc[None]]


class Bench:
    """One CPU with one task, interrupts at given times, and marks by name; passive time costs `wake` ns."""

    def __init__(self, body: Body, interrupts: list[tuple[int, int]], merge: bool, split: bool, wake: int = 0) -> None:
        self.engine = Engine(merge)
        self.wake, self.switches = wake, list[tuple[int, str]]()
        self.cpu = Cpu(0, self.engine, self)
        self.task = Task("task", self.cpu, self.engine, 5)
        self.split = split
        self.marks: dict[str, int] = {}
        self.rounds: list[Round] = []
        self.engine.spawn(self.task.run(body(self)), 100, self.cpu.key)
        for at, ns in interrupts:
            self.engine.call_at(at, event_key(Class.INTERRUPT, 0), partial(self.hit, ns))

    def hit(self, ns: int, at_once: bool = False) -> None:
        round_ = Round(self.engine, 1 << 50)
        round_.expect(1)
        self.rounds.append(round_)
        self.cpu.deliver(ns, round_, at_once)

    def run(self) -> tuple[dict[str, int], list[int], int, int]:
        self.engine.run(1_000_000)
        return self.marks, [round_.done_at for round_ in self.rounds], self.cpu.interruptions, self.cpu.stolen

    def mark(self, name: str) -> None:
        self.cpu.mark(lambda at: self.marks.__setitem__(name, at))

    def spend(self, ns: int) -> Proc[None]:
        self.cpu.spend(ns)
        if self.split:
            yield from self.task.settle()

    # the background model
    def activate(self, t: int, cpu: int) -> int:
        self.switches.append((t, "active"))
        return t + self.wake

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        self.switches.append((t, f"passive, busy until {busy_until}"))

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None) -> None:
        round.expect(1)
        round.acked(t + handler_ns)


def body(bench: Bench) -> Proc[None]:
    """Work 100, 50 with interrupts off (a mark in the middle and at both ends), 100 more."""
    bench.mark("begin")
    yield from bench.spend(100)
    bench.mark("before")
    bench.cpu.mask()
    yield from bench.spend(20)
    bench.mark("inside")
    yield from bench.spend(30)
    bench.mark("last inside")
    bench.cpu.unmask()
    bench.mark("after")
    yield from bench.spend(100)
    bench.mark("end")


Hits = list[tuple[int, int]]

CASES: list[tuple[str, Hits, tuple[int, ...], list[int], int]] = [
    # interrupts, marks in their order, acknowledgements, interruptions
    ("none", [], (100, 200, 220, 250, 250, 350), [], 0),
    ("while working", [(150, 7)], (100, 207, 227, 257, 257, 357), [157], 1),
    ("in the last ns of a piece", [(200, 7)], (100, 207, 227, 257, 257, 357), [207], 1),
    ("with interrupts off", [(201, 7)], (100, 200, 220, 250, 257, 357), [257], 1),
    ("in the last ns with interrupts off", [(250, 7)], (100, 200, 220, 250, 257, 357), [257], 1),
    ("two, the second joins", [(210, 7), (220, 9)], (100, 200, 220, 250, 266, 366), [257, 266], 1),
    ("the second comes as the first can start", [(210, 7), (250, 9)], (100, 200, 220, 250, 266, 366), [257, 266], 2),
    ("behind a running handler", [(150, 30), (160, 5)], (100, 235, 255, 285, 285, 385), [180, 185], 2),
    ("a handler keeps the span away", [(190, 40), (225, 5)], (100, 245, 265, 295, 295, 395), [230, 235], 2),
    ("at the end of all", [(350, 7)], (100, 200, 220, 250, 250, 357), [357], 1),
    ("after the end", [(351, 7)], (100, 200, 220, 250, 250, 350), [358], 0),
]
NAMES = ("begin", "before", "inside", "last inside", "after", "end")


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(("name", "hits", "marks", "acks", "times"), CASES, ids=[case[0] for case in CASES])
def test_a_plan(
    name: str, hits: Hits, marks: tuple[int, ...], acks: list[int], times: int, split: bool, merge: bool
) -> None:
    seen, ends, interruptions, stolen = Bench(body, hits, merge, split).run()
    assert tuple(seen[key] for key in NAMES) == marks
    assert ends == acks and interruptions == times
    assert stolen == (sum(ns for _, ns in hits) if times else 0)


def test_a_plan_without_disturbance_costs_one_event_or_none() -> None:
    def events(merge: bool) -> int:
        bench = Bench(body, [], merge, split=False)
        bench.run()
        return bench.engine.events

    assert events(merge=False) - events(merge=True) == 4, "one for each cost"


def test_waiting_with_interrupts_off_is_an_open_span() -> None:
    def waits(bench: Bench) -> Proc[None]:
        yield from bench.spend(10)
        bench.cpu.mask()
        yield from bench.task.settle()
        yield bench.engine.event_at(300, bench.cpu.key)
        bench.cpu.start_plan()
        yield from bench.spend(20)
        bench.cpu.unmask()
        bench.mark("on again")
        yield from bench.spend(0)

    for split in (True, False):
        marks, acks, interruptions, _ = Bench(waits, [(110, 3), (200, 7), (310, 5)], True, split).run()
        assert acks == [113, 327, 332] and marks == {"on again": 332}
        assert interruptions == 2


def test_what_waits_comes_behind_a_span_that_was_made_longer() -> None:
    """A handler that nothing masks still runs as the wait with interrupts off is over: the rest of it is later."""

    def body(bench: Bench) -> Proc[None]:
        bench.cpu.mask()
        yield from bench.task.settle()
        yield bench.engine.event_at(160, bench.cpu.key)
        bench.cpu.start_plan()
        bench.cpu.spend(50)
        bench.cpu.unmask()
        bench.mark("on")
        yield from bench.task.settle()

    bench = Bench(body, [(120, 7), (130, 7)], True, False)
    bench.engine.call_at(155, event_key(Class.INTERRUPT, 0), partial(bench.hit, 10, True))
    assert bench.run() == ({"on": 229}, [222, 229, 165], 2, 24)


def test_spans_may_be_nested_and_empty() -> None:
    def nested(bench: Bench) -> Proc[None]:
        bench.cpu.mask()
        bench.cpu.mask()
        yield from bench.spend(10)
        bench.cpu.unmask()
        yield from bench.spend(10)
        bench.cpu.unmask()
        bench.cpu.mask()
        bench.cpu.unmask()
        yield from bench.spend(10)
        bench.mark("end")

    for split in (True, False):
        assert Bench(nested, [(105, 50)], True, split).run()[:2] == ({"end": 180}, [170])


def test_an_interrupt_to_an_empty_masked_span_is_not_lost() -> None:
    def empty(bench: Bench) -> Proc[None]:
        bench.cpu.mask()
        yield bench.engine.event_at(300, bench.cpu.key)
        bench.cpu.start_plan()
        bench.cpu.unmask()
        yield from bench.spend(10)
        bench.mark("end")

    assert Bench(empty, [(200, 50)], True, False).run()[:2] == ({"end": 360}, [350])


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("forced", "masked", "off", "on"),
    [
        (150, 190, 160, 217),  # before the other comes: it takes its time out of the span, also at the very mark
        (175, 180, 150, 217),
        (200, 0, 150, 210),  # at the very end of the span
        (165, 160, 150, 207),  # the other is booked for the end of the span, and keeps its place
    ],
)  # fmt: skip
def test_what_nothing_masks_preempts_a_span_and_moves_no_booked_handler(
    forced: int, masked: int, off: int, on: int, split: bool
) -> None:
    def body(bench: Bench) -> Proc[None]:
        bench.cpu.mask()
        yield from bench.spend(50)
        bench.mark("off")
        yield from bench.spend(50)
        bench.cpu.unmask()
        bench.mark("on")
        yield from bench.spend(30)
        bench.mark("end")

    if split and forced == 165:  # nobody has booked it yet
        on = 217
    bench = Bench(body, [(masked, 7)] if masked else [], True, split)
    bench.engine.call_at(forced, event_key(Class.INTERRUPT, 0), partial(bench.hit, 10, True))
    found, acks, interruptions, stolen = bench.run()
    assert found == {"off": off, "on": on, "end": on + 30}
    assert sorted(acks) == [forced + 10, *([on] if masked else [])]
    assert (interruptions, stolen) == (len(acks), 10 + 7 * bool(masked))


def test_a_cpu_lives_through_what_was_drawn_before_a_task_runs() -> None:
    bench = Bench(body, [(110, 5)], True, False, wake=40)
    marks, acks, interruptions, _ = bench.run()
    assert marks["begin"] == 145 and acks == [145], "the interrupt is taken behind the exit from idle"
    assert bench.switches == [(100, "active"), (395, "passive, busy until 145")] and interruptions == 1


def sleeper(bench: Bench, name: str, at: int) -> Proc[None]:
    bench.cpu.spend(10)
    bench.mark(f"{name} asleep")
    yield from bench.task.sleep_until(at)
    bench.mark(f"{name} awake")
    bench.cpu.spend(100)
    bench.mark(f"{name} done")


def test_a_sleep_gives_up_the_cpu_and_costs_the_switch() -> None:
    bench = Bench(lambda b: sleeper(b, "one", 200), [], True, False)
    assert bench.run()[0] == {"one asleep": 110, "one awake": 205, "one done": 305}
    assert [at for at, _ in bench.switches] == [100, 110, 200, 305]
    past = Bench(lambda b: sleeper(b, "one", 105), [], True, False)
    assert past.run()[0] == {"one asleep": 110, "one awake": 110, "one done": 210}


def test_tasks_of_one_cpu_run_in_the_order_in_which_they_ask() -> None:
    bench = Bench(body, [], True, False)
    order: list[tuple[str, int]] = []

    def other(task: Task, ns: int) -> Proc[None]:
        order.append((task.name, bench.engine.now))
        task.cpu.spend(ns)
        yield from ()

    for i, at in enumerate((340, 120, 120)):
        task = Task(f"other {i}", bench.cpu, bench.engine, 0)
        bench.engine.spawn(task.run(other(task, 50)), at, event_key(Class.WAKEUP, i))
    bench.run()
    assert order == [("other 1", 350), ("other 2", 400), ("other 0", 450)]
    assert bench.switches == [(100, "active"), (500, "passive, busy until 100")]


def test_a_task_may_be_woken_ahead_of_time_and_must_not_sleep_with_interrupts_off() -> None:
    def blocks(bench: Bench) -> Proc[None]:
        yield from bench.task.block()
        bench.mark("woken")

    bench = Bench(blocks, [], True, False)
    bench.engine.call_at(150, 1 << 40, lambda: bench.task.wake(170))
    assert bench.run()[0] == {"woken": 175}
    with pytest.raises(AssertionError, match="task is not asleep"):
        bench.task.wake(0)

    def masked(bench: Bench) -> Proc[None]:
        bench.cpu.mask()
        yield from bench.task.block()

    with pytest.raises(AssertionError, match="interrupts off"):
        Bench(masked, [], True, False).run()
