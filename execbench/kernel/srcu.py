"""Waiting for the readers of tracepoints: an SRCU domain, and what a release takes beside it (include/linux/srcu.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

_HOPS: Final = 3
"""Wake-ups on the way through an idle domain: process_srcu, srcu_invoke_callbacks, the caller."""
_FAST: Final = ("7.3",)
"""Releases whose tracepoint_srcu has SRCU-fast readers, which have no barrier of their own."""


def synchronize_srcu(k: Kernel) -> Proc[None]:
    """Wait for a grace period of an SRCU domain that is idle, hence expedited (kernel/rcu/srcutree.c:synchronize_srcu).

    Two works of a kworker and no reader to wait for. With SRCU-fast readers each of the two looks at them waits for an
    expedited grace period of plain RCU first (srcu_readers_active_idx_check).
    """
    k.count("synchronize_srcu")
    yield from k.sleep_until(k.now + _HOPS * k.shared.costs.ns("task_wakeup"))
    if k.release.name in _FAST:
        for _ in range(2):
            yield from k.shared.machine.flavours.expedited.synchronize(k.task)


def tracepoint_synchronize_unregister(k: Kernel) -> Proc[None]:
    """Wait until nobody runs a tracepoint's old probe (include/linux/tracepoint.h).

    SRCU and RCU; on 6.18, whose tracepoints may fault, Tasks Trace and RCU; on 7.3 Tasks Trace and SRCU.
    """
    if k.release.name in ("6.1", "6.12"):
        yield from synchronize_srcu(k)
        yield from k.synchronize_rcu()
        return
    yield from k.synchronize_rcu_tasks_trace()
    if k.release.name in _FAST:
        yield from synchronize_srcu(k)
    else:
        yield from k.synchronize_rcu()
