"""Synchronization policies: what an API does so that every CPU executes the text that was written, and nothing older.

POLICIES says for each policy which CPUs get a context-synchronizing event on each architecture, and by what. A backend
asks `require` at its start. Text that is executable while it is written goes through `update_text`, or through
`open_text`, `write_text` and `close_text` where it comes in pieces; text that nobody can fetch yet is followed by
`synchronize`. `enter_text` is the reader's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.errors import InputError
from execbench.kernel.arm64 import patching
from execbench.kernel.arm64.icache import caches_clean_inval_pou
from execbench.kernel.riscv64 import patch
from execbench.kernel.smp import on_each_cpu
from execbench.kernel.x86_64 import poke
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared
    from execbench.kernel.smp import Work
    from execbench.kernel.text import Region

Piece = tuple[int, int]
"""Text at an address: (first byte, bytes)."""

FIRST: Final = {"x86_64": 1, "arm64": 4, "riscv64": 4}
"""Bytes of the trapping instruction: int3, BRK, EBREAK."""
SERIALIZE: Final[dict[str, Work]] = {"x86_64": ("sync_core", 1), "arm64": ("isb", 1), "riscv64": ("fence_i", 1)}
"""What makes the CPU that runs it discard what it has fetched."""
GUARDED: Final = ("int3-protocol", "trap-and-retry")
"""Policies under which the first instruction is a trap until the rest is there."""
FENCES: Final = ("sync-core-ipi", "merged-flush", "stop-machine")
"""Policies that on riscv64 run fence.i on every hart, so that it need not be run for the text itself."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Who gets a context-synchronizing event, and by what, on each architecture; "" = it cannot be expressed there."""

    x86_64: str
    arm64: str
    riscv64: str
    source: str

    def on(self, arch: str) -> str:
        """Return what it guarantees on an architecture."""
        return str(getattr(self, arch))


POLICIES: Final[dict[str, Policy]] = {
    "none": Policy(
        "nobody",
        "nobody",
        "nobody",
        "how modules are loaded (kernel/module/main.c:complete_formation; <20230625161417.GK52412@kernel.org>)",
    ),
    "sync-core-ipi": Policy(
        "all CPUs: SERIALIZE or IRET in the handler",
        "all other CPUs: entry and return of an interrupt",
        "all harts: fence.i",
        "smp_text_poke_sync_each_cpu, kick_all_cpus_sync, flush_icache_all; "
        "<a17c65c6-863f-4026-9c6f-a04b659e9ab4@app.fastmail.com>",
    ),
    "merged-flush": Policy(
        "all CPUs: sync_core in the handler of the TLB flush; behind an INVLPGB flush a round of its own",
        "all other CPUs: a round of its own, as TLBI interrupts nobody",
        "all harts: fence.i in the handler of the TLB flush; behind an SBI rfence a round of its own",
        "derived from <a17c65c6-863f-4026-9c6f-a04b659e9ab4@app.fastmail.com>: finalize needs the flush anyway",
    ),
    "int3-protocol": Policy(
        "all CPUs three times: sync_core between trap, tail and first byte",
        "all other CPUs three times: IC IVAU and an interrupt between BRK, tail and first instruction",
        "all harts three times: fence.i between EBREAK, tail and first instruction",
        "arch/x86/kernel/alternative.c:smp_text_poke_batch_finish; elsewhere design, "
        "after <ZJmMQ62fW7RO5W2O@FVFF77S0Q05N>",
    ),
    "rcu": Policy(
        "nobody: a quiescent state serializes nothing",
        "nobody",
        "nobody",
        "kernel/rcu/tree.c:synchronize_rcu; <a17c65c6-863f-4026-9c6f-a04b659e9ab4@app.fastmail.com>",
    ),
    "rcu-expedited": Policy(
        "CPUs that it interrupts, which are neither idle nor in nohz_full user mode: IRET",
        "CPUs that it interrupts: entry and return",
        "nobody: an interrupt is no fence.i",
        "kernel/rcu/tree_exp.h:rcu_exp_handler",
    ),
    "tasks-rude": Policy(
        "nobody for sure: a switch to a kernel thread keeps CR3, and since 6.13 there is none",
        "nobody for sure: a switch to a kernel thread has no ISB, and since 6.13 there is none",
        "nobody: a context switch is no fence.i, and since 6.13 there is none",
        "kernel/rcu/tasks.h:rcu_tasks_rude_wait_gp, synchronize_rcu_tasks_rude (ARCH_WANTS_NO_INSTR)",
    ),
    "stop-machine": Policy(
        "all CPUs: sync_core in the stopper",
        "all CPUs: ISB in the stopper",
        "all harts: fence.i in the stopper",
        "kernel/stop_machine.c; arm64 aarch64_insn_patch_text_cb, riscv64 patch_text_cb, x86 as text_poke_smp had it",
    ),
    "lazy-generation": Policy(
        "a CPU that enters text after a write: SERIALIZE or IRET to itself",
        "a CPU that enters text after a write: ISB",
        "a hart that enters text after a write: fence.i",
        "Lutomirski, 2023-06-17, on jit_update: all cores check whether a sync is needed and do it themselves",
    ),
    "trap-and-retry": Policy(
        "a CPU that meets the trap: exception and IRET",
        "a CPU that meets the trap: exception entry and return",
        "a hart that meets the trap: fence.i in the handler; all harts once behind each fill with traps",
        "Overstreet <20230625180741.jrrtkq55c4jrqh3t@moria.home.lan>: does a trap imply serialize and retry?",
    ),
    "defer-to-kernel-entry": Policy(
        "all CPUs but nohz_full ones in user mode: sync_core in an interrupt; those: the write of CR3 by which kPTI "
        "enters the kernel",
        "",
        "",
        "RFC v8 'context_tracking,x86: Defer some IPIs until a user->kernel transition', Schneider, 2026-03-24, "
        "patch 9 on text patching, <https://lkml.iu.edu/2603.3/00653.html>",
    ),
}
"""Each policy of the debate; execbench.kernel.sync does what the row says."""


