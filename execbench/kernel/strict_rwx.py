"""Permissions of a module whose pages are its own, in the order of complete_formation (kernel/module/strict_rwx.c).

Other text is protected piece by piece: a program (include/linux/filter.h: bpf_jit_binary_lock_ro), a trampoline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from execbench.kernel.text import TextKind
from execbench.kernel.x86_64 import set_memory
from execbench.sim.engine import Proc
from execbench.sim.memory import VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

Part = tuple[TextKind, VmArea]
"""A region of the module, and its pages."""
TEXT: Final = (TextKind.MODULE_TEXT, TextKind.INIT_TEXT)
"""include/linux/module.h: mod_mem_type_is_text."""
DATA: Final = (TextKind.MODULE_DATA, TextKind.RODATA, TextKind.RO_AFTER_INIT)
"""include/linux/module.h: mod_mem_type_is_data."""
NX: Final = (TextKind.RODATA, TextKind.RO_AFTER_INIT, TextKind.MODULE_DATA)
"""Data in the order of 6.1's module_enable_nx."""


def complete_formation(k: Kernel, parts: Sequence[Part]) -> Proc[None]:
    """Protect a module in three passes, as 6.1 does: everything read-only, data NX, then text executable.

    kernel/module/main.c:complete_formation: module_enable_ro, module_enable_nx, module_enable_x. Data is NX already:
    a call that changes no entry, but purges on x86_64. Other text is made read-only and executable by itself.
    """
    for area in _of(parts, TEXT[:1], (TextKind.RODATA,), TEXT[1:]):
        yield from k.set_memory_ro(area)
    for area in _of(parts, NX):
        yield from k.set_memory_nx(area)
    for area in _of(parts, TEXT):
        yield from k.set_memory_x(area)
    for kind, area in parts:
        if kind not in (*TEXT, *DATA):
            yield from k.set_memory_ro(area)
            yield from k.set_memory_x(area)


def module_enable_data(k: Kernel, parts: Sequence[Part]) -> Proc[None]:
    """Make constants read-only and all data NX, before any text (since 6.4: module_enable_rodata_ro, _data_nx)."""
    for area in _of(parts, (TextKind.RODATA,)):
        yield from k.set_memory_ro(area)
    for area in _of(parts, DATA):
        yield from k.set_memory_nx(area)


def set_memory_rox_at_once(k: Kernel, area: VmArea) -> Proc[None]:
    """Make text read-only and executable by one change_page_attr_set_clr, also before x86_64 had a function for it."""
    return set_memory.set_memory_rox_at_once(k, area, 0, area.pages)


def _of(parts: Sequence[Part], *orders: Sequence[TextKind]) -> list[VmArea]:
    """Return the areas of these kinds, kind by kind."""
    return [area for order in orders for wanted in order for kind, area in parts if kind is wanted]
