"""Writing read-only text on riscv64 (arch/riscv/kernel/patch.c, jump_label.c, arch/riscv/net/bpf_jit_core.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from execbench.kernel.riscv64.icache import flush_icache_all, local_flush_icache_all
from execbench.kernel.riscv64.rules import rules_of
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

INSN: Final = 4
FENTRY: Final = 8
"""arch/riscv/net/bpf_jit_comp64.c: RV_FENTRY_NBYTES; asm/ftrace.h: MCOUNT_INSN_SIZE of 6.1 and 6.12."""
POINTER: Final = 8
"""Bytes of a literal with the ftrace_ops of a site (arch/riscv/kernel/ftrace.c: ftrace_rec_set_ops)."""


def pieces(k: Kernel, va: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (address, bytes, pages) of the parts of a range that touch at most two pages each."""
    page = k.page_size
    while size > 0:
        n = min(2 * page - va % page, size)
        yield va, n, (va + n - 1) // page - va // page + 1
        va += n
        size -= n


def patch_insn(k: Kernel, name: str, va: int, size: int, content: str) -> Proc[None]:
    """Write through the fixmap two pages at a time (patch_insn_write, patch_insn_set).

    The caller holds text_mutex. Only this hart flushes the fixmap entries, when they are set and when they are cleared
    (__set_fixmap); other harts may go on using them. Since 6.11 a local fence.i comes before they are cleared, and each
    part has preemption off, which the model leaves out: a thread that is called takes the hart in between. 6.1 leaves
    preemption on.
    """
    k.count(name, size)
    for at, n, pages in pieces(k, va, size):
        k.count("patch_map", pages)
        k.tell("window", "fixmap", at, n, True)
        k.spend("fixmap_map", pages)
        k.spend("tlb_flush_page", 2 * pages)
        k.spend("fill_byte" if content == "trap" else "copy_byte", n)
        k.tell("store", at, n, content, "fixmap")
        if rules_of(k).fences_after_write:
            yield from local_flush_icache_all(k)
        k.tell("window", "fixmap", at, n, False)


def bpf_arch_text_copy(k: Kernel, va: int, size: int) -> Proc[None]:
    """Copy over read-only text, then fence.i everywhere, under text_mutex (bpf_arch_text_copy, patch_text_nosync)."""
    with (yield from k.lock("text_mutex")):
        yield from patch_text_nosync(k, va, size, "code")


def bpf_arch_text_invalidate(k: Kernel, va: int, size: int) -> Proc[None]:
    """Fill with zeroes, which trap, the same way (bpf_arch_text_invalidate, patch_text_set_nosync)."""
    with (yield from k.lock("text_mutex")):
        k.count("patch_text_set_nosync", size)
        yield from patch_insn(k, "patch_insn_set", va, size, "trap")
        yield from flush_icache_all(k)


def bpf_flush_icache(k: Kernel, va: int, size: int) -> Proc[None]:
    """What the JIT does behind the copy into a pack: fence.i everywhere again, on releases that have it."""
    if rules_of(k).bpf_flush_again:
        yield from flush_icache_all(k)


def jump_label_update(k: Kernel, sites: int) -> Proc[None]:
    """Patch every site under text_mutex; one fence.i everywhere at the end, on 6.1 one for each site.

    arch_jump_label_transform (6.1), arch_jump_label_transform_queue and _apply (since 6.11).
    """
    batched = rules_of(k).batched_labels
    for _ in range(sites):
        with (yield from k.lock("text_mutex")):
            yield from patch_insn(k, "patch_insn_write", 0, INSN, "site")
            if not batched:
                yield from flush_icache_all(k)
    if batched:
        yield from flush_icache_all(k)


def patch_text(k: Kernel, size: int = INSN) -> Proc[None]:
    """Patch one site while every hart is stopped, as kprobes are armed; the caller holds text_mutex (patch_text).

    The others leave by a fence.i. On 6.1 the writer has the firmware do it while they are held (patch_text_nosync in
    patch_text_cb), which they cannot mask, and they leave without.
    """
    k.count("patch_text", size)
    yield from stopped(k, size)


