"""Static calls: calls whose target is patched into the code (kernel/static_call_inline.c).

Only x86_64 patches code for them here (arch/x86/kernel/static_call.c): arm64 and riscv64 have no HAVE_STATIC_CALL, so
that a static call is a call through a pointer, and an update a store to it (include/linux/static_call.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from execbench.kernel.x86_64.poke import text_poke_batch
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

Patching = Literal["per-site", "batched", "before-rox"]
PATCHING: Final[dict[Patching, str]] = {
    "per-site": "each site by the int3 protocol of its own, three rounds (today: arch_static_call_transform)",
    "batched": "all sites of a module as jump labels are: three rounds for up to 256 of them (no kernel does that yet)",
    "before-rox": "while the text is still writable, as alternatives are: no round (no kernel does that yet)",
}
"""How the static-call sites of a module that is loaded get their targets."""
CALL_INSN_SIZE: Final = 5
"""Bytes of a CALL or JMP rel32 (arch/x86/include/asm/text-patching.h)."""


def static_call_update(k: Kernel, sites: int) -> Proc[None]:
    """Give one key another function: patch `sites` live instructions one by one (__static_call_update).

    The key's trampoline is one of them, its inlined calls are the others. Nobody waits for a grace period. On arm64 and
    riscv64 only the pointer changes, without a lock.
    """
    if k.arch.name != "x86_64":
        k.count("static_call_update_pointer")
        return
    k.count("cpus_read_lock")
    with (yield from k.lock("static_call_mutex")):
        k.count("__static_call_update")
        for _ in range(sites):
            yield from arch_static_call_transform(k)


def static_call_add_module(k: Kernel, sites: int, patching: Patching = "per-site") -> Proc[None]:
    """Give the `sites` static calls of a module that is coming their targets (static_call_module_notify).

    __static_call_init, with static_call_mutex held.

    The compiler left calls of trampolines, so that every site's bytes differ. Its text is read-only and executable by
    then, unless `patching` is before-rox: then everything has been written before.
    """
    if k.arch.name != "x86_64":
        return
    k.count("cpus_read_lock")
    with (yield from k.lock("static_call_mutex")):
        k.count("static_call_add_module")
        if patching == "per-site":
            for _ in range(sites):
                yield from arch_static_call_transform(k)
        elif patching == "batched":
            yield from text_poke_batch(k, sites, CALL_INSN_SIZE)


def static_call_module_notify(k: Kernel) -> Proc[None]:
    """Take the lock for a module of which nothing is to be patched: it is live, or going."""
    if k.arch.name != "x86_64":
        return
    k.count("cpus_read_lock")
    with (yield from k.lock("static_call_mutex")):
        k.spend("list_walk")


def arch_static_call_transform(k: Kernel) -> Proc[None]:
    """Patch one live call under text_mutex, by itself (smp_text_poke_single, before 6.16 text_poke_bp)."""
    k.count("arch_static_call_transform")
    yield from text_poke_batch(k, 1, CALL_INSN_SIZE)
