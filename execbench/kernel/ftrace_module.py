"""ftrace's part in loading a module: records of its call sites, and their code (kernel/trace/ftrace.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.ftrace_code import replace_one
from execbench.kernel.riscv64.patch import FENTRY, POINTER, patch_insn, patch_text_nosync
from execbench.kernel.riscv64.rules import rules_of as riscv64_rules
from execbench.kernel.x86_64.poke import smp_text_poke_batch
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def ftrace_module_init(k: Kernel, sites: int, per_site: str) -> Proc[None]:
    """Note a module's call sites and make each a nop, under ftrace_lock; `per_site` is the cost of noting one.

    The text is writable still, but only x86_64 writes it as such (text_poke_early, part of `per_site`): the others go
    through the fixmap (arch/arm64/kernel/ftrace.c, arch/riscv/kernel/ftrace.c: ftrace_init_nop).
    """
    if not sites:
        return
    with (yield from k.lock("ftrace_lock")):
        k.count("ftrace_module_init", sites)
        k.spend(per_site, sites)
        if k.arch.name != "x86_64":
            for _ in range(sites):
                yield from ftrace_init_nop(k)


def ftrace_init_nop(k: Kernel) -> Proc[None]:
    """One site. arm64: one instruction, since 6.3 behind the literal with its ops; nobody is kicked.

    riscv64, under text_mutex: 6.1 fences all harts for each site (patch_text_nosync), 6.12 none (patch_insn_write);
    since 6.16 the literal, with a fence, then both instructions.
    """
    if k.arch.name == "arm64":
        yield from replace_one(k)
        return
    with (yield from k.lock("text_mutex")):
        rules = riscv64_rules(k)
        if not rules.ftrace_stops:
            yield from patch_text_nosync(k, 0, POINTER, "site")
        if rules.ftrace_stops and not rules.stopped_fence:
            yield from patch_text_nosync(k, 0, FENTRY, "site")
        else:
            yield from patch_insn(k, "patch_insn_write", 0, FENTRY, "site")


def ftrace_module_enable(k: Kernel, sites: int) -> Proc[None]:
    """Let a module's functions be traced by whom it concerns; ftrace_lock always, text_mutex if anybody traces.

    Whose filter names functions cannot mean a module that comes later; who traces all functions means its sites too.
    x86_64 pokes them in batches, the others one by one (__ftrace_replace_code: ftrace_make_call).
    """
    with (yield from k.lock("ftrace_lock")):
        k.count("ftrace_module_enable", sites)
        k.spend("list_walk", max(sites, 1))
        yield from k.settle()
        ftrace = k.shared.ftrace
        if not ftrace.ops:
            return
        called = sites if any(ops.sites >= ftrace.records for ops in ftrace.ops) else 0
        if k.arch.name == "arm64":
            yield from _each(k, called)
            return
        with (yield from k.lock("text_mutex")):
            if k.arch.name == "riscv64":
                yield from _each(k, called)
            elif called:
                yield from smp_text_poke_batch(k, called)


def _each(k: Kernel, sites: int) -> Proc[None]:
    for _ in range(sites):
        yield from replace_one(k)


def ftrace_free_mem(k: Kernel) -> Proc[None]:
    """Forget the records of init's text, which is about to go, under ftrace_lock."""
    with (yield from k.lock("ftrace_lock")):
        k.count("ftrace_free_mem")
        k.spend("list_walk")
