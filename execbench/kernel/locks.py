"""The kernel's own locks on the paths modelled here: declared once, one row each."""

from __future__ import annotations

from execbench.sim.locks import LockKind

LOCKS = {
    kind.name: kind
    for kind in (
        LockKind("text_mutex", "mutex", "kernel/extable.c: text_mutex"),
        LockKind("free_vmap_area_lock", "spinlock", "mm/vmalloc.c: free_vmap_area_lock"),
        LockKind("vmap_purge_lock", "mutex", "mm/vmalloc.c: vmap_purge_lock"),
        LockKind("cpa_lock", "spinlock", "arch/x86/mm/pat/set_memory.c: cpa_lock"),
    )
}
