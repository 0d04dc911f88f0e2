"""Assembly of one simulated machine: engine, CPUs, interrupts, RCU, from the resolved spec."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from execbench.costs import CostTable
from execbench.errors import MachineError
from execbench.sim.chain import Chain
from execbench.sim.classes import IsolatedCpus, TwoClasses
from execbench.sim.cpu import Cpu
from execbench.sim.engine import Engine
from execbench.sim.ipi import Interrupts
from execbench.sim.memory import PAGE, Geometry
from execbench.sim.passive import PassiveCpus
from execbench.sim.probe import Probe
from execbench.sim.rcu import Rcu, RcuRules
from execbench.sim.rcu_flavours import Flavours
from execbench.sim.rng import Streams

CPU_MODELS = {"lazy": ("execbench.sim.lazy", "LazyCpus"), "explicit": ("execbench.sim.explicit", "ExplicitCpus")}
PREEMPTIBLE = ("full", "lazy", "rt")
"""Preemption models under which a thread preempts kernel code (CONFIG_PREEMPTION)."""
_DEFAULT_MEMORY = 64 << 30


class Machine:
    """Everything that exists before the kernel boots."""

    def __init__(
        self, spec: dict[str, Any], costs: CostTable, streams: Streams, named: Sequence[int], run: dict[str, Any]
    ) -> None:
        """`named` are the CPUs that may ever host a task; they keep their identity in the background model."""
        topology = spec["topology"]
        self.arch: str = spec.get("arch", "x86_64")
        self.features: dict[str, Any] = spec.get("features", {})
        self.cpus: int = topology["cpus"]
        self.nodes: int = topology.get("nodes", 1)
        self.geometry = Geometry(spec["kernel"].get("page_size", PAGE))
        self.memory_pages = topology.get("memory", _DEFAULT_MEMORY) // self.geometry.page
        self.fragmented = False
        self.hz: int = spec["kernel"]["hz"]
        self.preempt: str = spec["kernel"].get("preempt", "full")
        self.streams = streams
        self.probe = Probe()
        self.engine = Engine(merge=run.get("merge", True))
        self.isolated: int = topology.get("isolated", 0)
        self.isolated_cpus: IsolatedCpus | None = None
        self.background = self._background(spec["background"], costs, named, run.get("cpu_model", "lazy"))
        preempts = self.preempt in PREEMPTIBLE
        jiffy = 1_000_000_000 // self.hz
        self._cpus = {number: Cpu(number, self.engine, self.background, preempts=preempts, slice_ns=jiffy)
                      for number in named}  # fmt: skip
        self.interrupts = Interrupts(self.engine, self.background, list(self._cpus.values()))
        self.rcu: Rcu
        self.flavours: Flavours

    def _background(self, spec: dict[str, Any], costs: CostTable, named: Sequence[int], cpu_model: str) -> PassiveCpus:
        """Return the CPUs without tasks; the last `isolated` of them have a chain of their own and no names."""
        module, name = CPU_MODELS[cpu_model]
        model = getattr(import_module(module), name)
        explicit = cpu_model == "explicit"
        self.chain = Chain.from_machine(spec, costs.ns, explicit=explicit)
        others = self.cpus - self.isolated
        if named and max(named) >= others:
            allowed = f"CPUs 0 to {others - 1}: the last {self.isolated} are isolated"
            raise MachineError("client placement", max(named), allowed, "use fewer CPUs, or isolate fewer")
        restart = self.chain.index(spec["restart"])
        stream = self.streams.stream("background")
        first: PassiveCpus = model(self.engine, self.chain, others, named, restart, stream)
        if not self.isolated:
            return first
        chain = Chain.from_machine(spec["isolated"], costs.ns, explicit=explicit, nohz_full=True)
        stream = self.streams.stream("background/isolated")
        self.isolated_cpus = model(self.engine, chain, self.isolated, (), 0, stream, watch=True)
        assert self.isolated_cpus is not None
        return TwoClasses(first, self.isolated_cpus)

    def start_rcu(self, rules: RcuRules) -> None:
        """Start the grace-period machinery once the release's rules are known."""
        chance, ticks = self.streams.stream("rcu/second-scan"), self.streams.stream("tick")
        self.rcu = Rcu(self.engine, self.probe, self.background, rules, chance, ticks)
        self.flavours = Flavours(self.rcu, self.interrupts, self.streams)

    def active_cpu(self, number: int) -> Cpu:
        """Return a CPU that may host tasks; MachineError for one that no client named."""
        cpu = self._cpus.get(number)
        if cpu is None:
            allowed = f"one of {sorted(self._cpus)}"
            raise MachineError("client placement", number, allowed, "name the CPU in Client.cpus()")
        return cpu

    @property
    def active_cpus(self) -> list[Cpu]:
        """The CPUs that may host tasks."""
        return list(self._cpus.values())
