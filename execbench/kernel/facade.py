"""The kernel as one task sees it: primitives in the kernel's names, costs, locks, counts."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from execbench.kernel import execmem, rcu, smp, sync, vmalloc
from execbench.kernel.text import Region, TextKind
from execbench.kernel.workqueue import WorkItem
from execbench.sim.engine import Proc
from execbench.sim.locks import Hold
from execbench.sim.memory import DirectPerm, Perm, VmArea
from execbench.sim.task import Task

if TYPE_CHECKING:
    from execbench.kernel.operation import Operation
    from execbench.kernel.shared import Shared


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
        "_cpu", "_irqs", "_rates", "_stream", "arch", "direct_map", "frames", "probe", "release", "shared", "task",
        "text_map", "vmap",
    )  # fmt: skip

    def __init__(self, shared: Shared, task: Task) -> None:
        """Costs with a spread are drawn from the task's own stream, so who runs first changes nobody's draws."""
        self.shared = shared
        self.task = task
        self._cpu = task.cpu
        self.release = shared.release
        self.arch = shared.arch
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

    def compute(self, cost: str, n: int, *more: tuple[str, int]) -> Proc[None]:
        """Spend `n` units of a cost, and of `more`, in a loop with cond_resched(): ready tasks get their turns.

        What the task did before without waiting counts as well (execbench.sim.slices).
        """
        total = 0
        for name, units in ((cost, n), *more):
            ps, draw = self._rates[name]
            ns = (ps * units + 500) // 1000
            if draw is not None:
                ns = draw(ns, self._stream)
            if self.probe.spend is not None:
                self.probe.spend(self.now, self.task, name, units, ns)
            total += ns
        return self.task.compute(total)

    def cond_resched(self) -> Proc[None]:
        """Let ready tasks go first if the slice is over (kernel/sched/core.c:__cond_resched)."""
        return self.task.cond_resched()

    def sched_yield(self) -> Proc[None]:
        """Let all ready tasks go first (kernel/sched/syscalls.c:do_sched_yield)."""
        self.spend("syscall")
        return self.task.sched_yield()

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

    def synchronize_rcu_expedited(self) -> Proc[None]:
        """See execbench.kernel.rcu.synchronize_rcu_expedited."""
        return rcu.synchronize_rcu_expedited(self)

    def synchronize_rcu_tasks(self) -> Proc[None]:
        """See execbench.kernel.rcu.synchronize_rcu_tasks."""
        return rcu.synchronize_rcu_tasks(self)

    def synchronize_rcu_tasks_rude(self) -> Proc[None]:
        """See execbench.kernel.rcu.synchronize_rcu_tasks_rude."""
        return rcu.synchronize_rcu_tasks_rude(self)

    def synchronize_rcu_tasks_trace(self) -> Proc[None]:
        """See execbench.kernel.rcu.synchronize_rcu_tasks_trace."""
        return rcu.synchronize_rcu_tasks_trace(self)

    def call_rcu_tasks(self, then: Callable[[], None]) -> Proc[None]:
        """See execbench.kernel.rcu.call_rcu_tasks."""
        return rcu.call_rcu_tasks(self, then)

    def call_rcu_tasks_trace(self, then: Callable[[], None]) -> Proc[None]:
        """See execbench.kernel.rcu.call_rcu_tasks_trace."""
        return rcu.call_rcu_tasks_trace(self, then)

    def queue_work(self, name: str, work: WorkItem, operation: Operation | None = None) -> None:
        """Queue `work` on this CPU's kworker (kernel/workqueue.c:schedule_work)."""
        self.shared.worker(self.task.cpu.id).queue(name, work, operation)

    # --- calls on other CPUs ------------------------------------------------------------------------------------------

    def on_each_cpu(self, why: str, *work: smp.Work) -> Proc[int]:
        """See execbench.kernel.smp.on_each_cpu."""
        return smp.on_each_cpu(self, why, *work)

    def stop_machine(self, cost: str, n: int = 1, work: Proc[None] | None = None) -> Proc[int]:
        """See execbench.kernel.smp.stop_machine."""
        return smp.stop_machine(self, cost, n, work)

    def flush_tlb_all(self, caller: str, *also: smp.Work) -> Proc[None]:
        """Flush every CPU's TLB as the architecture does; `also` is further work of the same handler, if there is one.

        `caller` names the reason in the counters.
        """
        return self.arch.flush_tlb_all(self, caller, *also)

    def flush_tlb_kernel_range(self, va: int, pages: int, caller: str) -> Proc[None]:
        """Flush the translations of `pages` pages from `va` on, on every CPU."""
        return self.arch.flush_tlb_kernel_range(self, va, pages, caller)

    def sync_each_cpu(self) -> Proc[None]:
        """Force a context-synchronizing event on every CPU (x86 sync_core, arm64 kick_all_cpus_sync, riscv fence.i)."""
        return self.arch.sync_each_cpu(self)

    # --- memory -------------------------------------------------------------------------------------------------------

    @property
    def page_size(self) -> int:
        """Bytes of a base page."""
        return self.shared.geometry.page

    def pages_of(self, size: int) -> int:
        """Return the base pages that `size` bytes take."""
        return self.shared.geometry.pages_of(size)

    def vmalloc_node_range(
        self, pages: int, kind: TextKind, perm: Perm = "rw-nx", *, huge: bool = False, reset_perms: bool = True
    ) -> Proc[VmArea]:
        """Map fresh pages in the kind's window; see execbench.kernel.vmalloc."""
        return vmalloc.vmalloc_node_range(self, pages, kind, perm, huge=huge, reset_perms=reset_perms)

    def get_vm_area(self, pages: int, kind: TextKind) -> Proc[VmArea]:
        """Reserve an address and pages without a mapping; see execbench.kernel.vmalloc."""
        return vmalloc.get_vm_area(self, pages, kind)

    def map_text(self, area: VmArea) -> Proc[None]:
        """See execbench.kernel.vmalloc.map_text."""
        return vmalloc.map_text(self, area)

    def vfree(self, area: VmArea) -> Proc[None]:
        """See execbench.kernel.vmalloc.vfree."""
        return vmalloc.vfree(self, area)

    def vfree_text(self, area: VmArea, reset_alias: bool, flush: bool = False) -> Proc[None]:
        """See execbench.kernel.vmalloc.vfree_text."""
        return vmalloc.vfree_text(self, area, reset_alias, flush)

    def vunmap_range(self, area: VmArea) -> Proc[None]:
        """See execbench.kernel.vmalloc.vunmap_range."""
        return vmalloc.vunmap_range(self, area)

    def execmem_alloc(self, pages: int, kind: TextKind) -> Proc[execmem.Piece]:
        """See execbench.kernel.execmem.alloc."""
        return execmem.alloc(self, pages, kind)

    def execmem_alloc_rw(self, pages: int, kind: TextKind) -> Proc[execmem.Piece]:
        """See execbench.kernel.execmem.alloc_rw."""
        return execmem.alloc_rw(self, pages, kind)

    def execmem_restore_rox(self, piece: execmem.Piece) -> Proc[None]:
        """See execbench.kernel.execmem.restore_rox."""
        return execmem.restore_rox(self, piece)

    def execmem_free(self, piece: execmem.Piece) -> Proc[None]:
        """See execbench.kernel.execmem.free."""
        return execmem.free(self, piece)

    def vmalloc_data(self, size: int) -> Proc[int]:
        """See execbench.kernel.vmalloc.vmalloc_data."""
        return vmalloc.vmalloc_data(self, size)

    def vfree_data(self, pages: int) -> Proc[None]:
        """See execbench.kernel.vmalloc.vfree_data."""
        return vmalloc.vfree_data(self, pages)

    def set_memory_ro(self, area: VmArea, first: int = 0, pages: int | None = None) -> Proc[None]:
        """Make pages read-only, their direct map too (set_memory_ro)."""
        return self.arch.set_memory_ro(self, area, first, area.pages if pages is None else pages)

    def set_memory_rw(self, area: VmArea, first: int = 0, pages: int | None = None) -> Proc[None]:
        """Make pages writable, their direct map too (set_memory_rw)."""
        return self.arch.set_memory_rw(self, area, first, area.pages if pages is None else pages)

    def set_memory_x(self, area: VmArea, first: int = 0, pages: int | None = None) -> Proc[None]:
        """Make pages executable (set_memory_x)."""
        return self.arch.set_memory_x(self, area, first, area.pages if pages is None else pages)

    def set_memory_nx(self, area: VmArea, first: int = 0, pages: int | None = None) -> Proc[None]:
        """Make pages not executable (set_memory_nx)."""
        return self.arch.set_memory_nx(self, area, first, area.pages if pages is None else pages)

    def set_memory_rox(self, area: VmArea, *also: smp.Work, first: int = 0, pages: int | None = None) -> Proc[None]:
        """Make pages read-only and executable, in one operation or two as release and architecture do (set_memory_rox).

        `also` rides on its last flush where that is an interrupt, not on that of a collapse.
        """
        return self.arch.set_memory_rox(self, area, first, area.pages if pages is None else pages, *also)

    def set_direct_map(self, area: VmArea, perm: DirectPerm) -> Proc[bool]:
        """Change the direct map of an area page by page (set_direct_map_*_noflush); say whether an entry changed."""
        self.count("set_direct_map", area.pages)
        return self.arch.set_direct_map(self, area, perm)

    # --- text ---------------------------------------------------------------------------------------------------------

    def flush_icache_range(self, va: int, size: int) -> Proc[None]:
        """Make stores to text visible to instruction fetch on every CPU, synchronized as the architecture does."""
        return self.arch.flush_icache_range(self, va, size)

    def bpf_arch_text_copy(self, va: int, size: int) -> Proc[None]:
        """Copy `size` bytes over read-only text at `va` (kernel/bpf/core.c, arch/*/net)."""
        return self.arch.bpf_arch_text_copy(self, va, size)

    def bpf_arch_text_invalidate(self, va: int, size: int) -> Proc[None]:
        """Fill `size` bytes of read-only text at `va` with trapping instructions (kernel/bpf/core.c, arch/*/net)."""
        return self.arch.bpf_arch_text_invalidate(self, va, size)

    def write_temporary_mm(self, va: int, size: int) -> Proc[None]:
        """Write text at `va` through an alias in a mm that only this CPU has loaded; no lock, no other CPU is told."""
        return self.arch.write_temporary_mm(self, va, size)

    def store_text(self, va: int, size: int, content: str = "code", through: str = "text") -> None:
        """Write text of final address `va` by plain stores through an alias that is writable; "trap" is a fill."""
        self.spend("fill_byte" if content == "trap" else "copy_byte", size)
        self.tell("store", va, size, content, through)

    def patch_text(self, sites: int, length: int = 5) -> Proc[None]:
        """Patch `sites` live branch instructions as a jump-label update does on this architecture."""
        return self.arch.patch_text(self, sites, length)

    def enter_text(self, region: Region) -> Proc[None]:
        """Start to execute a region; see execbench.kernel.sync.enter_text for what a reader may have to do first."""
        return sync.enter_text(self, region)

    # --- what an auditor wants to know --------------------------------------------------------------------------------

    def expose(self, region: Region, via: str, inside: str = "rcu") -> None:
        """Make a finished region reachable; `via` is the publication path, `inside` what protects who executes it."""
        self.count(f"expose:{via}")
        self.tell("reach", region, via, inside)
        published = self.shared.published
        if published.expect(region):  # others see it when this point of the plan has come
            self._cpu.mark(lambda _: published.add(region, inside))

    def retire(self, region: Region) -> None:
        """Make a region unreachable for newcomers; who is inside may still be."""
        self.tell("unreach", region)
        self.shared.published.discard(region)

    def tell(self, event: str, *fields: object) -> None:
        """Report a fact of this point of the plan to whoever listens (execbench.sim.probe); nobody does here."""
