"""Splitting, merging, the shortcut and listening change no record.

Random programs with all times on a coarse grid, so that ties abound, run in five forms; every grant, release, mark,
handler, acknowledgement, grace period and count must be the same to the ns. Client workloads do not find errors of the
tie rule, such programs do: two mutants of the rule show how many.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Class, Engine, Event, Proc, event_key
from execbench.sim.ipi import Interrupts, Round
from execbench.sim.locks import Lock, LockKind
from execbench.sim.probe import Probe
from execbench.sim.rcu import Rcu, RcuRules
from execbench.sim.task import Task
from execbench.stats.laws import seed_of

GRID = 100  # ns; every time is a multiple of it
SEEDS, SEEDS_LONG = 2_000, 10_000
MUTANT_SEEDS = 400
END = 10_000_000
KINDS = ("mutex", "mutex", "spinlock")

Record = dict[str, Any]
Step = tuple[Any, ...]


# --- random programs --------------------------------------------------------------------------------------------------


def program(rng: random.Random, tasks: int) -> list[Step]:
    """The steps of one task; blocks are (name, steps)."""
    return [_step(rng, tasks, 0) for _ in range(rng.randint(3, 9))]


def _step(rng: random.Random, tasks: int, depth: int) -> Step:
    names = ["spend", "spend", "mark", "masked", "round", "sleep", "block", "wake", "gp"]
    if depth < 3:
        names += ["lock"] * 3  # locks are taken in the order of their depth, so nobody waits in a circle
    name = rng.choice(names)
    if name == "lock":
        body = [_step(rng, tasks, depth + 1) for _ in range(rng.randint(0, 3))]
        if KINDS[depth] == "spinlock":
            body = [step for step in body if step[0] in ("spend", "mark", "masked")]
            return name, depth, body, rng.random() < 0.5
        return name, depth, body, False
    if name == "masked":
        spends = [rng.randint(0, 3) * GRID for _ in range(rng.randint(1, 3))]
        return name, spends, depth < 3 and rng.random() < 0.3
    if name == "wake":
        return name, rng.randrange(tasks), rng.randint(0, 2) * GRID
    return name, rng.randint(0, 3) * GRID, rng.randint(1, 2) * GRID, rng.randint(0, 2) * GRID


# --- the machine ------------------------------------------------------------------------------------------------------


class Idle:
    """CPUs without a task: always idle, handlers in order, woken from idle in one step of the grid."""

    def __init__(self, record: Record) -> None:
        self.passive: dict[int, int] = {}
        self.record = record

    def activate(self, t: int, cpu: int) -> int:
        return max(t + GRID, self.passive.pop(cpu))

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        self.passive[cpu] = busy_until

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Round, only: int | None = None) -> None:
        for cpu in sorted(self.passive) if only is None else [only]:
            begin = max(t + flight_ns, self.passive[cpu])
            self.passive[cpu] = begin + handler_ns
            self.record[f"handlers of {cpu}"].append((begin, handler_ns))
            round.expect(1)
            round.acked(begin + handler_ns)

    def gp_start(self, t: int) -> None: ...

    def scan(self, t: int) -> int:
        return 0


class Phases:
    """A stream whose rows lie on the grid."""

    def row(self, i: int, width: int) -> list[float]:
        return [i % 4 / 4] * width

    def u(self) -> float:
        return 0.5


class Watched(Cpu):
    """A CPU that records its handlers."""

    __slots__ = ("seen",)
    seen: list[tuple[int, int]]

    def _arrive(self, now: int, at: int, ns: int, round_: Round) -> None:
        super()._arrive(now, at, ns, round_)
        self.seen.append((self.he - ns, ns))


class Listener:
    """Hears everything and changes nothing."""

    def __init__(self) -> None:
        self.heard = 0

    def wait(self, *fields: Any) -> None:
        self.heard += 1

    def hold(self, *fields: Any) -> None:
        self.heard += 1

    def gp(self, *fields: Any) -> None:
        self.heard += 1


class World:
    """One random machine with its programs, in one of the forms."""

    def __init__(self, seed: int, engine: Engine, split: bool, listen: bool) -> None:
        rng = random.Random(seed_of(f"splitting/{seed}"))
        self.engine, self.split = engine, split
        self.blocked: dict[Task, object] = {}
        self.record: Record = {}
        probe = Probe()
        if listen:
            probe.attach(Listener())
        numbers = rng.randint(2, 4)
        self.record.update({f"handlers of {number}": [] for number in range(numbers)})
        self.background = Idle(self.record)
        self.cpus = [Watched(number, engine, self.background) for number in range(numbers)]
        for cpu in self.cpus:
            cpu.seen = self.record[f"handlers of {cpu.id}"]
            self.background.passive[cpu.id] = -1
        self.interrupts = Interrupts(engine, self.background, list(self.cpus))
        handoff = rng.randint(0, 1) * GRID
        self.locks = [Lock(LockKind(f"lock {i}", kind, ""), engine, probe, handoff) for i, kind in enumerate(KINDS)]
        init = rng.randint(0, 1) * GRID
        rules = RcuRules(4 * GRID, 1, 1, rng.random() < 0.5, 1, init, GRID, 0, GRID, 0.0)
        self.rcu = Rcu(engine, probe, self.background, rules, Phases(), Phases())  # type: ignore[arg-type]
        self.rcu.log = []
        hosts = [cpu for cpu in self.cpus for _ in range(rng.randint(1, 2))]
        self.tasks = [Task(f"task {i}", cpu, engine, rng.randint(0, 1) * GRID) for i, cpu in enumerate(hosts)]
        for i, task in enumerate(self.tasks):
            steps = program(rng, len(self.tasks))
            self.record[task.name] = []
            engine.spawn(task.run(self.body(i, task, steps)), rng.randint(0, 3) * GRID, task.cpu.key)

    def note(self, task: Task, what: str) -> Callable[[int], None]:
        return lambda at: self.record[task.name].append((at, what))

    def spend(self, task: Task, ns: int) -> Proc[None]:
        task.cpu.spend(ns)
        if self.split:
            yield from task.settle()

    def body(self, i: int, task: Task, steps: list[Step]) -> Proc[None]:
        for step in steps:
            yield from getattr(self, "do_" + step[0])(task, *step[1:])
        yield from task.settle()
        self.note(task, "end")(self.engine.now)

    def do_spend(self, task: Task, ns: int, *_: int) -> Proc[None]:
        return self.spend(task, ns)

    def do_mark(self, task: Task, *_: int) -> Proc[None]:
        task.cpu.mark(self.note(task, "mark"))
        yield from ()

    def do_masked(self, task: Task, spends: list[int], locks: bool) -> Proc[None]:
        task.cpu.mask()
        for ns in spends:
            task.cpu.mark(self.note(task, "mark, masked"))
            yield from self.spend(task, ns)
        if locks:
            yield from self.do_lock(task, len(KINDS) - 1, [("spend", GRID)], False)
        task.cpu.unmask()
        task.cpu.mark(self.note(task, "mark, unmasked"))

    def do_lock(self, task: Task, number: int, body: list[Step], irqs_off: bool) -> Proc[None]:
        if irqs_off:
            task.cpu.mask()
        with (yield from self.locks[number].acquire(task)):
            self.note(task, f"grant {number}")(self.engine.now)
            for step in body:
                yield from getattr(self, "do_" + step[0])(task, *step[1:])
            task.cpu.mark(self.note(task, f"release {number}"))
        if irqs_off:
            task.cpu.unmask()

    def do_round(self, task: Task, own_ns: int, handler_ns: int, ack_ns: int) -> Proc[None]:
        yield from task.settle()
        round_ = self.interrupts.send(task.cpu, handler_ns - GRID if ack_ns else handler_ns, GRID)
        task.cpu.mask()
        yield from self.spend(task, own_ns)
        task.cpu.unmask()
        yield from task.settle()
        yield from self.interrupts.wait(task, round_)
        self.record[task.name].append((self.engine.now, "round", round_.done_at, round_.targets))
        yield from self.spend(task, ack_ns)

    def do_sleep(self, task: Task, _: int, ns: int, *__: int) -> Proc[None]:
        yield from task.settle()
        yield from task.sleep_until(self.engine.now + ns)
        self.note(task, "awake")(self.engine.now)

    def do_block(self, task: Task, _: int, ns: int, *__: int) -> Proc[None]:
        yield from task.settle()
        self.blocked[task] = this = object()
        at = self.engine.now + 3 * ns
        self.engine.call_at(at, event_key(Class.TIMER, 1_000), lambda: self.wake(task, this, at))
        yield from task.block()
        self.note(task, "woken")(self.engine.now)

    def do_wake(self, task: Task, other: int, later: int) -> Proc[None]:
        yield from task.settle()
        sleeper = self.tasks[other]
        self.wake(sleeper, self.blocked.get(sleeper), self.engine.now + later)

    def wake(self, sleeper: Task, block: object, at: int) -> None:
        if block is not None and self.blocked.get(sleeper) is block:
            del self.blocked[sleeper]
            sleeper.wake(at)

    def do_gp(self, task: Task, *_: int) -> Proc[None]:
        yield from self.rcu.synchronize(task)
        self.note(task, "grace period over")(self.engine.now)

    def result(self) -> Record:
        """Run to the end and return the record."""
        self.engine.run(END)
        for lock in self.locks:
            lock.sync()
            sums = (lock.acquisitions, lock.contended, lock.wait_ns, lock.wait_max_ns, lock.hold_ns)
            self.record[lock.kind.name] = (sums, lock.hold is None, sorted(lock.blame.items()))
        for cpu in self.cpus:
            self.record[f"cpu {cpu.id}"] = (cpu.interruptions, cpu.stolen)
        self.record["grace periods"] = self.rcu.log
        ended = [self.record[task.name][-1][1:] == ("end",) for task in self.tasks]
        assert all(ended), "a task does not come to its end"
        return self.record


# --- the forms and the mutants ----------------------------------------------------------------------------------------

FORMS: dict[str, tuple[bool, bool, bool]] = {  # merge, settle after every cost, listen
    "merged": (True, False, False),
    "every cost an event": (False, False, False),
    "settled after every cost": (True, True, False),
    "settled and every cost an event": (False, True, False),
    "listening": (True, False, True),
}


def differing(seed: int, make: Callable[[bool], Engine] = Engine) -> list[str]:
    """Names of the forms whose record is not that of the merged one."""
    records: dict[str, Record] = {}
    for form, (merge, split, listen) in FORMS.items():
        records[form] = World(seed, make(merge), split, listen).result()
    return [form for form, record in records.items() if record != records["merged"]]


def check(seeds: range) -> None:
    wrong = {seed: forms for seed in seeds if (forms := differing(seed))}
    assert not wrong, f"{len(wrong)} of {len(seeds)} programs differ, first {next(iter(wrong.items()))}"


def test_the_form_of_a_plan_changes_no_record() -> None:
    check(range(SEEDS))


@pytest.mark.long
def test_the_form_of_a_plan_changes_no_record_long() -> None:
    check(range(SEEDS, SEEDS + SEEDS_LONG))


_SAME = event_key(Class.OBSERVER, 0)


class Insertion(Engine):
    """Mutant: equal times fall back on the order of insertion."""

    __slots__ = ()

    def schedule(self, event: Event, at: int, key: int) -> None:
        super().schedule(event, at, _SAME)

    def event_at(self, at: int, key: int) -> Event:
        return super().event_at(at, _SAME)


class Frontless(Engine):
    """Mutant: whatever lies at the present ns has happened."""

    __slots__ = ()

    def happened(self, at: int, key: int) -> bool:
        return at <= self.now


def unranked(key: int) -> int:
    """The key as if waiting and sleeping tasks went on with the rank of a running CPU."""
    cls, entity = (key >> 40) - 1, key & (1 << 40) - 1
    return event_key(Class.THREAD, entity) if cls in (Class.SENDER, Class.WAKEUP) else key


class OneRank(Engine):
    """Mutant: tasks that go on after a wait are ranked among the points of plans."""

    __slots__ = ()

    def schedule(self, event: Event, at: int, key: int) -> None:
        super().schedule(event, at, unranked(key))

    def event_at(self, at: int, key: int) -> Event:
        return super().event_at(at, unranked(key))

    def try_advance(self, to: int, key: int) -> bool:
        return super().try_advance(to, unranked(key))


@pytest.mark.parametrize("mutant", [Insertion, Frontless, OneRank])
def test_without_the_tie_rule_records_differ(mutant: type[Engine]) -> None:
    found = 0
    for seed in range(MUTANT_SEEDS):
        try:
            found += bool(differing(seed, mutant))
        except (AssertionError, RecursionError):
            found += 1
    print(f"{mutant.__name__}: {found} of {MUTANT_SEEDS} programs differ")
    assert found >= MUTANT_SEEDS // 50
