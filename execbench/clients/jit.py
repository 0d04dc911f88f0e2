"""A run-time compiler in user space: threads that write a few pieces of code, publish them together and call them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from execbench.clients.limits import PID_MAX_LIMIT, at_least
from execbench.contract import Entry, Image, Proc, Region, Request, Setting, TextKind
from execbench.errors import InputError
from execbench.kernel import user_text
from execbench.kernel.facade import Kernel
from execbench.kernel.user import Mm
from execbench.kernel.user_heap import Heap
from execbench.sim.dists import Constant, Dist
from execbench.sim.task import Task

_X86 = ("x86_64",)

COSTS = {
    "call": Entry("call", "enter a finished piece and come back"),
    "store_byte": Entry("byte", "store code into memory that the caches hold"),
    "cold_byte": Entry("byte", "what a byte takes more, stored or copied to memory that they do not hold"),
    "cold_page": Entry("piece", "first store into a page that neither the TLB nor the caches hold"),
    "cold_folio": Entry("page", "lookup of a file page that the caches do not hold (shmem_get_folio)"),
    "machine_clear": Entry("call", "first fetch of a piece that was stored under X: the pipeline is cleared", _X86),
    "string_clear": Entry("piece", "string stores into text whose call the CPU predicts: a clear for each line", _X86),
    "line_clear": Entry("piece", "copy into the line after the one entered last, which is fetched already", _X86),
    "mmap": Entry("call", "mmap without its system call and faults (do_mmap)"),
    "munmap": Entry("call", "munmap without its system call, pages and flush (do_vmi_munmap)"),
    "unmap_page": Entry("page", "clear one present entry and give the page up (zap_pte_range, tlb_finish_mmu)"),
    "mprotect": Entry("call", "mprotect without its system call, entries and flush (mprotect_fixup)"),
    "refill": Entry("flip", "first use of a mapping after its protection changed: translations and lines come anew"),
    "flush_range": Entry("flush", "fixed part of a flush by pages: more than a full one has (flush_tlb_func)", _X86),
    "fault_anon": Entry("fault", "store to an absent anonymous page, zeroing it (do_anonymous_page)"),
    "fault_shared": Entry("fault", "store to an absent page of a memfd (do_shared_fault)"),
    "fault_exec": Entry("fault", "fetch from an absent page of a memfd, first of its sixteen (do_fault_around)"),
    "pwrite": Entry("call", "pwrite to a memfd without its system call and bytes (generic_perform_write)"),
    "pwrite_byte": Entry("byte", "copy from user space into the page cache (copy_folio_from_iter_atomic)"),
    "membarrier_cpu": Entry("online CPU", "look which task one CPU runs (membarrier_private_expedited)"),
}
"""What user-space text costs beside the kernel's own primitives, one row per name under `[costs.client.jit]`."""


@dataclass(frozen=True, kw_only=True)
class Jit:
    """Threads of one process in a closed loop: write `batch` pieces, publish them by one call of the API, call each.

    Freed are the pieces published `keep` turns ago; 0: those called just now. `spinners` are threads that run on CPUs
    of their own all the time and do nothing, so that what is flushed must be flushed there too. One operation is one
    publication; what a piece takes is its `batch`-th part.
    """

    name: ClassVar[str] = "jit"
    api_phases: ClassVar[frozenset[str]] = frozenset({"alloc", "write", "finalize", "call", "free"})
    """The first call pays what publishing left to it: page faults, cleared pipelines."""
    arrivals: ClassVar[frozenset[str]] = frozenset()
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = (TextKind.USER,)

    threads: int = 1
    spinners: int = 0
    size: Dist = field(default=Constant(64), metadata={"unit": "size"})
    batch: int = 1
    keep: int = 0
    think: Dist = field(default=Constant(0), metadata={"unit": "time"})

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        at_least(self, 1, "threads", most=PID_MAX_LIMIT)
        at_least(self, 0, "spinners", most=PID_MAX_LIMIT)
        at_least(self, 1, "batch")
        at_least(self, 0, "keep")

    def computing_threads(self) -> int:
        """Return the threads that need a CPU of their own."""
        return self.threads + self.spinners

    def cpus(self, machine_cpus: int) -> tuple[int, ...]:
        """Place thread i on CPU i, the spinners behind them."""
        return tuple(range(self.threads + self.spinners))

    def start(self, setting: Setting) -> None:
        """Let all threads go at time 0."""
        _Run(self, setting).spawn()


