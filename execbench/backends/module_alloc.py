"""module_alloc: whole pages per region, written while RW and NX, then set_memory_ro() and set_memory_x()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from execbench.contract import Image, Proc, Region, Request, Support, Totals, Usage, pages_of

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class ModuleAlloc:
    """Pages of its own for each region, made read-only and then executable: two steps, each with its flush.

    No CPU can hold a writable translation while another already executes (the order of 2019 that 6.1 still has).
    """

    support: ClassVar[Support] = Support(
        writable_in_place=True, retired=("6.12", "6.18"), source="mm/vmalloc.c, arch/x86/mm/pat/set_memory.c"
    )

    def start(self, k: Shared) -> Totals:
        """Nothing to set up: the window is the kernel's."""
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """module_alloc: __vmalloc_node_range, RW and NX, VM_FLUSH_RESET_PERMS."""
        regions = []
        for req in reqs:
            area = yield from k.vmalloc_node_range(pages_of(req.size), req.kind)
            regions.append(s.take(req, area))
        return tuple(regions)

    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Plain stores at the final address."""
        k.store_text(region.va, image.size)
        return
        yield

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """set_memory_ro, then set_memory_x: their flushes are all the synchronization there is."""
        for region in regions:
            yield from k.set_memory_ro(region.own)
            yield from k.set_memory_x(region.own)

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Vfree with VM_FLUSH_RESET_PERMS."""
        for region in regions:
            yield from k.vfree(region.own)
            s.give(region)

    def usage(self, s: Totals) -> Usage:
        """Waste is what rounding to pages adds."""
        return s.usage()
