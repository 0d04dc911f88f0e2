"""Patching of ftrace's call sites and of the function they reach, by architecture and release (kernel/trace/ftrace.c).

execbench.kernel.ftrace registers who wants to be called; here its decisions become code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.kernel.arm64.patching import aarch64_insn_patch_text_nosync, write_nosync
from execbench.kernel.riscv64.patch import arch_ftrace_update_code, ftrace_make_call
from execbench.kernel.riscv64.rules import rules_of as riscv64_rules
from execbench.kernel.smp import smp_call_function
from execbench.kernel.srcu import Srcu
from execbench.kernel.x86_64.poke import smp_text_poke_batch
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.ftrace import FtraceOps

STUB: Final = "ftrace_stub"
LIST: Final = "ftrace_ops_list_func"
LITERAL: Final = 8
"""Bytes of the pointer to its ops before each function (DYNAMIC_FTRACE_WITH_CALL_OPS)."""
_OLD: Final = ("6.1",)


@dataclass(slots=True)
class Ftrace:
    """ftrace's state: registered ops, the function that the common trampoline shall call, and the one it does."""

    ops: list[FtraceOps] = field(default_factory=list)
    trace_function: str = STUB
    saved_func: str = STUB
    """trace_function as it was when code was last changed for it (saved_ftrace_func)."""
    patched: str | None = None
    """What update_ftrace_func wrote last: since 6.2 it writes nothing that is there already (save_func)."""
    tracepoint_srcu: Srcu = field(default_factory=Srcu)
    """The domain in whose readers probes of tracepoints run (kernel/tracepoint.c)."""
    records: int = 60_000
    """Functions that may be called from: each change walks them several times (do_for_each_ftrace_rec). A Debian kernel
    has 60,788 return sites (6.12, amd64), modules come on top; 45,000 to 90,000."""

    def until_last(self, sites: int) -> int:
        """Return how many records are looked at until all `sites` of a filter are found (__ftrace_hash_rec_update).

        The last of c sites at random places among n records is expected at c (n + 1) / (c + 1), here rounded: the mean
        is exact, that places vary is left out (a single site's: evenly, 1 to n). All are, if all functions are traced.
        """
        if sites >= self.records:
            return self.records
        return (sites * (self.records + 1) + (sites + 1) // 2) // (sites + 1)

    def update_function(self) -> bool:
        """Choose the function for the ops there are, and say whether the code must follow (update_ftrace_function).

        None: the stub; one that is static: its own function; one that may be freed, or several: the list's.
        """
        if not self.ops:
            self.trace_function = STUB
        elif len(self.ops) == 1 and not self.ops[0].dynamic:
            self.trace_function = self.ops[0].name
        else:
            self.trace_function = LIST
        changed = self.saved_func != self.trace_function
        self.saved_func = self.trace_function
        return changed


def call_ops(k: Kernel) -> bool:
    """Whether each site names its ops itself, so that no common function has to be patched (..._WITH_CALL_OPS).

    arm64 since 6.3, riscv64 since 6.16 (arch/*/Kconfig: HAVE_DYNAMIC_FTRACE_WITH_CALL_OPS, without CFI).
    """
    if k.arch.name == "arm64":
        return k.release.name not in _OLD
    return k.arch.name == "riscv64" and not riscv64_rules(k).ftrace_stops


def ftrace_run_update_code(k: Kernel, sites: int, function: bool = False) -> Proc[None]:
    """Change `sites` call sites, and the function behind them if told; the caller holds ftrace_lock.

    x86_64 and riscv64 hold text_mutex for all of it (ftrace_arch_code_modify_prepare), arm64 does not.
    """
    if k.arch.name == "arm64":
        yield from _modify_all_code(k, sites, function)
        return
    with (yield from k.lock("text_mutex")):
        if k.arch.name == "x86_64":
            yield from _modify_all_code(k, sites, function)
        else:
            stopped = riscv64_rules(k).ftrace_stops
            yield from arch_ftrace_update_code(k, _modify_all_code(k, sites, function, stopped))


def _modify_all_code(k: Kernel, sites: int, function: bool, stopped: bool = False) -> Proc[None]:
    """ftrace_modify_all_code: by way of the list function, which asks each ops, to the one wanted.

    Before the last step the others must have read the ops it belongs to: an empty call, unless they are stopped.
    """
    ftrace = k.shared.ftrace
    k.count("ftrace_modify_all_code", sites)
    if function:
        yield from _update_ftrace_func(k, LIST)
    if sites:
        yield from _replace_code(k, sites)
    if function and ftrace.trace_function != LIST:
        if not stopped:
            yield from smp_call_function(k, "ftrace_sync_ipi")
        yield from _update_ftrace_func(k, ftrace.trace_function)


def _update_ftrace_func(k: Kernel, func: str) -> Proc[None]:
    """update_ftrace_func: two calls on x86_64 (ftrace_call, ftrace_regs_call), each patched by itself."""
    ftrace = k.shared.ftrace
    if ftrace.patched == func and k.release.name not in _OLD:
        return
    ftrace.patched = func
    if call_ops(k):
        return
    k.count("ftrace_update_ftrace_func")
    match k.arch.name:
        case "x86_64":
            yield from smp_text_poke_batch(k, 1)
            yield from smp_text_poke_batch(k, 1)
        case "arm64":
            yield from aarch64_insn_patch_text_nosync(k)
        case _ if k.release.name in _OLD:
            yield from ftrace_make_call(k)
            yield from ftrace_make_call(k)
        case _:
            yield from ftrace_make_call(k)


def _replace_code(k: Kernel, sites: int) -> Proc[None]:
    """ftrace_replace_code.

    x86_64: batches of the int3 protocol. arm64: one instruction each, nobody is kicked (ftrace_modify_code; M. Rutland
    on what is missing there: <ZJmMQ62fW7RO5W2O@FVFF77S0Q05N>); since 6.3 the literal first. riscv64: two instructions
    with all harts stopped; since 6.16 one, behind the literal, whose patch_text_nosync fences all harts for each site.
    All records are walked, on x86_64 twice: to verify, and to queue.
    """
    k.spend("list_walk", k.shared.ftrace.records * (2 if k.arch.name == "x86_64" else 1))
    if k.arch.name == "x86_64":
        yield from smp_text_poke_batch(k, sites)
        return
    for _ in range(sites):
        yield from replace_one(k)


def replace_one(k: Kernel) -> Proc[None]:
    """One call site where they are patched one by one: arm64, riscv64 (ftrace_make_call)."""
    if k.arch.name == "riscv64":
        yield from ftrace_make_call(k)
        return
    if call_ops(k):
        k.count("aarch64_insn_write_literal_u64")
        yield from write_nosync(k, 0, LITERAL, "copy_byte", "site")
    yield from aarch64_insn_patch_text_nosync(k)
