"""Slots for the instructions that kprobes execute out of line, page by page (kernel/kprobes.c: kprobe_insn_cache).

The kernel holds text_mutex while it takes a slot, which may make a page, and while the optimizer frees slots. Here
memory is taken and given back outside of it, because an API that pokes takes it itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from execbench.kernel.insn_page import alloc_insn_page, write_insn_slot
from execbench.kernel.text import Image, Region, TextKind
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.execmem import Piece
    from execbench.kernel.facade import Kernel

CLEAN: Final = 0
DIRTY: Final = 1
USED: Final = 2
"""enum kprobe_slot_state."""


class SlotMemory(Protocol):
    """Who gives pages of slots."""

    @property
    def whole(self) -> bool:
        """Whether text can be written into a page that is executable; else each slot is a region of its own."""

    def page(self, k: Kernel, size: int) -> Proc[Region]:
        """Return executable memory for slots (bytes), nothing in it."""

    def write(self, k: Kernel, slot: Region, image: Image) -> Proc[None]:
        """Write the instructions of one slot."""

    def free(self, k: Kernel, region: Region) -> Proc[None]:
        """Take back what `page` returned."""


class ReleaseSlots:
    """Pages as the release itself makes them."""

    whole = True

    def page(self, k: Kernel, size: int) -> Proc[Region]:
        """alloc_insn_page."""
        piece = yield from alloc_insn_page(k, k.pages_of(size))
        return Region(0, piece.va, size, piece.size, TextKind.KPROBES, piece)

    def write(self, k: Kernel, slot: Region, image: Image) -> Proc[None]:
        """Poke under text_mutex."""
        return write_insn_slot(k, slot.va, image.size)

    def free(self, k: Kernel, region: Region) -> Proc[None]:
        """free_insn_page."""
        piece: Piece = region.own
        return k.execmem_free(piece)


@dataclass(slots=True, eq=False)
class InsnPage:
    """struct kprobe_insn_page."""

    region: Region
    states: list[int]
    garbage: int = 0

    @property
    def used(self) -> int:
        """Slots that are not clean."""
        return sum(state != CLEAN for state in self.states)


@dataclass(slots=True, eq=False)
class Slot:
    """One slot, and its bytes as a region that can be published."""

    page: InsnPage
    index: int
    region: Region


@dataclass(slots=True, eq=False)
class InsnCache:
    """struct kprobe_insn_cache: slots of `insn_size` bytes; `lock` is its mutex."""

    lock: str
    insn_size: int
    memory: SlotMemory
    pages: list[InsnPage] = field(default_factory=list)
    garbage: int = 0

    def per_page(self, k: Kernel) -> int:
        """slots_per_page."""
        return k.page_size // self.insn_size if self.memory.whole else 1


def get_insn_slot(k: Kernel, cache: InsnCache) -> Proc[Slot]:
    """Return a clean slot: a free one, else one behind a garbage collection, else one of a new page."""
    k.count("get_insn_slot")
    with (yield from k.lock(cache.lock)):
        slot = _find(k, cache)
        if slot is None and cache.garbage:
            yield from collect_garbage_slots(k, cache)
            slot = _find(k, cache)
        if slot is None:
            k.spend("kmalloc")
            per_page = cache.per_page(k)
            size = k.page_size if cache.memory.whole else cache.insn_size
            region = yield from cache.memory.page(k, size)
            yield from k.settle()
            cache.pages.insert(0, InsnPage(region, [CLEAN] * per_page))
            slot = _find(k, cache)
            assert slot is not None
    return slot


def _find(k: Kernel, cache: InsnCache) -> Slot | None:
    for passed, page in enumerate(cache.pages):
        if CLEAN in page.states:
            index = page.states.index(CLEAN)
            page.states[index] = USED
            k.spend("list_walk", passed + index + 1)
            at = page.region
            own = Region(at.id, at.va + index * cache.insn_size, cache.insn_size, cache.insn_size, at.kind, at.own)
            return Slot(page, index, own if cache.memory.whole else at)
    k.spend("list_walk", max(len(cache.pages), 1))
    return None


def free_insn_slot(k: Kernel, cache: InsnCache, slot: Slot, dirty: bool) -> Proc[None]:
    """Take a slot back; a dirty one, in which somebody may still be, waits for a collection (__free_insn_slot)."""
    k.count("free_insn_slot")
    with (yield from k.lock(cache.lock)):
        yield from k.settle()
        k.spend("list_walk", cache.pages.index(slot.page) + 1)
        if not dirty:
            yield from _collect_one_slot(k, cache, slot.page, slot.index)
            return
        slot.page.states[slot.index] = DIRTY
        slot.page.garbage += 1
        cache.garbage += 1
        if cache.garbage > cache.per_page(k):
            yield from collect_garbage_slots(k, cache)


def collect_garbage_slots(k: Kernel, cache: InsnCache) -> Proc[None]:
    """Make dirty slots clean behind a grace period, with the cache's mutex held; pages that become empty go back."""
    k.count("collect_garbage_slots")
    yield from k.synchronize_rcu()
    for page in list(cache.pages):
        if not page.garbage:
            continue
        page.garbage = 0
        for index, state in enumerate(page.states):
            if state == DIRTY and (yield from _collect_one_slot(k, cache, page, index)):
                break
    cache.garbage = 0


def _collect_one_slot(k: Kernel, cache: InsnCache, page: InsnPage, index: int) -> Proc[bool]:
    """Say whether the page is empty now; the last one is kept, any other goes back behind another grace period.

    Text that cannot be written again is not kept either.
    """
    page.states[index] = CLEAN
    if page.used:
        return False
    if len(cache.pages) > 1 or not cache.memory.whole:
        cache.pages.remove(page)
        yield from k.synchronize_rcu()
        yield from cache.memory.free(k, page.region)
        k.spend("kfree")
    return True
