"""A toy machine with one backend started on it, and what must hold when everything on it has come to rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from execbench.conformance.ledger import Ledger
from execbench.conformance.places import Place
from execbench.conformance.toy import TOY_FEATURES, toy_background, toy_costs
from execbench.contract import Proc
from execbench.costs import CostTable
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation
from execbench.kernel.releases import release_from
from execbench.kernel.shared import Shared
from execbench.sim.machine import Machine
from execbench.sim.probe import EVENTS
from execbench.sim.rng import Streams
from execbench.sim.task import Task
from execbench.simulate import rcu_rules

_END: Final = 10_000_000_000


@dataclass(frozen=True)
class Finding:
    """One broken promise: which rule, and what was seen."""

    rule: str
    seen: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.rule}: {self.seen}"


class ToyMachine:
    """A toy machine with one backend started on it."""

    def __init__(
        self, backend: Any, place: Place, merge: bool = True, features: Mapping[str, Any] | None = None, *,
        watched: bool = False, heard: bool = False, costs: CostTable | None = None,
        background: Mapping[str, Any] | None = None, kernel: Mapping[str, Any] | None = None, memory: int | None = None,
    ) -> None:  # fmt: skip
        """Four CPUs, of which two may host tasks; the others idle. `features` differ from the toy machine's.

        `watched`: a ledger replays all facts. `heard`: somebody listens to every event. `kernel` overrides fields of
        the release; `memory` is bytes (None: what a machine has that says nothing).
        """
        costs = toy_costs() if costs is None else costs
        config = {"hz": 1000, "preempt": "full", "page_size": place.page_size}
        spec: dict[str, Any] = {
            "arch": place.arch, "features": {**TOY_FEATURES[place.arch], **(features or {})}, "kernel": config,
            "topology": {"cpus": 4, "nodes": 1, **({} if memory is None else {"memory": memory})},
            "background": toy_background() if background is None else background,
        }  # fmt: skip
        release = release_from({"release": place.release, **(kernel or {})})
        self.machine = Machine(spec, costs, Streams(1, 0), (0, 1), {"merge": merge})
        self.machine.start_rcu(rcu_rules(config, release, costs, 4, place.arch))
        self.shared = Shared(self.machine, release, costs)
        self.shared.recorder = _Nobody()
        self.backend = backend
        self.kind = place.kind
        self.page = place.page_size
        self.wx: bool = getattr(backend, "wx", type(backend).support.wx)
        self.findings: list[Finding] = []
        self.finished = 0
        self.started = 0
        self.times: list[tuple[int, str, int]] = []
        """What has returned: (CPU, verb, ns)."""
        self.ledger: Ledger | None = None
        if watched:
            self.ledger = Ledger(self.expect, self.wx)
            self.machine.probe.attach(self.ledger)
        if heard:
            self.machine.probe.attach(_Ears())
        self.state = backend.start(self.shared)

    def expect(self, rule: str, holds: bool, seen: object) -> None:
        """Note a finding unless `holds`."""
        if not holds:
            self.findings.append(Finding(rule, str(seen)))

    def task(self, cpu: int, body: Callable[[Kernel], Proc[Any]]) -> None:
        """Run `body(k)` on a CPU from now on."""
        self.started += 1
        task = Task(f"check/{cpu}", self.machine.active_cpu(cpu), self.machine.engine, 10)
        work = task.run(self._counted(body, self.shared.view(task)))
        self.machine.engine.spawn(work, self.machine.engine.now, task.cpu.key)

    def _counted(self, body: Callable[[Kernel], Proc[Any]], k: Kernel) -> Proc[None]:
        yield from body(k)
        yield from k.settle()
        self.finished += 1

    def run(self) -> list[Finding]:
        """Run everything; afterwards all tasks are done, all locks free, and memory adds up."""
        try:
            self.machine.engine.run(self.machine.engine.now + _END)
        except Exception as error:  # a backend may raise anything; what was found before is kept
            self.expect("runs", False, repr(error))
            return self.findings
        self.expect("every task comes to its end", self.finished == self.started, f"{self.finished} of {self.started}")
        for name, lock in self.shared.locks.items():
            lock.sync()
            self.expect("locks are free in the end", lock.hold is None, name)
        exposed = self.shared.text_map.wx_pages
        self.expect("no page stays writable and executable", exposed == 0 or self.wx, exposed)
        self.recount()
        if self.ledger is not None:
            self.ledger.close()
        return self.findings

    def recount(self) -> None:
        """Every running total of memory equals a recount, and what was told is what is."""
        for part in (self.shared.vmap, self.shared.frames, self.shared.direct_map, self.shared.text_map):
            try:
                part.check()
            except AssertionError as error:
                self.expect("memory adds up", False, error)
        if self.ledger is not None:
            self.ledger.mappings.agrees(self.shared.text_map)


class _Ears:
    """Hears everything and keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        if name not in EVENTS:
            raise AttributeError(name)
        return lambda *fields: None


class _Nobody:
    """A recorder that keeps nothing."""

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        return {}, {}

    def begun(self, operation: Operation, at: int) -> None: ...
    def finished(self, operation: Operation) -> None: ...
