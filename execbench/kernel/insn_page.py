"""Pages in which kprobes execute copied instructions: executable when they are allocated, written by poking.

kernel/kprobes.c: alloc_insn_page, prepare_kprobe; arch/x86/kernel/kprobes/core.c, arch/*/kernel/probes/kprobes.c. The
kernel asks for one page at a time and cuts it into slots of two instructions; more of either is what no kernel does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from execbench.kernel.arm64.icache import caches_clean_inval_pou
from execbench.kernel.arm64.patching import write_nosync
from execbench.kernel.execmem import Piece, alloc
from execbench.kernel.riscv64.patch import patch_insn, patch_text_nosync
from execbench.kernel.riscv64.rules import rules_of
from execbench.kernel.text import TextKind
from execbench.kernel.x86_64.poke import text_poke_pieces
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

INSN: Final = 4
"""Bytes of an instruction on arm64 and, compressed ones aside, on riscv64."""


def alloc_insn_page(k: Kernel, pages: int = 1) -> Proc[Piece]:
    """Return pages that are read-only and executable (alloc_insn_page).

    x86_64: set_memory_rox behind module_alloc or execmem_alloc (6.1: set_memory_ro, set_memory_x), unless they come
    from the ROX cache, full of traps. arm64 and riscv64: mapped so at once; arm64 since 6.12 calls set_memory_rox all
    the same, which changes no entry of theirs, but the linear map's.
    """
    piece = yield from alloc(k, pages, TextKind.KPROBES)
    if not piece.cached and (k.arch.name == "x86_64" or (k.arch.name == "arm64" and k.release.execmem)):
        yield from k.set_memory_rox(piece.area)
    return piece


def write_insn_slot(k: Kernel, va: int, size: int) -> Proc[None]:
    """Write one slot of live pages under text_mutex, as prepare_kprobe does: an instruction and what is behind it.

    x86_64 arch_copy_kprobe: text_poke of all bytes, no CPU is told. arm64 arch_prepare_ss_slot:
    aarch64_insn_patch_text_nosync of the instruction and of the breakpoint behind it; the probe's own exception
    synchronizes who gets there. riscv64 arch_prepare_ss_slot: patch_text_nosync of both; on 6.1 patch_text of both,
    which stops the machine.
    """
    with (yield from k.lock("text_mutex")):
        match k.arch.name:
            case "x86_64":
                yield from text_poke_pieces(k, va, size, "copy_byte", "code")
            case "arm64":
                for at, n in _two(va, size):
                    k.count("aarch64_insn_patch_text_nosync")
                    yield from write_nosync(k, at, n, "copy_byte", "code")
                    yield from caches_clean_inval_pou(k, at, n)
            case _ if k.release.execmem:
                for at, n in _two(va, size):
                    yield from patch_text_nosync(k, at, n, "code")
            case _:
                for at, n in _two(va, size):
                    yield from _patch_text(k, at, n)


def _patch_text(k: Kernel, va: int, size: int) -> Proc[None]:
    """riscv64 of 6.1: patch_text, whose patch_text_cb has the firmware fence all harts while they are held.

    Without that firmware, which 6.1 always asks, harts fence when they leave: held ones take no interrupt.
    """
    k.count("patch_text", size)
    if rules_of(k).firmware:
        yield from k.stop_machine("fence_i", 0, patch_text_nosync(k, va, size, "code"))
    else:
        begin = yield from k.stop_machine("fence_i", 1, patch_insn(k, "patch_insn_write", va, size, "code"))
        k.tell("icache", begin, 0, 0, "fence.i-all")


def _two(va: int, size: int) -> list[tuple[int, int]]:
    """Return (address, bytes) of the first instruction, and of what is behind it."""
    first = min(INSN, size)
    return [(va, first), (va + first, size - first)][: 2 if size > first else 1]
