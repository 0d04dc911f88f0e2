"""module_alloc: whole pages per region, written while RW and NX, then set_memory_ro() and set_memory_x()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from execbench.contract import Image, Proc, Region, Request, Support, Usage, pages_of
from execbench.sim.memory import PAGE

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel, Shared


@dataclass(slots=True, eq=False)
class State:
    """Running totals (bytes) over the regions that are allocated."""

    shared: Shared
    asked: int = 0
    reserved: int = 0
    regions: int = 0


@dataclass(frozen=True, kw_only=True)
class ModuleAlloc:
    """Pages of its own for each region, made read-only and then executable: two steps, each with its flush.

    No CPU can hold a writable translation while another already executes (the order of 2019 that 6.1 still has).
    """

    support: ClassVar[Support] = Support(
        writable_in_place=True, retired=("6.12", "6.18"), source="mm/vmalloc.c, arch/x86/mm/pat/set_memory.c"
    )

    def start(self, k: Shared) -> State:
        """Nothing to set up: the window is the kernel's."""
        return State(k)

    def alloc(self, k: Kernel, s: State, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """module_alloc: __vmalloc_node_range, RW and NX, VM_FLUSH_RESET_PERMS."""
        regions = []
        for req in reqs:
            area = yield from k.vmalloc_module(pages_of(req.size))
            s.regions += 1
            s.asked += req.size
            s.reserved += area.pages * PAGE
            regions.append(Region(s.regions, area.va, req.size, area.pages * PAGE, req.kind, area))
        return tuple(regions)

    def write(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """Plain stores at the final address."""
        k.spend("copy_byte", image.size)
        return
        yield

    def finalize(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """set_memory_ro, then set_memory_x: their flushes are all the synchronization there is."""
        for region in regions:
            yield from k.set_memory_ro(region.own)
            yield from k.set_memory_x(region.own)

    def free(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """Vfree with VM_FLUSH_RESET_PERMS."""
        for region in regions:
            yield from k.vfree_module(region.own)
            s.asked -= region.size
            s.reserved -= region.reserved

    def usage(self, s: State) -> Usage:
        """Waste is what rounding to pages adds."""
        return Usage(s.asked, s.reserved, s.reserved - s.asked, s.shared.text_map.text_leaves())