class _Run:
    """One replication of the client."""

    def __init__(self, params: Jit, setting: Setting) -> None:
        self.params = params
        self.setting = setting
        self.mm = _process_of(setting)

    def spawn(self) -> None:
        params = self.params
        for i in range(params.threads + params.spinners):
            name = f"jit/{i}" if i < params.threads else f"jit/spinner/{i - params.threads}"
            shared = self.setting.shared
            machine = shared.machine
            task = Task(name, machine.active_cpu(self.setting.cpu(i)), machine.engine, shared.costs.ns("task_wakeup"))
            self.mm.enter(task)
            k = shared.view(task)
            body = self._thread(k, i) if i < params.threads else self._spinner(k)
            machine.engine.spawn(task.run(body), 0, task.cpu.key)

    def _spinner(self, k: Kernel) -> Proc[None]:
        """Stay in user mode; whoever else is ready on this CPU gets it when the slice is over."""
        jiffy = self.setting.shared.jiffy_ns
        while k.now < self.setting.duration + self.setting.drain:
            yield from k.task.compute(jiffy)

    def _thread(self, k: Kernel, thread: int) -> Proc[None]:
        params, setting = self.params, self.setting
        draws = setting.stream(f"client.jit/{thread}")
        each = params.size.uniforms
        kept: deque[tuple[Region, ...]] = deque()
        number = 0
        while True:
            row = draws.row(number, params.think.uniforms + params.batch * each)
            due = k.now + int(params.think.sample(row[: params.think.uniforms]) + 0.5)
            if due >= setting.duration:
                return
            yield from k.sleep_until(due)
            rest = row[params.think.uniforms :]
            sizes = [params.size.sample(rest[i * each : (i + 1) * each]) for i in range(params.batch)]
            kept.append((yield from self._publish(k, number * params.threads + thread, sizes)))
            if len(kept) > params.keep:
                yield from self._free(k, kept.popleft())
            k.end()
            yield from k.settle()
            number += 1

    def _publish(self, k: Kernel, number: int, sizes: list[float]) -> Proc[tuple[Region, ...]]:
        """Write and publish pieces of these sizes (bytes), call each; the operation is still open."""
        setting = self.setting
        yield from k.settle()
        k.begin(setting.operation("jit", "publication", number, k.now), "alloc")
        k.task.site = "jit_publish"
        requests = [Request(max(int(size + 0.5), 1), TextKind.USER) for size in sizes]
        regions = yield from setting.alloc(k, requests)
        k.phase("write")
        for region in regions:
            yield from setting.write(k, region, Image(region.id, region.size))
        k.phase("finalize")
        yield from setting.finalize(k, regions)
        k.phase("call")  # nobody but this thread calls them, so nobody else can be inside when they are freed
        for region in regions:
            yield from user_text.touch_text(k, self.mm, region)
        for region in regions:
            k.expose(region, "pointer", "none")
        for region in regions:
            yield from user_text.call_text(k, self.mm, region)
        return regions

    def _free(self, k: Kernel, regions: tuple[Region, ...]) -> Proc[None]:
        k.phase("free")
        for region in regions:
            self.setting.retire(k, region)
        yield from self.setting.free(k, regions)


def _process_of(setting: Setting) -> Mm:
    """Return the process whose address space the backend under test works in."""
    if isinstance(setting.state, Heap):
        return setting.state.mm
    raise InputError("backend", type(setting.backend).__name__, "user-mmap, user-mprotect, user-dual-map",
                     "this client makes text in user space")  # fmt: skip
