"""Tracepoints: probes that a static call reaches once a static key lets it (kernel/tracepoint.c)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.kernel.jump_label import jump_label_update
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
    """What transitions must have waited for: the number of the grace period whose end serves each of them."""

    snapshots: dict[str, int] = field(default_factory=dict)

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
            yield from call_behind_probes(k)

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
                yield from k.settle()
                self.snapshots["1-0-1"] = k.shared.machine.rcu.snap()
            else:
                yield from k.settle()
                self.snapshots["n-2-1"] = k.shared.machine.rcu.snap()
                if tp.probes == 1:
                    yield from self._cond_sync(k, "n-2-1")
                    yield from static_call_update(k, 1 + tp.call_sites)
            yield from call_behind_probes(k)

    def _cond_sync(self, k: Kernel, transition: str) -> Proc[None]:
        """tp_rcu_cond_sync: wait, unless a full grace period has passed since the transition before."""
        snapshot = self.snapshots.pop(transition, None)
        if snapshot is None:
            return
        k.count("cond_synchronize_rcu")
        yield from k.settle()
        if k.shared.machine.rcu.completed < snapshot:
            yield from k.synchronize_rcu()


def call_behind_probes(k: Kernel) -> Proc[None]:
    """Free something behind all who may be in a probe (release_probes; 7.x call_tracepoint_unregister_atomic).

    The SRCU domain of 7.x is not modelled: what it frees is no text.
    """
    if k.release.name in _SRCU:
        k.count("call_srcu")
        k.spend("call_rcu")
    else:
        yield from k.call_rcu(lambda: None)
