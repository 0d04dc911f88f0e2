"""rw-inplace-finalize: RW and not X at the final address, then RX *and synchronize* (Lutomirski 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import Image, Proc, Region, Request, Support, Totals, Usage
from execbench.kernel import sync

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class RwInplaceFinalize:
    """Written in place, alternatives included; `sync` is what finalize does besides the flush that W to X needs anyway.

    merged-flush: the handler of that flush serializes too, where it has one. Text is NX until it is complete, so that
    no policy is needed which guards text that CPUs may fetch.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        writable_in_place=True,
        source="Andy Lutomirski, 2023-06-19 <a17c65c6-863f-4026-9c6f-a04b659e9ab4@app.fastmail.com>",
    )
    sync: Literal[
        "none", "sync-core-ipi", "merged-flush", "rcu", "rcu-expedited", "tasks-rude", "stop-machine",
        "lazy-generation", "defer-to-kernel-entry",
    ] = "sync-core-ipi"  # fmt: skip

    def refusal(self, arch: str) -> str:
        """Return why these parameters cannot be expressed on an architecture, or ""."""
        return sync.refusal(self.sync, arch)

    def start(self, k: Shared) -> Totals:
        """Nothing to set up but the policy: the window is the kernel's."""
        sync.require(k, self.sync)
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Reserve an address, take pages and map them RW and NX: absent entries need no flush."""
        regions = []
        for req in reqs:
            area = yield from k.vmalloc_node_range(k.pages_of(req.size), req.kind)
            regions.append(s.take(req, area))
        return tuple(regions)

    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Plain stores at the final address, alternatives and relocations too."""
        k.store_text(region.va, image.size)
        return
        yield

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Let fetch see the text, RW to RX with its flush for each region, then one synchronization for the group."""
        yield from sync.clean_text(k, [(region.va, region.size) for region in regions], self.sync)
        for region in regions:
            yield from k.set_memory_rox(region.own, *sync.riding(k, self.sync))
        yield from sync.synchronize(k, self.sync)

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Vfree with VM_FLUSH_RESET_PERMS."""
        for region in regions:
            yield from k.vfree(region.own)
            s.give(region)

    def usage(self, s: Totals) -> Usage:
        """Waste is what rounding to pages adds."""
        return s.usage()
