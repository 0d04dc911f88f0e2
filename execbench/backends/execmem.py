"""execmem, plain: module_alloc's successor, ranges per type over vmalloc, merged set_memory_rox (mm/execmem.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from execbench.backends.module_alloc import ModuleAlloc
from execbench.contract import Proc, Region, Support, Totals

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


@dataclass(frozen=True, kw_only=True)
class Execmem(ModuleAlloc):
    """execmem_alloc without a ROX cache: on x86_64 every type draws from the module range, so allocation is as before.

    What it replaced made text read-only and executable in two steps; here it is one (set_memory_rox).
    """

    support: ClassVar[Support] = Support(
        writable_in_place=True, shipped=("6.12", "6.18"), source="mm/execmem.c, include/linux/set_memory.h"
    )

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """set_memory_rox: its flush is all the synchronization there is."""
        for region in regions:
            yield from k.set_memory_rox(region.own)
