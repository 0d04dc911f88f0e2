"""The clock, the order of simultaneous events, and the shortcut past the heap."""

from __future__ import annotations

import random
from functools import partial
from itertools import count

import pytest
import simpy
from simpy.events import EventPriority

from execbench.sim.engine import Class, Engine, Proc, event_key


def test_simpy_has_the_private_attributes_that_the_engine_uses() -> None:
    env = simpy.Environment(0)
    assert env._queue == [] and isinstance(env._queue, list)
    assert isinstance(env._eid, count)
    env._now = 5
    assert env.now == 5
    event = simpy.Event(env)
    env.schedule(event, EventPriority(1), 2)
    ((at, priority, number, queued),) = env._queue
    assert (at, priority, queued) == (7, 1, event) and number == 0
    assert event.callbacks == [] and not hasattr(event, "_ok")
    env.process(iter_nothing(env))
    assert env._queue[0][:2] == (5, 0), "the start of a process goes before every key of the engine"
    assert min(event_key(cls, 0) for cls in Class) > 1


def iter_nothing(env: simpy.Environment) -> Proc[None]:
    yield env.timeout(0)


def test_equal_times_go_by_class_then_entity_never_by_insertion() -> None:
    keys = [event_key(cls, entity) for cls in Class for entity in (0, 1, 4096)]
    assert keys == sorted(keys)
    for seed in range(20):
        order = [(at, key) for at in (3, 7) for key in keys]
        random.Random(seed).shuffle(order)
        engine, seen = Engine(), list[tuple[int, int]]()
        for at, key in order:
            engine.call_at(at, key, partial(seen.append, (at, key)))
        engine.run(10)
        assert seen == sorted(order)
        assert engine.events == len(order) + 1 and engine.now == 10 and engine.idle()


def test_happened_is_what_lies_before_the_highest_rank_reached() -> None:
    engine = Engine()
    low, middle, high = (event_key(Class.THREAD, entity) for entity in (0, 1, 2))
    seen: dict[str, tuple[bool, ...]] = {}

    def look(name: str) -> None:
        seen[name] = tuple(engine.happened(at, key) for at in (4, 5, 6) for key in (low, middle, high))

    def at_high() -> None:
        look("high")
        engine.call_at(5, low, lambda: look("low, called from high"))

    engine.call_at(5, middle, lambda: look("middle"))
    engine.call_at(5, high, at_high)
    engine.call_at(6, low, lambda: look("low"))
    engine.run(10)
    yes, no = (True,) * 3, (False,) * 3
    assert seen["middle"] == (*yes, True, True, False, *no)
    assert seen["high"] == seen["low, called from high"] == yes + yes + no, "the rank never falls within a ns"
    assert seen["low"] == (*yes, *yes, True, False, False)


@pytest.mark.parametrize(("other", "passes"), [(9, False), (10, False), (11, True)])
@pytest.mark.parametrize("start", [event_key(Class.INTERRUPT, 0), event_key(Class.WAKEUP, 0)])
def test_time_passes_without_an_event_only_if_nothing_is_due_up_to_the_target(
    other: int, passes: bool, start: int
) -> None:
    engine, key = Engine(), event_key(Class.THREAD, 1)
    seen: list[tuple[int, bool]] = []

    def process() -> Proc[None]:
        assert engine.try_advance(10, key) is passes
        if not passes:
            yield engine.event_at(10, key)
        seen.append((engine.now, engine.happened(10, key)))
        seen.append((engine.now, engine.happened(10, key + 1)))
        yield engine.event_at(12, key)

    engine.spawn(process(), 2, start)
    engine.call_at(other, event_key(Class.INTERRUPT, 0), lambda: None)
    engine.run(20)
    assert seen == [(10, True), (10, False)]


def test_time_does_not_pass_beyond_the_end_of_the_run_or_unmerged() -> None:
    for merge, to, passes in [(True, 20, False), (True, 19, True), (False, 19, False)]:
        engine = Engine(merge)
        engine.call_at(2, 1 << 40, lambda: seen.append(engine.try_advance(to, 1 << 40)))  # noqa: B023
        seen: list[bool] = []
        engine.run(20)
        assert seen == [passes] and engine.now == 20


class TwoArguments(Exception):
    def __init__(self, one: int, two: str) -> None:
        super().__init__(f"{one} {two}")
        self.two = two


def test_an_exception_of_a_process_or_a_call_survives_as_it_is() -> None:
    raised = TwoArguments(1, "two")

    def process() -> Proc[None]:
        yield engine.event_at(3, 1 << 40)
        raise raised

    engine = Engine()
    engine.spawn(process(), 1, 1 << 40)
    with pytest.raises(TwoArguments) as caught:
        engine.run(10)
    assert caught.value is raised and caught.value.two == "two" and engine.now == 3

    def call() -> None:
        raise raised

    engine = Engine()
    engine.call_at(3, 1 << 40, call)
    with pytest.raises(TwoArguments):
        engine.run(10)


def test_a_run_can_go_on() -> None:
    engine, seen = Engine(), list[int]()
    for at in (3, 5, 7):
        engine.call_at(at, event_key(Class.OBSERVER, 0), lambda: seen.append(engine.now))
    engine.run(5)
    assert seen == [3, 5] and engine.now == 5 and not engine.idle()
    engine.run(9)
    assert seen == [3, 5, 7]