@dataclass(slots=True)
class Generation:
    """What lazy-generation keeps: how often text was written, and up to which write each CPU has serialized."""

    checked: bool = False
    number: int = 0
    seen: dict[int, int] = field(default_factory=dict)


def refusal(policy: str, arch: str) -> str:
    """Return why a policy cannot be expressed on an architecture, "" if it can."""
    if POLICIES[policy].on(arch):
        return ""
    return f"the policy {policy} cannot be expressed on {arch}: {POLICIES[policy].source}"


def require(shared: Shared, policy: str) -> None:
    """Prepare a policy at boot; InputError if the architecture cannot express it."""
    arch = shared.arch.name
    if refusal(policy, arch):
        allowed = ", ".join(name for name in POLICIES if not refusal(name, arch))
        raise InputError("sync", policy, f"on {arch}: {allowed}", refusal(policy, arch))
    shared.text_generation.checked = policy == "lazy-generation"


def synchronize(k: Kernel, policy: str) -> Proc[None]:
    """Do what comes behind the last write, when nobody could fetch the text while it was written.

    Policies that guard text which is executable, and the one whose work rode with a flush, have nothing left to do.
    """
    match policy:
        case "sync-core-ipi":
            yield from k.sync_each_cpu()
        case "rcu":
            yield from k.synchronize_rcu()
        case "rcu-expedited":
            yield from k.synchronize_rcu_expedited()
        case "tasks-rude":
            yield from k.synchronize_rcu_tasks_rude()
        case "stop-machine":
            yield from _stop(k)
        case "lazy-generation":
            yield from k.settle()
            k.count("text_generation")
            k.shared.text_generation.number += 1
        case "defer-to-kernel-entry":
            k.count("sync_core_deferrable")
            begin = yield from on_each_cpu(k, "sync_core_deferrable", SERIALIZE[k.arch.name], who="kernel")
            k.tell("serialize", begin, "all", policy)


def riding(k: Kernel, policy: str) -> tuple[Work, ...]:
    """Return the work that a policy gives to the handler of a flush."""
    return (SERIALIZE[k.arch.name],) if policy == "merged-flush" else ()


def clean_text(k: Kernel, pieces: Sequence[Piece], policy: str = "none") -> Proc[None]:
    """Let fetch on every CPU see stores to text that is not executable yet; no CPU is synchronized.

    x86_64: it does. arm64: by line, to the point of unification. riscv64: fence.i on every hart, which is both, unless
    `policy` will run it anyway.
    """
    if k.arch.name == "arm64":
        for va, size in pieces:
            yield from caches_clean_inval_pou(k, va, size)
    elif k.arch.name == "riscv64" and policy not in FENCES:
        for va, size in pieces[:1]:
            yield from k.flush_icache_range(va, size)


def clean_traps(k: Kernel, pieces: Sequence[Piece], policy: str) -> Proc[None]:
    """Let fetch on every CPU see a fill with traps, where the policy rests on their being met."""
    if policy == "trap-and-retry":
        yield from clean_text(k, pieces)


# --- text that is executable while it is written ----------------------------------------------------------------------


def update_text(k: Kernel, policy: str, pieces: Sequence[Piece], fresh: bool = False) -> Proc[None]:
    """Write over executable text, synchronized as the policy has it when this returns; `fresh`: it is all traps."""
    if policy in GUARDED:
        yield from _exclusively(k, _guarded(k, policy, pieces, fresh))
    elif policy == "stop-machine":
        yield from _exclusively(k, _stop(k, _stopped(k, pieces)))
    else:
        for va, size in pieces:
            yield from _jit_update(k, va, size)
        yield from synchronize(k, policy)


def open_text(k: Kernel, policy: str, pieces: Sequence[Piece], fresh: bool = False) -> Proc[None]:
    """Begin to write over executable text: a trap over each first instruction where one guards the rest."""
    if policy in GUARDED:
        yield from _exclusively(k, _open(k, policy, pieces, fresh))


