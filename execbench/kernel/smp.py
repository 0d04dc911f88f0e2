"""Function calls on other CPUs (kernel/smp.c) and stopping all of them (kernel/stop_machine.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.sim.passive import Who


Work = tuple[str, int]
"""A named cost and how many units of it one CPU does."""


def on_each_cpu(k: Kernel, why: str, *work: Work, who: Who = "all") -> Proc[int]:
    """Run `work` on every online CPU, wait for all, return when the call was sent (kernel/smp.c:on_each_cpu, wait=1).

    Idle CPUs are woken, none is skipped, unless who="busy" or "kernel": then those in an extended quiescent state, or
    in nohz_full user mode, are (on_each_cpu_cond), and the sender pays for the others alone, as many as there are when
    it begins. The sender's own part runs with interrupts off while the others are on their way.
    """
    return _call(k, why, work, own=True, who=who)


def smp_call_function(k: Kernel, why: str, *work: Work) -> Proc[int]:
    """Run `work` on every other online CPU, wait for all, return when the call was sent (smp_call_function)."""
    return _call(k, why, work, own=False, who="all")


def _call(k: Kernel, why: str, work: tuple[Work, ...], own: bool, who: Who) -> Proc[int]:
    shared, task = k.shared, k.task
    k.count("round")
    others = shared.cpus - 1
    if who != "all":
        yield from task.settle()
        others = shared.interrupts.count(task.cpu, who)
    if others:
        k.arch.spend_ipi_send(k, others)
        k.spend("ipi_enqueue", others)
        yield from task.settle()
        begin = k.now
        round_ = shared.interrupts.send(task.cpu, shared.handler_ns(work), k.draw("ipi_flight"), who)
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
        yield from shared.interrupts.wait(task, round_, k.release.csd_preemptible)
        k.spend("ipi_ack")
        if k.probe.ipi is not None:
            k.probe.ipi(begin, round_.done_at, task, why, round_.targets)
    return begin


def stop_machine(k: Kernel, cost: str, n: int = 1, work: Proc[None] | None = None) -> Proc[int]:
    """Do `work` while every other online CPU is held; each leaves by `n` units of `cost` (0: by nothing).

    Return when the stop was asked for. This CPU does the same, or waits as long for those who do.
    kernel/stop_machine.c:stop_machine: a stopper thread is woken on every CPU, so that each arrives when it can be
    preempted; the last one to arrive lets all turn interrupts off. What no single CPU does is left out: cpus_read_lock,
    and the caller's sleep while its own CPU's stopper does the work.
    """
    shared, task = k.shared, k.task
    k.count("stop_machine")
    with (yield from k.lock("stop_cpus_mutex")):
        others = shared.cpus - 1
        for _ in range(others):  # each is woken by itself (queue_stop_cpus_work)
            k.arch.spend_ipi_send(k, 1)
        k.spend("ipi_enqueue", others)
        yield from task.settle()
        begin = k.now
        round_ = shared.interrupts.stop(task.cpu, shared.costs.ns("stopper_switch"), k.draw("ipi_flight"))
        k.spend("stopper_switch")
        yield from task.settle()
        yield from shared.interrupts.wait(task, round_)
        task.cpu.mask()
        if work is not None:
            yield from work
        yield from task.settle()
        shared.interrupts.release(shared.costs.ns(cost, n))
        if n:
            k.spend(cost, n)
        task.cpu.unmask()
        if k.probe.ipi is not None:
            k.probe.ipi(begin, round_.done_at, task, "stop_machine", round_.targets)
    k.tell("serialize", begin, "all", "stop_machine")
    return begin
