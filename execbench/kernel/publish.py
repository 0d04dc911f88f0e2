"""How finished text becomes reachable, and what each path forces on other CPUs before it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from execbench.kernel.arm64.patching import aarch64_insn_patch_text_nosync
from execbench.kernel.riscv64.patch import ftrace_modify_all_code
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.text import Region

PATHS: Final = {
    "pointer": "a pointer is stored, and read by whoever calls (bpf_prog->bpf_func, ops structures): nothing is forced",
    "fd-only": "a file descriptor; the pointer is stored when it is attached (bpf_prog_load): nothing is forced",
    "module-init": "the loader itself calls the module's init (do_init_module): nothing is forced",
    "text-poke": "a live branch is patched as a jump label is (arch_jump_label_transform)",
    "ftrace": "a live call site is patched as ftrace does (ftrace_replace_code, ftrace_modify_all_code)",
}
"""Publication paths, and what they are in the kernel."""
PASSIVE: Final = ("pointer", "fd-only", "module-init")
"""Paths that force nothing: what holds for one holds for all of them."""


def publish(k: Kernel, region: Region, via: str, inside: str = "rcu") -> Proc[None]:
    """Make a finished region reachable as the path `via` does; `inside` says what protects who executes it.

    text-poke: one site as k.patch_text does: x86_64 three rounds of sync_core behind the copy, arm64 a nosync patch and
    one kick (arch_jump_label_transform_apply), riscv64 fence.i on all harts. ftrace: x86_64 the same; arm64 patches
    without a kick (ftrace_modify_code: aarch64_insn_patch_text_nosync; Mark Rutland on what is missing there:
    <ZJmMQ62fW7RO5W2O@FVFF77S0Q05N>); riscv64 stops all harts, or fences them twice since 6.16
    (execbench.kernel.riscv64.patch.ftrace_modify_all_code). ValueError for a path that is not in PATHS.
    """
    if via not in PATHS:
        raise ValueError(f"publication path {via!r}: one of {', '.join(PATHS)}")
    if via == "ftrace" and k.arch.name == "arm64":
        yield from aarch64_insn_patch_text_nosync(k)
    elif via == "ftrace" and k.arch.name == "riscv64":
        yield from ftrace_modify_all_code(k)
    elif via not in PASSIVE:
        yield from k.patch_text(1)
    k.expose(region, via, inside)
