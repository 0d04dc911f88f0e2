"""vmalloc-exec: memory that is writable and executable always, the lower bound that nobody may ship (2023-05-09)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from execbench.contract import Image, Proc, Region, Request, Support, Totals, Usage

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class VmallocExec:
    """What bcachefs had: __vmalloc(PAGE_KERNEL_EXEC) and plain stores; no flush, no synchronization, no W^X."""

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        writable_in_place=True,
        wx=True,
        source="Kent Overstreet, 2023-05-09 <ZFq7JhrhyrMTNfd/@moria.home.lan>; refused by Hellwig, Cook and others",
    )

    def start(self, k: Shared) -> Totals:
        """Nothing to set up."""
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """vmalloc_exec: __vmalloc_node_range, writable and executable, VM_FLUSH_RESET_PERMS."""
        regions = []
        for req in reqs:
            area = yield from k.vmalloc_node_range(k.pages_of(req.size), req.kind, "rw-x")
            regions.append(s.take(req, area))
        return tuple(regions)

    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Plain stores at the final address."""
        k.store_text(region.va, image.size)
        return
        yield

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Nothing: it was executable all the time."""
        return
        yield

    def rewrite(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Plain stores over live text, as bcachefs did when a node in its cache was used again."""
        return self.write(k, s, region, image)

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Vfree with VM_FLUSH_RESET_PERMS."""
        for region in regions:
            yield from k.vfree(region.own)
            s.give(region)

    def usage(self, s: Totals) -> Usage:
        """Waste is what rounding to pages adds."""
        return s.usage()
