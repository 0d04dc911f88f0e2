"""vmalloc and vfree: areas in the windows for code, lazily freed addresses, and who flushes them (mm/vmalloc.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.errors import AddressSpaceExhausted, SimulatedFailure
from execbench.kernel.text import TextKind
from execbench.sim.engine import Proc
from execbench.sim.memory import OutOfFrames, Perm, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

GUARD = 1
VMAP_BLOCK = 1024
"""VMAP_BBMAP_BITS: pages of a vmap block."""


def vmalloc_node_range(
    k: Kernel, pages: int, kind: TextKind, perm: Perm = "rw-nx", *, huge: bool = False, reset_perms: bool = True
) -> Proc[VmArea]:
    """Map `pages` fresh pages in the window of `kind`.

    mm/vmalloc.c:__vmalloc_node_range. huge: VM_ALLOW_HUGE_VMAP, whole PMD leaves where frames and address allow.
    reset_perms: VM_FLUSH_RESET_PERMS, which vfree honours.
    """
    area = yield from get_vm_area(k, pages, kind, huge=huge)
    area.reset_perms = reset_perms
    entries = k.text_map.map(area, perm, huge=area.huge)
    k.tell("map", area, 0, pages, perm)
    k.spend("pte_set", entries)
    k.arch.flush_cache_vmap(k, area)
    return area


def get_vm_area(k: Kernel, pages: int, kind: TextKind, *, huge: bool = False) -> Proc[VmArea]:
    """Reserve an area of the kind's window and pages for it, without a mapping (__get_vm_area_node).

    Code windows always search the global tree: the per-node pools serve the whole VMALLOC range only. `huge` areas are
    aligned to PMD leaves and made of whole ones, or, where address or frames do not allow it, like others.
    Raises AddressSpaceExhausted when no window has a hole even after a purge.
    """
    k.count("vmalloc", pages)
    area = blocks = None
    leaf = k.shared.geometry.pmd_pages
    if huge and pages % leaf == 0:
        area = yield from _alloc_vmap_area(k, kind, pages, leaf)
        yield from k.settle()
        if area is not None:
            blocks = k.frames.alloc_pmd(pages // leaf)
            if blocks is None:  # __vmalloc_area_node gives the address back
                k.vmap.free_lazy(area)
                _drain_if_many(k)
                area = None
    if area is None:
        area = yield from _alloc_vmap_area(k, kind, pages, 1)
        yield from k.settle()
    if area is None:
        raise _exhausted(k, kind, pages)
    try:
        area.runs = blocks or k.frames.alloc(pages)
    except OutOfFrames as short:
        detail = f"{pages} pages asked, {short.args[1]} free"
        raise SimulatedFailure("out-of-memory", detail, {"pages": pages}) from short
    area.huge = blocks is not None
    k.spend("page_alloc", pages // leaf if area.huge else pages)
    k.tell("map", area, 0, pages, "none")
    return area


def map_text(k: Kernel, area: VmArea) -> Proc[None]:
    """Write executable entries where none were: x86 caches no absent entry, so nobody is flushed or told."""
    yield from k.settle()
    k.count("map_text", area.pages)
    entries = k.text_map.map(area, "ro-x", huge=area.huge)
    k.tell("map", area, 0, area.pages, "ro-x")
    k.spend("pte_set", entries)
    k.arch.flush_cache_vmap(k, area)


def vfree_text(k: Kernel, area: VmArea, reset_alias: bool, flush: bool = False) -> Proc[None]:
    """Unmap an area whose direct map was left alone, or is set back; its address becomes lazy, its pages free at once.

    Without `flush` the pages may be reused while a stale executable translation of the address lives on, as with every
    vmalloc area; with it a purge comes first. An area that was never mapped has no translation and needs no flush.
    """
    yield from k.settle()
    k.count("vfree", area.pages)
    mapped = area in k.text_map
    if mapped:
        k.text_map.unmap(area)
        k.tell("map", area, 0, area.pages, "none")
    k.vmap.free_lazy(area)
    _drain_if_many(k)
    k.spend("vmap_area_free")
    if mapped:
        k.spend("pte_set", area.pages)
    if flush and mapped:
        yield from purge_vmap_area_lazy(k)
    if reset_alias:
        yield from k.set_direct_map(area, "rw")
    yield from k.settle()
    k.frames.free(area.runs)
    k.tell("freed", area)
    k.spend("page_free", area.pages)


def _alloc_vmap_area(k: Kernel, kind: TextKind, pages: int, align: int) -> Proc[VmArea | None]:
    """Find an address in one of the kind's windows, each tried again after a purge (alloc_vmap_area)."""
    for window in k.arch.windows_for(kind):
        area = yield from _find_vmap_area(k, window, pages, align)
        if area is None:
            yield from purge_vmap_area_lazy(k)
            area = yield from _find_vmap_area(k, window, pages, align)
        if area is not None:
            return area
        k.count("window_full")
    return None


