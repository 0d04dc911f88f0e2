"""kvfree_rcu() of vmalloc memory: pointers in per-CPU blocks, freed batch by batch after a grace period.

mm/slab_common.c (kernel/rcu/tree.c before 6.15): kvfree_call_rcu, kfree_rcu_monitor, kfree_rcu_work. A full block is
handed on a jiffy later; what fills no block would wait for the timer of 5 s, which is not modelled: it stays queued.
The work runs on the CPU that queued it, as on 6.1 (system_wq); 6.12 and later let it run anywhere (rcu_reclaim_wq,
WQ_UNBOUND), and their monitor first frees the blocks whose grace period is over (kvfree_rcu_drain_ready): left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.sim.engine import Class, Proc, event_key

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

BULK_HEADER: Final = {"6.1": 16}
"""Bytes of struct kvfree_rcu_bulk_data before its records: count and next; later 40, with a list head and sequence
numbers of grace periods."""
N_BATCHES: Final = 2
"""KFREE_N_BATCHES: batches that may wait for grace periods or be freed at once."""
_ENTITY: Final = 1 << 17
"""Timers of other kinds have smaller numbers (execbench.sim.rcu), so that no two share a rank."""


def bulk_max_entr(k: Kernel | Shared, page: int) -> int:
    """Return KVFREE_BULK_MAX_ENTR: pointers that a block of one page (bytes) holds."""
    return (page - BULK_HEADER.get(k.release.name, 40)) // 8


@dataclass(slots=True)
class Krc:
    """struct kfree_rcu_cpu: pages of each object that is queued, whether the monitor is due, batches under way."""

    shared: Shared
    cpu: int
    block: int
    """Objects that fill a block."""
    queued: list[int] = field(default_factory=list)
    armed: bool = False
    batches: int = 0

    def arm(self) -> None:
        """Run the monitor a jiffy from now, if there is a block to hand on (schedule_delayed_monitor_work)."""
        if self.armed or len(self.queued) < self.block:
            return
        self.armed = True
        engine = self.shared.machine.engine
        at = engine.now + self.shared.jiffy_ns
        engine.call_at(at, event_key(Class.TIMER, _ENTITY + self.cpu), self._due)

    def _due(self) -> None:
        self.shared.worker(self.cpu).queue("kfree_rcu_monitor", self._monitor)

    def _monitor(self, k: Kernel) -> Proc[None]:
        """Hand all that is queued to a batch; while both are busy try again (kvfree_rcu_queue_batch)."""
        self.armed = False
        if self.batches < N_BATCHES:
            self.batches += 1
            objects, self.queued = self.queued, []
            yield from k.call_rcu(lambda: self._ready(objects))
        self.arm()

    def _ready(self, objects: list[int]) -> None:
        self.shared.worker(self.cpu).queue("kfree_rcu_work", lambda k: self._work(k, objects))

    def _work(self, k: Kernel, objects: list[int]) -> Proc[None]:
        """kvfree_rcu_bulk: vfree each."""
        for pages in objects:
            yield from k.vfree_data(pages)
        self.batches -= 1
        self.arm()


def kvfree_rcu(k: Kernel, krcs: dict[int, Krc], pages: int) -> Proc[None]:
    """Give vmalloc memory of so many pages away; `krcs` are those of this kernel, by CPU."""
    k.count("kvfree_call_rcu", pages)
    k.spend("list_walk")  # one store into the CPU's block
    yield from k.settle()
    krc = krcs.get(k.cpu)
    if krc is None:
        krc = krcs[k.cpu] = Krc(k.shared, k.cpu, bulk_max_entr(k, k.page_size))
    krc.queued.append(pages)
    if len(krc.queued) % krc.block == 1:
        k.spend("page_alloc")  # of a block
    krc.arm()
