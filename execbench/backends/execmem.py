"""execmem: what the release does for each type: plain ranges over vmalloc, or the ROX cache (mm/execmem.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from execbench.contract import KERNEL_KINDS, Image, Proc, Region, Request, Support, TextKind, Usage
from execbench.kernel import module_memory
from execbench.kernel.execmem import Piece
from execbench.kernel.insn_page import alloc_insn_page, write_insn_slot
from execbench.kernel.module_memory import Part, alloc_layouts, by_layout, parts_of
from execbench.kernel.strict_rwx import DATA, complete_formation, module_enable_data

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(slots=True, eq=False)
class State:
    """Running totals over live regions (bytes): asked, in pages handed out, of which outside the cache."""

    shared: Shared
    asked: int = 0
    pages: int = 0
    plain: int = 0
    regions: int = 0

    def take(self, req: Request, piece: Piece, part: Part | None = None) -> Region:
        """Return the region of a piece that a request got, which may be part of a module's layout."""
        self.regions += 1
        region = Region(self.regions, piece.va, req.size, piece.size, req.kind, part or piece)
        self.count(region, 1)
        return region

    def count(self, region: Region, sign: int) -> None:
        """Add a region to the totals, or take it away."""
        self.asked += sign * region.size
        self.pages += sign * region.reserved
        self.plain += 0 if _piece(region).cached else sign * region.reserved


@dataclass(frozen=True, kw_only=True)
class Execmem:
    """One allocator for all types of text, whose ways differ by type and release.

    On x86_64: 6.1 has module_alloc for everything, 6.12 a range per type over vmalloc. 6.18 keeps text of modules,
    ftrace and kprobes in 2M pages that are read-only and executable: a piece of them becomes writable (and not
    executable) while a module or ftrace writes it; EXECMEM_BPF is plain until 7.3, then in the cache too. Plain text is
    made read-only and executable in one operation where there is one. Elsewhere everything is plain. Pages for kprobes
    are executable when they are allocated, and poked. BPF programs take packs from here, not pages of their own: that
    kind is what no kernel does this way.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        kinds=KERNEL_KINDS,
        writable_in_place=True,
        shipped=("6.12", "6.18", "7.3"),
        source="mm/execmem.c, arch/x86/mm/init.c: execmem_arch_setup, kernel/module/strict_rwx.c",
    )

    loader_flushes: ClassVar[bool] = True
    """A module's regions come to finalize with their instruction caches flushed (module_memory.Flushed)."""

    def start(self, k: Shared) -> State:
        """Nothing to set up: ranges and cache are the kernel's."""
        return State(k)

    def alloc(self, k: Kernel, s: State, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """execmem_alloc_rw where the cache exists (it purges for data too), execmem_alloc for pokers and before.

        Before 6.4 a module's requests share two areas (execbench.kernel.module_memory).
        """
        if by_layout(k, reqs):
            parts = yield from alloc_layouts(k, reqs)
            return tuple(s.take(req, part.piece, part) for req, part in zip(reqs, parts, strict=True))
        regions = []
        for req in reqs:
            pages = k.pages_of(req.size)
            if req.kind is TextKind.KPROBES:
                piece = yield from alloc_insn_page(k, pages)
            elif req.kind is TextKind.BPF or not k.release.rox_cache:
                piece = yield from k.execmem_alloc(pages, req.kind)
            else:
                piece = yield from k.execmem_alloc_rw(pages, req.kind)
            regions.append(s.take(req, piece))
        return tuple(regions)

    def write(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """Plain stores at the final address; a poke for kprobes; into a buffer for programs that will be poked."""
        if region.kind is TextKind.KPROBES:
            yield from write_insn_slot(k, region.va, image.size)
        elif _poked(region):
            k.spend("copy_byte", image.size)
        else:
            k.store_text(region.va, image.size)

    def finalize(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """set_memory_rox or execmem_restore_rox, whose flush is all the synchronization on x86_64; or one poke.

        Nothing is left to do for kprobes; a module's loader flushes instruction caches itself, before.
        """
        regions = [region for region in regions if region.kind is not TextKind.KPROBES]
        yield from module_memory.flush_module_icache(k, (), [region for region in regions if not _poked(region)])
        shared, regions = parts_of(regions)
        if shared:
            yield from module_memory.complete_formation(k, shared)
        parts = [(region.kind, region.own.area) for region in regions]
        if not k.release.execmem:  # module_alloc's
            yield from complete_formation(k, parts)
            return
        yield from module_enable_data(k, parts)
        for region in regions:
            piece: Piece = region.own
            if _poked(region):
                yield from k.bpf_arch_text_copy(region.va, region.size)
            elif piece.cached:
                yield from k.execmem_restore_rox(piece)
            elif region.kind not in DATA:
                yield from k.set_memory_rox(piece.area)

    def seal(self, k: Kernel, s: State, region: Region) -> Proc[None]:
        """module_enable_rodata_ro_after_init: set_memory_ro."""
        piece = _piece(region)
        yield from k.set_memory_ro(piece.area, piece.first, piece.pages)

    def free(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """execmem_free."""
        for region in regions:
            if isinstance(region.own, Part):
                yield from module_memory.free(k, [region.own])
            else:
                yield from k.execmem_free(region.own)
            s.count(region, -1)

    def usage(self, s: State) -> Usage:
        """Reserved is the whole cache besides plain areas; waste is what rounding to pages adds."""
        reserved = s.plain + s.shared.execmem_cache.bytes
        return Usage(s.asked, reserved, s.pages - s.asked, s.shared.text_map.text_leaves())


def _poked(region: Region) -> bool:
    """Say whether a program is poked into the cache's memory, which stays read-only (kernel/bpf/core.c)."""
    return region.kind is TextKind.BPF and _piece(region).cached


def _piece(region: Region) -> Piece:
    piece: Piece = region.own.piece if isinstance(region.own, Part) else region.own
    return piece
