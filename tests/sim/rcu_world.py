"""Callers of RCU's flavours on CPUs that answer interrupts as they are told; no background, no costs but the rules'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Class, Engine, Proc, event_key
from execbench.sim.ipi import Interrupts, Round
from execbench.sim.probe import Probe
from execbench.sim.rcu import FlavourRules, Rcu, RcuRules
from execbench.sim.rcu_flavours import Flavours
from execbench.sim.rcu_kthread import GracePeriods
from execbench.sim.rng import Streams
from execbench.sim.task import Task
from execbench.stats.laws import seed_of

FAR = 1 << 60
J = 4_000_000
HZ = 250
RULES = RcuRules(
    jiffy_ns=J, first_fqs=1, next_fqs=1, wake_from_gp=True, direct_wakes=5, init_ns=20_000, cleanup_ns=10_000,
    wake_ns=0, worker_ns=0, second_scan=0.0,
    flavours=FlavourRules(exp_gp_ns=8_000, exp_handler_ns=900, handler_ns=700, flight_ns=1_100, switch_ns=1_300,
                          scan_ns=30_000, holdout=0.4),
)  # fmt: skip


def rules(wake_ns: int = 0, worker_ns: int = 0, wake_from_gp: bool = True, **flavours: Any) -> RcuRules:
    """RULES with other values."""
    changed = replace(RULES.flavours, **flavours)
    return replace(RULES, wake_ns=wake_ns, worker_ns=worker_ns, wake_from_gp=wake_from_gp, flavours=changed)


class Bare:
    """CPUs that are there at once and always quiescent."""

    def activate(self, t: int, cpu: int) -> int:
        return t

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None: ...

    def send(
        self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None, who: str = "all",
        until: str = "unmasked",
    ) -> None: ...  # fmt: skip

    def gp_start(self, t: int) -> None: ...

    def scan(self, t: int) -> int:
        return 0


@dataclass
class Sent:
    """One round: when, to whom, until when they hold it up, and how much later than the shortest way each answers."""

    at: int
    who: str
    until: str
    handler_ns: int
    extra: list[int] = field(default_factory=list)


class Told(Interrupts):
    """Interrupts to CPUs 0 .. n-1 that are not there: the first `idle` of them are spared if only busy ones count."""

    __slots__ = ("cpus", "delay", "idle", "sent")

    def __init__(self, engine: Engine, cpus: int, idle: int, delay: Callable[[int], int]) -> None:
        super().__init__(engine, Bare(), [])
        self.cpus, self.idle, self.delay = cpus, idle, delay
        self.sent: list[Sent] = []

    def send(
        self, sender: Cpu, handler_ns: int, flight_ns: int, who: str = "all", until: str = "unmasked", **_: Any
    ) -> Round:
        assert sender.task is not None
        round_ = Round(self.engine, sender.task.resume_key)
        first = self.idle if who == "busy" else 0
        sent = Sent(self.engine.now, who, until, handler_ns)
        self.sent.append(sent)
        for cpu in range(first, self.cpus):
            sent.extra.append(self.delay(cpu))
            round_.expect(1)
            round_.acked(self.engine.now + flight_ns + handler_ns + sent.extra[-1])
        return round_


class World:
    """One machine with its flavours; times are relative to a tick."""

    def __init__(
        self, name: str = "rcu", rules: RcuRules = RULES, cpus: int = 4, idle: int = 1,
        delay: Callable[[int], int] = lambda cpu: 0, switch_in: int = 0, merge: bool = True,
    ) -> None:  # fmt: skip
        self.engine, self.probe, streams = Engine(merge), Probe(), Streams(seed_of(name), 0)
        self.interrupts = Told(self.engine, cpus, idle, delay)
        self.rules, self.streams, self.switch_in = rules, streams, switch_in
        self.rcu = Rcu(self.engine, self.probe, Bare(), rules, streams.stream("second scan"), streams.stream("tick"))
        self.rcu.log = []
        self.flavours = Flavours(self.rcu, self.interrupts, streams)
        self.zero = self.rcu.next_tick(10 * J)
        self.waits: list[tuple[int, int]] = []
        self.heard: list[tuple[int, str, int, str, int]] = []
        self.probe.attach(self)

    def gp(self, t: int, flavour: str, seq: int, what: str, n: int) -> None:
        self.heard.append((t - self.zero, flavour, seq, what, n))

    def of(self, flavour: str) -> Any:
        """The machinery of a flavour, with a log of its grace periods."""
        found = getattr(self.flavours, flavour)
        self.periods(found).log = self.periods(found).log or []
        return found

    @staticmethod
    def periods(flavour: Any) -> GracePeriods:
        periods: GracePeriods = flavour.periods
        return periods

    def log(self, flavour: str) -> list[tuple[int, int]]:
        """Starts and ends of a flavour's grace periods."""
        return [(start - self.zero, end - self.zero) for start, end in self.of(flavour).periods.log]

    def tick(self, at: int, jiffies: int) -> int:
        """When a timer set at `at` fires, by trying every tick: the first later than asked that its level knows."""
        offset = int(Streams(self.streams.seed, 0).stream("jiffies").u() * 512)
        first = self.rcu.next_tick(-1) - self.zero - offset * J  # of the jiffies counter
        clock = (at - first) // J
        level = next(level for level in range(9) if jiffies < 63 * 8**level)
        fires = clock + 1
        while fires <= clock + jiffies or fires % 8**level:
            fires += 1
        return first + fires * J

    def caller(self, flavour: Any, *at: int, think: Callable[[], int] | None = None, calls: int = 1) -> None:
        """A task that asks at a time, and again after each answer and a think time."""
        for begin in at:
            task = Task(f"caller {self.engine.tasks}", Cpu(self.engine.tasks, self.engine, Bare()), self.engine,
                        self.switch_in)  # fmt: skip
            body = self._calls(flavour, task, think, calls)
            self.engine.spawn(task.run(body), self.zero + begin, task.cpu.key)

    def _calls(self, flavour: Any, task: Task, think: Callable[[], int] | None, calls: int) -> Proc[None]:
        for i in range(calls):
            if i and think is not None:
                yield from task.sleep_until(self.engine.now + think())
            yield from task.settle()
            begin = self.engine.now
            yield from flavour.synchronize(task)
            yield from task.settle()
            self.waits.append((begin - self.zero, self.engine.now - self.zero))

    def call(self, flavour: Any, *at: int) -> None:
        """A callback queued at each time; its wait is noted like that of a caller."""
        for begin in at:
            t = self.zero + begin
            invoked = self._invoked(begin)
            self.engine.call_at(t, event_key(Class.THREAD, 0), lambda invoked=invoked: flavour.call(invoked))

    def _invoked(self, begin: int) -> Callable[[], None]:
        return lambda: self.waits.append((begin, self.engine.now - self.zero))

    def run(self, until: int = 3_000 * J) -> list[tuple[int, int]]:
        """Run; return who waited from when until when, in the order of asking."""
        self.engine.run(self.zero + until)
        return sorted(self.waits)

    def what(self, flavour: str) -> Iterator[tuple[int, str, int]]:
        """What was told of a flavour's grace periods: when, what, n."""
        return ((t, what, n) for t, of, _, what, n in self.heard if of == flavour)
