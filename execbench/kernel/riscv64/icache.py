"""Instruction fetch on riscv64: fence.i on every hart, with no form for a range (arch/riscv/mm/cacheflush.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.riscv64.rules import rules_of
from execbench.kernel.riscv64.sbi import remote_fence
from execbench.kernel.smp import on_each_cpu
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def local_flush_icache_all(k: Kernel) -> Proc[None]:
    """Execute fence.i on this hart."""
    yield from k.settle()
    begin = k.now
    k.spend("fence_i")
    k.tell("icache", begin, 0, 0, "fence.i-local")


def flush_icache_all(k: Kernel) -> Proc[None]:
    """Execute fence.i here, then on all harts, and wait (flush_icache_all; flush_icache_range is the same)."""
    k.count("flush_icache_all")
    rules = rules_of(k)
    yield from k.settle()
    begin = k.now
    yield from local_flush_icache_all(k)
    if rules.firmware and (k.shared.cpus > 1 or not rules.range_flush):
        yield from remote_fence(k, "sbi_remote_fence_i", "flush_icache_all", ("fence_i", 1))
    elif k.shared.cpus > 1:
        yield from on_each_cpu(k, "flush_icache_all", ("fence_i", 1))
    k.tell("icache", begin, 0, 0, "fence.i-all")
