"""alloc-write-map: an address without a mapping, text written elsewhere, mapped when complete (Lutomirski 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import Image, Proc, Region, Request, Support, Totals, Usage
from execbench.kernel import sync
from execbench.kernel.direct_map import close_alias

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class AllocWriteMap:
    """No executable mapping ever exists before its text is complete, so x86_64 needs no flush and no interrupt.

    write_through: the direct map, or one CPU's temporary mm (as a poke, without text_mutex: nobody else sees the page).
    alias: whether the direct map stays writable, or turns read-only or absent before the text is mapped. recycle: the
    address is flushed when it is freed, or with many others by a purge; nobody gets it before that. sync: what follows
    the mapping, where a CPU that has speculated into the absent entry may remember it (arm64).
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        source="Andy Lutomirski, 2023-06-19 <a17c65c6-863f-4026-9c6f-a04b659e9ab4@app.fastmail.com>; on arm64 Mark "
        "Rutland, 2023-06-26 <ZJmDNbY009G3haH9@FVFF77S0Q05N>",
    )
    write_through: Literal["direct-map", "temporary-mm"] = "direct-map"
    alias: Literal["kept", "read-only", "removed"] = "kept"
    recycle: Literal["flushed", "deferred"] = "deferred"
    sync: Literal[
        "none", "sync-core-ipi", "rcu", "rcu-expedited", "tasks-rude", "stop-machine", "lazy-generation",
        "defer-to-kernel-entry",
    ] = "none"  # fmt: skip

    def refusal(self, arch: str) -> str:
        """Return why these parameters cannot be expressed on an architecture, or ""."""
        return sync.refusal(self.sync, arch)

    def start(self, k: Shared) -> Totals:
        """Nothing to set up but the policy."""
        sync.require(k, self.sync)
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Reserve an address and take pages; no page-table entry is written."""
        regions = []
        for req in reqs:
            area = yield from k.get_vm_area(k.pages_of(req.size), req.kind)
            regions.append(s.take(req, area))
        return tuple(regions)

    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Write through an alias; what is relative to the program counter is computed for the final address."""
        if self.write_through == "direct-map":
            k.store_text(region.va, image.size, through="direct-map")
        else:
            yield from k.write_temporary_mm(region.va, image.size)

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Let fetch see the text, close the alias, map: entries that were absent become executable, nobody is told."""
        yield from sync.clean_text(k, [(region.va, region.size) for region in regions])
        if self.alias != "kept":
            yield from close_alias(k, [region.own for region in regions], "ro" if self.alias == "read-only" else "np")
        for region in regions:
            yield from k.map_text(region.own)
        yield from sync.synchronize(k, self.sync)

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Unmap; the address returns to use when it has been flushed, at once or by the next purge."""
        for region in regions:
            yield from k.vfree_text(region.own, self.alias != "kept", self.recycle == "flushed")
            s.give(region)

    def usage(self, s: Totals) -> Usage:
        """Waste is what rounding to pages adds."""
        return s.usage()
