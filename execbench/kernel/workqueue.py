"""Bound kworkers: a pool per CPU, work in the order queued, one item at a time runs (kernel/workqueue.c, system_wq)."""

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


class WorkerPool:
    """The pool of one CPU: as long as an item runs nobody begins another; while all that run wait, the next one does.

    kernel/workqueue.c: wq_worker_sleeping wakes another worker, keep_working ends who finds one running. That a pool
    makes its worker before it needs it (maybe_create_worker) is not modelled: a new one costs a wake-up.
    """

    __slots__ = ("_cpu", "_idle", "_items", "_running", "_shared", "_workers")

    def __init__(self, shared: Shared, cpu: int) -> None:
        """Nothing is spawned before the first item."""
        self._shared = shared
        self._cpu = cpu
        self._items: deque[tuple[str, WorkItem, Operation | None]] = deque()
        self._idle: list[_Worker] = []
        self._running = 0  # workers inside an item that do not wait, or on their way to one
        self._workers = 0

    def queue(self, name: str, work: WorkItem, operation: Operation | None = None) -> None:
        """Run `work` behind everything queued before; `operation` is what its primitives are counted for."""
        self._items.append((name, work, operation))
        self.kick()

    def kick(self) -> None:
        """Let a worker begin the next item, if there is one and nobody runs (kick_pool)."""
        if not self._items or self._running:
            return
        self._running += 1
        if self._idle:
            worker = self._idle.pop()
            worker.task.wake(worker.task.engine.now)
            return
        shared, cpu = self._shared, self._cpu
        name = f"kworker/{cpu}:{self._workers}" if self._workers else f"kworker/{cpu}"
        self._workers += 1
        machine = shared.machine
        task = Task(name, machine.active_cpu(cpu), machine.engine, shared.costs.ns("task_wakeup"))
        worker = _Worker(self, task, shared.view(task))
        machine.engine.spawn(task.run(worker.serve()), machine.engine.now, task.cpu.key)

    def wanted(self) -> bool:
        """Say whether a running worker is to begin the next item: there is one, and nobody else runs (keep_working)."""
        return bool(self._items) and self._running <= 1

    def next_item(self) -> tuple[str, WorkItem, Operation | None]:
        """Return the item that has waited longest."""
        return self._items.popleft()

    def rest(self, worker: _Worker) -> None:
        """A worker has nothing to do any more (worker_enter_idle)."""
        self._running -= 1
        self._idle.append(worker)

    def sleeping(self) -> None:
        """A worker waits inside its item."""
        self._running -= 1
        self.kick()

    def running(self) -> None:
        """A worker goes on with its item."""
        self._running += 1


class _Worker:
    """One thread of a pool."""

    __slots__ = ("_k", "_pool", "task")

    def __init__(self, pool: WorkerPool, task: Task, k: Kernel) -> None:
        self._pool, self.task, self._k = pool, task, k

    def serve(self) -> Proc[None]:
        """Take items while there are any, then rest (worker_thread)."""
        k, task, pool = self._k, self.task, self._pool
        k.spend("task_wakeup")
        yield from task.settle()
        while True:
            while pool.wanted():
                name, work, operation = pool.next_item()
                task.site = name
                if operation is not None:
                    k.begin(operation, name)
                yield from task.settle()  # the item's first act may be one that others see
                task.watcher = pool
                yield from work(k)
                if task.op is not None:
                    k.end()
                yield from task.settle()
                task.watcher = None
            if not pool.wanted():
                pool.rest(self)
                yield from task.block()
