"""set_memory_*() and set_direct_map_*() on riscv64 (arch/riscv/mm/pageattr.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.errors import SimulatedFailure
from execbench.kernel.riscv64.tlb import flush_tlb_all
from execbench.kernel.smp import Work
from execbench.kernel.text import changed
from execbench.sim.engine import Proc
from execbench.sim.memory import DirectPerm, Run, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def set_memory(
    k: Kernel,
    name: str,
    area: VmArea,
    first: int,
    pages: int,
    *also: Work,
    write: bool | None = None,
    execute: bool | None = None,
) -> Proc[None]:
    """Set or clear W or X of pages first..first+pages of `area` as the function `name` does (__set_memory).

    Under the write side of init_mm's mmap lock the linear map of each page is split to 4K and changed by the same
    mask, X included, then the entries themselves; behind the lock everybody flushes everything, with `also` in the
    same interrupt if there is one. Lazily freed areas are not purged.
    """
    k.count(name, pages)
    _refuse_part_of_huge(k, name, area, first, pages)
    with (yield from k.shared.init_mm.write(k.task)):
        before = k.text_map.perm(area, first)
        perm = changed(before, write, execute)
        executable = perm in ("ro-x", "rw-x")
        for run in area.frames(first, pages):
            yield from change_linear(k, run, None if write is None else "rw" if write else "ro", executable)
        yield from k.settle()
        change = k.text_map.protect(area, first, pages, perm)
        k.tell("map", area, first, pages, perm)
        k.spend("pageattr_page", change.looked)
    yield from flush_tlb_all(k, "set_memory_flush", *also)


def set_direct_map(k: Kernel, area: VmArea, perm: DirectPerm) -> Proc[bool]:
    """Give the linear map of an area a protection; say whether an entry changed.

    set_direct_map_invalid_noflush, set_direct_map_default_noflush: despite their names each page takes the lock and
    ends with a flush of everything on every hart.
    """
    touched = False
    for run in area.runs:
        for i in range(run.n):
            with (yield from k.shared.init_mm.write(k.task)):
                touched = (yield from change_linear(k, Run(run.pfn + i, 1), perm, False)) or touched
            yield from flush_tlb_all(k, "set_direct_map_flush")
    return touched


def change_linear(k: Kernel, run: Run, perm: DirectPerm | None, executable: bool) -> Proc[bool]:
    """Split the linear map down to the pages of a run, for good and without a flush, and change them.

    split_linear_mapping does not look whether the protection will differ. perm None: W stays as it is.
    """
    yield from k.settle()
    held = k.direct_map.perm(run.pfn)
    wanted = held if perm is None else perm
    if wanted == held:  # a round trip, so that the leaves are split all the same
        there = k.direct_map.change(run, "np" if held != "np" else "rw", by_page=True)
        k.direct_map.change(run, held, by_page=True)
        leaves, touched = there.pud + there.pmd, False
    else:
        split = k.direct_map.change(run, wanted, by_page=True)
        leaves, touched = split.pud + split.pmd, split.entries > 0
    if leaves:
        k.count("split_linear_mapping", leaves)
        k.spend("linear_split", leaves)
    k.tell("alias", "direct", run.pfn, run.n, f"{wanted}-x" if executable else wanted)
    k.spend("pageattr_page", run.n)
    return touched


def _refuse_part_of_huge(k: Kernel, name: str, area: VmArea, first: int, pages: int) -> None:
    """Leaves of the mapping itself are never split: a huge one that is partly covered would change as a whole."""
    ends = (first, first + pages - 1)
    if (first > 0 or pages < area.pages) and any(k.text_map.is_huge(area, page) for page in ends):
        raise SimulatedFailure(
            "set-memory-refused",
            f"{name} of a part of a huge leaf would change all of it on riscv64",
            {"pages": pages, "release": k.release.name},
        )
