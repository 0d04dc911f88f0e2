"""What one architecture does for user text: flushes to the CPUs of one mm, and instruction caches.

x86_64: arch/x86/mm/tlb.c:flush_tlb_mm_range. arm64: arch/arm64/include/asm/tlbflush.h:__flush_tlb_range,
arch/arm64/mm/flush.c:__sync_icache_dcache. riscv64: arch/riscv/mm/tlbflush.c, arch/riscv/mm/cacheflush.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from execbench.kernel.arm64.icache import caches_clean_inval_pou
from execbench.kernel.arm64.rules import MAX_TLBI_RANGE_PAGES, tlbi_range_ops
from execbench.kernel.riscv64 import rules as riscv64
from execbench.kernel.riscv64.tlb import FIRMWARE_THRESHOLD, THRESHOLD
from execbench.kernel.smp import Work
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.user import Mm
    from execbench.sim.cpu import Cpu

LINE: Final = 64
"""Bytes of a cache line on all three."""
GLOBAL_ASID_CPUS: Final = 3
"""Active CPUs that a process must exceed for broadcast flushes (arch/x86/mm/tlb.c: consider_global_asid)."""


def on_each_cpu_mask(k: Kernel, mm: Mm, why: str, *work: Work) -> Proc[int]:
    """Run `work` here and on the other CPUs that run a thread of `mm` now, wait; return when it was sent (ns).

    kernel/smp.c:on_each_cpu_mask over mm_cpumask. CPUs whose idle task keeps the mm loaded are skipped: lazy TLB.
    Nobody is interrupted if no other CPU runs it.
    """
    yield from k.settle()
    return (yield from _call(k, mm.running(k.task.cpu), why, work, work))


def _call(
    k: Kernel, targets: Sequence[Cpu], why: str, work: tuple[Work, ...], own: tuple[Work, ...], sbi: str = ""
) -> Proc[int]:
    """Run `work` on `targets` and `own` here at the same time; the plan is settled. sbi: the firmware call to use."""
    shared, task = k.shared, k.task
    if targets:
        k.count("round")
        if sbi:
            k.count(sbi)
            k.spend("sbi_call")
            k.spend("sbi_hart", len(targets))
        else:
            k.arch.spend_ipi_send(k, len(targets))
            k.spend("ipi_enqueue", len(targets))
        yield from task.settle()
        handler_ns, flight_ns = shared.handler_ns(work), k.draw("ipi_flight")
        round_ = shared.interrupts.send_to(task.cpu, targets, handler_ns, flight_ns, bool(sbi))
    begin = k.now
    with k.irqs_off():
        for cost, n in own:
            k.spend(cost, n)
    if targets:
        yield from task.settle()
        yield from shared.interrupts.wait(task, round_)
        if not sbi:
            k.spend("ipi_ack")
        if k.probe.ipi is not None:
            k.probe.ipi(begin, round_.done_at, task, why, round_.targets)
    return begin


# --- TLB --------------------------------------------------------------------------------------------------------------


def flush_tlb_mm_range(k: Kernel, mm: Mm, va: int, pages: int) -> Proc[None]:
    """Flush `pages` translations from `va` on wherever `mm` is loaded; elsewhere switch_mm will.

    The fact is told as reaching everybody, for no other CPU can use a translation of this mm before it has switched.
    """
    k.count("flush_tlb_mm_range", pages)
    yield from k.settle()
    begin, how = yield from _FLUSH[k.arch.name](k, mm.running(k.task.cpu), pages)
    k.tell("flush", begin, va, pages, how, "flush_tlb_mm_range")


def _flush_x86(k: Kernel, others: Sequence[Cpu], pages: int) -> Proc[tuple[int, str]]:
    full = pages > k.release.flush_ceiling
    features = k.shared.machine.features
    if k.release.invlpgb and features.get("invlpgb") and len(others) + 1 > GLOBAL_ASID_CPUS:
        begin = k.now
        n = 1 if full else -(-pages // features.get("invlpgb_count_max", 1))
        k.count("invlpgb", n)
        k.spend("invlpgb", n)
        k.count("tlbsync")
        k.spend("tlbsync")
        return begin, "broadcast"
    work = (("tlb_flush_all", 1),) if full else (("client.jit.flush_range", 1), ("tlb_flush_page", pages))
    return (yield from _call(k, others, "flush_tlb_mm_range", work, work)), "ipi" if others else "mm"


def _flush_arm64(k: Kernel, others: Sequence[Cpu], pages: int) -> Proc[tuple[int, str]]:
    """Broadcast by the hardware; the return to user mode synchronizes, no ISB is needed."""
    begin = k.now
    n = tlbi_instructions(pages, bool(k.shared.machine.features["tlbi_range"]), k.shared.geometry.pmd_pages)
    k.count("tlbi", n)
    k.spend("tlbi", n)
    k.spend("dsb_ish")
    return begin, "broadcast"
    yield


def tlbi_instructions(pages: int, by_range: bool, dvm_ops: int) -> int:
    """Return the TLBI instructions for a range of user pages: one each, by range, or one for the ASID.

    arch/arm64/include/asm/tlbflush.h:__flush_tlb_range, __flush_tlb_range_limit_excess; dvm_ops: MAX_DVM_OPS.
    """
    if not by_range:
        return pages if pages < dvm_ops else 1
    return 1 if pages > MAX_TLBI_RANGE_PAGES else tlbi_range_ops(pages)


def _flush_riscv(k: Kernel, others: Sequence[Cpu], pages: int) -> Proc[tuple[int, str]]:
    """By firmware or interrupt where another hart runs the process; each hart flushes everything if pages are many."""
    rules = riscv64.rules_of(k)
    firmware = rules.firmware and len(others) > 0
    most = FIRMWARE_THRESHOLD if firmware or not rules.range_flush else THRESHOLD
    work = (("tlb_flush_page", pages) if pages <= most else ("tlb_flush_all", 1),)
    sbi = "sbi_remote_sfence_vma_asid" if firmware else ""
    begin = yield from _call(k, others, "flush_tlb_mm_range", work, work, sbi)
    return begin, "rfence" if firmware else "ipi" if others else "mm"


_FLUSH: Final[dict[str, Callable[[Kernel, Sequence[Cpu], int], Proc[tuple[int, str]]]]] = {
    "x86_64": _flush_x86,
    "arm64": _flush_arm64,
    "riscv64": _flush_riscv,
}


# --- instruction caches -----------------------------------------------------------------------------------------------


def sync_icache_folios(k: Kernel, mm: Mm, va: int, pages: int) -> Proc[None]:
    """Executable entries for `pages` folios that are not clean are about to be set (set_ptes).

    arm64 cleans and invalidates each by line and kicks no CPU: a return to user mode is a context-synchronizing event.
    riscv64 has fence.i executed on this hart and on all others that run the mm, once for each folio. x86_64: nothing.
    """
    page = k.page_size
    match k.arch.name:
        case "arm64":
            for i in range(pages):
                k.count("__sync_icache_dcache")
                yield from caches_clean_inval_pou(k, va + i * page, page)
        case "riscv64":
            for _ in range(pages):
                k.count("flush_icache_pte")
                yield from flush_icache_mm(k, mm)


def clear_cache(k: Kernel, mm: Mm, va: int, size: int) -> Proc[None]:
    """Make stores of user code visible to instruction fetch, as the compiler's __clear_cache() does.

    arm64: cache maintenance from user mode. riscv64: the system call riscv_flush_icache. x86_64: nothing.
    """
    match k.arch.name:
        case "arm64":
            k.count("__clear_cache", size)
            yield from caches_clean_inval_pou(k, va, size)
        case "riscv64":
            k.count("__clear_cache", size)
            k.spend("syscall")
            yield from flush_icache_mm(k, mm)


def flush_icache_mm(k: Kernel, mm: Mm) -> Proc[None]:
    """fence.i here and on the harts that run the process; others execute it when they switch to it."""
    k.count("flush_icache_mm")
    yield from k.settle()
    begin = k.now
    k.spend("fence_i")
    yield from k.settle()
    others = mm.running(k.task.cpu)
    sbi = "sbi_remote_fence_i" if riscv64.rules_of(k).firmware else ""
    yield from _call(k, others, "flush_icache_mm", (("fence_i", 1),), (), sbi)
    k.tell("icache", begin, 0, 0, "fence.i-all")
