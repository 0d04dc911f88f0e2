"""What all tasks of a simulated kernel share: machine, release, architecture, memory, locks, workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from execbench.kernel import execmem, ftrace_code, smp, sync
from execbench.kernel.arch import arch_of
from execbench.kernel.facade import Kernel
from execbench.kernel.listened import ListenedKernel
from execbench.kernel.locks import LOCKS, RwSem, kind_here
from execbench.kernel.published import Published
from execbench.kernel.releases import Release
from execbench.kernel.workqueue import WorkerPool
from execbench.sim.dists import Exponential, Lognormal, dist_of_cost
from execbench.sim.locks import Lock, LockKind
from execbench.sim.memory import PAGE, DirectMap, Frames, KernelMap, VmapSpace
from execbench.sim.task import Task

if TYPE_CHECKING:
    from execbench.costs import CostTable
    from execbench.kernel.operation import Recorder
    from execbench.sim.machine import Machine
    from execbench.sim.rng import Stream

DrawCost = Callable[[int, "Stream"], int]


class Shared:
    """What all tasks share: the machine, the release, memory, locks and the workers."""

    def __init__(self, machine: Machine, release: Release, costs: CostTable) -> None:
        """Boot: empty windows for code and a direct map of the leaves that the architecture has at boot."""
        self.machine = machine
        self.cpus = machine.cpus
        self.nodes = machine.nodes
        self.release = release
        self.interrupts = machine.interrupts
        self.geometry = geometry = machine.geometry
        self.lazy_limit = geometry.pages_of(release.lazy_limit(machine.cpus) * PAGE)  # the release counts 4 KiB pages
        self.arch = arch_of(machine.arch, release, machine.features)
        windows = self.arch.windows(machine.streams.stream("kaslr/modules"))
        self.vmap = VmapSpace({name: geometry.window(*window) for name, window in windows.items()}, geometry)
        self.frames = Frames(machine.memory_pages, fragmented=machine.fragmented, geometry=geometry)
        self.direct_map = DirectMap(machine.memory_pages, self.arch.direct_map_leaf, geometry)
        self.text_map = KernelMap(geometry)
        self.jiffy_ns = 1_000_000_000 // machine.hz
        self.drain_queued = False
        self.cycles = {"lazy_purge": 0}  # turns of slow processes so far, by name
        self.costs = costs
        self.rates: dict[str, tuple[int, DrawCost | None]] = {
            name: (costs[name].ps, _spread(costs, name)) for name in costs
        }
        self._handlers: dict[tuple[smp.Work, ...], int] = {}
        self.locks: dict[str, Lock] = {}
        for kind in LOCKS.values():
            self.declare(kind)
        self.init_mm = RwSem(self.locks["init_mm.mmap_lock"])
        self.execmem_cache = execmem.Cache()
        self.text_generation = sync.Generation()
        self.published = Published()
        self.ftrace = ftrace_code.Ftrace()
        self.workers: dict[int, WorkerPool] = {}
        machine.interrupts.watch(self.locks.values())
        self.recorder: Recorder

    def declare(self, kind: LockKind) -> Lock:
        """Make a lock of the kernel, a backend or a client; PREEMPT_RT changes its kind.

        Who declares the same lock again shares it; ValueError for another lock of the same name.
        """
        kind = kind_here(kind, self.machine.preempt == "rt")
        known = self.locks.get(kind.name)
        if known is not None:
            if known.kind != kind:
                raise ValueError(f"lock {kind.name} is declared twice, as {known.kind} and as {kind}")
            return known
        lock = Lock(kind, self.machine.engine, self.machine.probe, self.costs.ns("lock_handoff"))
        self.locks[kind.name] = lock
        return lock

    def handler_ns(self, work: tuple[smp.Work, ...]) -> int:
        """Return what an interrupt handler with `work` takes (ns): medians, whose spread the background gives."""
        ns = self._handlers.get(work)
        if ns is None:
            ns = self.costs.ns("ipi_handler") + sum(self.costs.ns(cost, n) for cost, n in work)
            self._handlers[work] = ns
        return ns

    def view(self, task: Task) -> Kernel:
        """Return the kernel as `task` sees it; whoever wants to listen has attached by now."""
        plain = self.machine.engine.merge and not self.machine.probe.told
        return (Kernel if plain else ListenedKernel)(self, task)

    def worker(self, cpu: int) -> WorkerPool:
        """Return the pool of kworkers of a CPU, made on first use."""
        worker = self.workers.get(cpu)
        if worker is None:
            worker = self.workers[cpu] = WorkerPool(self, cpu)
        return worker


def _spread(costs: CostTable, name: str) -> DrawCost | None:
    """Return how one occurrence spreads around its median, or None if it does not."""
    law = dist_of_cost(costs[name])
    if isinstance(law, Lognormal):
        sigma = law.sigma
        return lambda ns, stream: int(ns * stream.lognormal(sigma) + 0.5)
    if isinstance(law, Exponential):
        mean_over_median = law.mean * 1000 / costs[name].ps
        return lambda ns, stream: int(ns * mean_over_median * stream.e() + 0.5)
    return None
