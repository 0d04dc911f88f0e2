"""Tracepoints: probes that a static call reaches once a static key lets it (kernel/tracepoint.c)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.kernel.jump_label import jump_label_update
from execbench.kernel.srcu import Cookie, has_srcu, synchronize_srcu
from execbench.kernel.static_call import static_call_update
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

_SRCU: Final = ("7.3",)
"""Releases that free arrays of probes through SRCU alone (release_probes: call_srcu)."""


@dataclass(slots=True)
class Tracepoint:
    """struct tracepoint: inline call sites besides its trampoline, sites that ask its key, and how many probes it has.

    The snapshots are the kernel's, one per transition (tp_transition_snapshot).
    """

    call_sites: int
    key_sites: int
    probes: int = 0


@dataclass(slots=True)
class Tracepoints:
    """What transitions must have waited for: the number of the grace period whose end serves each, and of SRCU's."""

    snapshots: dict[str, tuple[int, Cookie | None]] = field(default_factory=dict)

    def probe_register(self, k: Kernel, tp: Tracepoint) -> Proc[None]:
        """Add a probe: the first is called directly, behind the second stands the iterator (tracepoint_add_func)."""
        with (yield from k.lock("tracepoints_mutex")):
            k.count("tracepoint_add_func")
            k.spend("kmalloc")
            yield from k.settle()
            tp.probes += 1
            if tp.probes == 1:
                yield from self._cond_sync(k, "1-0-1")
                yield from static_call_update(k, 1 + tp.call_sites)
                yield from jump_label_update(k, tp.key_sites)
                return  # there was no array to free
            if tp.probes == 2:
                yield from static_call_update(k, 1 + tp.call_sites)
            yield from release_probes(k)

    def probe_unregister(self, k: Kernel, tp: Tracepoint) -> Proc[None]:
        """Remove the probe added first (tracepoint_remove_func).

        The next one takes its place at the head of the array, so that who has read the old head must be waited for
        before that one is called directly.
        """
        with (yield from k.lock("tracepoints_mutex")):
            k.count("tracepoint_remove_func")
            yield from k.settle()
            tp.probes -= 1
            if not tp.probes:
                yield from jump_label_update(k, tp.key_sites)
                yield from static_call_update(k, 1 + tp.call_sites)
                yield from self._get_state(k, "1-0-1")
            else:
                yield from self._get_state(k, "n-2-1")
                if tp.probes == 1:
                    yield from self._cond_sync(k, "n-2-1")
                    yield from static_call_update(k, 1 + tp.call_sites)
            yield from release_probes(k)

    def _get_state(self, k: Kernel, transition: str) -> Proc[None]:
        """tp_rcu_get_state: note RCU's grace period, and start one of SRCU."""
        yield from k.settle()
        srcu = k.shared.ftrace.tracepoint_srcu.poll(k, k.task.cpu.id, k.now) if has_srcu(k) else None
        self.snapshots[transition] = k.shared.machine.rcu.snap(), srcu

    def _cond_sync(self, k: Kernel, transition: str) -> Proc[None]:
        """tp_rcu_cond_sync: wait, unless a full grace period has passed since the transition before; so for SRCU."""
        snapshot = self.snapshots.pop(transition, None)
        if snapshot is None:
            return
        k.count("cond_synchronize_rcu")
        yield from k.settle()
        rcu, srcu = snapshot
        if k.shared.machine.rcu.completed < rcu:
            yield from k.synchronize_rcu()
            yield from k.settle()
        if srcu is not None and (srcu.end is None or k.now < srcu.end):
            yield from synchronize_srcu(k)


def release_probes(k: Kernel) -> Proc[None]:
    """Free an array of probes: behind RCU and then SRCU on 6.1 and 6.12 (rcu_free_old_probes), else as below."""
    if k.release.name in _SRCU or not has_srcu(k):
        yield from call_behind_probes(k)
        return
    cpu, machine = k.task.cpu.id, k.shared.machine
    yield from k.call_rcu(lambda: _freed(k.shared.ftrace.tracepoint_srcu.poll(k, cpu, machine.engine.now)))


def _freed(_: Cookie) -> None:
    """What is freed behind it is no text, so nobody looks."""


def call_behind_probes(k: Kernel) -> Proc[None]:
    """Free something behind all who may be in a probe (7.x: call_tracepoint_unregister_atomic)."""
    if k.release.name in _SRCU:
        k.count("call_srcu")
        k.spend("call_rcu")
        yield from k.settle()
        k.shared.ftrace.tracepoint_srcu.poll(k, k.task.cpu.id, k.now)
    else:
        yield from k.call_rcu(lambda: None)
