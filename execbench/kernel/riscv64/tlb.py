"""TLB flushes on riscv64 (arch/riscv/mm/tlbflush.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from execbench.kernel.riscv64.rules import rules_of
from execbench.kernel.riscv64.sbi import remote_fence
from execbench.kernel.smp import Work, on_each_cpu
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

THRESHOLD: Final = 64
"""Pages above which a hart flushes everything (arch/riscv/mm/tlbflush.c: tlb_flush_all_threshold)."""
FIRMWARE_THRESHOLD: Final = 1
"""Pages above which OpenSBI does (include/sbi/sbi_platform.h: SBI_PLATFORM_TLB_RANGE_FLUSH_LIMIT_DEFAULT, 4 KiB)."""


def flush_tlb_all(k: Kernel, caller: str, *also: Work) -> Proc[None]:
    """Flush every hart's TLB (flush_tlb_all); `caller` names the reason in the counters.

    `also` rides in the kernel's own interrupt; the firmware runs nothing of ours, so there it gets a round.
    """
    k.count("flush_tlb_all")
    k.count(caller)
    rules = rules_of(k)
    if rules.firmware or k.shared.cpus < 2:
        yield from _everywhere(k, caller, 0, 0, ("tlb_flush_all", 1))
        if also:
            yield from round_of(k, caller, *also)
        return
    begin = yield from on_each_cpu(k, caller, ("tlb_flush_all", 1), *also)
    k.tell("flush", begin, 0, 0, "ipi", caller)
    _tell_fences(k, begin, also)


def flush_tlb_kernel_range(k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
    """Flush `pages` pages on every hart, each everything if they are many (flush_tlb_kernel_range)."""
    rules = rules_of(k)
    if not rules.range_flush:
        yield from flush_tlb_all(k, caller)
        return
    k.count("flush_tlb_kernel_range", pages)
    k.count(caller)
    most = FIRMWARE_THRESHOLD if rules.firmware and k.shared.cpus > 1 else THRESHOLD
    work = ("tlb_flush_page", pages) if pages <= most else ("tlb_flush_all", 1)
    if pages > THRESHOLD:
        va = pages = 0
    yield from _everywhere(k, caller, va, pages, work)


def _everywhere(k: Kernel, caller: str, va: int, pages: int, work: Work) -> Proc[None]:
    """Flush by the way that the machine has; alone, a hart needs nobody (but on 6.1 it asks the firmware)."""
    rules = rules_of(k)
    if k.shared.cpus < 2 and rules.range_flush:
        yield from k.settle()
        begin, how = k.now, "local"
        k.spend(*work)
    elif rules.firmware:
        call = "sbi_remote_sfence_vma_asid" if rules.range_flush else "sbi_remote_sfence_vma"
        begin, how = (yield from remote_fence(k, call, caller, work)), "rfence"
    else:
        begin, how = (yield from on_each_cpu(k, caller, work)), "ipi"
    k.tell("flush", begin, va, pages, how, caller)


def round_of(k: Kernel, why: str, *work: Work) -> Proc[None]:
    """Do `work` on every hart by a round of interrupts; none of it synchronizes instruction fetch but a fence.i."""
    begin = yield from on_each_cpu(k, why, *work)
    _tell_fences(k, begin, work)


def _tell_fences(k: Kernel, begin: int, work: tuple[Work, ...]) -> None:
    if any(cost == "fence_i" for cost, _ in work):
        k.tell("icache", begin, 0, 0, "fence.i-all")
