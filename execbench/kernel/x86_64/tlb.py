"""TLB flushes and serialization on x86_64 (arch/x86/mm/tlb.c, arch/x86/kernel/alternative.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.smp import Work, on_each_cpu
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def flush_tlb_all(k: Kernel, caller: str, *also: Work) -> Proc[None]:
    """Flush every CPU's TLB (flush_tlb_all); `caller` names the reason in the counters.

    `also` is further work of the same handler, for proposals that let one interrupt do both.
    """
    k.count("flush_tlb_all")
    k.count(caller)
    begin = yield from on_each_cpu(k, caller, ("tlb_flush_all", 1), *also)
    k.tell("flush", begin, 0, 0, "ipi", caller)


def flush_tlb_kernel_range(k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
    """Flush `pages` pages on every CPU, or everything above the ceiling (flush_tlb_kernel_range)."""
    if pages > k.release.flush_ceiling:
        yield from flush_tlb_all(k, caller)
        return
    k.count("flush_tlb_range")
    k.count(caller)
    begin = yield from on_each_cpu(k, caller, ("tlb_flush_page", pages))
    k.tell("flush", begin, va, pages, "ipi", caller)


def sync_core_each_cpu(k: Kernel) -> Proc[None]:
    """Serialize every CPU (smp_text_poke_sync_each_cpu)."""
    k.count("sync_core")
    begin = yield from on_each_cpu(k, "sync_core", ("sync_core", 1))
    k.tell("serialize", begin, "all", "sync_core")
