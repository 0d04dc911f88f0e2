"""Assembly of one simulated machine: engine, CPUs, interrupts, RCU, from the resolved spec."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from execbench.costs import CostTable
from execbench.errors import MachineError
from execbench.sim.chain import Chain
from execbench.sim.cpu import Cpu
from execbench.sim.engine import Engine
from execbench.sim.ipi import Interrupts
from execbench.sim.memory import PAGE
from execbench.sim.passive import PassiveCpus
from execbench.sim.probe import Probe
from execbench.sim.rcu import Rcu, RcuRules
from execbench.sim.rng import Streams

CPU_MODELS = {"lazy": ("execbench.sim.lazy", "LazyCpus"), "explicit": ("execbench.sim.explicit", "ExplicitCpus")}
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
        self.memory_pages = topology.get("memory", _DEFAULT_MEMORY) // PAGE
        self.fragmented = False
        self.hz: int = spec["kernel"]["hz"]
        self.streams = streams
        self.probe = Probe()
        self.engine = Engine(merge=run.get("merge", True))
        cpu_model = run.get("cpu_model", "lazy")
        self.chain = Chain.from_machine(spec["background"], costs.ns, explicit=cpu_model == "explicit")
        restart = self.chain.index(spec["background"]["restart"])
        module, name = CPU_MODELS[cpu_model]
        model = getattr(import_module(module), name)
        self.background: PassiveCpus = model(
            self.engine, self.chain, self.cpus, named, restart, streams.stream("background")
        )
        self._cpus = {number: Cpu(number, self.engine, self.background) for number in named}
        self.interrupts = Interrupts(self.engine, self.background, list(self._cpus.values()))
        self.rcu: Rcu

    def start_rcu(self, rules: RcuRules) -> None:
        """Start the grace-period machinery once the release's rules are known."""
        chance, ticks = self.streams.stream("rcu/second-scan"), self.streams.stream("tick")
        self.rcu = Rcu(self.engine, self.probe, self.background, rules, chance, ticks)

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
