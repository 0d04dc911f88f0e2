"""Remote fences by the firmware (arch/riscv/kernel/sbi.c, OpenSBI lib/sbi/sbi_tlb.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.smp import Work
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def remote_fence(k: Kernel, call: str, why: str, *work: Work) -> Proc[int]:
    """Have the firmware do `work` on every hart, this one too, and wait; return when the interrupts were sent.

    The targets trap into M-mode, which S-mode cannot mask and which enters no S-mode code: they lose the time, but
    nothing in the kernel runs on them. The sender spins in the firmware until all have acknowledged.
    """
    shared, task = k.shared, k.task
    k.count(call)
    k.count("round")
    k.spend("sbi_call")
    others = shared.cpus - 1
    if others:
        k.spend("sbi_hart", others)
    yield from task.settle()
    begin = k.now
    round_ = None
    if others:
        handler_ns, flight_ns = shared.handler_ns(work), k.draw("ipi_flight")
        round_ = shared.interrupts.send(task.cpu, handler_ns, flight_ns, until="at-once")
    for cost, n in work:
        k.spend(cost, n)
    yield from task.settle()
    if round_ is not None:
        yield from shared.interrupts.wait(task, round_)
        if k.probe.ipi is not None:
            k.probe.ipi(begin, round_.done_at, task, why, round_.targets)
    return begin
