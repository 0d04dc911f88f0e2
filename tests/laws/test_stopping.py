"""Threads and stops on CPUs that run tasks and on passive ones: both CPU models and both forms of a plan agree.

Random programs with all times on a coarse grid, over backgrounds that are read off one path: every grant, mark,
acknowledgement, interruption and stolen ns must be the same to the ns; nothing may happen while the machine is stopped;
no thread gets a CPU in the middle of a span with interrupts off, or of a spinlock's hold; every program comes to its
end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from execbench.sim.cpu import Cpu
from execbench.sim.engine import Engine, Proc
from execbench.sim.explicit import ExplicitCpus
from execbench.sim.ipi import Interrupts, Round
from execbench.sim.lazy import LazyCpus
from execbench.sim.locks import Lock, LockKind
from execbench.sim.probe import Probe
from execbench.sim.stopper import Stopper
from execbench.sim.task import Task
from execbench.stats.laws import seed_of
from tests.laws.test_lazy_mechanism import CHAIN, STREAM, Path, PathSource

GRID = 10  # ns; every time of a program is a multiple of it
SEEDS, SEEDS_LONG = 1_500, 20_000
SLICE = 3 * GRID
END, STEP = 100_000, 2_000
LOCKS = ("mutex", "mutex", "spinlock", "spinlock")
WHO: Any = ("all", "busy")
UNTIL: Any = ("unmasked", "preemptible", "at-once")

Step = tuple[Any, ...]


def steps_of(rng: random.Random, n: int, depth: int = 0) -> list[Step]:
    """The steps of a task; those inside a lock take later locks only, and those inside a spinlock never wait."""
    steps: list[Step] = []
    for _ in range(n):
        kinds = ["spend", "spend", "mark", "masked"]
        if depth < 3:
            kinds += ["round", "round", "sleep", "stop", "compute"]
        if depth < 4:
            kinds += ["lock", "lock"]
        kind = rng.choice(kinds)
        if kind == "lock":
            number = rng.randint(depth, 3)
            inner = steps_of(rng, rng.randint(0, 3), number + 1)
            steps.append((kind, number, inner, number >= 2 and rng.random() < 0.5))
        elif kind == "masked":
            steps.append((kind, [rng.choice((0, 1, 2, 4, 30)) * GRID for _ in range(rng.randint(1, 3))]))
        elif kind == "round":
            steps.append((kind, rng.randint(0, 4) * GRID, rng.randint(1, 3) * GRID, rng.choice(WHO), rng.choice(UNTIL)))
        else:
            steps.append((kind, rng.randint(0, 8) * GRID, rng.randint(1, 3) * GRID))
    return steps


class Watched(Stopper):
    """Keeps when threads got the CPU."""

    __slots__ = ("turns",)
    turns: list[int]

    def _start(self) -> None:
        self.turns.append(self.cpu.engine.now)
        super()._start()


class Machine:
    """Some CPUs with tasks and some without, in one of the forms."""

    def __init__(self, seed: int, model: str, merge: bool) -> None:
        rng = random.Random(seed_of(f"stopping/{seed}"))
        self.engine = engine = Engine(merge)
        self.path = Path(seed, rng.choice([1.0, 2.75, 7.0]))
        hosts, others = rng.randint(2, 3), rng.randint(0, 2)
        preempts = rng.random() < 0.5
        numbers = range(hosts + others)
        common: Any = (engine, CHAIN, hosts + others, numbers, 4, STREAM)
        if model == "lazy":
            self.passive: Any = LazyCpus(*common, PathSource(self.path))
        else:
            self.passive = ExplicitCpus(*common, self.path)
        self.cpus = [Cpu(i, engine, self, preempts=preempts, slice_ns=SLICE) for i in range(hosts)]
        for cpu in self.cpus:
            cpu.stopper = watched = Watched(cpu, preempts)
            cpu.calls, watched.turns = watched.calls, []
        self.interrupts = Interrupts(engine, self, self.cpus)
        probe = Probe()
        self.locks = [Lock(LockKind(f"lock {i}", kind, ""), engine, probe, GRID) for i, kind in enumerate(LOCKS)]
        self.stop_mutex = Lock(LockKind("stop", "mutex", ""), engine, probe, GRID)
        self.interrupts.watch(self.locks)
        self.record: dict[str, list[Any]] = {}
        self.stops: list[tuple[int, int, str]] = []
        self.closed: list[tuple[int, list[int]]] = []  # CPU, times between which it belongs to no thread
        for i in range(hosts + rng.randint(0, 2)):
            task = Task(f"task {i}", self.cpus[i % hosts], engine, rng.randint(0, 1) * GRID)
            self.record[task.name] = []
            steps = steps_of(rng, rng.randint(3, 8))
            engine.spawn(task.run(self.body(task, steps)), rng.randint(0, 9) * GRID, task.cpu.key)

    # the background model, whose path begins anew when a CPU comes back
    def __getattr__(self, name: str) -> Any:
        return getattr(self.passive, name)

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        self.path.restart(cpu)
        self.passive.deactivate(t, cpu, busy_until)

    def note(self, task: Task, *what: Any) -> Callable[[int], None]:
        return lambda at: self.record[task.name].append((at, *what))

    def body(self, task: Task, steps: list[Step]) -> Proc[None]:
        for step in steps:
            yield from getattr(self, "do_" + step[0])(task, *step[1:])
        yield from task.settle()
        self.note(task, "end")(self.engine.now)

    def do_spend(self, task: Task, ns: int, _: int) -> Proc[None]:
        task.cpu.spend(ns)
        task.cpu.mark(self.note(task, "spent"))
        yield from ()

    def do_mark(self, task: Task, *_: int) -> Proc[None]:
        task.cpu.mark(self.note(task, "mark"))
        yield from ()

    def do_masked(self, task: Task, spends: list[int]) -> Proc[None]:
        task.cpu.mask()
        task.cpu.spend(GRID)  # a handler at the very begin or end moves marks that are there, if nothing masks it
        closed = self.close(task)
        for ns in spends:
            task.cpu.mark(self.note(task, "masked"))
            task.cpu.spend(ns)
        task.cpu.mark(closed)
        task.cpu.spend(GRID)
        task.cpu.unmask()
        task.cpu.mark(self.note(task, "unmasked"))
        yield from ()

    def do_lock(self, task: Task, number: int, inner: list[Step], irqs_off: bool) -> Proc[None]:
        if irqs_off:
            task.cpu.mask()
        with (yield from self.locks[number].acquire(task)):
            self.note(task, f"grant {number}")(self.engine.now)
            closed = self.close(task)
            for step in inner:
                yield from getattr(self, "do_" + step[0])(task, *step[1:])
            task.cpu.mark(self.note(task, f"release {number}"))
            if LOCKS[number] == "spinlock":
                task.cpu.mark(closed)
        if irqs_off:
            task.cpu.unmask()

    def close(self, task: Task) -> Callable[[int], None]:
        """Begin a stretch without threads; the mark that is returned ends it."""
        self.closed.append((task.cpu.id, times := []))
        task.cpu.mark(times.append)
        return times.append

    def do_round(self, task: Task, handler: int, flight: int, who: Any, until: Any) -> Proc[None]:
        yield from task.settle()
        round_ = self.interrupts.send(task.cpu, handler, flight, who, until)
        if until != "preemptible":
            yield from self.interrupts.wait(task, round_, preemptible=flight == GRID)
        else:  # who waits for threads sleeps
            yield from self.sleep_for(task, round_)
        task.cpu.mark(self.note(task, "round", round_.done_at, round_.targets))

    def sleep_for(self, task: Task, round_: Round) -> Proc[None]:
        task.cpu.leave()
        if round_.waiting:
            round_.waiter = self.engine.event()
            yield round_.waiter
        else:
            yield self.engine.event_at(max(round_.done_at, self.engine.now), round_.key)
        yield from task.get_on()

    def do_sleep(self, task: Task, ns: int, _: int) -> Proc[None]:
        yield from task.settle()
        yield from task.sleep_until(self.engine.now + ns)
        task.cpu.mark(self.note(task, "awake"))

    def do_compute(self, task: Task, ns: int, _: int) -> Proc[None]:
        yield from task.compute(2 * ns)
        task.cpu.mark(self.note(task, "computed"))

    def do_stop(self, task: Task, ns: int, later: int) -> Proc[None]:
        with (yield from self.stop_mutex.acquire(task)):
            yield from task.settle()
            round_ = self.interrupts.stop(task.cpu, GRID, later)
            yield from self.interrupts.wait(task, round_)
            task.cpu.mask()
            begin = self.engine.now
            task.cpu.spend(ns)
            yield from task.settle()
            self.stops.append((begin, self.engine.now, task.name))
            self.interrupts.release(later - GRID)
            task.cpu.unmask()
            self.note(task, "stopped", begin, round_.done_at, round_.targets)(self.engine.now)

    def result(self) -> dict[str, list[Any]]:
        """Run to the end and return the record."""
        tasks = [told for name, told in self.record.items() if name.startswith("task")]
        for until in range(STEP, END, STEP):
            self.engine.run(until)
            if all(told and told[-1][1:] == ("end",) for told in tasks):
                break
        for lock in (*self.locks, self.stop_mutex):
            lock.sync()
            assert lock.hold is None
            self.record[lock.kind.name] = [lock.acquisitions, lock.contended, lock.wait_ns, lock.hold_ns]
        for cpu in self.cpus:
            self.record[f"cpu {cpu.id}"] = [cpu.interruptions, cpu.stolen, cpu.pending]
        passive = self.passive
        self.record["passive"] = [(passive.interruptions(cpu), passive.stolen_ns(cpu)) for cpu in passive_numbers(self)]
        assert all(told and told[-1][1:] == ("end",) for told in tasks)
        return self.record


def passive_numbers(machine: Machine) -> list[int]:
    """Numbers of all CPUs of the background."""
    passive = machine.passive
    return sorted(passive._pools if isinstance(passive, LazyCpus) else passive._cpus)


FORMS = {"lazy": ("lazy", True), "lazy, every event": ("lazy", False), "explicit": ("explicit", True)}


def wrong(seed: int) -> list[str]:
    """What is wrong about one program: forms that differ, and what happened while the machine was stopped."""
    machines = {form: Machine(seed, *how) for form, how in FORMS.items()}
    records = {form: machine.result() for form, machine in machines.items()}
    found = [form for form, record in records.items() if record != records["lazy"]]
    for begin, end, stopper in machines["lazy"].stops:
        for name, told in records["lazy"].items():
            if name.startswith("task") and name != stopper:
                found += [f"{name} at {at}" for at, what, *_ in told if begin < at < end and "grant" not in what]
    for number, times in machines["lazy"].closed:
        if len(times) == 2:  # else a mutex
            begin, end = times
            turns = machines["lazy"].cpus[number].stopper.turns  # type: ignore[attr-defined]
            found += [f"thread on CPU {number} at {at}" for at in turns if begin < at < end]
    return found


def check(seeds: range) -> None:
    found = {seed: what for seed in seeds if (what := wrong(seed))}
    assert not found, f"{len(found)} of {len(seeds)} programs, first {next(iter(found.items()))}"


def test_both_models_and_forms_agree_and_nothing_happens_while_stopped() -> None:
    check(range(SEEDS))


@pytest.mark.long
def test_both_models_and_forms_agree_and_nothing_happens_while_stopped_long() -> None:
    check(range(SEEDS, SEEDS + SEEDS_LONG))
