"""set_memory_*() on x86_64 (arch/x86/mm/pat/set_memory.c): purge, pages, direct-map alias, splits, flush, collapse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.smp import Work
from execbench.kernel.text import changed
from execbench.kernel.vmalloc import vm_unmap_aliases
from execbench.kernel.x86_64 import tlb
from execbench.sim.engine import Proc
from execbench.sim.memory import PAGE, PMD_PAGES, DirectPerm, Run, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def set_memory_ro(k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
    """Clear W here and in the direct map."""
    k.count("set_memory_ro", pages)
    return change_page_attr_set_clr(k, area, first, pages, write=False, alias="ro")


def set_memory_rw(k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
    """Set W here and in the direct map."""
    k.count("set_memory_rw", pages)
    return change_page_attr_set_clr(k, area, first, pages, write=True, alias="rw")


def set_memory_x(k: Kernel, area: VmArea, first: int, pages: int, *also: Work) -> Proc[None]:
    """Clear NX here; the direct map stays NX."""
    k.count("set_memory_x", pages)
    return change_page_attr_set_clr(k, area, first, pages, *also, execute=True)


def set_memory_nx(k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
    """Set NX here."""
    k.count("set_memory_nx", pages)
    return change_page_attr_set_clr(k, area, first, pages, execute=False)


def set_memory_rox(k: Kernel, area: VmArea, first: int, pages: int, *also: Work) -> Proc[None]:
    """Clear W and NX in one operation, and collapse; before 6.2 there is no such function, and it takes two."""
    if not k.release.rox_merged:
        yield from set_memory_ro(k, area, first, pages)
        yield from set_memory_x(k, area, first, pages, *also)
        return
    yield from set_memory_rox_at_once(k, area, first, pages, *also)


def set_memory_rox_at_once(k: Kernel, area: VmArea, first: int, pages: int, *also: Work) -> Proc[None]:
    """Clear W and NX in one operation, whether the release has a function for it or not, and collapse if it does."""
    k.count("set_memory_rox", pages)
    return change_page_attr_set_clr(
        k, area, first, pages, *also, write=False, execute=True, alias="ro", collapse=k.release.rox_collapse
    )


def change_page_attr_set_clr(
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

    The pages must be alike. vm_unmap_aliases() comes first even if nothing will change; one flush at the end if an
    entry of the area changed (the alias sets CPA_FLUSHTLB in a copy only). The flush is of everything, because
    cpa_process_alias sets force_flush_all for the pages of every vmalloc address; before 6.2 NX-only operations did
    not get there, so that theirs is ranged up to the ceiling. 7.x walks under the read side of init_mm's mmap lock
    (which it drops while it allocates a page table; the model does not). `also` rides on that flush.
    """
    k.count("change_page_attr_set_clr", pages)
    yield from vm_unmap_aliases(k)
    walk = _change_page_attr(k, area, first, pages, write, execute, alias)
    if k.release.cpa_mmap_lock:
        walk = k.shared.init_mm.read(k.task, _reading(k, walk))
    if not (yield from walk):
        yield from tlb.ride_alone(k, "cpa_flush", *also)
        return
    if k.release.nx_ranged_flush and write is None and pages <= k.release.flush_ceiling:
        yield from tlb.flush_tlb_one_by_one(k, area.va + first * PAGE, pages, "cpa_flush", *also)
    else:
        yield from tlb.flush_tlb_all(k, "cpa_flush", *also)
    if collapse:
        yield from _cpa_collapse_large_pages(k, area, first, pages)


def _reading(k: Kernel, walk: Proc[bool]) -> Proc[bool]:
    k.count("mmap_read_lock")
    return (yield from walk)


