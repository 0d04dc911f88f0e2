"""rw-inplace-finalize: RW and not X at the final address, then RX *and synchronize* (Lutomirski 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import Image, Proc, Region, Request, Support, Totals, Usage, pages_of

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class RwInplaceFinalize:
    """Written in place, alternatives included; `sync` is what finalize does besides the flush that W to X needs anyway.

    none: nothing, as module loading today. sync-core-ipi: a round of its own that serializes every CPU. merged-flush:
    the handler of the flush serializes too. rcu: a normal grace period, which serializes no CPU by guarantee.
    """

    support: ClassVar[Support] = Support(
        writable_in_place=True, source="lore.kernel.org: Andy Lutomirski, 2023-06-19, 'map in place, finalize'"
    )
    sync: Literal["none", "sync-core-ipi", "merged-flush", "rcu"] = "sync-core-ipi"

    def start(self, k: Shared) -> Totals:
        """Nothing to set up."""
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Reserve an address, take pages and map them RW and NX: absent entries need no flush."""
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
        """RW to RX with its mandatory flush for each region, then one synchronization for the group."""
        for region in regions:
            if self.sync == "merged-flush":
                yield from k.set_memory_rox(region.own, ("sync_core", 1))
            else:
                yield from k.set_memory_rox(region.own)
        if self.sync == "sync-core-ipi":
            yield from k.sync_each_cpu()
        elif self.sync == "rcu":
            yield from k.synchronize_rcu()

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Vfree with VM_FLUSH_RESET_PERMS."""
        for region in regions:
            yield from k.vfree(region.own)
            s.give(region)

    def usage(self, s: Totals) -> Usage:
        """Waste is what rounding to pages adds."""
        return s.usage()
