"""Instruction fetch on arm64: cache maintenance by line, broadcast, and kicks (cacheflush.h, mm/cache.S)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from execbench.kernel.arm64.rules import rules_of
from execbench.kernel.smp import smp_call_function
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

LINE: Final = 64
"""Bytes of a cache line (CTR_EL0.DminLine and IminLine of all server cores)."""


def caches_clean_inval_pou(k: Kernel, va: int, size: int) -> Proc[None]:
    """Make stores to text visible to every CPU's instruction fetch, and synchronize this CPU (mm/cache.S).

    CTR_EL0.IDC: the data cache needs no cleaning, but the stores must be visible (DSB ISHST; it costs what a DSB ISH
    does). CTR_EL0.DIC: the instruction caches need no invalidation. No other CPU is synchronized: what it has fetched
    already it may still execute. __clear_cache() of user mode takes the same steps (compiler-rt).
    """
    rules = rules_of(k)
    k.count("caches_clean_inval_pou", size)
    yield from k.settle()
    begin = k.now
    lines = (va + size - 1) // LINE - va // LINE + 1
    if not rules.idc:
        k.spend("dc_cvau", lines)
    k.spend("dsb_ish")
    if not rules.dic:
        k.spend("ic_ivau", lines)
        k.spend("dsb_ish")
    k.spend("isb")
    if not rules.dic:
        k.tell("icache", begin, va, size, "ic-ivau")
    k.tell("serialize", begin, "self", "isb")


def kick_all_cpus_sync(k: Kernel) -> Proc[None]:
    """Interrupt every other CPU and wait: exception entry and return synchronize it (kernel/smp.c)."""
    k.count("kick_all_cpus_sync")
    begin = yield from smp_call_function(k, "kick_all_cpus_sync")
    k.tell("serialize", begin, "others", "kick_all_cpus_sync")


def flush_icache_range(k: Kernel, va: int, size: int) -> Proc[None]:
    """Both: the caches, then everybody who may have fetched already (asm/cacheflush.h: flush_icache_range)."""
    k.count("flush_icache_range", size)
    yield from caches_clean_inval_pou(k, va, size)
    yield from kick_all_cpus_sync(k)


def sync_each_cpu(k: Kernel) -> Proc[None]:
    """Kick the others and synchronize this CPU by an ISB."""
    yield from k.settle()
    begin = k.now
    yield from kick_all_cpus_sync(k)
    k.spend("isb")
    k.tell("serialize", begin, "self", "isb")
