"""The direct map of text that is written elsewhere, closed before it executes (set_direct_map_invalid_noflush)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from execbench.kernel.arm64.set_memory import PAGE_OFFSET
from execbench.kernel.arm64.tlb import flush_page_by_page
from execbench.kernel.riscv64.set_memory import change_linear
from execbench.kernel.vmalloc import vm_unmap_aliases
from execbench.sim.engine import Proc
from execbench.sim.memory import DirectPerm, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def close_alias(k: Kernel, areas: Sequence[VmArea], perm: DirectPerm) -> Proc[None]:
    """Make the direct map of areas read-only or absent, and let no CPU keep the old entry.

    "ro" is set_memory_ro() of the direct map: on x86_64 its purge comes first and one flush last, on riscv64 one flush
    is last. "np" is set_direct_map_invalid_noflush() of each page and a flush, which riscv64 has in that function, for
    each page. arm64 flushes page by page for both, as it does under rodata=full, without which it can do neither.
    """
    if k.arch.name == "riscv64" and perm == "ro":
        k.count("set_memory_ro", sum(area.pages for area in areas))
        with (yield from k.shared.init_mm.write(k.task)):
            for area in areas:
                for run in area.runs:
                    yield from change_linear(k, run, perm, False)
        yield from k.flush_tlb_all("alias_flush")
        return
    if k.arch.name == "x86_64" and perm == "ro":
        yield from vm_unmap_aliases(k)
    touched = False
    for area in areas:
        touched = (yield from k.set_direct_map(area, perm)) or touched
    if k.arch.name == "x86_64" and touched:
        yield from k.flush_tlb_all("alias_flush")
    elif k.arch.name == "arm64" and touched:
        for area in areas:
            for pfn, n in area.runs:
                yield from flush_page_by_page(k, PAGE_OFFSET + pfn * k.page_size, n, "alias_flush")
