"""module_alloc: whole pages per region, written while RW and NX, then set_memory_ro() and set_memory_x()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import KERNEL_KINDS, Image, Proc, Region, Request, Support, TextKind, Totals, Usage

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared
    from execbench.sim.memory import VmArea

DATA = (TextKind.MODULE_DATA, TextKind.RODATA, TextKind.RO_AFTER_INIT)
"""What a module has besides text (include/linux/module.h: mod_mem_type_is_data)."""


@dataclass(frozen=True, kw_only=True)
class ModuleAlloc:
    """Pages of its own for each region, made read-only and executable when they are written.

    order: strict = two steps, each with its flush, so that no CPU can hold a writable translation while another already
    executes (the order of 2019 that 6.1 still has); merged = one set_memory_rox, where release and architecture have
    it.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        kinds=KERNEL_KINDS,
        writable_in_place=True,
        shipped=("6.1",),
        retired=("6.12", "6.18", "7.3"),
        source="arch/*/kernel/module.c: module_alloc; kernel/module/strict_rwx.c",
    )
    order: Literal["strict", "merged"] = "strict"

    def start(self, k: Shared) -> Totals:
        """Nothing to set up: the window is the kernel's."""
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """module_alloc: __vmalloc_node_range, RW and NX, VM_FLUSH_RESET_PERMS."""
        regions = []
        for req in reqs:
            area = yield from k.vmalloc_node_range(k.pages_of(req.size), req.kind)
            regions.append(s.take(req, area))
        return tuple(regions)

    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Plain stores at the final address."""
        k.store_text(region.va, image.size)
        return
        yield

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """flush_icache_range while NX, then the permissions, whose flushes are all the synchronization on x86_64."""
        for region in regions:
            yield from k.flush_icache_range(region.va, region.size)
        yield from protect_data(k, [(region.kind, region.own) for region in regions if region.kind in DATA])
        for region in regions:
            if region.kind in DATA:
                continue
            if self.order == "merged":
                yield from k.set_memory_rox(region.own)
            else:
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


def protect_data(k: Kernel, regions: Sequence[tuple[TextKind, VmArea]]) -> Proc[None]:
    """Make constants read-only and all data NX, which it is: a call that changes no entry, but purges on x86_64.

    kernel/module/strict_rwx.c: module_enable_rodata_ro, module_enable_data_nx.
    """
    for kind, area in regions:
        if kind is TextKind.RODATA:
            yield from k.set_memory_ro(area)
    for _, area in regions:
        yield from k.set_memory_nx(area)