def write_text(k: Kernel, policy: str, start: int, va: int, size: int) -> Proc[None]:
    """Write `size` bytes at `va` of the text that starts at `start`, but for a first instruction that guards it."""
    skip = max(start + FIRST[k.arch.name] - va, 0) if policy in GUARDED else 0
    if size > skip:
        yield from _jit_update(k, va + skip, size - skip)


def close_text(k: Kernel, policy: str, pieces: Sequence[Piece]) -> Proc[None]:
    """End what `open_text` began: the first instructions where they guard, and the policy's synchronization."""
    if policy in GUARDED:
        yield from _exclusively(k, _close(k, policy, pieces))
    else:
        yield from synchronize(k, policy)


def _jit_update(k: Kernel, va: int, size: int) -> Proc[None]:
    """text_poke_copy, or what would be that elsewhere: other CPUs are told by nobody."""
    if k.arch.name == "x86_64":
        return k.bpf_arch_text_copy(va, size)
    return _exclusively(k, _poke(k, va, size))


def _guarded(k: Kernel, policy: str, pieces: Sequence[Piece], fresh: bool) -> Proc[None]:
    first = FIRST[k.arch.name]
    yield from _open(k, policy, pieces, fresh)
    for va, size in pieces:
        if size > first:
            yield from _poke(k, va + first, size - first)
    yield from _close(k, policy, pieces)


def _open(k: Kernel, policy: str, pieces: Sequence[Piece], fresh: bool) -> Proc[None]:
    if policy == "trap-and-retry" and fresh:
        return
    if k.arch.name == "x86_64" and policy == "int3-protocol":
        k.spend("int3_queue", len(pieces))  # what the handler of a CPU that meets the trap looks up
    for va, size in pieces:
        yield from _poke(k, va, min(FIRST[k.arch.name], size), "trap")
    if policy == "int3-protocol" or k.arch.name == "riscv64":  # no other hart meets a trap that it has not fenced for
        yield from k.sync_each_cpu()


def _close(k: Kernel, policy: str, pieces: Sequence[Piece]) -> Proc[None]:
    """Serialize behind the tails (if there is any), write the first instructions, serialize."""
    first = FIRST[k.arch.name]
    if policy == "int3-protocol" and any(size > first for _, size in pieces):
        yield from k.sync_each_cpu()
    for va, size in pieces:
        yield from _poke(k, va, min(first, size))
    if policy == "int3-protocol":
        yield from k.sync_each_cpu()


def _stopped(k: Kernel, pieces: Sequence[Piece]) -> Proc[None]:
    """Write everything; no lock that its holder could sleep with is taken while the holder is stopped."""
    for va, size in pieces:
        yield from _poke(k, va, size, stopped=True)


def _stop(k: Kernel, work: Proc[None] | None = None) -> Proc[None]:
    """Hold all CPUs while `work` is done; each leaves by serializing itself."""
    begin = yield from k.stop_machine(*SERIALIZE[k.arch.name], work)
    if k.arch.name == "riscv64":
        k.tell("icache", begin, 0, 0, "fence.i-all")


def _exclusively(k: Kernel, body: Proc[None]) -> Proc[None]:
    """Run `body` under text_mutex, but on arm64, whose patch_lock is all that its pokes need."""
    if k.arch.name == "arm64":
        yield from body
    else:
        with (yield from k.lock("text_mutex")):
            yield from body


def _poke(k: Kernel, va: int, size: int, content: str = "code", stopped: bool = False) -> Proc[None]:
    """Write over executable text and do what lets fetch see it, without an interrupt to anybody.

    x86_64: __text_poke. arm64: aarch64_insn_copy without its kick. riscv64: patch_insn_write, whose fence.i is local.
    """
    per_byte = "fill_byte" if content == "trap" else "copy_byte"
    if k.arch.name == "x86_64":
        for n in poke.chunks(va, size):
            if not stopped:
                yield from poke.poke_vmalloc_pages(k)
            poke.text_poke(k, va, n, per_byte, content)
            va += n
    elif k.arch.name == "arm64":
        k.count("text_copy_nosync" if content == "code" else "text_set_nosync", size)
        yield from patching.write_nosync(k, va, size, per_byte, content)
        yield from caches_clean_inval_pou(k, va, size)
    else:
        yield from patch.patch_insn(k, "patch_insn_set" if content == "trap" else "patch_insn_write", va, size, content)


# --- the reader's side ------------------------------------------------------------------------------------------------


def enter_text(k: Kernel, region: Region) -> Proc[None]:
    """Enter a region: under lazy-generation a CPU that has not serialized since the last write does so first.

    The check is a load that may miss and a comparison, as a step along a list is.
    """
    generation = k.shared.text_generation
    if generation.checked:
        k.count("text_generation_check")
        k.spend("list_walk")
        yield from k.settle()
        if generation.seen.get(k.cpu, 0) != generation.number:
            generation.seen[k.cpu] = generation.number
            begin = k.now
            k.count("text_generation_sync")
            k.spend(*SERIALIZE[k.arch.name])
            if k.arch.name == "riscv64":
                k.tell("icache", begin, 0, 0, "fence.i-local")
            k.tell("serialize", begin, "self", "lazy-generation")
    k.tell("fetch", region)
