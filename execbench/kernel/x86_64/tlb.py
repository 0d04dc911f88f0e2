"""TLB flushes and serialization on x86_64 (arch/x86/mm/tlb.c, arch/x86/kernel/alternative.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.smp import Work, on_each_cpu
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def flush_tlb_all(k: Kernel, caller: str, *also: Work) -> Proc[None]:
    """Flush every CPU's TLB (flush_tlb_all); `caller` names the reason in the counters.

    `also` is further work of the same handler, for proposals that let one interrupt do both; where the flush is a
    broadcast instruction it gets an interrupt of its own.
    """
    k.count("flush_tlb_all")
    k.count(caller)
    if _broadcasts(k):
        yield from _invlpgb(k, 0, 0, caller)
        yield from ride_alone(k, caller, *also)
    else:
        begin = yield from on_each_cpu(k, caller, ("tlb_flush_all", 1), *also)
        k.tell("flush", begin, 0, 0, "ipi", caller)
        _serialized(k, begin, *also)


def flush_tlb_kernel_range(k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
    """Flush `pages` pages on every CPU, or everything above the ceiling (flush_tlb_kernel_range)."""
    if pages > k.release.flush_ceiling:
        yield from flush_tlb_all(k, caller)
        return
    k.count("flush_tlb_kernel_range", pages)
    k.count(caller)
    if _broadcasts(k):
        yield from _invlpgb(k, va, pages, caller)
    else:
        begin = yield from on_each_cpu(k, caller, ("tlb_flush_page", pages))
        k.tell("flush", begin, va, pages, "ipi", caller)


def flush_tlb_one_by_one(k: Kernel, va: int, pages: int, caller: str, *also: Work) -> Proc[None]:
    """Flush `pages` pages on every CPU by interrupts, as cpa_flush does of its own (__cpa_flush_tlb)."""
    k.count("__cpa_flush_tlb", pages)
    k.count(caller)
    begin = yield from on_each_cpu(k, caller, ("tlb_flush_page", pages), *also)
    k.tell("flush", begin, va, pages, "ipi", caller)
    _serialized(k, begin, *also)


def ride_alone(k: Kernel, why: str, *also: Work) -> Proc[None]:
    """Give work that found no interrupt to ride on a round of its own."""
    if also:
        _serialized(k, (yield from on_each_cpu(k, why, *also)), *also)


def sync_core_each_cpu(k: Kernel) -> Proc[None]:
    """Serialize every CPU (smp_text_poke_sync_each_cpu)."""
    k.count("sync_core")
    begin = yield from on_each_cpu(k, "sync_core", ("sync_core", 1))
    _serialized(k, begin, ("sync_core", 1))


def _serialized(k: Kernel, begin: int, *work: Work) -> None:
    if any(cost == "sync_core" for cost, _ in work):
        k.tell("serialize", begin, "all", "sync_core")


def _broadcasts(k: Kernel) -> bool:
    """Say whether flushes are INVLPGB: release and processor must have it (X86_FEATURE_INVLPGB)."""
    return k.release.invlpgb and bool(k.arch.features.get("invlpgb"))


def _invlpgb(k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
    """Broadcast and wait for completion; nobody is interrupted and nobody serializes (invlpgb_kernel_range_flush).

    A range takes one instruction per invlpgb_count_max pages, everything takes one (invlpgb_flush_all).
    """
    yield from k.settle()
    begin = k.now
    count_max = k.arch.features.get("invlpgb_count_max", 1)  # as the kernel assumes until it has asked CPUID
    n = -(-pages // count_max) or 1
    k.count("invlpgb", n)
    k.spend("invlpgb", n)
    k.count("tlbsync")
    k.spend("tlbsync")
    k.tell("flush", begin, va, pages, "broadcast", caller)
