"""Redirecting a branch in or at the entry of BPF text (arch/*/net/bpf_jit_comp*.c: bpf_arch_text_poke)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.arm64.patching import aarch64_insn_patch_text_nosync
from execbench.kernel.riscv64 import patch
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def bpf_arch_text_poke(k: Kernel) -> Proc[None]:
    """Replace one near branch, nop or jump inside BPF text; takes text_mutex.

    x86_64: the int3 protocol for one site. arm64: one instruction, nobody is kicked. riscv64: every hart is stopped,
    for its jump is two instructions (arch_bpf_trampoline_skip of 7.x: one, and stops them all the same).
    """
    if k.arch.name == "x86_64":
        k.count("bpf_arch_text_poke")
        yield from k.patch_text(1)
    elif k.arch.name == "arm64":
        k.count("bpf_arch_text_poke")
        with (yield from k.lock("text_mutex")):
            yield from aarch64_insn_patch_text_nosync(k)
    else:
        k.count("cpus_read_lock")
        yield from patch.bpf_arch_text_poke(k)
