"""All flavours of RCU but the normal one, each made when it is first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from execbench.sim.rcu_expedited import ExpeditedRcu
from execbench.sim.rcu_kthread import Wheel
from execbench.sim.rcu_srcu import SrcuTraceRcu
from execbench.sim.rcu_tasks import TasksRcu, TasksRudeRcu, TasksTraceRcu

if TYPE_CHECKING:
    from execbench.sim.ipi import Interrupts
    from execbench.sim.rcu import Rcu
    from execbench.sim.rng import Streams


class Flavours:
    """What release and configuration make of each flavour; who needs none of them makes no draw and no event."""

    def __init__(self, rcu: Rcu, interrupts: Interrupts, streams: Streams) -> None:
        """They wait for grace periods of `rcu` and interrupt CPUs by `interrupts`."""
        self._rcu = rcu
        self._rules = rcu.rules.flavours
        self._interrupts = interrupts
        self._streams = streams

    @cached_property
    def _wheel(self) -> Wheel:
        return Wheel(self._rcu, int(self._streams.stream("jiffies").u() * 512))

    @cached_property
    def expedited(self) -> ExpeditedRcu | Rcu:
        """Expedited RCU, or the normal one where expediting is forbidden (rcu_gp_is_normal)."""
        return ExpeditedRcu(self._rcu, self._interrupts, 0) if self._rules.expedited else self._rcu

    @cached_property
    def tasks(self) -> TasksRcu | None:
        """Tasks RCU; None where it is plain RCU (CONFIG_TASKS_RCU off)."""
        if not self._rules.tasks:
            return None
        chance = self._streams.stream("rcu/tasks-holdout")
        return TasksRcu(self._rcu, self._interrupts, self._wheel, 1, chance)

    @cached_property
    def rude(self) -> TasksRudeRcu | None:
        """Tasks Rude; None where synchronize_rcu_tasks_rude returns at once."""
        return TasksRudeRcu(self._rcu, self._interrupts, self._wheel, 2) if self._rules.rude else None

    @cached_property
    def trace(self) -> TasksTraceRcu | SrcuTraceRcu:
        """Tasks Trace in the release's form."""
        if self._rules.trace == "srcu":
            return SrcuTraceRcu(self._rcu, self.expedited, self._wheel, 3)
        return TasksTraceRcu(self._rcu, self._interrupts, self._wheel, 3)
