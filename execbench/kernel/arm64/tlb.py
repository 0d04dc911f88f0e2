"""TLB invalidation on arm64: broadcast by the hardware, no CPU is interrupted (arch/arm64/include/asm/tlbflush.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.arm64.rules import rules_of
from execbench.kernel.smp import Work, on_each_cpu
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def tlbi(k: Kernel, instructions: int = 1, waits: int = 1) -> None:
    """Broadcast TLBI `instructions`, wait by DSB ISH until all CPUs completed, ISB; `waits` such sequences in a row."""
    k.count("tlbi", instructions)
    k.spend("tlbi", instructions)
    k.spend("dsb_ish", waits)
    k.spend("isb", waits)


def _flush(k: Kernel, va: int, pages: int, caller: str, instructions: int, waits: int = 1) -> Proc[None]:
    """Invalidate and tell: the ISB behind it synchronizes this CPU, no other."""
    yield from k.settle()
    begin = k.now
    tlbi(k, instructions, waits)
    k.tell("flush", begin, va, pages, "broadcast", caller)
    k.tell("serialize", begin, "self", "isb")


def flush_tlb_all(k: Kernel, caller: str, *also: Work) -> Proc[None]:
    """Invalidate everything everywhere by one TLBI VMALLE1IS (flush_tlb_all); `caller` names the reason.

    There is no handler for `also` to ride in: it gets a round of its own, whose exceptions synchronize the others.
    """
    k.count("flush_tlb_all")
    k.count(caller)
    yield from _flush(k, 0, 0, caller, 1)
    if also:
        yield from round_of(k, caller, *also)


def round_of(k: Kernel, why: str, *work: Work) -> Proc[None]:
    """Do `work` on every CPU by a round of interrupts: exception entry and return synchronize all but the sender."""
    begin = yield from on_each_cpu(k, why, *work)
    k.tell("serialize", begin, "others", why)


def flush_tlb_kernel_range(k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
    """Invalidate `pages` pages by VAALE1IS, or everything above the release's limit (flush_tlb_kernel_range)."""
    rules = rules_of(k)
    if rules.flushes_all(pages, k.shared.geometry.pmd_pages):
        yield from flush_tlb_all(k, caller)
        return
    k.count("flush_tlb_kernel_range", pages)
    k.count(caller)
    yield from _flush(k, va, pages, caller, rules.tlbi_ops(pages))


def flush_page_by_page(k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
    """Call flush_tlb_kernel_range for each page by itself."""
    for _ in range(pages):
        k.count("flush_tlb_kernel_range")
        k.count(caller)
    yield from _flush(k, va, pages, caller, pages, waits=pages)
