"""Tasks Trace as an SRCU-fast domain: two looks at the readers, each behind a grace period of plain RCU.

kernel/rcu/srcutree.c, include/linux/rcupdate_trace.h: readers of SRCU-fast have no barrier, so each check of the reader
counts waits for a whole grace period of RCU first (srcu_readers_active_idx_check): one before the flip, one after. It
is an expedited one if the request was: synchronize_srcu expedites when the domain is idle (srcu_should_expedite; the
readers of Tasks Trace never set the per-CPU flavour that would forbid it), call_srcu never does. No reader is ever
found: no client has sleepable programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from execbench.sim.engine import Class, Proc, event_key
from execbench.sim.rcu_kthread import Entry, GracePeriods, Kthread, Wheel, serve

if TYPE_CHECKING:
    from execbench.sim.rcu import Rcu
    from execbench.sim.rcu_expedited import ExpeditedRcu
    from execbench.sim.task import Task

_HOLDOFF_NS = 25_000
"""So soon after a grace period nothing is expedited (DEFAULT_SRCU_EXP_HOLDOFF)."""
_CALLBACKS = event_key(Class.TIMER, 1 << 34)


class SrcuTraceRcu:
    """rcu_tasks_trace_srcu_struct and the kworker that drives it."""

    def __init__(self, rcu: Rcu, expedited: ExpeditedRcu | Rcu, wheel: Wheel, number: int) -> None:
        """`expedited` is what synchronize_rcu_expedited does on this machine."""
        self.engine = rcu.engine
        self.rcu = rcu
        self.rules = rcu.rules
        self.expedited = expedited
        self.wheel = wheel
        self.periods = GracePeriods("trace", rcu.engine, rcu.probe)
        self.kworker = Kthread("kworker/rcu_gp", number, rcu.engine, rcu.rules.flavours.wakeup_ns, self._process_srcu)
        self._expedite = 0  # srcu_gp_seq_needed_exp: grace periods up to this one are expedited
        self._last_end: int | None = None

    # --- requests ---------------------------------------------------------------------------------------------------

    def synchronize(self, task: Task) -> Proc[None]:
        """Block `task` until a grace period that starts now or later has ended (synchronize_srcu)."""
        yield from task.settle()
        begin = self.engine.now
        self._ask(task, self._should_expedite())
        yield from task.block()
        self.periods.waited(task, begin)

    def call(self, callback: Callable[[], None]) -> None:
        """Invoke `callback` after a grace period that starts now or later (call_srcu)."""
        self._ask(callback, False)

    def _should_expedite(self) -> bool:
        """Say whether the domain looks idle; rcu_gp_is_normal forbids it."""
        recent = self._last_end is not None and self.engine.now < self._last_end + _HOLDOFF_NS
        return self.rules.flavours.expedited and not recent and not self.periods.wanted

    def _ask(self, entry: Entry, expedited: bool) -> None:
        """Start a grace period at once if none runs (srcu_gp_start_if_needed); its work is delayed unless expedited."""
        number = self.periods.ask(entry)
        if expedited:
            self._expedite = number
        if not self.periods.running:
            now = self.engine.now
            self.periods.start()
            self.kworker.rouse(now if expedited else self.wheel.timeout(now, 1))

    # --- the kworker ------------------------------------------------------------------------------------------------

    def _process_srcu(self, kworker: Kthread) -> Proc[None]:
        while True:
            yield from self._readers_check(kworker)  # SRCU_STATE_SCAN1
            yield from self._readers_check(kworker)  # behind srcu_flip: SRCU_STATE_SCAN2
            self._end()
            if self.periods.wanted:
                self.periods.start()
            else:
                yield from kworker.block()

    def _readers_check(self, kworker: Kthread) -> Proc[None]:
        flavour = self.expedited if self._expedite > self.periods.completed else self.rcu
        yield from flavour.synchronize(kworker)
        yield from kworker.settle()
        self.periods.scanned(0)

    def _end(self) -> None:
        """End the grace period; a work of the boot CPU invokes what waited, a jiffy later unless expedited."""
        now = self.engine.now
        expedited = self._expedite > self.periods.completed
        entries = self.periods.end()
        self._last_end = now
        at = (now if expedited else self.wheel.timeout(now, 1)) + self.rules.worker_ns
        self.engine.call_at(at, _CALLBACKS, lambda: serve(entries, self.engine.now, self.rules.wake_ns))
