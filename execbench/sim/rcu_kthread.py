"""What the flavours of RCU share: kthreads, the timer wheel they sleep on, and sequences of grace periods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Engine, Proc
from execbench.sim.task import Task

if TYPE_CHECKING:
    from execbench.sim.ipi import Round
    from execbench.sim.passive import Until, Who
    from execbench.sim.probe import Probe
    from execbench.sim.rcu import Rcu

Entry: TypeAlias = "Task | Callable[[], None]"
"""Who wants a grace period: a blocked task, or a callback."""

_ELSEWHERE = 1 << 32
"""Number of the first CPU that is none of the machine's."""


class _Unmodelled:
    """The background of CPUs that nobody interrupts and that are there at once."""

    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...

    def send(
        self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None, who: Who = "all",
        until: Until = "unmasked",
    ) -> None: ...  # fmt: skip

    def count(self, t: int, who: Who) -> int:
        return 0

    def stop(self, t: int, switch_ns: int, flight_ns: int, stop: Round, only: int | None = None) -> None: ...

    def release(self, t: int, ns: int) -> None: ...


class Kthread(Task):
    """A kthread or kworker of RCU: it runs wherever there is room, so on a CPU that is none of the machine's.

    It delays nobody, and no CPU of the machine is spared an interrupt because it runs there.
    """

    __slots__ = ("_body", "_born")

    def __init__(
        self, name: str, number: int, engine: Engine, wakeup_ns: int, body: Callable[[Kthread], Proc[None]]
    ) -> None:
        """`number` tells the kthreads of a machine apart; nothing happens before the first `rouse`."""
        super().__init__(name, Cpu(_ELSEWHERE + number, engine, _Unmodelled()), engine, wakeup_ns)
        self._body = body
        self._born = False

    def rouse(self, at: int) -> None:
        """Wake it at time `at` (ns); the first time it begins."""
        if self._born:
            self.wake(at)
        else:
            self._born = True
            self.engine.spawn(self.run(self._from_the_start()), at, self.wakeup_key)

    def _from_the_start(self) -> Proc[None]:
        self.cpu.spend(self.switch_in_ns)
        yield from self._body(self)


class Wheel:
    """Timeouts in jiffies: never early, and the coarser the longer they are (kernel/time/timer.c:calc_wheel_index)."""

    def __init__(self, rcu: Rcu, offset: int) -> None:
        """Tick with `rcu`; `offset` is the jiffies counter modulo 512 at time 0."""
        self._jiffy_ns = rcu.rules.jiffy_ns
        self._first = rcu.next_tick(-1)
        self._offset = offset

    def timeout(self, now: int, jiffies: int) -> int:
        """Return when a timer fires that is set at `now` (ns) for so many jiffies."""
        clock = (now - self._first) // self._jiffy_ns + self._offset
        shift = 0
        while jiffies >= 63 << shift:  # LVL_START: 63 buckets of 1 jiffy, then of 8, of 64, ...
            shift += 3
        bucket = ((clock + jiffies >> shift) + 1) << shift
        return (bucket - self._offset) * self._jiffy_ns + self._first


class GracePeriods:
    """The grace periods of one flavour, one after another, and who waits for which (kernel/rcu/rcu.h:rcu_seq_snap)."""

    def __init__(self, flavour: str, engine: Engine, probe: Probe) -> None:
        """None has been asked for."""
        self.flavour = flavour
        self.engine = engine
        self.probe = probe
        self.completed = 0
        self.running = False
        self.started_at = 0
        self.log: list[tuple[int, int]] | None = None
        self._waiting: dict[int, list[Entry]] = {}

    def snap(self) -> int:
        """Return the number of the grace period whose end serves a request made now."""
        return self.completed + (2 if self.running else 1)

    def ask(self, entry: Entry) -> int:
        """Note a request; return the number of its grace period."""
        number = self.snap()
        self._waiting.setdefault(number, []).append(entry)
        self._tell(number, "request", 1)
        return number

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a grace period, running or not."""
        return bool(self._waiting)

    def start(self) -> None:
        """Begin the next one now (rcu_seq_start)."""
        self.running, self.started_at = True, self.engine.now
        self._tell(self.completed + 1, "start", 0)

    def scanned(self, n: int) -> None:
        """Tell that it looked around and found `n`: hold-outs, or CPUs to interrupt."""
        self._tell(self.completed + 1, "scan", n)

    def end(self) -> list[Entry]:
        """End the running one now (rcu_seq_end); return who waited for it, first come first."""
        self.completed += 1
        self.running = False
        if self.log is not None:
            self.log.append((self.started_at, self.engine.now))
        served = self._waiting.pop(self.completed, [])
        self._tell(self.completed, "end", len(served))
        return served

    def _tell(self, number: int, what: str, n: int) -> None:
        if self.probe.gp is not None:
            self.probe.gp(self.engine.now, self.flavour, number, what, n)

    def waited(self, task: Task, since: int) -> None:
        """Tell that `task` goes on after having waited since `since` (ns)."""
        if self.probe.wait is not None:
            self.probe.wait(since, self.engine.now, task, "gp", self.flavour, "", False)


def serve(entries: list[Entry], now: int, wake_ns: int) -> None:
    """Invoke callbacks and wake tasks in this order, `wake_ns` for each task."""
    at = now
    for entry in entries:
        if isinstance(entry, Task):
            at += wake_ns
            entry.wake(at)
        else:
            entry()
