"""The kernel as one task sees it: primitives in the kernel's names, costs, locks, counts."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from execbench.kernel import smp, vmalloc
from execbench.kernel.locks import LOCKS
from execbench.kernel.releases import Release
from execbench.kernel.text import Region
from execbench.kernel.workqueue import Worker, WorkItem
from execbench.kernel.x86_64 import poke, set_memory
from execbench.sim.dists import Exponential, Lognormal, dist_of_cost
from execbench.sim.engine import Proc
from execbench.sim.locks import Hold, Lock, LockKind
from execbench.sim.memory import PAGE, DirectMap, DirectPerm, Frames, KernelMap, VmapSpace, VmArea
from execbench.sim.task import Task

if TYPE_CHECKING:
    from execbench.costs import CostTable
    from execbench.kernel.operation import Operation, Recorder
    from execbench.sim.machine import Machine
    from execbench.sim.rng import Stream

MODULES_VADDR = 0xFFFF_FFFF_C000_0000
"""arch/x86/include/asm/pgtable_64_types.h: MODULES_VADDR with a 1 GiB kernel image window (RANDOMIZE_BASE)."""


def _module_load_offset(stream: Stream) -> int:
    """Return the pages, 1 to 1024, by which KASLR moves the first module (arch/x86: get_module_load_offset)."""
    return 1 + int(stream.u() * 1024)


DrawCost = Callable[[int, "Stream"], int]


class Shared:
    """What all tasks share: the machine, the release, memory, locks and the workers."""

    def __init__(self, machine: Machine, release: Release, costs: CostTable) -> None:
        """Boot: an empty module window and a direct map of huge leaves."""
        self.machine = machine
        self.cpus = machine.cpus
        self.nodes = machine.nodes
        self.release = release
        self.interrupts = machine.interrupts
        self.lazy_limit = release.lazy_limit(machine.cpus)
        offset = _module_load_offset(machine.streams.stream("kaslr/modules"))
        start = MODULES_VADDR + offset * PAGE
        self.vmap = VmapSpace({vmalloc.MODULES: (start, release.module_window // PAGE - offset)})
        self.frames = Frames(machine.memory_pages, fragmented=machine.fragmented)
        self.direct_map = DirectMap(machine.memory_pages, machine.direct_map_leaf)
        self.text_map = KernelMap()
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
        self.workers: dict[int, Worker] = {}
        self.recorder: Recorder

    def declare(self, kind: LockKind) -> Lock:
        """Make a lock of the kernel, a backend or a client; a name is declared once."""
        if kind.name in self.locks:
            raise ValueError(f"lock {kind.name} is declared twice")
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
        probe = self.machine.probe
        plain = self.machine.engine.merge and probe.spend is None and probe.call is None
        return (Kernel if plain else ListenedKernel)(self, task)

    def worker(self, cpu: int) -> Worker:
        """Return the kworker of a CPU, made on first use."""
        worker = self.workers.get(cpu)
        if worker is None:
            worker = self.workers[cpu] = Worker(self, cpu)
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


class _IrqsOff:
    """local_irq_save .. local_irq_restore as a `with` block of the plan."""

    __slots__ = ("_task",)

    def __init__(self, task: Task) -> None:
        self._task = task

    def __enter__(self) -> None:
        self._task.cpu.mask()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cpu.unmask()


class Kernel:
    """One task's view: `yield from` what may wait, call what only spends."""

    __slots__ = (
        "_cpu", "_irqs", "_rates", "_stream", "direct_map", "frames", "probe", "release", "shared", "task", "text_map",
        "vmap",
    )  # fmt: skip

    def __init__(self, shared: Shared, task: Task) -> None:
        """Costs with a spread are drawn from the task's own stream, so who runs first changes nobody's draws."""
        self.shared = shared
        self.task = task
        self._cpu = task.cpu
        self.release = shared.release
        self.vmap = shared.vmap
        self.frames = shared.frames
        self.direct_map = shared.direct_map
        self.text_map = shared.text_map
        self.probe = shared.machine.probe
        self._rates = shared.rates
        self._stream = shared.machine.streams.stream(f"cost/{task.name}")
        self._irqs = _IrqsOff(task)

    # --- time -------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """Present time (ns); what the plan still holds has not happened yet."""
        return self.task.engine.now

    @property
    def cpu(self) -> int:
        """The CPU this task runs on now."""
        return self.task.cpu.id

    def spend(self, cost: str, n: int = 1) -> None:
        """Add `n` units of a named cost to the plan; no event."""
        ps, draw = self._rates[cost]
        if draw is None:
            self._cpu.owed += (ps * n + 500) // 1000
        else:
            self._cpu.owed += draw((ps * n + 500) // 1000, self._stream)

    def draw(self, cost: str) -> int:
        """Return one occurrence of a named cost (ns) without adding it to the plan."""
        ps, draw = self._rates[cost]
        ns = (ps + 500) // 1000
        return ns if draw is None else draw(ns, self._stream)

    def settle(self) -> Proc[None]:
        """Let the plan pass before touching what others share."""
        return self.task.settle()

    def compute(self, cost: str, n: int) -> Proc[None]:
        """Spend `n` units of a cost in a loop with cond_resched(): at each tick a ready task gets the CPU first."""
        ps, draw = self._rates[cost]
        ns = (ps * n + 500) // 1000
        if draw is not None:
            ns = draw(ns, self._stream)
        if self.probe.spend is not None:
            self.probe.spend(self.now, self.task, cost, n, ns)
        return self.task.compute(ns, self.shared.jiffy_ns)

    def sleep_until(self, at: int) -> Proc[None]:
        """Give up the CPU until `at` (ns)."""
        return self.task.sleep_until(at)

    def irqs_off(self) -> _IrqsOff:
        """Return a block with interrupts off: `with k.irqs_off():`."""
        return self._irqs

    # --- accounts ---------------------------------------------------------------------------------------------------

    def count(self, primitive: str, units: int = 1) -> None:
        """Count one use of a primitive (and its units) for the operation that the task is at."""
        operation = self.task.op
        if operation is not None:
            counts = operation.counts
            counts[primitive] = counts.get(primitive, 0) + 1
            if units != 1:
                extra = operation.units
                extra[primitive] = extra.get(primitive, 0) + units - 1

    def cycle(self, process: str) -> None:
        """Count one turn of a slow process: reports warn where the window saw few."""
        self.shared.cycles[process] = self.shared.cycles.get(process, 0) + 1

    def phase(self, name: str) -> None:
        """The operation's next phase begins at this point of the plan; phases tile it."""
        operation = self.task.op
        if operation is not None:
            operation.names.append(name)
            self._cpu.mark(operation.times.append)

    def begin(self, operation: Operation, phase: str) -> None:
        """Start an operation with its first phase."""
        self.task.op = operation
        operation.names.append(phase)
        self.task.cpu.mark(operation.start)

    def end(self) -> None:
        """End the task's operation at this point of the plan."""
        operation, self.task.op = self.task.op, None
        self.task.cpu.mark(operation.finish)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def lock(self, name: str) -> Proc[Hold]:
        """Acquire: `with (yield from k.lock("text_mutex")):` releases at the end of the block."""
        return self.shared.locks[name].acquire(self.task)

    def synchronize_rcu(self) -> Proc[None]:
        """Wait for a full grace period (kernel/rcu/tree.c:synchronize_rcu)."""
        self.count("synchronize_rcu")
        return self.shared.machine.rcu.synchronize(self.task)

    def call_rcu(self, then: Callable[[], None]) -> Proc[None]:
        """Queue a callback for after a grace period (kernel/rcu/tree.c:call_rcu)."""
        self.count("call_rcu")
        self.spend("call_rcu")
        yield from self.task.settle()
        self.shared.machine.rcu.call(self.task.cpu.id, then, self.now)

    def queue_work(self, name: str, work: WorkItem, operation: Operation | None = None) -> None:
        """Queue `work` on this CPU's kworker (kernel/workqueue.c:schedule_work)."""
        self.shared.worker(self.task.cpu.id).queue(name, work, operation)

    # --- primitives -------------------------------------------------------------------------------------------------

    def on_each_cpu(self, why: str, *work: smp.Work) -> Proc[None]:
        """See execbench.kernel.smp.on_each_cpu."""
        return smp.on_each_cpu(self, why, *work)

    def flush_tlb_all(self, caller: str, *also: smp.Work) -> Proc[None]:
        """See execbench.kernel.smp.flush_tlb_all."""
        return smp.flush_tlb_all(self, caller, *also)

    def sync_core_each_cpu(self) -> Proc[None]:
        """See execbench.kernel.smp.sync_core_each_cpu."""
        return smp.sync_core_each_cpu(self)

    def vmalloc_module(self, pages: int) -> Proc[VmArea]:
        """See execbench.kernel.vmalloc.vmalloc_module."""
        return vmalloc.vmalloc_module(self, pages)

    def vmap_unmapped(self, pages: int) -> Proc[VmArea]:
        """See execbench.kernel.vmalloc.vmap_unmapped."""
        return vmalloc.vmap_unmapped(self, pages)

    def map_text(self, area: VmArea) -> Proc[None]:
        """See execbench.kernel.vmalloc.map_text."""
        return vmalloc.map_text(self, area)

    def vfree_text(self, area: VmArea, reset_alias: bool) -> Proc[None]:
        """See execbench.kernel.vmalloc.vfree_text."""
        return vmalloc.vfree_text(self, area, reset_alias)

    def text_poke(self, size: int) -> None:
        """See execbench.kernel.x86_64.poke.text_poke."""
        poke.text_poke(self, size, "copy_byte")

    def vfree_module(self, area: VmArea) -> Proc[None]:
        """See execbench.kernel.vmalloc.vfree_module."""
        return vmalloc.vfree_module(self, area)

    def vmalloc_data(self, size: int) -> int:
        """See execbench.kernel.vmalloc.vmalloc_data."""
        return vmalloc.vmalloc_data(self, size)

    def vfree_data(self, pages: int) -> Proc[None]:
        """See execbench.kernel.vmalloc.vfree_data."""
        return vmalloc.vfree_data(self, pages)

    def set_memory_ro(self, area: VmArea, first: int = 0, pages: int | None = None) -> Proc[None]:
        """Make pages read-only, their direct map too (set_memory_ro)."""
        return set_memory.change_page_attr(self, area, first, area.pages if pages is None else pages, "ro-nx", "ro")

    def set_memory_x(self, area: VmArea) -> Proc[None]:
        """Make read-only pages executable; the direct map stays NX (set_memory_x)."""
        return set_memory.change_page_attr(self, area, 0, area.pages, "ro-x", None)

    def set_memory_rox(self, area: VmArea, *also: smp.Work) -> Proc[None]:
        """Make pages read-only and executable in one operation (set_memory_rox).

        `also` rides on its flush, not on that of a collapse.
        """
        return set_memory.change_page_attr(self, area, 0, area.pages, "ro-x", "ro", *also, collapse=True)

    def set_direct_map(self, area: VmArea, perm: DirectPerm) -> Proc[bool]:
        """Change the direct map of an area page by page without a flush (set_direct_map_*_noflush)."""
        self.count("set_direct_map", area.pages)
        return set_memory.change_alias(self, area.runs, perm)

    def text_poke_copy(self, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.x86_64.poke.text_poke_copy."""
        return poke.text_poke_copy(self, va, size)

    def text_poke_set(self, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.x86_64.poke.text_poke_set."""
        return poke.text_poke_set(self, va, size)

    def text_poke_batch(self, sites: int, length: int = 5) -> Proc[None]:
        """See execbench.kernel.x86_64.poke.text_poke_batch."""
        return poke.text_poke_batch(self, sites, length)

    def expose(self, region: Region, via: str) -> None:
        """Make a finished region reachable; `via` is the publication path that decides its safety."""
        self.count(f"expose:{via}")
        if self.probe.reach is not None:
            self.probe.reach(self.now, self.task, region, via)


class ListenedKernel(Kernel):
    """The same with every cost an event of its own, or with somebody who listens to costs and primitives."""

    __slots__ = ()

    def spend(self, cost: str, n: int = 1) -> None:
        """Add `n` units of a named cost to the plan and tell."""
        cpu = self._cpu
        before = cpu.owed
        super().spend(cost, n)
        if cpu.splits:
            cpu.cut()
        if self.probe.spend is not None:
            self.probe.spend(self.now, self.task, cost, n, cpu.owed - before)

    def count(self, primitive: str, units: int = 1) -> None:
        """Count one use of a primitive and tell."""
        super().count(primitive, units)
        if self.probe.call is not None:
            self.probe.call(self.now, self.task, primitive, units)
