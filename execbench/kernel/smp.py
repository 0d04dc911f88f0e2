"""Function calls on other CPUs (kernel/smp.c) and stopping all of them (kernel/stop_machine.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


Work = tuple[str, int]
"""A named cost and how many units of it one CPU does."""


def on_each_cpu(k: Kernel, why: str, *work: Work) -> Proc[int]:
    """Run `work` on every online CPU, wait for all, return when the call was sent (kernel/smp.c:on_each_cpu, wait=1).

    Idle CPUs are woken, none is skipped. The sender's own part runs with interrupts off while the others are on
    their way.
    """
    return _call(k, why, work, own=True)


def smp_call_function(k: Kernel, why: str, *work: Work) -> Proc[int]:
    """Run `work` on every other online CPU, wait for all, return when the call was sent (smp_call_function)."""
    return _call(k, why, work, own=False)


def _call(k: Kernel, why: str, work: tuple[Work, ...], own: bool) -> Proc[int]:
    shared, task = k.shared, k.task
    k.count("round")
    others = shared.cpus - 1
    if others:
        k.arch.spend_ipi_send(k, others)
        k.spend("ipi_enqueue", others)
        yield from task.settle()
        begin = k.now
        round_ = shared.interrupts.send(task.cpu, shared.handler_ns(work), k.draw("ipi_flight"))
    else:
        yield from task.settle()
        begin = k.now
    if own:
        task.cpu.mask()
        for cost, n in work:
            k.spend(cost, n)
        task.cpu.unmask()
    if others:
        yield from task.settle()
        yield from shared.interrupts.wait(task, round_)
        k.spend("ipi_ack")
        if k.probe.ipi is not None:
            k.probe.ipi(begin, round_.done_at, task, why, round_.targets)
    return begin
