"""The clock, the event heap and the order of simultaneous events: the only module that imports simpy.

Order is (time, key): the key carries the class of the event and the CPU or thread it belongs to, so equal times never
fall back on insertion order. Time may also pass without an event (`try_advance`) when nothing else is due up to the
target; both forms leave the same trace, because whether something at the present nanosecond has *happened* is decided
by the highest key processed so far at this nanosecond (`front`), not by who was inserted first.

Relies on three private attributes of simpy 4.1 (`_now`, `_queue`, `_eid`); tests/sim/test_engine.py pins them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Any, TypeVar

import simpy
from simpy.events import Event as Event

T = TypeVar("T")
Proc = Generator[Event, Any, T]
"""A process that waits for engine events and returns a T."""

_ENTITY_BITS = 40


class Class(IntEnum):
    """Classes of simultaneous events, first to last: what interrupts a CPU goes before what the CPU does.

    THREAD is a point of a running CPU's plan. A sender whose acknowledgements are complete, and a waiter that is handed
    a lock, go on as SENDER after all of these; a sleeper wakes as WAKEUP. When such an event is inserted depends on how
    the plans were split, so none of them may share its rank with a point of a plan.
    """

    INTERRUPT = 0
    THREAD = 1
    SENDER = 2
    TIMER = 3
    WAKEUP = 4
    OBSERVER = 5


def event_key(cls: Class, entity: int) -> int:
    """Return the rank of an event among those of the same nanosecond; entity is the CPU or thread number."""
    return (cls + 1) << _ENTITY_BITS | entity


_STOP = event_key(Class.OBSERVER, (1 << _ENTITY_BITS) - 1)


class Engine:
    """Integer-nanosecond simulation clock over one simpy environment."""

    __slots__ = ("_eid", "_env", "_front", "_front_at", "_queue", "events", "merge", "now", "tasks")

    def __init__(self, merge: bool = True) -> None:
        """With merge=False time never passes without an event: the slow form that the fast one must equal."""
        self._env = simpy.Environment(0)
        self.now = 0  # ns; kept beside simpy's own clock because reading it is the commonest operation of all
        self._queue: list[tuple[int, int, int, Event]] = self._env._queue  # type: ignore[assignment]
        self._eid = self._env._eid
        self._front = 0
        self._front_at = 0
        self.events = 0
        self.merge = merge
        self.tasks = 0  # tasks made so far: their numbers rank simultaneous events of theirs

    def event(self) -> Event:
        """Return an event that nothing has scheduled yet; exactly one process may wait for it."""
        return Event(self._env)

    def schedule(self, event: Event, at: int, key: int) -> None:
        """Let `event` happen at time `at` (ns, not before now) with rank `key`."""
        event._ok = True
        event._value = None
        heappush(self._queue, (at, key, next(self._eid), event))

    def event_at(self, at: int, key: int) -> Event:
        """Return an event that happens at time `at` (ns) with rank `key`."""
        event = Event(self._env)
        event._ok = True
        event._value = None
        heappush(self._queue, (at, key, next(self._eid), event))
        return event

    def withdraw(self, event: Event) -> None:
        """Take a scheduled event back: it never happens, and time may pass over it."""
        queue = self._queue
        number = next(i for i, entry in enumerate(queue) if entry[3] is event)
        queue[number] = queue[-1]
        queue.pop()
        heapify(queue)

    def call_at(self, at: int, key: int, action: Callable[[], None]) -> None:
        """Call `action()` at time `at` (ns) with rank `key`."""
        event = self.event_at(at, key)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: action())

    def spawn(self, process: Proc[Any], at: int, key: int) -> None:
        """Start a process at time `at` (ns) with rank `key`."""
        self._env.process(self._started(process, at, key))

    def _started(self, process: Proc[Any], at: int, key: int) -> Proc[None]:
        yield self.event_at(at, key)
        yield from process

    def try_advance(self, to: int, key: int) -> bool:
        """Let time pass to `to` without an event, if nothing else is due up to and including it."""
        if not self.merge or self._queue[0][0] <= to:
            return False
        self._env._now = self.now = to
        self._front = key
        self._front_at = to
        return True

    def happened(self, at: int, key: int) -> bool:
        """Say whether what is ranked (at, key) lies before or at the point the simulation has reached."""
        return at < self.now or (at == self.now and key <= self._front)

    def run(self, until: int) -> None:
        """Process events up to and including time `until` (ns); an exception of a process is raised as it is."""
        env, queue = self._env, self._queue
        stop = self.event_at(until, _STOP)
        while True:
            at, key, _, event = heappop(queue)
            env._now = self.now = at
            if at != self._front_at:
                self._front, self._front_at = key, at
            elif key > self._front:
                self._front = key
            self.events += 1
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
            if event is stop:
                return
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value

    def idle(self) -> bool:
        """Say whether no event is scheduled any more."""
        return not self._queue
