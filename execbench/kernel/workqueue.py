"""Bound kworkers: one per CPU, work in the order queued (kernel/workqueue.c, system_wq)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from execbench.sim.engine import Proc
from execbench.sim.task import Task

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.operation import Operation
    from execbench.kernel.shared import Shared

WorkItem = Callable[["Kernel"], Proc[Any]]


class Worker:
    """The kworker of one CPU: a task that sleeps while its queue is empty."""

    __slots__ = ("_idle", "_items", "_k", "_running", "task")

    def __init__(self, shared: Shared, cpu: int) -> None:
        """Nothing is spawned before the first item."""
        machine = shared.machine
        self.task = Task(f"kworker/{cpu}", machine.active_cpu(cpu), machine.engine, shared.costs.ns("task_wakeup"))
        self._k = shared.view(self.task)
        self._items: deque[tuple[str, WorkItem, Operation | None]] = deque()
        self._running = False
        self._idle = False  # asleep because there is nothing to do, not inside an item that waits

    def queue(self, name: str, work: WorkItem, operation: Operation | None = None) -> None:
        """Run `work` behind everything queued before; `operation` is what its primitives are counted for."""
        self._items.append((name, work, operation))
        if self._idle:
            self._idle = False
            self.task.wake(self.task.engine.now)
        elif not self._running:
            self._running = True
            engine = self.task.engine
            engine.spawn(self.task.run(self._serve()), engine.now, self.task.cpu.key)

    def _serve(self) -> Proc[None]:
        k, task = self._k, self.task
        k.spend("task_wakeup")
        while True:
            while self._items:
                name, work, operation = self._items.popleft()
                task.site = name
                if operation is not None:
                    k.begin(operation, name)
                yield from task.settle()  # the item's first act may be one that others see
                yield from work(k)
                if task.op is not None:
                    k.end()
            yield from task.settle()
            if not self._items:
                self._idle = True
                yield from task.block()
