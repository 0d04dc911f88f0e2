"""When operations arrive: by a thread's own think time (closed loop), or from outside (open loop, bursts, traces).

Every client uses the same loops, so that latency counts from the intended arrival everywhere and the k-th operation
meets the same draws whatever the backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, ClassVar, Protocol

from execbench.clients.columns import S64, Column
from execbench.clients.limits import PID_MAX_LIMIT, at_least
from execbench.contract import Proc, Row, Setting
from execbench.sim.dists import Dist, Exponential

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.operation import Operation


TRACE = (Column("at_ns", most=S64, ascending=True), Column("client", "text"), Column("kind", "text"))
"""What is read of a trace."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One operation that a thread is to do: its uniforms `row`, and the line of the trace that it comes from."""

    operation: Operation
    number: int
    due: int
    row: Sequence[float]
    event: Row | None = None


class Loop(Protocol):
    """Where a thread's operations come from: `while (turn := (yield from loop.next(k))) is not None: ... done`."""

    def next(self, k: Kernel) -> Proc[Turn | None]:
        """Wait for the next operation; None when the run's window is over."""

    def done(self, k: Kernel, turn: Turn) -> Proc[None]:
        """The operation, and what its thread does with it besides, is over."""


@dataclass(frozen=True, kw_only=True)
class Arriving:
    """What clients have in common whose threads sleep between operations: how many there are, and what they wait for.

    Closed loop: every thread thinks before each operation. With `rate` arrivals are Poisson; with `trace` they are the
    lines of that data file (columns at_ns, client, kind; in the order of at_ns) which name client and kind. Open
    arrivals are taken in turn by whichever thread is free.
    """

    name: ClassVar[str]

    threads: int = 1
    think: Dist = field(default=Exponential(50e6), metadata={"unit": "time"})
    rate: float | None = field(default=None, metadata={"unit": "rate"})
    """Operations per second of all threads together."""
    burst: int = 1
    """Arrivals at once, with `rate`."""
    trace: str | None = field(default=None, metadata={"kind": "data", "columns": TRACE})

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        at_least(self, 1, "threads", most=PID_MAX_LIMIT)
        at_least(self, 1, "burst")
        if self.rate is not None and not self.rate > 0:
            raise ValueError("rate: above 0 operations per second")
        if self.rate is not None and self.trace is not None:
            raise ValueError("trace: not beside a rate, for arrivals come from one of them")

    def computing_threads(self) -> int:
        """Return 0: every thread sleeps between operations, and gives way in what takes longer than its slice."""
        return 0

    def cpus(self, machine_cpus: int) -> tuple[int, ...]:
        """Place thread i at place i."""
        return tuple(range(self.threads))


def loops(setting: Setting, client: Arriving, kind: str, draws: int) -> Sequence[Loop]:
    """Return one loop per thread of a client; an operation of this kind has `draws` uniforms of its own."""
    if client.trace is not None:
        return [OpenLoop(setting, client.name, kind, draws, _recorded(setting, client.name, kind, client.trace))
                ] * client.threads  # fmt: skip
    if client.rate is not None:
        return [OpenLoop(setting, client.name, kind, draws, Bursts(client.rate, client.burst))] * client.threads
    return [ClosedLoop(setting, client.name, kind, thread, client.threads, draws, client.think)
            for thread in range(client.threads)]  # fmt: skip


def _recorded(setting: Setting, client: str, kind: str, trace: str) -> Trace:
    """Return the arrivals that a data file holds for one kind of operation; ValueError if there are none.

    Those that lie behind the window are never due: how many they are is left undone.
    """
    lines = setting.data(trace)
    events = [row for row in lines if row["client"] == client and row["kind"] == kind]
    if not events:
        others = ", ".join(sorted({f"{row['client']} {row['kind']}" for row in lines})) or "nothing"
        raise ValueError(f"trace {trace} has no line for {client} {kind}, only for {others}")
    late = sum(int(event["at_ns"]) >= setting.duration for event in events)
    if late:
        setting.undone[client] = setting.undone.get(client, 0) + late
    return Trace(events)


