"""jitalloc-slab: Overstreet's prototype of 2023, size classes from 16 bytes to half a page in executable pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import Image, LockKind, Proc, Region, Request, Support, TextKind, Usage
from execbench.kernel import sync
from execbench.sim.memory import VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

JIT_ALLOC_LOCK = LockKind("jit_alloc_lock", "mutex", "mm/jitalloc.c of the prototype: jit_alloc_lock")
MIN_SIZE = 16
"""mm/jitalloc.c: JITALLOC_MIN_SIZE."""


@dataclass(slots=True, eq=False)
class Slab:
    """struct jit_slab: one page of objects of `size` bytes; `used` is its bitmap."""

    area: VmArea
    size: int
    used: int = 0

    @property
    def objects(self) -> int:
        """Objects that the page holds."""
        return self.area.size // self.size

    @property
    def words(self) -> int:
        """64-bit words of the bitmap."""
        return -(-self.objects // 64)


@dataclass(slots=True, eq=False)
class State:
    """jit_caches: by object size the slabs that have room, first to be used first; and the running totals (bytes)."""

    shared: Shared
    partial: dict[int, list[Slab]] = field(default_factory=dict)
    asked: int = 0
    taken: int = 0
    mapped: int = 0
    regions: int = 0


@dataclass(frozen=True, kw_only=True)
class JitallocSlab:
    """jit_alloc() hands out objects of pages that are read-only and executable; jit_update() is one text_poke_copy().

    fill: "none" as the prototype has it, which leaves what was in a fresh page and in a freed object; "traps" fills
    both. sync: what jit_update() does behind its copy, which in the prototype is nothing.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        sub_page=True,
        source="Kent Overstreet, 2023: mm/jitalloc.c of the prototype, for bcachefs",
    )
    fill: Literal["none", "traps"] = "none"
    sync: Literal[
        "none", "sync-core-ipi", "int3-protocol", "rcu", "rcu-expedited", "tasks-rude", "stop-machine",
        "lazy-generation", "trap-and-retry", "defer-to-kernel-entry",
    ] = "none"  # fmt: skip

    def refusal(self, arch: str) -> str:
        """Return why these parameters cannot be expressed on an architecture, or ""."""
        return sync.refusal(self.sync, arch)

    def start(self, k: Shared) -> State:
        """jit_alloc_init: caches without slabs."""
        sync.require(k, self.sync)
        k.declare(JIT_ALLOC_LOCK)
        return State(k)

    def alloc(self, k: Kernel, s: State, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """jit_alloc for each request: an object of the next power of two, or whole pages above half a page."""
        regions = []
        for req in reqs:
            k.count("jit_alloc", req.size)
            size = max(MIN_SIZE, 1 << (req.size - 1).bit_length())
            own: Slab | VmArea
            if size < k.page_size:
                with (yield from k.lock("jit_alloc_lock")):
                    own, va = yield from self._jit_cache_alloc(k, s, size)
            else:
                own = yield from self._module_alloc(k, s, k.pages_of(req.size))
                va, size = own.va, own.size
            s.asked += req.size
            s.taken += size
            s.regions += 1
            regions.append(Region(s.regions, va, req.size, size, req.kind, own))
        return tuple(regions)

    def _jit_cache_alloc(self, k: Kernel, s: State, size: int) -> Proc[tuple[Slab, int]]:
        """Take the first free object of the first slab with room; a full slab leaves the list."""
        slabs = s.partial.setdefault(size, [])
        if not slabs:
            k.count("jit_slab_alloc")
            k.spend("kmalloc")  # of the bitmap
            area = yield from self._module_alloc(k, s, 1)
            slabs.append(Slab(area, size))
        slab = slabs[0]
        index = (~slab.used & (slab.used + 1)).bit_length() - 1
        slab.used |= 1 << index
        k.spend("bitmap_word", index // 64 + 1 + slab.words)  # find_first_zero_bit, bitmap_weight
        if slab.used.bit_count() == slab.objects:
            slabs.remove(slab)
        return slab, slab.area.va + index * size

    def _module_alloc(self, k: Kernel, s: State, pages: int) -> Proc[VmArea]:
        area = yield from k.vmalloc_node_range(pages, TextKind.MODULE_TEXT)
        s.mapped += area.size
        if self.fill == "traps":
            k.store_text(area.va, area.size, "trap")
            yield from sync.clean_traps(k, [(area.va, area.size)], self.sync)
        yield from k.set_memory_rox(area)
        return area

    def write(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """Nothing here: the text is finished in the caller's buffer, which jit_update() copies."""
        return
        yield

    def finalize(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """jit_update for each region, one synchronization for the group."""
        pieces = [(region.va, region.size) for region in regions]
        return sync.update_text(k, self.sync, pieces, fresh=self.fill == "traps")

    def rewrite(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """jit_update over live text."""
        return sync.update_text(k, self.sync, [(region.va, image.size)])

    def free(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """jit_free: the object's bit; a page without objects goes back.

        The prototype drops such a page without unmapping it; here it is freed as every other.
        """
        for region in regions:
            if isinstance(region.own, VmArea):
                yield from k.vfree(region.own)
                s.mapped -= region.reserved
            else:
                with (yield from k.lock("jit_alloc_lock")):
                    yield from self._jit_cache_free(k, s, region)
            s.asked -= region.size
            s.taken -= region.reserved

    def _jit_cache_free(self, k: Kernel, s: State, region: Region) -> Proc[None]:
        slab: Slab = region.own
        if self.fill == "traps":
            yield from k.bpf_arch_text_invalidate(region.va, region.reserved)
            yield from k.settle()
        slabs = s.partial[slab.size]
        full = slab.used.bit_count() == slab.objects
        slab.used &= ~(1 << (region.va - slab.area.va) // slab.size)
        k.spend("bitmap_word", slab.words)  # bitmap_weight
        if not slab.used:
            slabs[:] = [other for other in slabs if other is not slab]
            s.mapped -= slab.area.size
            k.spend("kfree")
            yield from k.vfree(slab.area)
        elif full:
            slabs.insert(0, slab)

    def usage(self, s: State) -> Usage:
        """Reserved are whole pages; waste is what size classes and pages add to the objects."""
        return Usage(s.asked, s.mapped, s.taken - s.asked, s.shared.text_map.text_leaves())
