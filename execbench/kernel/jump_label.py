"""Static keys: branches in code that are patched when a key changes (kernel/jump_label.c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def jump_label_update(k: Kernel, sites: int) -> Proc[None]:
    """Change one key and patch its `sites` branches (static_key_enable, static_key_disable: jump_label_update).

    A key without branches costs its locks. All releases patch a key's branches as one batch on x86_64
    (HAVE_JUMP_LABEL_BATCH: arch_jump_label_transform_queue, _apply), one by one and with one synchronization at the end
    elsewhere (k.patch_text). All `sites` are vmlinux's: what modules have of a key is patched apart, module by module
    (__jump_label_mod_update), with rounds of its own, which is left out.
    """
    k.count("cpus_read_lock")
    with (yield from k.lock("jump_label_mutex")):
        yield from update_sites(k, sites)


def jump_label_add_module(k: Kernel, keys: Sequence[int]) -> Proc[None]:
    """Patch what differs in a module that is coming: for each such key its branches in the module, key by key.

    jump_label_module_notify, MODULE_STATE_COMING: __jump_label_update for every key whose state is not the one that
    the module was compiled for. The module's text is read-only and executable by then.
    """
    k.count("cpus_read_lock")
    with (yield from k.lock("jump_label_mutex")):
        k.count("jump_label_add_module")
        for sites in keys:
            yield from update_sites(k, sites)


def jump_label_module_notify(k: Kernel) -> Proc[None]:
    """Take the lock for a module of which nothing is to be patched: it is live, or going."""
    k.count("cpus_read_lock")
    with (yield from k.lock("jump_label_mutex")):
        k.spend("list_walk")


def update_sites(k: Kernel, sites: int) -> Proc[None]:
    """__jump_label_update of one key; the caller holds jump_label_mutex."""
    k.count("jump_label_update", sites)
    if sites:
        yield from k.patch_text(sites)
