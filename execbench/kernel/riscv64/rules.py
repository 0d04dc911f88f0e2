"""What the riscv64 paths depend on: the release's rules of this architecture, and the machine's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.releases import Release
    from execbench.kernel.riscv64.arch import Arch


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Facts of one release on one machine."""

    firmware: bool
    """Remote fences are SBI calls: always on 6.1, else unless S-mode can send interrupts by itself (AIA, SSWI)
    (arch/riscv/include/asm/sbi.h: riscv_use_sbi_for_rfence, 6.4). Then interrupts between harts are SBI calls too,
    which S-mode masks as it does its own (arch/riscv/kernel/sbi.c: sbi_send_ipi)."""
    range_flush: bool = True
    """flush_tlb_kernel_range flushes a range (arch/riscv/mm/tlbflush.c); on 6.1 it is flush_tlb_all."""
    marks_new_maps: bool = True
    """New kernel mappings are noted for every hart, whose fault handler fences and retries (asm/cacheflush.h:
    mark_new_valid_map); on 6.1 vmalloc_fault does it without a note (arch/riscv/mm/fault.c)."""
    fences_after_write: bool = True
    """patch_insn_write ends with a local fence.i before the fixmap entry goes, and runs with preemption off
    (arch/riscv/kernel/patch.c)."""
    stopped_fence: bool = True
    """Harts that are stopped while text is patched leave by a fence.i of their own (patch_text_cb); on 6.1 the writer
    has it done for them meanwhile."""
    ftrace_stops: bool = False
    """Call sites of ftrace are patched with the machine stopped, two instructions each; since 6.16 one instruction is
    exchanged while all run, and with it what the site calls (arch/riscv/kernel/ftrace.c: arch_ftrace_update_code,
    ftrace_rec_update_ops; the default configuration has CALL_OPS)."""
    batched_labels: bool = True
    """Jump labels are queued, with one flush_icache_all at the end (arch/riscv/kernel/jump_label.c:
    arch_jump_label_transform_apply); on 6.1 every site has its own."""
    bpf_flush_again: bool = False
    """The JIT calls flush_icache_range for text that the copy into the pack has flushed already
    (arch/riscv/net/bpf_jit_core.c: bpf_int_jit_compile)."""


_BY_RELEASE: dict[str, dict[str, Any]] = {
    "6.1": {
        "range_flush": False, "marks_new_maps": False, "fences_after_write": False, "batched_labels": False,
        "stopped_fence": False, "ftrace_stops": True,
    },
    "6.12": {"bpf_flush_again": True, "ftrace_stops": True},
    "6.18": {"bpf_flush_again": True},
    "7.3": {},
}  # fmt: skip


def rules_for(release: Release, features: Mapping[str, Any]) -> Rules:
    """Return the rules of a release on a machine with `features` (all keys of riscv64)."""
    return Rules(firmware=release.name == "6.1" or features["rfence"] == "sbi", **_BY_RELEASE[release.name])


def rules_of(k: Kernel) -> Rules:
    """Return the rules of the machine that `k` runs on."""
    return cast("Arch", k.arch).rules
