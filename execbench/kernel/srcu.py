"""Waiting for the readers of tracepoints: an SRCU domain, and what a release takes beside it (include/linux/srcu.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from execbench.sim.engine import Proc
from execbench.sim.rcu_kthread import Wheel

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

_WAKEUPS: Final = 2
"""Wake-ups behind the end of a grace period: srcu_invoke_callbacks, the caller. With process_srcu, which drives it,
an idle domain costs three; 2 to 5: a kworker that runs already saves one, one that must be made costs another."""
_HOLDOFF_NS: Final = 25_000
"""So soon after a grace period nothing is expedited (DEFAULT_SRCU_EXP_HOLDOFF, srcu_might_be_idle)."""
_INTERVAL: Final = 1
"""Jiffies that a work is delayed for if nobody asked to expedite (SRCU_INTERVAL)."""
_FAST: Final = ("7.3",)
"""Releases whose tracepoint_srcu has SRCU-fast readers, which have no barrier of their own."""
_NONE: Final = ("6.18",)
"""Releases without tracepoint_srcu, as traced: probes are waited for by Tasks Trace and RCU."""


@dataclass(slots=True)
class Cookie:
    """What start_poll_synchronize_srcu gives: when its grace period ends (ns), None while nobody knows."""

    end: int | None = None


@dataclass(slots=True)
class Srcu:
    """tracepoint_srcu: when its last grace period ends (ns), and how many of SRCU-fast run whose end is open.

    No reader is ever found, so a grace period takes what its works and timers take; with SRCU-fast readers each of the
    two looks at them waits for a grace period of plain RCU first (srcu_readers_active_idx_check).
    """

    begin: int = -1
    end: int | None = None
    open: int = 0

    def idle(self, now: int) -> bool:
        """Say whether a request is expedited (srcu_might_be_idle): nothing runs, and nothing ended just now."""
        return not self.open and (self.end is None or now >= self.end + _HOLDOFF_NS)

    def start(self, k: Kernel, now: int, expedited: bool) -> int:
        """Begin a grace period behind the one that runs, or join one that is still to begin; return its end (ns)."""
        if self.end is None or now >= self.begin:
            self.begin = now if self.end is None else max(now, self.end)
            self.end = (self.begin if expedited else _timer(k, self.begin)) + k.shared.costs.ns("task_wakeup")
        return self.end

    def poll(self, k: Kernel, cpu: int, now: int) -> Cookie:
        """Begin a grace period that nobody waits for, nor expedites (start_poll_synchronize_srcu, call_srcu)."""
        if k.release.name not in _FAST:
            return Cookie(self.start(k, now, expedited=False))
        cookie, machine = Cookie(), k.shared.machine
        self.open += 1

        def over() -> None:
            self.open -= 1
            self.end = cookie.end = machine.engine.now

        machine.rcu.call(cpu, lambda: machine.rcu.call(cpu, over, machine.engine.now), now)
        return cookie


def has_srcu(k: Kernel) -> bool:
    """Say whether a release has tracepoint_srcu."""
    return k.release.name not in _NONE


def _timer(k: Kernel, now: int) -> int:
    return Wheel(k.shared.machine.rcu, 0).timeout(now, _INTERVAL)


def synchronize_srcu(k: Kernel) -> Proc[None]:
    """Wait for a grace period of tracepoint_srcu, expedited if it is idle (kernel/rcu/srcutree.c:synchronize_srcu).

    Expedited: works of kworkers, no timer. Else a jiffy before it and one behind it. With SRCU-fast readers two grace
    periods of plain RCU come in between, expedited or not; one that runs already is not waited for besides.
    """
    k.count("synchronize_srcu")
    yield from k.settle()
    domain, wakeup = k.shared.ftrace.tracepoint_srcu, k.shared.costs.ns("task_wakeup")
    expedited = domain.idle(k.now)
    if k.release.name in _FAST:
        domain.open += 1
        yield from k.sleep_until((k.now if expedited else _timer(k, k.now)) + wakeup)
        flavour = k.shared.machine.flavours.expedited if expedited else k.shared.machine.rcu
        for _ in range(2):
            yield from flavour.synchronize(k.task)
        yield from k.settle()
        domain.open -= 1
        domain.end = end = k.now
    else:
        end = domain.start(k, k.now, expedited)
    yield from k.sleep_until((end if expedited else _timer(k, end)) + _WAKEUPS * wakeup)


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
