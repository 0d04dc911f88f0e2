"""The kernel's own locks on the paths modelled here: declared once, one row each, and what an rwsem adds to a lock."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar

from execbench.sim.locks import Hold, LockKind

if TYPE_CHECKING:
    from execbench.sim.engine import Proc
    from execbench.sim.locks import Lock
    from execbench.sim.task import Task

T = TypeVar("T")

READER: Final = "rwsem read"
"""Kind under which the hold of a reader is told."""

LOCKS = {
    kind.name: kind
    for kind in (
        LockKind("text_mutex", "mutex", "kernel/extable.c: text_mutex"),
        LockKind("free_vmap_area_lock", "spinlock", "mm/vmalloc.c: free_vmap_area_lock"),
        LockKind("vmap_purge_lock", "mutex", "mm/vmalloc.c: vmap_purge_lock"),
        LockKind("cpa_lock", "spinlock", "arch/x86/mm/pat/set_memory.c: cpa_lock"),
        LockKind("patch_lock", "raw_spinlock", "arch/arm64/kernel/patching.c: patch_lock"),
        LockKind("pgtable_split_lock", "mutex", "arch/arm64/mm/mmu.c: pgtable_split_lock"),
        LockKind("stop_cpus_mutex", "mutex", "kernel/stop_machine.c: stop_cpus_mutex"),
        LockKind("execmem_cache.mutex", "mutex", "mm/execmem.c: execmem_cache"),
        LockKind("module_mutex", "mutex", "kernel/module/main.c: module_mutex"),
        LockKind("jump_label_mutex", "mutex", "kernel/jump_label.c: jump_label_mutex"),
        LockKind("static_call_mutex", "mutex", "kernel/static_call_inline.c: static_call_mutex"),
        LockKind("ftrace_lock", "mutex", "kernel/trace/ftrace.c: ftrace_lock"),
        LockKind("direct_mutex", "mutex", "kernel/trace/ftrace.c: direct_mutex"),
        LockKind("kprobe_mutex", "mutex", "kernel/kprobes.c: kprobe_mutex"),
        LockKind("kprobe_insn_slots.mutex", "mutex", "kernel/kprobes.c: kprobe_insn_slots"),
        LockKind("kprobe_optinsn_slots.mutex", "mutex", "kernel/kprobes.c: kprobe_optinsn_slots"),
        LockKind("event_mutex", "mutex", "kernel/trace/trace_events.c: event_mutex"),
        LockKind("klp_mutex", "mutex", "kernel/livepatch/core.c: klp_mutex"),
        LockKind("tracepoints_mutex", "mutex", "kernel/tracepoint.c: tracepoints_mutex"),
        LockKind("init_mm.mmap_lock", "rwsem", "mm/init-mm.c: init_mm; readers see execbench.kernel.locks.RwSem"),
    )
}


def kind_here(kind: LockKind, preempt_rt: bool) -> LockKind:
    """Return how a lock behaves under this configuration (include/linux/spinlock_rt.h, kernel/locking/rtmutex.c).

    A spinlock_t becomes an rt_mutex, whose waiters may sleep, with PREEMPT_RT; a raw_spinlock_t spins always.
    """
    if kind.kind == "raw_spinlock" or (kind.kind == "spinlock" and not preempt_rt):
        return LockKind(kind.name, "spinlock", kind.source)
    return LockKind(kind.name, "rt_mutex", kind.source) if kind.kind == "spinlock" else kind


class _ToldHold(Hold):
    """A hold whose release somebody hears, in the order of the program."""

    __slots__ = ("_hold", "_listener")

    def __init__(self, hold: Hold, listener: Callable[..., None]) -> None:
        self._hold = hold
        self._listener = listener

    def __enter__(self) -> Hold:
        return self._hold

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        self._listener(hold.cpu.engine.now, hold.task, hold.lock.kind.name, hold.lock.kind.kind, False)
        hold.__exit__(kind, error, trace)


def told(hold: Hold) -> Hold:
    """Tell whoever listens to locks that this one was taken, and, when the hold is over, that it is released."""
    listener = hold.lock.probe.lock
    if listener is None:
        return hold
    listener(hold.cpu.engine.now, hold.task, hold.lock.kind.name, hold.lock.kind.kind, True)
    return _ToldHold(hold, listener)


class RwSem:
    """A mm's mmap lock: readers share, a writer is alone, who comes behind a waiting writer waits behind it.

    kernel/locking/rwsem.c. Built on a FIFO lock: everybody queues for it, a reader passes it on at once, a writer keeps
    it and then waits until the readers that were in before are out. What is simplified: a writer that meets readers
    sleeps without the short spin of rwsem_spin_on_owner, and the lock's own account of holds knows writers only.
    """

    __slots__ = ("lock", "readers", "_left", "_writer")

    def __init__(self, lock: Lock) -> None:
        """`lock` is the queue, and the writer's."""
        self.lock = lock
        self.readers = 0
        self._writer: Task | None = None
        self._left = ("", False)  # site of the reader that left last, and whether it was inside a verb

    def read(self, task: Task, body: Proc[T]) -> Proc[T]:
        """Run `body` as a reader (mmap_read_lock .. mmap_read_unlock)."""
        yield from self._queue(task)
        self.readers += 1
        self._tell(task, True)
        result = yield from body
        self._tell(task, False)
        yield from task.settle()
        self.readers -= 1
        self._left = (task.site, task.verbs > 0)
        if not self.readers and self._writer is not None:
            writer, self._writer = self._writer, None
            writer.wake(task.engine.now)
        return result

    def pass_by(self, task: Task) -> Proc[None]:
        """Be a reader for no time: wait for a writer that is in, or waits."""
        yield from self._queue(task)
        self._tell(task, True)
        self._tell(task, False)

    def _queue(self, task: Task) -> Proc[None]:
        with (yield from self.lock.acquire(task)):
            pass

    def _tell(self, task: Task, taken: bool) -> None:
        """Tell whoever listens to locks that a reader is in, or out again."""
        if self.lock.probe.lock is not None:
            self.lock.probe.lock(task.engine.now, task, self.lock.kind.name, READER, taken)

    def write(self, task: Task) -> Proc[Hold]:
        """Own it alone (mmap_write_lock): `with (yield from mm.write(task)):` releases at the end of the block."""
        hold = yield from self.lock.acquire(task)
        yield from task.settle()
        if self.readers:
            yield from self._wait(task)
        return told(hold)

    def _wait(self, task: Task) -> Proc[None]:
        lock, begin = self.lock, task.engine.now
        self._writer = task
        yield from task.block()
        waited = task.engine.now - begin
        site, in_verb = self._left
        lock.contended += 1
        lock.wait_ns += waited
        lock.wait_max_ns = max(lock.wait_max_ns, waited)
        lock.blame[site] = lock.blame.get(site, 0) + waited
        if in_verb and not task.verbs and task.op is not None:
            task.op.blamed_ns += waited
        if lock.probe.wait is not None:
            lock.probe.wait(begin, task.engine.now, task, "lock", lock.kind.name, site, in_verb)
