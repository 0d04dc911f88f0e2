"""Function calls on other CPUs and the TLB flushes made of them (kernel/smp.c, arch/x86/mm/tlb.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


Work = tuple[str, int]
"""A named cost and how many units of it one CPU does."""


def on_each_cpu(k: Kernel, why: str, *work: Work) -> Proc[None]:
    """Run `work` on every online CPU and wait for all (kernel/smp.c:on_each_cpu, wait=1).

    Idle CPUs are woken, none is skipped. The sender's own part runs with interrupts off while the others are on
    their way. All-but-self goes out as one shorthand or bulk write (arch/x86/kernel/apic/ipi.c).
    """
    shared, task = k.shared, k.task
    k.count("round")
    cpu = task.cpu
    others = shared.cpus - 1
    if others:
        k.spend("ipi_send")
        k.spend("ipi_enqueue", others)
        yield from task.settle()
        begin = k.now
        round_ = shared.interrupts.send(cpu, shared.handler_ns(work), k.draw("ipi_flight"))
    cpu.mask()
    for cost, n in work:
        k.spend(cost, n)
    cpu.unmask()
    if others:
        yield from task.settle()
        yield from shared.interrupts.wait(task, round_)
        k.spend("ipi_ack")
        if k.probe.ipi is not None:
            k.probe.ipi(begin, round_.done_at, task, why, round_.targets)


def flush_tlb_all(k: Kernel, caller: str, *also: Work) -> Proc[None]:
    """Flush every CPU's TLB (arch/x86/mm/tlb.c:flush_tlb_all); `caller` names the reason in the counters.

    `also` is further work of the same handler, for proposals that let one interrupt do both.
    """
    k.count("flush_tlb_all")
    k.count(caller)
    return on_each_cpu(k, caller, ("tlb_flush_all", 1), *also)


def flush_tlb_kernel_range(k: Kernel, pages: int, caller: str) -> Proc[None]:
    """Flush `pages` pages on every CPU, or everything above the ceiling (arch/x86/mm/tlb.c:flush_tlb_kernel_range)."""
    if pages > k.release.flush_ceiling:
        return flush_tlb_all(k, caller)
    k.count("flush_tlb_range")
    k.count(caller)
    return on_each_cpu(k, caller, ("tlb_flush_page", pages))


def sync_core_each_cpu(k: Kernel) -> Proc[None]:
    """Serialize every CPU (arch/x86/kernel/alternative.c:smp_text_poke_sync_each_cpu)."""
    k.count("sync_core")
    return on_each_cpu(k, "sync_core", ("sync_core", 1))
