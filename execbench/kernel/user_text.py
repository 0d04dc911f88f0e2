"""What a thread of a user process does with text: store it, have the kernel write it, call it, make others see it.

mm/filemap.c, mm/shmem.c, kernel/sched/membarrier.c, and what the processor adds (execbench.kernel.user: Mm.written).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.user import Folios, Mm, Vma, fault_in, syscall, use
from execbench.kernel.user_arch import clear_cache, on_each_cpu_mask
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.text import Region

__all__ = ["call_text", "clear_cache", "membarrier_sync_core", "pwrite", "store_user", "touch_text"]


def store_user(k: Kernel, mm: Mm, vma: Vma, va: int, size: int, pages: int = 0, cold: bool = False) -> Proc[None]:
    """Store code of text address `va` through `vma`; missing pages fault.

    cold: the caches do not hold that memory; `pages` of its pages are entered for the first time in a while.
    """
    yield from fault_in(k, mm, vma, va, size, pages)
    use(k, vma)
    k.spend("client.jit.store_byte", size)
    if cold:
        k.spend("client.jit.cold_byte", size)
    if pages:
        k.spend("client.jit.cold_page")
    if cost := mm.written(k, mm.text_at(va), va, size, "user"):
        k.spend(cost)
    k.tell("store", va, size, "code", "user" if vma.alias else "text")


def pwrite(
    k: Kernel, mm: Mm, file: Folios, first: int, va: int, size: int, pages: int = 0, cold: bool = False
) -> Proc[None]:
    """Write code of text address `va` to the memfd, from its page `first` on (mm/filemap.c:generic_perform_write).

    The kernel writes through its direct map and forgets that the folios were clean; user mappings are not touched.
    """
    syscall(k, mm, "pwrite", size)
    k.spend("client.jit.pwrite")
    k.spend("client.jit.pwrite_byte", size)
    if cold:
        k.spend("client.jit.cold_byte", size)
    if pages:
        k.spend("client.jit.cold_folio", pages)
    if cost := mm.written(k, mm.text_at(va), va, size, "direct-map"):
        k.spend(cost)
    yield from k.settle()
    touched = (va % mm.page + size - 1) // mm.page + 1
    file.clean[first : first + touched] = bytes(touched)
    k.tell("store", va, size, "code", "direct-map")


def touch_text(k: Kernel, mm: Mm, region: Region) -> Proc[None]:
    """Make sure that a finished region can be fetched: where nobody has touched its first page, that faults now."""
    vma = mm.text_at(region.va)
    if vma is not None:
        yield from fault_in(k, mm, vma, region.va, 1)


def call_text(k: Kernel, mm: Mm, region: Region) -> Proc[None]:
    """Enter a finished region and come back."""
    yield from touch_text(k, mm, region)
    if vma := mm.text_at(region.va):
        use(k, vma)
    k.tell("fetch", region)
    k.spend("client.jit.call")
    if cost := mm.entered(k.cpu, region.va):
        k.spend(cost)


def membarrier_sync_core(k: Kernel, mm: Mm) -> Proc[None]:
    """MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE: every CPU that runs the process serializes, this one too.

    Others do before they return to its user mode (membarrier_mm_sync_core_before_usermode). On riscv64 a fence.i goes
    with it (prepare_sync_core_cmd), and 6.1 refuses the command there; arm64 serializes on the way back to user mode.
    """
    syscall(k, mm, "membarrier", 1)
    if (k.release.name, k.arch.name) == ("6.1", "riscv64"):
        return
    with (yield from k.lock("membarrier_ipi_mutex")):
        k.spend("client.jit.membarrier_cpu", k.shared.cpus)
        match k.arch.name:
            case "x86_64":
                begin = yield from on_each_cpu_mask(k, mm, "membarrier", ("sync_core", 1))
            case "riscv64":
                begin = yield from on_each_cpu_mask(k, mm, "membarrier", ("fence_i", 1))
                k.tell("icache", begin, 0, 0, "fence.i-all")
            case _:
                begin = yield from on_each_cpu_mask(k, mm, "membarrier")
        k.tell("serialize", begin, "all", "membarrier")
