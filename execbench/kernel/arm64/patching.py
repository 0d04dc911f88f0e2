"""Writing read-only text on arm64 (arch/arm64/kernel/patching.c, jump_label.c, arch/arm64/net/bpf_jit_comp.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from execbench.kernel.arm64.icache import caches_clean_inval_pou, flush_icache_range, kick_all_cpus_sync
from execbench.kernel.arm64.rules import rules_of
from execbench.kernel.arm64.tlb import tlbi
from execbench.sim.engine import Proc
from execbench.sim.memory import VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

INSN: Final = 4
"""AARCH64_INSN_SIZE."""
PLT_TARGET: Final = 8
"""arch/arm64/net/bpf_jit_comp.c: PLT_TARGET_SIZE."""


def pieces(k: Kernel, va: int, size: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Yield (address, bytes, pages) of the parts of a range that touch at most `most` pages each."""
    page = k.page_size
    while size > 0:
        n = min(most * page - va % page, size)
        yield va, n, (va + n - 1) // page - va // page + 1
        va += n
        size -= n


def write_nosync(k: Kernel, va: int, size: int, per_byte: str, content: str) -> Proc[None]:
    """Write through the fixmap, page by page, under patch_lock and with interrupts off for all of it.

    Who waits for the lock spins with interrupts off as well (raw_spin_lock_irqsave). Each entry is cleared by
    __set_fixmap with a broadcast invalidation; until then every CPU may write through it.
    """
    with k.irqs_off(), (yield from k.lock("patch_lock")):
        for at, n, _ in pieces(k, va, size, 1):
            k.count("patch_map")
            k.tell("window", "fixmap", at, n, True)
            k.spend("fixmap_map")
            k.spend(per_byte, n)
            k.tell("store", at, n, content, "fixmap")
            tlbi(k)
            k.tell("window", "fixmap", at, n, False)


def aarch64_insn_copy(k: Kernel, va: int, size: int) -> Proc[None]:
    """Copy over read-only text, flush it from the caches, kick everybody once (aarch64_insn_copy, __text_poke)."""
    k.count("aarch64_insn_copy", size)
    yield from write_nosync(k, va, size, "copy_byte", "code")
    yield from flush_icache_range(k, va, size)


def aarch64_insn_set(k: Kernel, va: int, size: int) -> Proc[None]:
    """Fill read-only text with BRK, flush it from the caches, kick everybody once (aarch64_insn_set, __text_poke)."""
    k.count("aarch64_insn_set", size)
    yield from write_nosync(k, va, size, "fill_byte", "trap")
    yield from flush_icache_range(k, va, size)


def bpf_flush_icache(k: Kernel, va: int, size: int) -> Proc[None]:
    """What the JIT does behind the copy into a pack: the same flush and kick again, on releases that have it."""
    if rules_of(k).bpf_flush_again:
        yield from flush_icache_range(k, va, size)


def aarch64_insn_patch_text_nosync(k: Kernel, va: int = 0) -> Proc[None]:
    """Replace one instruction and flush its line; no CPU but this is synchronized (va 0: a site not modelled)."""
    k.count("aarch64_insn_patch_text_nosync")
    yield from write_nosync(k, va, INSN, "copy_byte", "site")
    yield from caches_clean_inval_pou(k, va, INSN)


def jump_label_update(k: Kernel, sites: int) -> Proc[None]:
    """Patch every site by itself, then kick everybody once (arch_jump_label_transform_queue, _apply)."""
    for _ in range(sites):
        yield from aarch64_insn_patch_text_nosync(k)
    yield from kick_all_cpus_sync(k)


def aarch64_insn_patch_text(k: Kernel, sites: int = 1) -> Proc[None]:
    """Patch instructions while every CPU is stopped, as kprobes are armed (aarch64_insn_patch_text).

    The others leave by an ISB (aarch64_insn_patch_text_cb).
    """
    k.count("aarch64_insn_patch_text", sites)
    yield from k.stop_machine("isb", 1, _patch_all(k, sites))


def _patch_all(k: Kernel, sites: int) -> Proc[None]:
    for _ in range(sites):
        yield from aarch64_insn_patch_text_nosync(k)


def bpf_arch_text_poke(k: Kernel, area: VmArea, page: int, plt: bool) -> Proc[None]:
    """Redirect the branch at a program's entry (bpf_arch_text_poke); `plt`: the target is too far for it.

    Then the target goes into the PLT at the program's end, in `page` of `area`: that live page is writable and
    executable from set_memory_rw until set_memory_ro is done; until 6.12 the linear map of the whole area is writable
    meanwhile. Nobody is kicked: whoever goes to the old target comes back.
    """
    k.count("bpf_arch_text_poke")
    if plt:
        yield from k.set_memory_rw(area, page, 1)
        k.store_text(area.va + page * k.page_size, PLT_TARGET, "site")
        yield from k.set_memory_ro(area, page, 1)
    with (yield from k.lock("text_mutex")):
        yield from aarch64_insn_patch_text_nosync(k)


def write_temporary_mm(k: Kernel, va: int, size: int) -> Proc[None]:
    """Write through a mm in TTBR0 that only this CPU has loaded, two pages at a time, with interrupts off.

    DESIGN: no arm64 code does this; the model is x86's __text_poke. Its local invalidation waits for nobody and is
    part of mm_switch; going back needs an ISB.
    """
    for at, n, pages in pieces(k, va, size, 2):
        k.count("use_temporary_mm", n)
        with k.irqs_off():
            k.tell("window", "mm", at, n, True)
            k.spend("pte_set", 2 * pages)
            k.spend("mm_switch")
            k.spend("copy_byte", n)
            k.tell("store", at, n, "code", "mm")
            k.tell("window", "mm", at, n, False)
            k.spend("isb")
    return
    yield