def _find_vmap_area(k: Kernel, window: str, pages: int, align: int) -> Proc[VmArea | None]:
    with (yield from k.lock("free_vmap_area_lock")):
        k.spend("vmap_area_alloc")
        return k.vmap.alloc(window, pages, GUARD, align=align)


def _exhausted(k: Kernel, kind: TextKind, pages: int) -> AddressSpaceExhausted:
    holes = {window: k.vmap.largest_hole(window) for window in k.arch.windows_for(kind)}
    detail = f"no hole of {pages + GUARD} pages for {kind} (largest: {holes})"
    return AddressSpaceExhausted("window-exhausted", detail, {"windows": holes, "pages": pages})


def vunmap_range(k: Kernel, area: VmArea) -> Proc[None]:
    """Clear the entries of an area and flush them; address and pages stay (mm/vmalloc.c:vunmap_range)."""
    yield from k.settle()
    k.count("vunmap_range", area.pages)
    k.spend("pte_set", k.text_map.unmap(area))
    k.tell("map", area, 0, area.pages, "none")
    yield from k.arch.flush_tlb_kernel_range(k, area.va, area.pages, "vunmap_flush")


def vfree(k: Kernel, area: VmArea) -> Proc[None]:
    """Free an area of code; with VM_FLUSH_RESET_PERMS its pages leave and re-enter the direct map.

    mm/vmalloc.c:vfree, remove_vm_area, vm_reset_perms: unmap without a flush, make the direct map not-present page by
    page, purge everything lazy together with this area by one flush, restore the direct map, free the pages.
    """
    yield from k.settle()
    k.count("vfree", area.pages)
    k.text_map.unmap(area)
    k.tell("map", area, 0, area.pages, "none")
    k.vmap.free_lazy(area)
    _drain_if_many(k)
    k.spend("vmap_area_free")
    k.spend("pte_set", area.pages)
    if area.reset_perms:
        yield from k.set_direct_map(area, "np")
        low, high = min(run.pfn for run in area.runs), max(run.pfn + run.n for run in area.runs)
        yield from vm_unmap_aliases(k, direct_map_pages=high - low)
        yield from k.set_direct_map(area, "rw")
    yield from k.settle()
    k.frames.free(area.runs)
    k.tell("freed", area)
    k.spend("page_free", area.pages)


def vmalloc_data(k: Kernel, size: int) -> Proc[int]:
    """Allocate `size` bytes of plain data and return its pages; no address is modelled.

    Served by the caller's vmap node without a global lock (mm/vmalloc.c:node_alloc), before 6.9 from the global tree
    under its lock (alloc_vmap_area); the VMALLOC range is never short, and where in it data lies changes no figure, so
    only its pages count, once they are lazy.
    """
    pages = k.pages_of(size)
    k.count("vmalloc", pages)
    if k.release.vmap_nodes:
        k.spend("vmap_area_alloc")
    else:
        with (yield from k.lock("free_vmap_area_lock")):
            k.spend("vmap_area_alloc")
    k.spend("page_alloc", pages)
    k.spend("pte_set", pages)
    return pages


def vfree_data(k: Kernel, pages: int) -> Proc[None]:
    """Free data: its addresses become lazy; above the limit a worker is asked to purge (free_vmap_area_noflush)."""
    yield from k.settle()
    k.count("vfree", pages)
    k.vmap.add_lazy(pages + GUARD)
    k.spend("vmap_area_free")
    k.spend("pte_set", pages)
    k.spend("page_free", pages)
    _drain_if_many(k)


