"""execmem-rox-copy: text is prepared in a writable copy and poked into a ROX cache in one go (6.13-rc)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from execbench.contract import Image, Proc, Region, Request, Support, TextKind, Usage
from execbench.kernel.execmem import Cache, Piece, fill_trapping_insns, queue_clean, set_direct_map_valid, take_locked
from execbench.sim.memory import PMD_PAGES

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

_ELSEWHERE = "the ROX cache needs ARCH_HAS_EXECMEM_ROX, which only x86_64 selects"


@dataclass(slots=True, eq=False)
class State:
    """The cache, and running totals over live regions (bytes)."""

    shared: Shared
    cache: Cache = field(default_factory=Cache)
    asked: int = 0
    taken: int = 0
    regions: int = 0


@dataclass(frozen=True, kw_only=True)
class ExecmemRoxCopy:
    """2M pages that are executable from the start and never writable again; no permission ever changes.

    Relocations, alternatives and calls are applied to a copy made by vmalloc (module_writable_address), computed for
    the final address; text_poke_copy() brings it there when it is complete. The pages are not in the direct map. Never
    shipped enabled: every patcher would have had to know two addresses.
    """

    support: ClassVar[Support] = Support(
        retired=("6.18", "7.3"),
        source="lore.kernel.org: Mike Rapoport, 2024-10, 'x86/module: use large ROX pages for text allocations'",
        absent={"arm64": _ELSEWHERE, "riscv64": _ELSEWHERE},
    )  # fmt: skip

    def start(self, k: Shared) -> State:
        """Begin with an empty cache, as at boot."""
        return State(k)

    def alloc(self, k: Kernel, s: State, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """module_memory_alloc: a piece of the cache, and a writable copy of the same size."""
        regions = []
        for req in reqs:
            pages = k.pages_of(req.size)
            piece = yield from self._execmem_cache_alloc(k, s, pages, req.kind)
            copy = yield from k.vmalloc_data(piece.size)
            s.regions += 1
            s.asked += req.size
            s.taken += piece.size
            regions.append(Region(s.regions, piece.va, req.size, piece.size, req.kind, [piece, copy]))
        return tuple(regions)

    def _execmem_cache_alloc(self, k: Kernel, s: State, pages: int, kind: TextKind) -> Proc[Piece]:
        k.count("execmem_alloc", pages)
        piece = yield from take_locked(k, s.cache, pages)
        while piece is None:  # adding and taking are two steps: who lost the race got no memory then, here tries again
            yield from self._execmem_cache_populate(k, s, pages, kind)
            piece = yield from take_locked(k, s.cache, pages)
        return piece

    def _execmem_cache_populate(self, k: Kernel, s: State, pages: int, kind: TextKind) -> Proc[None]:
        """Fill fresh pages while RW, unmap them with a flush, leave the direct map, map them read-only executable."""
        k.count("execmem_cache_populate", pages)
        k.cycle("rox_growth")
        rounded = -(-pages // PMD_PAGES) * PMD_PAGES
        area = yield from k.vmalloc_node_range(rounded, kind, huge=True, reset_perms=False)
        fill_trapping_insns(k, Piece(area, 0, area.pages, True))
        yield from k.vunmap_range(area)
        yield from set_direct_map_valid(k, area, valid=False)
        yield from k.map_text(area)
        with (yield from k.lock("execmem_cache.mutex")):
            k.count("execmem_cache_add", area.pages)
            s.cache.add(area)
            k.spend("list_walk")

    def write(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """Stores into the copy; nothing shared is touched."""
        k.spend("copy_byte", image.size)
        return
        yield

    def finalize(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """execmem_update_copy: poke the finished copy over the int3 and drop it; no CPU is told."""
        for region in regions:
            yield from k.bpf_arch_text_copy(region.va, region.reserved)
            yield from self._vfree_copy(k, region)

    def _vfree_copy(self, k: Kernel, region: Region) -> Proc[None]:
        copy, region.own[1] = region.own[1], 0
        if copy:
            yield from k.vfree_data(copy)

    def free(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """execmem_cache_free: out of the busy tree, int3 over it by poking without the mutex, back into the cache."""
        for region in regions:
            yield from self._vfree_copy(k, region)
            k.count("execmem_free", region.own[0].pages)
            with (yield from k.lock("execmem_cache.mutex")):
                k.spend("list_walk")
            yield from k.bpf_arch_text_invalidate(region.va, region.reserved)
            with (yield from k.lock("execmem_cache.mutex")):
                k.count("execmem_cache_add", region.own[0].pages)
                s.cache.give(region.own[0])
                k.spend("list_walk")
            s.asked -= region.size
            s.taken -= region.reserved
            yield from k.settle()
            queue_clean(k, s.cache)

    def usage(self, s: State) -> Usage:
        """Reserved is the whole cache; the writable copies are no text."""
        leaves = s.shared.text_map.text_leaves()
        return Usage(s.asked, s.cache.bytes, s.taken - s.asked, leaves)
