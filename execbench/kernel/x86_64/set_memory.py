"""set_memory_*() on x86_64 (arch/x86/mm/pat/set_memory.c): purge, pages, direct-map alias, splits, flush, collapse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.smp import Work
from execbench.kernel.text import changed
from execbench.kernel.vmalloc import vm_unmap_aliases
from execbench.kernel.x86_64.tlb import flush_tlb_all
from execbench.sim.engine import Proc
from execbench.sim.memory import DirectPerm, Run, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def change_page_attr(
    k: Kernel,
    area: VmArea,
    first: int,
    pages: int,
    *also: Work,
    write: bool | None = None,
    execute: bool | None = None,
    alias: DirectPerm | None = None,
    collapse: bool = False,
) -> Proc[None]:
    """Set or clear W and X (None: leave) of pages first..first+pages of `area`, and give `alias` to their direct map.

    change_page_attr_set_clr: vm_unmap_aliases() comes first even if nothing will change; 4K leaves are rewritten one by
    one; the alias follows except for NX (the direct map is always NX); a huge leaf that is only partly covered is
    split under cpa_lock with a flush of its own; one flush at the end if any entry changed, never a ranged one,
    because cpa_process_alias sets force_flush_all for mapped vmalloc addresses. cpa_lock is dropped between pages,
    so plain pages are not worth an acquisition in the model; splits hold it across their flush.
    """
    k.count("change_page_attr", pages)
    yield from vm_unmap_aliases(k)
    yield from k.settle()
    perm = changed(k.text_map.perm(area, first), write, execute)
    change = k.text_map.protect(area, first, pages, perm)
    k.tell("map", area, first, pages, perm)
    k.spend("cpa_page", change.looked)
    for _ in range(change.splits):
        yield from _split(k)
    touched = change.ptes > 0
    if alias is not None:
        touched = (yield from change_alias(k, tuple(area.frames(first, pages)), alias)) or touched
    if not touched:
        return
    yield from flush_tlb_all(k, "cpa_flush", *also)
    if collapse and k.release.rox_collapse:
        yield from _collapse(k, area)


def change_alias(k: Kernel, runs: tuple[Run, ...], perm: DirectPerm) -> Proc[bool]:
    """Give the direct map of `runs` the protection `perm`; say whether an entry changed. Splits are permanent.

    Page by page, as cpa_process_alias does behind a primary of 4K entries and set_direct_map_*_noflush always does: a
    huge leaf is split by its first page, even if all its pages will follow.
    """
    yield from k.settle()
    changed = False
    for run in runs:
        k.spend("cpa_page", run.n)
        split = k.direct_map.change(run, perm, by_page=True)
        k.tell("alias", "direct", run.pfn, run.n, perm)
        changed = changed or split.entries > 0
        for _ in range(split.pud + split.pmd):
            yield from _split(k)
    return changed


def _split(k: Kernel) -> Proc[None]:
    """Replace one huge leaf by a page table; everybody flushes while cpa_lock is held (__split_large_page)."""
    k.count("cpa_split")
    with (yield from k.lock("cpa_lock")):
        k.spend("cpa_split")
        yield from flush_tlb_all(k, "split_flush")


def _collapse(k: Kernel, area: VmArea) -> Proc[None]:
    """Restore 2M leaves whose 512 pages are alike and contiguous, with a second flush (cpa_collapse_large_pages)."""
    with (yield from k.lock("cpa_lock")):
        k.spend("cpa_collapse")
        restored = k.text_map.collapse(area)
        if restored:
            k.count("cpa_collapse", restored)
            yield from flush_tlb_all(k, "collapse_flush")
