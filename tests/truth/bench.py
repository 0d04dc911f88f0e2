"""Machines on which bare tasks call kernel primitives, and eBPF programs are loaded one after the other.

Everything comes from a machine file through the same resolution as a study's cells; only the client is left out.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.clients.bpf import Bpf, Loaded, Loader, Program
from execbench.contract import Proc, Setting
from execbench.costs import CostTable
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation
from execbench.kernel.releases import release_from
from execbench.kernel.shared import Shared
from execbench.sim.machine import Machine
from execbench.sim.rng import Streams
from execbench.sim.task import Task
from execbench.simulate import rcu_rules
from execbench.study.expand import Asked, expand

TRUTH = Path(__file__).parents[2] / "configs" / "truth"
FOREVER = 1 << 60
Body = Callable[[Kernel], Proc[None]]


def truth(file: str) -> dict[str, dict[str, str]]:
    """The rows of a truth table by id."""
    with (TRUTH / file).open(newline="") as rows:
        return {row["id"]: row for row in csv.DictReader(rows)}


def straight_line(insns: int) -> Program:
    """A program without branches: every instruction is processed once and makes 4 bytes, 12 more for the frame."""
    return Program(
        insns=insns, processed=insns, total_states=0, xlated=insns, functions=(4 * insns + 12,), straight_line=True
    )


@cache
def _resolved(machine: str, release: str, scenario: str, cpus: int, settings: str) -> str:
    use = {"machine.background.use": scenario} if scenario else {}
    asked = Asked.of(
        workload="bpf", backends="bpf_prog_pack", machine=machine, kernel=release, cpus=cpus,
        set={"client.bpf.threads": 1, **use, **json.loads(settings)},
    )  # fmt: skip
    return json.dumps(expand(asked).cells[0].spec)


class Bench:
    """A machine with its kernel and bpf_prog_pack, and no client: `task` adds bare tasks, `run` runs them all."""

    def __init__(
        self, name: str, *, release: str = "6.18", scenario: str = "halted", cpus: int = 2, hosts: Sequence[int] = (0,),
        without: Sequence[str] = (), kernel: Mapping[str, Any] | None = None, machine: str = "host-2cpu",
        settings: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`name` seeds the streams; `without` makes costs 0; `kernel` overrides fields of the release.

        `scenario` "" is the machine's own background; `settings` are dotted keys below machine.
        """
        spec = json.loads(_resolved(machine, release, scenario, cpus, json.dumps(settings or {}, sort_keys=True)))
        for cost in without:
            spec["machine"]["costs"][cost] |= {"ps": 0, "low_ps": 0, "dist": "constant", "p99_ps": None}
        costs = CostTable.from_spec(spec["machine"]["costs"])
        rules = release_from({**spec["kernel"], **(kernel or {})})
        self.machine = Machine(spec["machine"], costs, Streams(seed_of(name), 0), tuple(hosts), spec["run"])
        self.machine.start_rcu(rcu_rules(spec["machine"]["kernel"], rules, costs, cpus, self.machine.arch))
        self.shared = Shared(self.machine, rules, costs)
        self.recorder = self.shared.recorder = Recorder()
        self.calls: Counter[str] = Counter()
        """Uses of every primitive by all tasks, those outside operations too."""
        self.targets = 0
        """Calls of functions on other CPUs."""
        self.machine.probe.attach(self)
        self._loader: Loader | None = None
        self._unfinished = 0

    def task(self, name: str, body: Body, cpu: int = 0, start: int = 0) -> None:
        """Run `body(k)` on a CPU from time `start` (ns) on; any number of tasks that wait may share one."""
        task = Task(name, self.machine.active_cpu(cpu), self.machine.engine, self.shared.costs.ns("task_wakeup"))
        self._unfinished += 1
        self.machine.engine.spawn(task.run(self._counted(body, self.shared.view(task))), start, task.cpu.key)

    def _counted(self, body: Body, k: Kernel) -> Proc[None]:
        yield from body(k)
        yield from k.settle()
        self._unfinished -= 1

    def run(self) -> None:
        """Run until nothing is due any more; every task has come to its end."""
        self.machine.engine.run(FOREVER)
        assert not self._unfinished, f"{self._unfinished} tasks wait for ever"

    @property
    def loader(self) -> Loader:
        """The program loader with bpf_prog_pack; made on first use."""
        if self._loader is None:
            backend = BpfProgPack()
            setting = Setting(self.shared, backend, backend.start(self.shared), FOREVER, 0, 0, lambda _: [])
            self._loader = Loader(Bpf(data=""), setting)
        return self._loader

    def operation(self, kind: str) -> Operation:
        """A fresh operation that `recorder` keeps."""
        return Operation("truth", kind, len(self.recorder.kept), 0, "sync", self.recorder)

    def close(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        """Unload a program."""
        return self.loader.unload(k, loaded, len(self.recorder.kept))

    def load(self, k: Kernel, program: Program) -> Proc[Loaded]:
        """Load a program."""
        operation = Operation("bpf", "load", len(self.recorder.kept), k.now, "sync", self.recorder)
        return self.loader.load(k, program, operation)

    # --- sink of the probe --------------------------------------------------------------------------------------------

    def call(self, at: int, task: Task, primitive: str, units: int) -> None:
        self.calls[primitive] += 1

    def ipi(self, begin: int, end: int, task: Task, why: str, targets: int) -> None:
        self.targets += targets


class Recorder:
    """Keeps every finished operation with counts of its own."""

    def __init__(self) -> None:
        self.kept: list[Operation] = []

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        return {}, {}

    def begun(self, operation: Operation, at: int) -> None: ...

    def finished(self, operation: Operation) -> None:
        self.kept.append(operation)

    def of(self, kind: str) -> list[Operation]:
        """The finished operations of one kind, in their order."""
        return [operation for operation in self.kept if operation.kind == kind]


def phase_ns(operation: Operation, phase: str) -> int:
    """How long a phase of an operation lasted (ns)."""
    spans = zip(operation.names, operation.times[:-1], operation.times[1:], strict=True)
    return sum(end - begin for name, begin, end in spans if name == phase)


def seed_of(name: str) -> int:
    """The seed that belongs to a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")
