"""Live patching: relocations into live text, a handler on each function, tasks that change over (kernel/livepatch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.kernel.arm64.patching import aarch64_insn_copy
from execbench.kernel.ftrace import (
    RELEASE,
    FtraceOps,
    TextMemory,
    register_ftrace_function,
    unregister_ftrace_function,
)
from execbench.kernel.text import Region
from execbench.kernel.x86_64.poke import text_poke_pieces
from execbench.kernel.x86_64.tlb import sync_core_each_cpu
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

RELOC: Final = 4
"""Bytes of one relocation (apply_relocate_add: R_X86_64_PC32, R_AARCH64_CALL26)."""
_ARM64: Final = ("6.18", "7.3")
"""Releases with HAVE_LIVEPATCH on arm64: read in 7.3's Kconfig, not in 6.12's; 6.18 from memory (6.17)."""


def refusal(arch: str, release: str) -> str:
    """Return why an architecture of a release cannot be live-patched, "" if it can."""
    if arch == "x86_64" or (arch == "arm64" and release in _ARM64):
        return ""
    return f"no HAVE_LIVEPATCH on {arch} in {release} (arch/{arch}/Kconfig)"


@dataclass(slots=True, eq=False)
class Patch:
    """struct klp_patch: one ftrace_ops per function, for nobody else patches the same ones."""

    region: Region
    ops: list[FtraceOps] = field(default_factory=list)
    unswitched: int = 0
    """Tasks that still run as before."""


def klp_write_section_relocs(k: Kernel, region: Region, relocations: int) -> Proc[None]:
    """Write one section of late relocations into a module that is live already (klp_write_section_relocs).

    x86_64 apply_relocate_add: a poke each under text_mutex, one round behind them. arm64: aarch64_insn_copy of each,
    with caches and a kick of its own (arch/arm64/kernel/module.c: WRITE_PLACE).
    """
    k.count("apply_relocate_add", relocations)
    room = max(region.size - RELOC, 1)
    places = [region.va + room * i // max(relocations, 1) // RELOC * RELOC for i in range(relocations)]
    if k.arch.name == "arm64":
        for va in places:
            yield from aarch64_insn_copy(k, va, RELOC)
        return
    with (yield from k.lock("text_mutex")):
        for va in places:
            yield from text_poke_pieces(k, va, RELOC, "copy_byte", "code")
        yield from sync_core_each_cpu(k)


def klp_patch_object(k: Kernel, patch: Patch, functions: int, memory: TextMemory = RELEASE) -> Proc[None]:
    """Register ftrace's handler on every function, one after the other, each with its ops (klp_patch_func)."""
    for i in range(functions):
        k.count("klp_patch_func")
        k.spend("kmalloc")
        ops = FtraceOps(f"klp_ftrace_handler/{i}", 1, ipmodify=True, memory=memory)
        yield from register_ftrace_function(k, ops)
        patch.ops.append(ops)


def klp_unpatch_objects(k: Kernel, patch: Patch) -> Proc[None]:
    """Take the handler off again; its ops may be freed, so each one waits for Tasks-Rude and Tasks RCU."""
    ops: Sequence[FtraceOps] = patch.ops
    for one in ops:
        k.count("klp_unpatch_func")
        yield from unregister_ftrace_function(k, one)
        k.spend("kfree")
    patch.ops = []


def klp_synchronize_transition(k: Kernel) -> Proc[None]:
    """Wait until a kworker has run on every CPU: handlers run where RCU does not watch (schedule_on_each_cpu)."""
    k.count("klp_synchronize_transition")
    yield from k.settle()
    shared, rules = k.shared, k.shared.machine.rcu.rules.flavours
    if shared.cpus > 1:
        round_ = shared.interrupts.send(k.task.cpu, rules.switch_ns, rules.flight_ns, who="all", until="preemptible")
        yield from shared.interrupts.wait(k.task, round_)
    k.spend("context_switch", 2)