def _change_page_attr(
    k: Kernel, area: VmArea, first: int, pages: int, write: bool | None, execute: bool | None, alias: DirectPerm | None
) -> Proc[bool]:
    """Rewrite the leaves of a range and their aliases; say whether a leaf of the range changed.

    __change_page_attr_set_clr: a huge leaf that is only partly covered is split under cpa_lock with a flush of its own;
    else cpa_lock is dropped from leaf to leaf, which the model does not do one by one. The alias follows leaf by leaf,
    except for NX: the direct map is always NX. Everything is changed at once when the walk begins, and told when the
    splits before it are done: whoever looks meanwhile (a collapse, which the mmap lock keeps out) finds leaves split.
    """
    yield from _pass_cpa_lock(k)
    perm = changed(k.text_map.perm(area, first), write, execute)
    change = k.text_map.protect(area, first, pages, perm)
    for _ in range(change.splits):
        yield from _split_large_page(k)
    k.tell("map", area, first, pages, perm)
    k.spend("cpa_page", change.looked)
    if alias is not None:
        for at, n, whole in _leaves(k, area, first, pages):
            yield from change_alias(k, tuple(area.frames(at, n)), alias, by_page=not whole)
    return change.ptes > 0


def _leaves(k: Kernel, area: VmArea, first: int, pages: int) -> list[tuple[int, int, bool]]:
    """Return (first page, pages, whether they share one huge leaf) of the steps in which aliases are processed."""
    if not area.huge:
        return [(first, pages, False)]
    steps = []
    end = first + pages
    while first < end:
        n = min(PMD_PAGES - (area.va // PAGE + first) % PMD_PAGES, end - first)
        steps.append((first, n, k.text_map.is_huge(area, first)))
        first += n
    return steps


def change_alias(k: Kernel, runs: tuple[Run, ...], perm: DirectPerm, *, by_page: bool = True) -> Proc[bool]:
    """Give the direct map of `runs` the protection `perm`; say whether an entry changed. Splits are permanent.

    by_page: as cpa_process_alias does behind a primary of 4K entries and set_direct_map_*_noflush always does: a huge
    leaf is split by its first page, even if all its pages will follow. Else 2M at a time, behind a huge primary.
    """
    yield from _pass_cpa_lock(k)
    entries = 0
    for run in runs:
        for part in (run,) if by_page else _by_2m(run):
            split = k.direct_map.change(part, perm, by_page=by_page)
            for _ in range(split.pud + split.pmd):
                yield from _split_large_page(k)
            k.tell("alias", "direct", part.pfn, part.n, perm)
            k.spend("cpa_page", part.n if by_page else max(split.entries, 1))
            entries += split.entries
    return entries > 0


def _pass_cpa_lock(k: Kernel) -> Proc[None]:
    """Take cpa_lock for the first leaf and drop it: wait for who holds it across a flush."""
    with (yield from k.lock("cpa_lock")):
        pass
    yield from k.settle()


def _by_2m(run: Run) -> list[Run]:
    return [Run(pfn, min(PMD_PAGES, run.pfn + run.n - pfn)) for pfn in range(run.pfn, run.pfn + run.n, PMD_PAGES)]


def _split_large_page(k: Kernel) -> Proc[None]:
    """Replace one huge leaf by a page table; everybody flushes while cpa_lock is held (__split_large_page)."""
    k.count("cpa_split")
    with (yield from k.lock("cpa_lock")):
        k.spend("cpa_split")
        yield from tlb.flush_tlb_all(k, "split_flush")


def _cpa_collapse_large_pages(k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
    """Restore the 2M leaves of the range whose 512 pages are alike and contiguous, with a second flush.

    cpa_collapse_large_pages: on 7.x with init_mm's mmap lock held for writing, so that nobody walks meanwhile.
    """
    if k.release.cpa_mmap_lock:
        with (yield from k.shared.init_mm.write(k.task)):
            k.count("mmap_write_lock")
            yield from _collapse(k, area, first, pages)
    else:
        yield from _collapse(k, area, first, pages)


def _collapse(k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
    with (yield from k.lock("cpa_lock")):
        begin = area.va // PAGE + first
        k.spend("cpa_page", (begin + pages - 1) // PMD_PAGES - begin // PMD_PAGES + 1)
        yield from k.settle()
        restored = k.text_map.collapse(area, first, pages)
        if restored:
            k.count("cpa_collapse", restored)
            k.spend("cpa_collapse", restored)
            yield from tlb.flush_tlb_all(k, "collapse_flush")