class ClosedLoop:
    """One thread: think, operate, think; nobody intended a time, so an operation is due when its thread gets to it."""

    def __init__(
        self, setting: Setting, client: str, kind: str, thread: int, threads: int, draws: int, think: Dist
    ) -> None:
        """Operation k of thread i of n has the number k n + i."""
        self._setting, self._client, self._kind = setting, client, kind
        self._numbers = count(thread, threads)
        self._rows = setting.stream(f"client.{client}/{thread}")
        self._draws, self._think = draws, think
        self._turns = 0

    def next(self, k: Kernel) -> Proc[Turn | None]:
        """Think; None if the window is over by then."""
        row = self._rows.row(self._turns, self._draws + self._think.uniforms)
        self._turns += 1
        due = k.now + int(self._think.sample(row[self._draws :]) + 0.5)
        if due >= self._setting.duration:
            return None
        yield from k.sleep_until(due)
        yield from k.settle()
        number = next(self._numbers)
        return Turn(self._setting.operation(self._client, self._kind, number, k.now), number, k.now, row)

    def done(self, k: Kernel, turn: Turn) -> Proc[None]:
        """What the operation planned has happened."""
        return k.settle()


class Times(Protocol):
    """Intended arrivals in order."""

    def at(self, number: int, before: float, uniform: float) -> float | None:
        """Return when arrival `number` is due (ns), `before` = the one before it; None behind the last one."""


@dataclass(frozen=True, slots=True)
class Bursts:
    """Poisson arrivals of `rate` operations per second, `burst` at once."""

    rate: float
    burst: int

    def at(self, number: int, before: float, uniform: float) -> float | None:
        """Return the time of a burst for its first operation, and the same for the others."""
        if number % self.burst:
            return before
        return before + Exponential(1e9 * self.burst / self.rate).sample((uniform,))


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded arrivals: rows with `at_ns`, in the order of their times."""

    events: Sequence[Row]

    def at(self, number: int, before: float, uniform: float) -> float | None:
        """Return the recorded time."""
        return float(self.events[number]["at_ns"]) if number < len(self.events) else None


class OpenLoop:
    """Arrivals of the whole client, taken in turn: exact FIFO with intended times and no arrival process.

    They keep coming after the window until what was due inside it has been served, so that the load does not fade.
    """

    def __init__(self, setting: Setting, client: str, kind: str, draws: int, times: Times) -> None:
        """Say to `setting` which arrivals nobody has taken yet."""
        self._setting, self._client, self._kind = setting, client, kind
        self._times, self._draws = times, draws
        self._rows = setting.stream(f"client.{client}/arrivals")
        self._at, self._taken = 0.0, 0
        self._outstanding = 0
        setting.untaken[client, kind] = self.untaken

    def next(self, k: Kernel) -> Proc[Turn | None]:
        """Take the next arrival and wait for it, if it is still to come."""
        setting, number = self._setting, self._taken
        row = self._rows.row(number, 1 + self._draws)
        at = self._times.at(number, self._at, row[0])
        if at is None:
            return None
        self._at, self._taken, due = at, number + 1, int(at)
        if due >= setting.duration + setting.drain or (due >= setting.duration and not self._outstanding):
            return None
        self._outstanding += due < setting.duration
        operation = setting.operation(self._client, self._kind, number, due)  # in the system from its arrival on
        yield from k.sleep_until(due)
        event = self._times.events[number] if isinstance(self._times, Trace) else None
        return Turn(operation, number, due, row[1:], event)

    def done(self, k: Kernel, turn: Turn) -> Proc[None]:
        """One of the window's arrivals has been served."""
        yield from k.settle()
        self._outstanding -= turn.due < self._setting.duration

    def untaken(self, before: int) -> Iterator[int]:
        """Yield when the arrivals are due that nobody has taken and that are due before a time (ns)."""
        at: float | None = self._at
        for number in count(self._taken):
            at = self._times.at(number, at or 0.0, self._rows.row(number, 1 + self._draws)[0])
            if at is None or int(at) >= before:
                return
            yield int(at)