def vm_map_ram(k: Kernel, blocks: dict[int, int], pages: int) -> Proc[None]:
    """Map pages that the caller has through this CPU's vmap block (vm_map_ram, vb_alloc); `blocks`: free pages by CPU.

    A block of VMAP_BLOCK pages is taken where none has room (new_vmap_block). No address is modelled.
    """
    k.count("vm_map_ram", pages)
    yield from k.settle()
    size = 1 << (pages - 1).bit_length()  # vb_alloc rounds up to an order
    k.spend("list_walk")
    if blocks.get(k.cpu, 0) < size:
        blocks[k.cpu] = VMAP_BLOCK
        k.spend("kmalloc")
        k.spend("vmap_area_alloc")
    blocks[k.cpu] -= size
    k.spend("pte_set", pages)


def vm_unmap_ram(k: Kernel, blocks: dict[int, int], pages: int) -> Proc[None]:
    """Unmap without a flush; the last pages of a block make it a lazy area (vm_unmap_ram, vb_free, free_vmap_block).

    Exact where each mapping goes before the next one comes, as in vm_map_ram_test.
    """
    k.count("vm_unmap_ram", pages)
    yield from k.settle()
    k.spend("pte_set", pages)
    if not blocks[k.cpu]:
        k.spend("vmap_area_free")
        k.vmap.add_lazy(VMAP_BLOCK)
        _drain_if_many(k)


def _drain_if_many(k: Kernel) -> None:
    """Queue the drain work when too many pages are lazy (free_vmap_area_noflush)."""
    shared = k.shared
    if k.vmap.lazy_pages > shared.lazy_limit and not shared.drain_queued:
        shared.drain_queued = True
        k.queue_work("drain_vmap_work", _drain_vmap_area_work)


def _drain_vmap_area_work(k: Kernel) -> Proc[None]:
    k.shared.drain_queued = False
    yield from purge_vmap_area_lazy(k)


def purge_vmap_area_lazy(k: Kernel) -> Proc[None]:
    """Purge every lazily freed area in the system by one flush (mm/vmalloc.c:__purge_vmap_area_lazy)."""
    with (yield from k.lock("vmap_purge_lock")):
        yield from _purge_locked(k)


def vm_unmap_aliases(k: Kernel, direct_map_pages: int = 0) -> Proc[None]:
    """Scan every CPU's vmap blocks and purge all lazy areas: one flush if there were any, or of what is asked for.

    mm/vmalloc.c:_vm_unmap_aliases: called by every change_page_attr on x86 and, with the span of the area's frames in
    the direct map, by vm_reset_perms. Together with lazy areas that span is far too wide for a ranged flush; alone,
    when somebody else has purged meanwhile, it is flushed as a range.
    """
    k.count("vm_unmap_aliases")
    with (yield from k.lock("vmap_purge_lock")):
        k.spend("unmap_aliases_cpu", k.shared.cpus)
        purged = yield from _purge_locked(k, direct_map_pages > 0)
        if direct_map_pages and not purged:
            yield from k.arch.flush_tlb_kernel_range(k, 0, direct_map_pages, "flush_reset_perms")


def _purge_locked(k: Kernel, everything: bool = False) -> Proc[bool]:
    """Purge under the lock; `everything`: the caller's own range joins the flush and makes it a full one."""
    yield from k.settle()
    lazy = k.vmap.take_lazy()
    if not lazy.areas:
        return False
    k.count("vmap_purge", lazy.areas)
    k.cycle("lazy_purge")
    k.spend("vmap_purge")
    if everything:
        yield from k.arch.flush_tlb_all(k, "purge_flush")
    else:
        yield from k.arch.flush_tlb_kernel_range(k, lazy.va, lazy.pages_spanned, "purge_flush")
    in_tree = len(lazy.placed) if k.release.vmap_nodes else lazy.areas
    k.spend("vmap_purge_area", lazy.areas - in_tree)
    if in_tree:  # code windows go back to the global tree (reclaim_list_global), data to the pools of its nodes
        with (yield from k.lock("free_vmap_area_lock")):
            k.vmap.release_lazy(lazy)
            k.spend("vmap_purge_area", in_tree)
    else:
        yield from k.settle()
        k.vmap.release_lazy(lazy)
    return True
