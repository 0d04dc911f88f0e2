"""Grace periods of several flavours one behind the other: each callback queues the next (kernel/bpf)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

Flavour = Literal["rcu", "tasks", "trace"]
Counts = dict[str, int]
_NAMES: Final[dict[Flavour, str]] = {"rcu": "call_rcu", "tasks": "call_rcu_tasks", "trace": "call_rcu_tasks_trace"}


def call_rcu_chain(k: Kernel, flavours: Sequence[Flavour], then: Callable[[Counts], None]) -> Proc[None]:
    """Queue a callback of the first flavour; it queues one of the next, and the last one calls `then`.

    The first is counted for the task's operation; `then` is told what its successors were called, for nobody's
    operation is open while they run. The CPU of the callbacks is the caller's.
    """
    first, *rest = flavours
    counts: Counts = {}
    queue = {"rcu": k.call_rcu, "tasks": k.call_rcu_tasks, "trace": k.call_rcu_tasks_trace}[first]
    return queue(_link(k, rest, counts, then))


def _link(k: Kernel, rest: list[Flavour], counts: Counts, then: Callable[[Counts], None]) -> Callable[[], None]:
    """Return the callback that queues what is left, or calls `then`."""
    machine, cpu = k.shared.machine, k.task.cpu.id

    def callback() -> None:
        if not rest:
            then(counts)
            return
        flavour = rest[0]
        following = _link(k, rest[1:], counts, then)
        tasks = machine.flavours.tasks
        if flavour == "tasks" and tasks is None:  # without CONFIG_TASKS_RCU call_rcu_tasks is call_rcu
            flavour = "rcu"
        counts[_NAMES[flavour]] = counts.get(_NAMES[flavour], 0) + 1
        if flavour == "rcu":
            machine.rcu.call(cpu, following, machine.engine.now)
        elif flavour == "trace":
            machine.flavours.trace.call(following)
        elif tasks is not None:
            tasks.call(following)

    return callback


def add(counts: Counts, more: Counts) -> None:
    """Add what callbacks counted to an operation's counts."""
    for name, n in more.items():
        counts[name] = counts.get(name, 0) + n
