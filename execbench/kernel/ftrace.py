"""Functions that are called at the entry of others: registering them, and what it changes (kernel/trace/ftrace.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from execbench.kernel.execmem import Piece
from execbench.kernel.ftrace_code import ftrace_run_update_code
from execbench.kernel.text import Image, Region, Request, TextKind
from execbench.kernel.x86_64.poke import smp_text_poke_batch
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

CALL: Final = 5
"""arch/x86/include/asm/text-patching.h: CALL_INSN_SIZE."""
TRAMPOLINE: Final = 320
"""Bytes of ftrace_regs_caller with its return and the pointer behind it; assumed (180 to 420), never above a page."""
_NO_DIRECT: Final = ("6.1",)


class TextMemory(Protocol):
    """Who gives memory for a trampoline: an execbench.contract.Setting, or the release itself (RELEASE)."""

    def alloc(self, k: Kernel, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Hand out one region per request."""

    def write(self, k: Kernel, region: Region, image: Image) -> Proc[None]:
        """Write an image."""

    def finalize(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """Make regions executable."""

    def free(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """Take regions back."""


class ReleaseText:
    """Memory as the release itself takes it for text written in place (arch/x86/kernel/ftrace.c: alloc_tramp)."""

    def alloc(self, k: Kernel, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """module_alloc, execmem_alloc, or execmem_alloc_rw where there is a cache of ROX pages."""
        regions = []
        for req in reqs:
            take = k.execmem_alloc_rw if k.release.rox_cache else k.execmem_alloc
            piece = yield from take(k.pages_of(req.size), req.kind)
            regions.append(Region(0, piece.va, req.size, piece.size, req.kind, piece))
        return tuple(regions)

    def write(self, k: Kernel, region: Region, image: Image) -> Proc[None]:
        """Plain stores: it is writable still."""
        k.store_text(region.va, image.size)
        return
        yield

    def finalize(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """flush_icache_range, set_memory_rox (set_memory_ro, then set_memory_x on 6.1)."""
        for region in regions:
            piece: Piece = region.own
            yield from k.flush_icache_range(region.va, region.size)
            if piece.cached:
                yield from k.execmem_restore_rox(piece)
            else:
                yield from k.set_memory_rox(piece.area)

    def free(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """execmem_free."""
        for region in regions:
            yield from k.execmem_free(region.own)


RELEASE: Final = ReleaseText()


@dataclass(slots=True, eq=False)
class FtraceOps:
    """struct ftrace_ops: who is called, at how many call sites.

    dynamic: it may be freed, hence is only called through the list function or its own trampoline, and unregistering
    waits (FTRACE_OPS_FL_DYNAMIC). direct: it brings a trampoline of its own (FTRACE_OPS_FL_DIRECT). ipmodify: it
    returns elsewhere (FTRACE_OPS_FL_IPMODIFY: live patches), so that direct calls at its sites are looked for.
    """

    name: str
    sites: int
    dynamic: bool = True
    direct: bool = False
    ipmodify: bool = False
    memory: TextMemory = RELEASE
    size: int = TRAMPOLINE
    trampoline: Region | None = None


def ftrace_modify_all_code(k: Kernel, sites: int) -> Proc[None]:
    """Enable or disable `sites` call sites, as this architecture and release do; the caller holds ftrace_lock."""
    return ftrace_run_update_code(k, sites)


def direct_calls(k: Kernel) -> bool:
    """Say whether a kernel has direct calls, hence direct_mutex (arch/*/Kconfig: ..._FTRACE_WITH_DIRECT_CALLS).

    x86_64 on all releases, arm64 and riscv64 on all but 6.1.
    """
    return k.arch.name == "x86_64" or k.release.name not in _NO_DIRECT


def register_ftrace_function(k: Kernel, ops: FtraceOps) -> Proc[None]:
    """Let `ops` be called at its sites; takes direct_mutex, where there are direct calls, and ftrace_lock inside.

    Whoever registers waits for the direct call that is being taken off meanwhile, and for its grace periods.
    """
    if not direct_calls(k):
        yield from register_ftrace_function_nolock(k, ops)
        return
    with (yield from k.lock("direct_mutex")):
        if ops.ipmodify:
            yield from _find_direct_calls(k, ops)
        yield from register_ftrace_function_nolock(k, ops)


def register_ftrace_function_nolock(k: Kernel, ops: FtraceOps) -> Proc[None]:
    """Let `ops` be called at its sites; takes ftrace_lock only, for those who hold direct_mutex."""
    with (yield from k.lock("ftrace_lock")):
        yield from ftrace_startup(k, ops)


def unregister_ftrace_function(k: Kernel, ops: FtraceOps) -> Proc[None]:
    """Let `ops` be called no more; ftrace_lock is held over all waits, and until its trampoline is freed.

    direct_mutex is taken behind it, and only for ops that are `ipmodify` (cleanup_direct_functions_after_ipmodify).
    """
    with (yield from k.lock("ftrace_lock")):
        yield from _shutdown(k, ops)
    if ops.ipmodify and direct_calls(k):
        with (yield from k.lock("direct_mutex")):
            yield from _find_direct_calls(k, ops)


def _find_direct_calls(k: Kernel, ops: FtraceOps) -> Proc[None]:
    """Look for direct calls at each site (prepare_direct_functions_for_ipmodify, cleanup_...); none is ever there."""
    for _ in range(ops.sites):
        with (yield from k.lock("ftrace_lock")):
            k.spend("list_walk", len(k.shared.ftrace.ops))


def ftrace_startup(k: Kernel, ops: FtraceOps) -> Proc[None]:
    """Make a trampoline, choose the common function, then change code; the caller holds ftrace_lock."""
    k.count("ftrace_startup", ops.sites)
    yield from k.settle()
    ftrace = k.shared.ftrace
    ftrace.ops.append(ops)
    if k.arch.name == "x86_64" and not ops.direct:
        yield from arch_ftrace_update_trampoline(k, ops)
    function = ftrace.update_function()
    ftrace_hash_update_ipmodify(k, ops)
    k.spend("list_walk", ftrace.until_last(ops.sites))  # ftrace_hash_rec_enable
    if ops.sites or function:
        yield from ftrace_run_update_code(k, ops.sites, function)


def ftrace_hash_update_ipmodify(k: Kernel, ops: FtraceOps) -> None:
    """Look at all records for ops that are direct or ipmodify: these must agree on a site (..._update_ipmodify)."""
    if ops.direct or ops.ipmodify:
        k.spend("list_walk", k.shared.ftrace.records)


def _shutdown(k: Kernel, ops: FtraceOps) -> Proc[None]:
    """ftrace_shutdown of these ops: the code first; if they may be freed, the waits, then their trampoline.

    Behind the code of the last ops all records are looked at: none may be called for any more.
    """
    yield from k.settle()
    ftrace = k.shared.ftrace
    ftrace.ops.remove(ops)
    function = ftrace.update_function()
    ftrace_hash_update_ipmodify(k, ops)
    k.spend("list_walk", ftrace.until_last(ops.sites))  # ftrace_hash_rec_disable
    if ops.sites or function:
        yield from ftrace_run_update_code(k, ops.sites, function)
        if not ftrace.ops:
            k.spend("list_walk", ftrace.records)
    if ops.dynamic:
        region, ops.trampoline = ops.trampoline, None
        if region is not None:
            k.retire(region)
        yield from ftrace_shutdown(k)
        if region is not None:
            yield from ops.memory.free(k, (region,))


def ftrace_shutdown(k: Kernel) -> Proc[None]:
    """Wait until nobody can be in dynamic ops or their trampoline: tasks-rude, then tasks (ftrace_shutdown).

    6.1 leaves the second out of a kernel that does not preempt.
    """
    k.count("ftrace_shutdown")
    yield from k.synchronize_rcu_tasks_rude()
    if k.release.name != "6.1" or k.shared.machine.flavours.tasks is not None:
        yield from k.synchronize_rcu_tasks()


def ftrace_set_hash(k: Kernel, ops: FtraceOps, sites: int) -> Proc[None]:
    """Add or remove `sites` (negative) of the filter; takes ftrace_lock."""
    with (yield from k.lock("ftrace_lock")):
        k.count("ftrace_set_hash")
        yield from ftrace_hash_move_and_update_ops(k, ops, sites)


def ftrace_hash_move_and_update_ops(k: Kernel, ops: FtraceOps, sites: int) -> Proc[None]:
    """Put a new filter in the place of the old one, which goes after a grace period; the caller holds ftrace_lock.

    Ops that are registered have their records updated twice, for the old filter and for the new one
    (ftrace_hash_move), and then change code (ftrace_ops_update_code).
    """
    yield from k.settle()
    ftrace, old = k.shared.ftrace, ops.sites
    ops.sites += sites
    if ops in ftrace.ops:
        ftrace_hash_update_ipmodify(k, ops)
        k.spend("list_walk", ftrace.until_last(old))  # ftrace_hash_rec_disable_modify
        k.spend("list_walk", ftrace.until_last(ops.sites))  # ftrace_hash_rec_enable_modify
        yield from ftrace_run_update_code(k, abs(sites))
    if old:
        yield from k.call_rcu(lambda: None)  # free_ftrace_hash_rcu


def arch_ftrace_update_trampoline(k: Kernel, ops: FtraceOps) -> Proc[None]:
    """Make a trampoline, or patch the call in the one that ops which are registered again still have (x86_64 only)."""
    if ops.trampoline is None:
        yield from create_trampoline(k, ops)
        return
    with (yield from k.lock("text_mutex")):
        yield from smp_text_poke_batch(k, 1)


def create_trampoline(k: Kernel, ops: FtraceOps) -> Proc[None]:
    """A copy of ftrace_regs_caller that knows its ops; its call is put in under text_mutex (create_trampoline)."""
    k.count("create_trampoline")
    (region,) = yield from ops.memory.alloc(k, [Request(ops.size, TextKind.FTRACE)])
    yield from ops.memory.write(k, region, Image(region.id, ops.size))
    with (yield from k.lock("text_mutex")):
        k.spend("copy_byte", CALL)
    yield from ops.memory.finalize(k, (region,))
    ops.trampoline = region
    k.expose(region, "ftrace", inside(k))


def inside(k: Kernel) -> str:
    """Return what protects those inside a trampoline: the flavours that `ftrace_shutdown` really waits for here."""
    flavours = k.shared.machine.flavours
    waits = ["rude"] if flavours.rude is not None else []
    if flavours.tasks is not None:
        waits.append("tasks")
    return "+".join(waits) or "rcu"