def stopped(k: Kernel, size: int) -> Proc[None]:
    """Patch one site of `size` bytes while every hart is stopped (patch_text_cb, ftrace.c:__ftrace_modify_code)."""
    if rules_of(k).stopped_fence:
        begin = yield from k.stop_machine("fence_i", 1, patch_insn(k, "patch_insn_write", 0, size, "site"))
        k.tell("icache", begin, 0, 0, "fence.i-all")
    else:
        yield from k.stop_machine("fence_i", 0, patch_text_nosync(k, 0, size, "site"))


def patch_text_nosync(k: Kernel, va: int, size: int, content: str) -> Proc[None]:
    """Write over read-only text, then fence.i everywhere; the caller holds text_mutex (va 0: a site not modelled)."""
    k.count("patch_text_nosync", size)
    yield from patch_insn(k, "patch_insn_write", va, size, content)
    yield from flush_icache_all(k)


def ftrace_modify_all_code(k: Kernel) -> Proc[None]:
    """Make the one call site of a publication lead elsewhere, under text_mutex.

    That the trace function itself stays what it is goes without a step (FTRACE_UPDATE_TRACE_FUNC).
    """
    with (yield from k.lock("text_mutex")):
        k.count("ftrace_modify_all_code")
        yield from arch_ftrace_update_code(k, ftrace_make_call(k))


def arch_ftrace_update_code(k: Kernel, change: Proc[None]) -> Proc[None]:
    """Do `change` to call sites with all harts stopped, or since 6.16 with a fence.i everywhere behind it.

    The caller holds text_mutex. On 6.1 the stopped harts leave without a fence.i: only one of them runs the function,
    and nobody leaves by one.
    """
    rules = rules_of(k)
    if not rules.ftrace_stops:
        yield from change
        yield from flush_icache_all(k)
        return
    fences = int(rules.stopped_fence)
    begin = yield from k.stop_machine("fence_i", fences, change)
    if fences:
        k.tell("icache", begin, 0, 0, "fence.i-all")


def ftrace_make_call(k: Kernel) -> Proc[None]:
    """One call: both instructions in a stopped machine, on 6.1 with the firmware's fence; since 6.16 the second one.

    Since 6.16 the literal with its ops comes first, with a fence on all harts of its own.
    """
    rules = rules_of(k)
    if not rules.ftrace_stops:
        yield from patch_text_nosync(k, 0, POINTER, "site")
        yield from patch_insn(k, "patch_insn_write", 0, INSN, "site")
    elif rules.stopped_fence:
        yield from patch_insn(k, "patch_insn_write", 0, FENTRY, "site")
    else:
        yield from patch_text_nosync(k, 0, FENTRY, "site")


def bpf_arch_text_poke(k: Kernel) -> Proc[None]:
    """Redirect the call at a program's entry: two instructions, so everybody is stopped (bpf_arch_text_poke).

    Not on 6.1, whose JIT has no trampolines.
    """
    k.count("bpf_arch_text_poke")
    with (yield from k.lock("text_mutex")):
        yield from patch_text(k, FENTRY)


def write_temporary_mm(k: Kernel, va: int, size: int) -> Proc[None]:
    """Write through a mm that only this hart has in satp, two pages at a time, with interrupts off.

    DESIGN: no riscv64 code does this; the model is x86's __text_poke. The entries are flushed locally.
    """
    for at, n, pages in pieces(k, va, size):
        k.count("use_temporary_mm", n)
        with k.irqs_off():
            k.tell("window", "mm", at, n, True)
            k.spend("pte_set", 2 * pages)
            k.spend("mm_switch")
            k.spend("copy_byte", n)
            k.tell("store", at, n, "code", "mm")
            k.spend("tlb_flush_page", pages)
            k.tell("window", "mm", at, n, False)
    return
    yield
