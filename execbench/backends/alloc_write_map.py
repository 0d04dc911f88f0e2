"""alloc-write-map: an address without a mapping, text written elsewhere, mapped when complete (Lutomirski 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import Image, Proc, Region, Request, Support, Totals, Usage, pages_of

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class AllocWriteMap:
    """No executable mapping ever exists before its text is complete, so publishing needs no flush and no interrupt.

    write_through: the direct map, or one CPU's temporary mm (as a poke, without text_mutex: nobody else sees the page).
    alias: whether the direct map stays writable, or turns read-only before the text is mapped (one flush, and splits).
    """

    support: ClassVar[Support] = Support(source="lore.kernel.org: Andy Lutomirski, 2023-06-19, 'alloc, write, map'")
    write_through: Literal["direct-map", "temporary-mm"] = "direct-map"
    alias: Literal["kept", "read-only"] = "kept"

    def start(self, k: Shared) -> Totals:
        """Nothing to set up."""
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Reserve an address and take pages; no page-table entry is written."""
        regions = []
        for req in reqs:
            area = yield from k.get_vm_area(pages_of(req.size), req.kind)
            regions.append(s.take(req, area))
        return tuple(regions)

    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Write through an alias; what is relative to the program counter is computed for the final address."""
        if self.write_through == "direct-map":
            k.store_text(region.va, image.size, through="direct-map")
        else:
            yield from k.write_temporary_mm(region.va, image.size)

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Map: absent entries become executable; an absent entry is never cached, so nobody is told."""
        for region in regions:
            if self.alias == "read-only" and (yield from k.set_direct_map(region.own, "ro")):
                yield from k.flush_tlb_all("alias_flush")
            yield from k.map_text(region.own)

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Unmap; the address returns to use when a purge has flushed it, as every vmap area's does."""
        for region in regions:
            yield from k.vfree_text(region.own, reset_alias=self.alias == "read-only")
            s.give(region)

    def usage(self, s: Totals) -> Usage:
        """Waste is what rounding to pages adds."""
        return s.usage()
