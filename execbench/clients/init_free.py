"""What only a module's init needed, freed behind it by one work item (kernel/module/main.c: init_free_wq)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation

T = TypeVar("T")


class InitFree(Generic[T]):
    """The list of modules whose init memory is to go, and the work that empties it.

    There is one work item for all modules. A workqueue never runs an item twice at once (kernel/workqueue.c:
    find_worker_executing_work): asked for while it runs, it runs again on the same worker as soon as it ends.
    """

    def __init__(self, free: Callable[[Kernel, T], Proc[None]], operation: Callable[[Kernel, int], Operation]) -> None:
        """`free` frees one module's, `operation` returns the n-th run, which begins when it is asked for."""
        self._free = free
        self._operation = operation
        self._list: list[T] = []
        self._runs = 0
        self._running = False
        self._again: Operation | None = None

    def add(self, k: Kernel, loaded: T) -> None:
        """Put a module on the list; who finds it empty schedules the work (do_init_module: llist_add)."""
        self._list.append(loaded)
        if len(self._list) > 1:
            return
        self._runs += 1
        operation = self._operation(k, self._runs)
        if self._running:
            self._again = operation
        else:
            self._running = True  # pending or running: the list is not empty as long as it is pending
            k.queue_work("do_free_init", self._do_free_init, operation)

    def _do_free_init(self, k: Kernel) -> Proc[None]:
        """One grace period for all modules that are on the list by now, then their memory, the last one's first."""
        while True:
            k.phase("wait")
            waiting, self._list = self._list, []
            yield from k.synchronize_rcu()
            k.phase("free_init")
            for loaded in reversed(waiting):
                yield from self._free(k, loaded)
            yield from k.settle()
            operation, self._again = self._again, None
            if operation is None:
                break
            k.end()
            k.begin(operation, "do_free_init")
        self._running = False
