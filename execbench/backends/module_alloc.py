"""module_alloc: whole pages per region, written while RW and NX, then set_memory_ro() and set_memory_x()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import KERNEL_KINDS, Image, Proc, Region, Request, Support, TextKind, Totals, Usage
from execbench.kernel import module_memory
from execbench.kernel.execmem import pgprot
from execbench.kernel.insn_page import write_insn_slot
from execbench.kernel.module_memory import Part, alloc_layouts, by_layout, parts_of
from execbench.kernel.strict_rwx import DATA, complete_formation, module_enable_data, set_memory_rox_at_once

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared
    from execbench.sim.memory import VmArea


@dataclass(frozen=True, kw_only=True)
class ModuleAlloc:
    """Pages of its own for each region, made read-only and executable when they are written.

    order: strict = two steps, each with its flush, so that no CPU can hold a writable translation while another already
    executes (the order of 2019 that 6.1 still has: a module's text and constants read-only, data NX, text executable);
    merged = text in one set_memory_rox behind its data, as x86_64 has it since 6.2 and could have had before.
    Pages for kprobes are executable when they are allocated, and poked.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        kinds=KERNEL_KINDS,
        writable_in_place=True,
        shipped=("6.1",),
        retired=("6.12", "6.18", "7.3"),
        source="arch/*/kernel/module.c: module_alloc; kernel/module/strict_rwx.c",
    )
    loader_flushes: ClassVar[bool] = True
    """A module's regions come to finalize with their instruction caches flushed (module_memory.Flushed)."""
    order: Literal["strict", "merged"] = "strict"

    def refusal(self, arch: str) -> str:
        """Return why these parameters cannot be expressed on an architecture, or ""."""
        if self.order == "strict" or arch == "x86_64":
            return ""
        return f"order = merged: on {arch} set_memory_rox is set_memory_ro, then set_memory_x (linux/set_memory.h)"

    def start(self, k: Shared) -> Totals:
        """Nothing to set up: the window is the kernel's."""
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """module_alloc: __vmalloc_node_range, RW and NX, VM_FLUSH_RESET_PERMS; alloc_insn_page for kprobes.

        Before 6.4 a module's requests share two areas (execbench.kernel.module_memory).
        """
        if by_layout(k, reqs):
            parts = yield from alloc_layouts(k, reqs)
            return tuple(_region(s, req, part) for req, part in zip(reqs, parts, strict=True))
        regions = []
        for req in reqs:
            perm = pgprot(k, req.kind)
            area = yield from k.vmalloc_node_range(k.pages_of(req.size), req.kind, perm)
            if req.kind is TextKind.KPROBES and perm == "rw-nx":
                yield from self._enable_text(k, area)
            regions.append(s.take(req, area))
        return tuple(regions)

    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Plain stores at the final address; pokes for kprobes."""
        if region.kind is TextKind.KPROBES:
            yield from write_insn_slot(k, region.va, image.size)
        else:
            k.store_text(region.va, image.size)

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """flush_icache_range while NX, then the permissions, whose flushes are all the synchronization on x86_64.

        A module's loader has flushed instruction caches itself, before.
        """
        regions = [region for region in regions if region.kind is not TextKind.KPROBES]
        yield from module_memory.flush_module_icache(k, (), regions)
        shared, regions = parts_of(regions)
        if shared:
            yield from module_memory.complete_formation(k, shared, text=self.order == "strict")
            if self.order == "merged":
                yield from module_memory.module_enable_text_rox_at_once(k, shared)
        parts = [(region.kind, region.own) for region in regions]
        if self.order == "strict":
            yield from complete_formation(k, parts)
            return
        yield from module_enable_data(k, parts)
        for kind, area in parts:
            if kind not in DATA:
                yield from set_memory_rox_at_once(k, area)

    def _enable_text(self, k: Kernel, area: VmArea) -> Proc[None]:
        if self.order == "merged":
            yield from set_memory_rox_at_once(k, area)
        else:
            yield from k.set_memory_ro(area)
            yield from k.set_memory_x(area)

    def seal(self, k: Kernel, s: Totals, region: Region) -> Proc[None]:
        """set_memory_ro (6.1: module_enable_ro with after_init)."""
        own = region.own
        if isinstance(own, Part):
            yield from k.set_memory_ro(own.area, own.piece.first, own.piece.pages)
        else:
            yield from k.set_memory_ro(own)

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Vfree with VM_FLUSH_RESET_PERMS; of a layout when its last region goes."""
        for region in regions:
            if isinstance(region.own, Part):
                yield from module_memory.free(k, [region.own])
            else:
                yield from k.vfree(region.own)
            s.give(region)

    def usage(self, s: Totals) -> Usage:
        """Waste is what rounding to pages adds."""
        return s.usage()


def _region(s: Totals, req: Request, part: Part) -> Region:
    """Return the region of a request that got a part of a module's layout."""
    s.regions += 1
    s.asked += req.size
    s.reserved += part.piece.size
    return Region(s.regions, part.piece.va, req.size, part.piece.size, req.kind, part)
