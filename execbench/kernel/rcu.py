"""RCU's flavours as verbs, and what release, architecture and configuration make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from execbench.sim.engine import Proc
from execbench.sim.rcu import FlavourRules

if TYPE_CHECKING:
    from execbench.costs import CostTable
    from execbench.kernel.facade import Kernel
    from execbench.kernel.releases import Release

_CALLBACKS_AT_ONCE = ("6.1",)
"""Releases before lazy callbacks of Tasks RCU (kernel/rcu/tasks.h: lazy_jiffies)."""
_RUDE_WAITS = ("6.1", "6.12")
"""Releases in which synchronize_rcu_tasks_rude waits. Since 6.13 it returns at once on architectures that select
ARCH_WANTS_NO_INSTR, which x86_64, arm64 and riscv64 do (kernel/rcu/tasks.h: synchronize_rcu_tasks_rude; "rcu: Allow
short-circuiting of synchronize_rcu_tasks_rude()", 2024-11-06; on 6.18.44, x86_64, the symbol is an empty function)."""
_DYNAMIC = ("x86_64",)
"""Architectures on which PREEMPT_DYNAMIC, hence PREEMPTION, is on by default whatever preemption model is booted
(kernel/Kconfig.preempt: default y if HAVE_PREEMPT_DYNAMIC_CALL)."""


def flavour_rules(config: Mapping[str, Any], release: Release, costs: CostTable, arch: str) -> FlavourRules:
    """Combine a machine's configuration, a release and its costs into the rules of the other flavours."""
    preempt = config.get("preempt", "full")
    preempts = preempt in ("full", "lazy", "rt")
    holdout = config.get("rcu_tasks_holdout", 0.0)
    return FlavourRules(
        expedited=preempt != "rt",
        exp_at_once=not preempts and arch in _DYNAMIC,
        tasks=preempts or arch in _DYNAMIC,
        lazy=release.name not in _CALLBACKS_AT_ONCE,
        rude=release.name in _RUDE_WAITS,
        trace=release.tasks_trace,
        holdout=holdout["value"] if isinstance(holdout, Mapping) else holdout,
        exp_gp_ns=costs.ns("exp_gp_fixed"),
        exp_handler_ns=costs.ns("ipi_handler") + costs.ns("exp_handler"),
        handler_ns=costs.ns("ipi_handler"),
        flight_ns=costs.ns("ipi_flight"),
        switch_ns=costs.ns("context_switch"),
        scan_ns=costs.ns("tasks_scan"),
        wakeup_ns=costs.ns("task_wakeup"),
    )


def synchronize_rcu_expedited(k: Kernel) -> Proc[None]:
    """Wait for an expedited grace period, on PREEMPT_RT for a normal one (kernel/rcu/tree_exp.h)."""
    k.count("synchronize_rcu_expedited")
    return k.shared.machine.flavours.expedited.synchronize(k.task)


def synchronize_rcu_tasks(k: Kernel) -> Proc[None]:
    """Wait for a grace period of Tasks RCU (kernel/rcu/tasks.h); synchronize_rcu itself without CONFIG_TASKS_RCU."""
    flavour = k.shared.machine.flavours.tasks
    if flavour is None:
        return k.synchronize_rcu()
    k.count("synchronize_rcu_tasks")
    return flavour.synchronize(k.task)


def synchronize_rcu_tasks_rude(k: Kernel) -> Proc[None]:
    """Wait for a context switch on every CPU (kernel/rcu/tasks.h); where the release needs none, return at once."""
    k.count("synchronize_rcu_tasks_rude")
    flavour = k.shared.machine.flavours.rude
    if flavour is not None:
        yield from flavour.synchronize(k.task)


def synchronize_rcu_tasks_trace(k: Kernel) -> Proc[None]:
    """Wait for a grace period of Tasks Trace (kernel/rcu/tasks.h, include/linux/rcupdate_trace.h)."""
    k.count("synchronize_rcu_tasks_trace")
    return k.shared.machine.flavours.trace.synchronize(k.task)


def call_rcu_tasks(k: Kernel, then: Callable[[], None]) -> Proc[None]:
    """Queue a callback for after a grace period of Tasks RCU; call_rcu itself without CONFIG_TASKS_RCU."""
    flavour = k.shared.machine.flavours.tasks
    return k.call_rcu(then) if flavour is None else _call(k, "call_rcu_tasks", flavour.call, then)


def call_rcu_tasks_trace(k: Kernel, then: Callable[[], None]) -> Proc[None]:
    """Queue a callback for after a grace period of Tasks Trace (kernel/rcu/tasks.h, include/linux/rcupdate_trace.h)."""
    return _call(k, "call_rcu_tasks_trace", k.shared.machine.flavours.trace.call, then)


def _call(k: Kernel, name: str, call: Callable[[Callable[[], None]], None], then: Callable[[], None]) -> Proc[None]:
    k.count(name)
    k.spend("call_rcu")
    yield from k.task.settle()
    call(then)
