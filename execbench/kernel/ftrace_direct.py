"""Direct calls: call sites of ftrace that go straight to a trampoline of somebody else (kernel/trace/ftrace.c)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.kernel.ftrace import (
    FtraceOps,
    ftrace_hash_move_and_update_ops,
    ftrace_hash_update_ipmodify,
    register_ftrace_function_nolock,
    unregister_ftrace_function,
)  # fmt: skip
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

DIRECT: Final = "call_direct_funcs"
_SINGLE: Final = ("7.3",)
"""Releases in which x86_64 has one static ftrace_ops for all trampolines (kernel/bpf/trampoline.c: direct_ops,
CONFIG_HAVE_SINGLE_FTRACE_DIRECT_OPS); 6.18 waits as for ops that may be freed, so it has not (traced)."""
_WAITS: Final = ("6.1",)
"""Releases that wait until nobody reads a table that grew (register_ftrace_direct_multi); later ones call back."""
_TABLE: Final = 32


def _static(name: str, sites: int, direct: bool) -> FtraceOps:
    return FtraceOps(name, sites, dynamic=False, direct=direct)


@dataclass(slots=True, eq=False)
class DirectFunctions:
    """The table of direct calls, and the static ops that changing them needs.

    tmp_ops keeps its trampoline from one modification to the next, so that only the first one makes it.
    """

    entries: int = 0
    buckets: int = 0
    """0: the table is the empty one that is never freed (EMPTY_HASH)."""
    tmp_ops: FtraceOps = field(default_factory=lambda: _static("ftrace_stub", 1, direct=False))
    direct_ops: FtraceOps = field(default_factory=lambda: _static(DIRECT, 0, direct=True))

    def grow(self, k: Kernel) -> bool:
        """Make room for one entry more; say whether a table was replaced that others may still read.

        6.1 copies into a bigger one when the table is empty or has more than two entries a bucket
        (ftrace_add_rec_direct), and waits even for the empty one; 6.12 and later always copy (register_ftrace_direct).
        """
        if k.release.name in _WAITS:
            old = not self.entries or self.entries > 2 * self.buckets
            if old:
                size = max(self.entries + 1 if self.entries else 0, _TABLE)
                self.buckets = 1 << (size // 2).bit_length()
        else:
            old, self.buckets = self.buckets > 0, 1
        self.entries += 1
        return old


def single_ops(k: Kernel) -> bool:
    """Say whether all trampolines share one static ftrace_ops."""
    return k.arch.name == "x86_64" and k.release.name in _SINGLE


def ops_of(k: Kernel, direct: DirectFunctions) -> FtraceOps:
    """Return the ftrace_ops of a new trampoline: one of its own that may be freed, or the common one."""
    return direct.direct_ops if single_ops(k) else FtraceOps(DIRECT, 1, direct=True)


def register_ftrace_direct(k: Kernel, direct: DirectFunctions, ops: FtraceOps) -> Proc[None]:
    """Let one call site go to a trampoline (register_ftrace_direct; _multi on 6.1; update_ftrace_direct_add on 7.x)."""
    if ops is not direct.direct_ops:
        k.count("ftrace_set_filter_ip")
        yield from k.call_rcu(_freed)  # the filter that the new one replaces (__ftrace_hash_move_and_update_ops)
    with (yield from k.lock("direct_mutex")):
        k.count("register_ftrace_direct")
        k.spend("kmalloc", 2)
        yield from k.settle()
        old = direct.grow(k)
        if ops is direct.direct_ops and ops.sites:
            yield from _change(k, ops, 1)
        else:
            ops.sites = 1
            yield from register_ftrace_function_nolock(k, ops)
    if old and k.release.name in _WAITS:
        yield from k.synchronize_rcu_tasks()
    elif old:
        yield from k.call_rcu_tasks(_freed)


def modify_ftrace_direct(k: Kernel, direct: DirectFunctions, ops: FtraceOps) -> Proc[None]:
    """Let a direct call site go to another trampoline (modify_ftrace_direct; update_ftrace_direct_mod on 7.x).

    Other ops at the same site force it to the list function, where the new target is read; taking them away lets the
    site be patched to the new target. In between all records are looked at once more, for the ops themselves.
    """
    with (yield from k.lock("direct_mutex")):
        k.count("modify_ftrace_direct")
        yield from register_ftrace_function_nolock(k, direct.tmp_ops)
        ftrace_hash_update_ipmodify(k, ops)
        with (yield from k.lock("ftrace_lock")):
            k.spend("list_walk")
        yield from unregister_ftrace_function(k, direct.tmp_ops)


def unregister_ftrace_direct(k: Kernel, direct: DirectFunctions, ops: FtraceOps) -> Proc[None]:
    """Make a direct call site a nop again (unregister_ftrace_direct; update_ftrace_direct_del on 7.x).

    Ops that may be freed are waited for with ftrace_lock and direct_mutex held; the common ones are static.
    """
    with (yield from k.lock("direct_mutex")):
        k.count("unregister_ftrace_direct")
        if ops is direct.direct_ops and ops.sites > 1:
            yield from _change(k, ops, -1)
        else:
            yield from unregister_ftrace_function(k, ops)
            ops.sites = 0
        yield from k.settle()
        direct.entries -= 1
        k.spend("kfree")
    if ops is direct.direct_ops:
        yield from k.call_rcu_tasks(_freed)


def _change(k: Kernel, ops: FtraceOps, sites: int) -> Proc[None]:
    """Add a site to ops that are registered, or take one away (ftrace_update_ops).

    One callback frees their old filter; the one that was made for the change had to be copied and is freed at once.
    """
    with (yield from k.lock("ftrace_lock")):
        yield from ftrace_hash_move_and_update_ops(k, ops, sites)


def _freed() -> None:
    """A table of addresses is freed: nothing that anybody could execute."""
