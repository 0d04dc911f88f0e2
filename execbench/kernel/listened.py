"""The kernel as one task sees it while somebody listens: the same, told."""

from __future__ import annotations

from execbench.kernel.facade import Kernel
from execbench.kernel.locks import told
from execbench.sim.engine import Proc
from execbench.sim.locks import Hold


class ListenedKernel(Kernel):
    """The same with every cost an event of its own, or with somebody who listens to costs and primitives."""

    __slots__ = ()

    def spend(self, cost: str, n: int = 1) -> None:
        """Add `n` units of a named cost to the plan and tell."""
        cpu = self._cpu
        before = cpu.owed
        super().spend(cost, n)
        if cpu.splits:
            cpu.cut()
        if self.probe.spend is not None:
            self.probe.spend(self.now, self.task, cost, n, cpu.owed - before)

    def count(self, primitive: str, units: int = 1) -> None:
        """Count one use of a primitive and tell."""
        super().count(primitive, units)
        if self.probe.call is not None:
            self.probe.call(self.now, self.task, primitive, units)

    def lock(self, name: str) -> Proc[Hold]:
        """Acquire and tell, also of the release."""
        return told((yield from super().lock(name)))

    def tell(self, event: str, *fields: object) -> None:
        """Report a fact with the time of this point of the plan."""
        if self.probe.fact is not None:
            self.probe.fact(self.now, self.task, event, fields)
        listener = getattr(self.probe, event)
        if listener is not None:
            self._cpu.mark(lambda at: listener(at, self.task, *fields))
