"""The riscv64 kernel's side of execbench.kernel.arch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from execbench.kernel.releases import MIB
from execbench.kernel.riscv64 import icache, patch, set_memory, tlb
from execbench.kernel.riscv64.rules import rules_for
from execbench.kernel.text import TextKind
from execbench.sim.engine import Proc
from execbench.sim.memory import PAGE, DirectPerm, Leaf, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.releases import Release
    from execbench.kernel.smp import Work
    from execbench.sim.rng import Stream

MODULES, BPF, VMALLOC = "modules", "bpf", "vmalloc"
MODULES_VADDR: Final = 0xFFFF_FFFF_0136_A000
"""2 GiB below the end of the kernel image (arch/riscv/include/asm/pgtable.h: MODULES_VADDR), as in the boot log of a
6.2 kernel on a JH7110 in U-Boot's doc/board/starfive/visionfive2.rst."""
MODULES_END: Final = 0xFFFF_FFFF_8000_0000
"""The start of the kernel image without KASLR (KERNEL_LINK_ADDR)."""
BPF_JIT_REGION_SIZE: Final = 128 * MIB
VMALLOC_START, VMALLOC_END = 0xFFFF_FFC8_0000_0000, 0xFFFF_FFD8_0000_0000
"""With three-level page tables (Sv39); same boot log."""


class Arch:
    """One release on one machine with Sv39."""

    name = "riscv64"
    direct_map_leaf: Leaf = "2M"
    """arch/riscv/mm/init.c:best_map_size: 1G leaves need four levels (since 6.5; 6.1 has none)."""

    def __init__(self, release: Release, features: Mapping[str, Any]) -> None:
        """`features` are the machine's: all keys of riscv64."""
        self.release = release
        self.features = features
        self.rules = rules_for(release, features)
        self.bpf_mitigation_bytes = 0

    def windows(self, stream: Stream) -> dict[str, tuple[int, int]]:
        """What calls can reach, 2 GiB with the kernel image; its top 128 MiB for BPF, lowest first; and vmalloc.

        Module allocations that reach so far share that part. `stream` moves nothing: without KASLR of the image the
        windows are fixed.
        """
        bpf = MODULES_END - BPF_JIT_REGION_SIZE
        return {
            MODULES: (MODULES_VADDR, (MODULES_END - MODULES_VADDR) // PAGE),
            BPF: (bpf, BPF_JIT_REGION_SIZE // PAGE),
            VMALLOC: (VMALLOC_START, (VMALLOC_END - VMALLOC_START) // PAGE),
        }

    def windows_for(self, kind: TextKind) -> tuple[str, ...]:
        """execmem_arch_setup; on 6.1 module_alloc, bpf_jit_alloc_exec, alloc_insn_page."""
        return {TextKind.BPF: (BPF,), TextKind.KPROBES: (VMALLOC,)}.get(kind, (MODULES,))

    def spend_ipi_send(self, k: Kernel, targets: int) -> None:
        """Through the firmware (sbi_send_ipi), or by a register write for each hart, which is in ipi_enqueue."""
        if self.rules.firmware:
            k.spend("sbi_call")
            k.spend("sbi_hart", targets)
        else:
            k.spend("ipi_send")

    def flush_tlb_all(self, k: Kernel, caller: str, *also: Work) -> Proc[None]:
        """See execbench.kernel.riscv64.tlb."""
        return tlb.flush_tlb_all(k, caller, *also)

    def flush_tlb_kernel_range(self, k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
        """See execbench.kernel.riscv64.tlb."""
        return tlb.flush_tlb_kernel_range(k, va, pages, caller)

    def flush_cache_vmap(self, k: Kernel, area: VmArea) -> None:
        """Nobody is told: a hart that has cached the absent entry faults on first touch, fences and retries.

        asm/cacheflush.h:flush_cache_vmap, entry.S:new_valid_map_cpus_check; on 6.1 fault.c:vmalloc_fault. This hart
        pays its fault here, because it touches the area next; others pay when they come to it.
        """
        k.count("mark_new_valid_map" if self.rules.marks_new_maps else "vmalloc_fault")
        k.spend("sfence_fault")

    def set_memory_ro(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.riscv64.set_memory."""
        return set_memory.set_memory(k, "set_memory_ro", area, first, pages, write=False)

    def set_memory_rw(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.riscv64.set_memory."""
        return set_memory.set_memory(k, "set_memory_rw", area, first, pages, write=True)

    def set_memory_x(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.riscv64.set_memory."""
        return set_memory.set_memory(k, "set_memory_x", area, first, pages, execute=True)

    def set_memory_nx(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.riscv64.set_memory."""
        return set_memory.set_memory(k, "set_memory_nx", area, first, pages, execute=False)

    def set_memory_rox(self, k: Kernel, area: VmArea, first: int, pages: int, *also: Work) -> Proc[None]:
        """One after the other, each with its flush (include/linux/set_memory.h); `also` with the second one."""
        if k.release.rox_merged:  # 6.1 has no function of this name
            k.count("set_memory_rox", pages)
        yield from self.set_memory_ro(k, area, first, pages)
        yield from set_memory.set_memory(k, "set_memory_x", area, first, pages, *also, execute=True)

    def set_direct_map(self, k: Kernel, area: VmArea, perm: DirectPerm) -> Proc[bool]:
        """See execbench.kernel.riscv64.set_memory."""
        return set_memory.set_direct_map(k, area, perm)

    def sync_each_cpu(self, k: Kernel) -> Proc[None]:
        """fence.i everywhere: nothing else synchronizes instruction fetch."""
        return icache.flush_icache_all(k)

    def flush_icache_range(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """flush_icache_all: there is no form for a range (asm/cacheflush.h)."""
        return icache.flush_icache_all(k)

    def bpf_arch_text_copy(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.riscv64.patch."""
        return patch.bpf_arch_text_copy(k, va, size)

    def bpf_arch_text_invalidate(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.riscv64.patch."""
        return patch.bpf_arch_text_invalidate(k, va, size)

    def bpf_flush_icache(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.riscv64.patch: what the JIT does behind bpf_arch_text_copy."""
        return patch.bpf_flush_icache(k, va, size)

    def write_temporary_mm(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.riscv64.patch."""
        return patch.write_temporary_mm(k, va, size)

    def patch_text(self, k: Kernel, sites: int, length: int) -> Proc[None]:
        """Jump labels: `length` does not matter, a site is one instruction of four bytes."""
        return patch.jump_label_update(k, sites)
