"""A toy machine of any architecture, release and features, on which bare tasks call kernel primitives.

Costs are round numbers, no two alike; nothing here depends on how long anything takes. What the tasks count and the
facts that they tell are kept in the order of their happening.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from execbench.conformance import toy_background, toy_costs
from execbench.contract import Proc
from execbench.costs import Cost, CostTable, Evidence
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation
from execbench.kernel.releases import release_from
from execbench.kernel.shared import Shared
from execbench.sim.machine import Machine
from execbench.sim.memory import VmArea
from execbench.sim.probe import TOLD
from execbench.sim.rng import Streams
from execbench.sim.task import Task
from execbench.simulate import rcu_rules

Body = Callable[[Kernel], Proc[Any]]

FEATURES: dict[str, dict[str, Any]] = {
    "x86_64": {
        "apic": "x2apic", "ipi": "shorthand", "invlpgb": False, "fred": False, "its": False,
        "fineibt": False, "ibpb_on_cbpf": False,
    },
    "arm64": {"idc": False, "dic": False, "rodata_full": True, "bbml": False, "tlbi_range": True},
    "riscv64": {"rfence": "sbi"},
}  # fmt: skip
"""All keys of each architecture; a test gives those that matter to it."""

COSTS = """stopper_switch exp_gp_fixed exp_handler tasks_scan cpa_page cpa_split cpa_collapse text_poke int3_queue
sync_core tlb_flush_all tlb_flush_page invlpgb tlbsync ibpb tlbi dsb_ish isb dc_cvau ic_ivau fixmap_map pageattr_page
linear_split mm_switch fence_i sbi_call sbi_hart sfence_fault""".split()
"""Costs that belong to one architecture or kind of wait: the bench has all, whatever the architecture."""

_END = 10_000_000_000


class Bench:
    """Tasks, and what they did: `calls` and `facts`.

    calls: (primitive, units) as counted. facts: (event, t, *fields), the facts for auditors of
    execbench.sim.probe.TOLD. spent: (cost, n).
    """

    def __init__(
        self, arch: str = "x86_64", release: str = "6.18", features: Mapping[str, Any] | None = None, cpus: int = 4,
        *, hosts: Sequence[int] = (0, 1), nodes: int = 1, config: Mapping[str, Any] | None = None,
        kernel: Mapping[str, Any] | None = None, memory: int = 8 << 30, run: Mapping[str, Any] | None = None,
        isolated: int = 0,
    ) -> None:  # fmt: skip
        """`hosts` may run tasks; `kernel` overrides fields of the release; `config` keys of the machine's [kernel]."""
        costs = bench_costs()
        settings = {"hz": 1000, "preempt": "full", "page_size": 4096, **(config or {})}
        spec = {
            "arch": arch, "features": FEATURES[arch] | dict(features or {}), "kernel": settings,
            "topology": {"cpus": cpus, "nodes": nodes, "memory": memory, "isolated": isolated},
            "background": toy_background(),
        }  # fmt: skip
        rules = release_from({"release": release, **(kernel or {})})
        self.machine = Machine(spec, costs, Streams(1, 0), tuple(hosts)[:cpus], dict(run or {}))
        self.machine.start_rcu(rcu_rules(settings, rules, costs, cpus, arch))
        self.shared = Shared(self.machine, rules, costs)
        self.shared.recorder = _Nobody()
        self.calls: list[tuple[str, int]] = []
        self.facts: list[tuple[Any, ...]] = []
        self.spent: list[tuple[str, int]] = []
        self.rounds: list[tuple[str, int]] = []
        """Calls of functions on other CPUs: why, targets."""
        self.machine.probe.attach(self)
        for event in TOLD:
            if event not in ("call", "spend", "fact", "lock"):
                self.machine.probe.attach(_Ear(event, self.facts))
        self._unfinished = 0

    def task(self, body: Body, cpu: int = 0, start: int = 0) -> None:
        """Run `body(k)` on a CPU from time `start` (ns) on."""
        self._unfinished += 1
        task = Task(f"bench/{cpu}", self.machine.active_cpu(cpu), self.machine.engine, 10)
        self.machine.engine.spawn(task.run(self._counted(body, self.shared.view(task))), start, task.cpu.key)

    def _counted(self, body: Body, k: Kernel) -> Proc[None]:
        yield from body(k)
        yield from k.settle()
        self._unfinished -= 1

    def run(self) -> Bench:
        """Run until all tasks are done; then locks are free and memory adds up."""
        self.machine.engine.run(self.machine.engine.now + _END)
        assert not self._unfinished, f"{self._unfinished} tasks wait for ever"
        for name, lock in self.shared.locks.items():
            lock.sync()
            assert lock.hold is None, name
        for part in (self.shared.vmap, self.shared.frames, self.shared.direct_map, self.shared.text_map):
            part.check()
        return self

    def forget(self) -> None:
        """Forget what happened so far: what follows is what the test is about."""
        for kept in (self.calls, self.facts, self.spent, self.rounds):
            kept.clear()

    @property
    def steps(self) -> list[str]:
        """What was counted, in its order: the primitive, and its units if they are not 1."""
        return [primitive if units == 1 else f"{primitive} {units}" for primitive, units in self.calls]

    @property
    def counts(self) -> Counter[str]:
        """How often each primitive was counted."""
        return Counter(primitive for primitive, _ in self.calls)

    def units(self, primitive: str) -> int:
        """The units of all uses of a primitive."""
        return sum(units for name, units in self.calls if name == primitive)

    def cost(self, name: str) -> int:
        """How many units of a cost were spent by tasks; not those inside handlers on other CPUs."""
        return sum(n for cost, n in self.spent if cost == name)

    def told(self, *events: str) -> list[tuple[Any, ...]]:
        """The facts of some kinds (all if none is named) in their order, without time, begin and areas."""
        return [(event, *_plain(event, fields)) for event, _, *fields in self.facts if not events or event in events]

    # --- sink of the probe --------------------------------------------------------------------------------------------

    def call(self, at: int, task: Task, primitive: str, units: int) -> None:
        self.calls.append((primitive, units))

    def spend(self, at: int, task: Task, cost: str, n: int, ns: int) -> None:
        self.spent.append((cost, n))

    def ipi(self, begin: int, end: int, task: Task, why: str, targets: int) -> None:
        self.rounds.append((why, targets))


class _Ear:
    """Hears one event."""

    def __init__(self, event: str, heard: list[tuple[Any, ...]]) -> None:
        setattr(self, event, lambda t, task, *fields: heard.append((event, t, *fields)))


class _Nobody:
    """A recorder that keeps nothing."""

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        return {}, {}

    def begun(self, operation: Operation, at: int) -> None: ...
    def finished(self, operation: Operation) -> None: ...


def _plain(event: str, fields: list[Any]) -> list[Any]:
    """The fields of a fact without the time at which it began, and without areas."""
    return [field for field in fields[event in ("flush", "serialize", "icache") :] if not isinstance(field, VmArea)]


def bench_costs() -> CostTable:
    """The costs of the conformance suite's toy machine, and those of every architecture."""
    toy = toy_costs()
    costs = {name: toy[name] for name in toy}
    for i, name in enumerate(COSTS):
        if name not in costs:
            ps = 1000 * (110 + i)
            costs[name] = Cost(name, ps, 1, 10**6, "unit", "constant", None, Evidence.ASSUMED, "toy", "input")
    return CostTable(costs)
