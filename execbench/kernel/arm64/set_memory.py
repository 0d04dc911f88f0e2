"""set_memory_*() and set_direct_map_*() on arm64 (arch/arm64/mm/pageattr.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from execbench.errors import SimulatedFailure
from execbench.kernel.arm64.rules import rules_of
from execbench.kernel.arm64.tlb import flush_page_by_page, flush_tlb_kernel_range
from execbench.kernel.text import changed
from execbench.kernel.vmalloc import vm_unmap_aliases
from execbench.sim.engine import Proc
from execbench.sim.memory import DirectPerm, Run, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

PAGE_OFFSET: Final = 0xFFFF_0000_0000_0000
"""First byte of the linear map with 48-bit addresses (arch/arm64/include/asm/memory.h: _PAGE_OFFSET)."""


def change_memory_common(
    k: Kernel,
    name: str,
    area: VmArea,
    first: int,
    pages: int,
    *,
    write: bool | None = None,
    execute: bool | None = None,
) -> Proc[None]:
    """Set or clear W or X of pages first..first+pages of `area` as the function `name` does (change_memory_common).

    W: under rodata=full the linear map of each page follows, page by page with a flush of its own (until 6.12 that of
    the whole area, whatever part was asked for). Then vm_unmap_aliases(), then the entries themselves with one flush.
    Nothing is skipped if no entry differs. Raises SimulatedFailure for areas with huge leaves: -EINVAL.
    """
    rules = rules_of(k)
    k.count(name, pages)
    _refuse_huge(k, name, area, first, pages)
    if write is not None and rules.rodata_full:
        runs = area.runs if rules.alias_whole_area else tuple(area.frames(first, pages))
        for run in runs:
            yield from _change_linear(k, run, "rw" if write else "ro")
            yield from flush_page_by_page(k, PAGE_OFFSET + run.pfn * k.page_size, run.n, "linear_alias_flush")
    yield from vm_unmap_aliases(k)
    yield from k.settle()
    perm = changed(k.text_map.perm(area, first), write, execute)
    k.text_map.protect(area, first, pages, perm)
    k.tell("map", area, first, pages, perm)
    k.spend("pageattr_page", pages)
    yield from flush_tlb_kernel_range(k, area.va + first * k.page_size, pages, "set_memory_flush")


def set_direct_map(k: Kernel, area: VmArea, perm: DirectPerm) -> Proc[bool]:
    """Give the linear map of an area a protection, page by page and without a flush; say whether an entry changed.

    set_direct_map_invalid_noflush, set_direct_map_default_noflush: nothing happens unless the linear map can be changed
    at all (can_set_direct_map: rodata=full).
    """
    if not rules_of(k).rodata_full:
        return False
    touched = False
    for run in area.runs:
        touched = (yield from _change_linear(k, run, perm)) or touched
    return touched


def _change_linear(k: Kernel, run: Run, perm: DirectPerm) -> Proc[bool]:
    """Rewrite the linear map of a run; blocks in the way are split live, without a flush, and stay split.

    arch/arm64/mm/mmu.c:split_kernel_leaf_mapping. Contiguous-bit groups are split too; that is part of the cost.
    """
    yield from k.settle()
    split = k.direct_map.change(run, perm, by_page=True)
    leaves = split.pud + split.pmd
    if leaves and rules_of(k).linear_splits:
        k.count("split_kernel_leaf_mapping", leaves)
        with (yield from k.lock("pgtable_split_lock")):
            k.spend("linear_split", leaves)
    k.tell("alias", "direct", run.pfn, run.n, perm)
    k.spend("pageattr_page", run.n)
    return split.entries > 0


def _refuse_huge(k: Kernel, name: str, area: VmArea, first: int, pages: int) -> None:
    """Live kernel blocks outside the linear map are never split; since 6.16 areas that might have some are refused."""
    if area.huge and (rules_of(k).refuses_huge or any(k.text_map.is_huge(area, first + i) for i in range(pages))):
        raise SimulatedFailure(
            "set-memory-refused",
            f"{name} of an area with huge pages is -EINVAL on arm64",
            {"pages": pages, "release": k.release.name},
        )
