"""The arm64 kernel's side of execbench.kernel.arch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from execbench.kernel.arm64 import icache, patching, set_memory, tlb
from execbench.kernel.arm64.rules import rules_for
from execbench.kernel.releases import MIB
from execbench.kernel.text import TextKind
from execbench.sim.engine import Proc
from execbench.sim.memory import PAGE, DirectPerm, Leaf, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.releases import Release
    from execbench.kernel.smp import Work
    from execbench.sim.rng import Stream

DIRECT, PLT, VMALLOC = "modules-direct", "modules-plt", "vmalloc"
KERNEL_CODE: Final = 16_896 << 10
"""Bytes of _stext .. _etext of a 6.8 kernel without KASLR: "16896K kernel code" in the boot log at
lore.kernel.org 20240318114346.112935-1-tanure@linux.com."""
KERNEL_IMAGE: Final = (32_768 - 22_496) << 12
"""Bytes of _text .. _end: "22496 pages in range for non-PLT usage", "514016 pages in range for PLT usage" there."""
MODULES_VADDR: Final = 0xFFFF_8000_0000_0000
"""arch/arm64/include/asm/memory.h: _PAGE_END(48)."""
VMALLOC_END: Final = 0xFFFF_FBFF_F000_0000
"""arch/arm64/include/asm/pgtable.h on 6.1, the lowest of all releases: VMEMMAP_START - SZ_256M."""
_ANYWHERE = frozenset({TextKind.BPF, TextKind.KPROBES})


class Arch:
    """One release on one machine."""

    name = "arm64"

    def __init__(self, release: Release, features: Mapping[str, Any]) -> None:
        """`features` are the machine's: all keys of arm64."""
        self.release = release
        self.features = features
        self.rules = rules_for(release, features)
        self.bpf_mitigation_bytes = 0
        rules = self.rules
        self.direct_map_leaf: Leaf = "4K" if rules.rodata_full and not rules.linear_splits else "1G"

    def windows(self, stream: Stream) -> dict[str, tuple[int, int]]:
        """128 MiB around the kernel that branches reach directly, 2 GiB that PLTs reach, and all of vmalloc.

        arch/arm64/mm/init.c:module_init_limits: without KASLR both windows end with the kernel image; on 6.1
        (arch/arm64/kernel/kaslr.c, module.c:module_alloc) the small one ends with its code and the large one begins
        where the small one does and goes on above the image. The image itself is left out and the hole closed up: what
        lies above is that much lower here. KASLR would move both at random over the image, which cuts them in two but
        makes them neither larger nor smaller; so `stream` moves nothing.
        """
        if self.rules.modules_above:
            kimage = MODULES_VADDR + 128 * MIB
            base = kimage + KERNEL_CODE - 128 * MIB
            direct = base, (kimage - base) // PAGE
            plt = base, (2048 * MIB - KERNEL_IMAGE) // PAGE
        else:
            kimage = MODULES_VADDR + 2048 * MIB
            direct = kimage + KERNEL_IMAGE - 128 * MIB, (128 * MIB - KERNEL_IMAGE) // PAGE
            plt = kimage + KERNEL_IMAGE - 2048 * MIB, (2048 * MIB - KERNEL_IMAGE) // PAGE
        return {DIRECT: direct, PLT: plt, VMALLOC: (kimage, (VMALLOC_END - KERNEL_IMAGE - kimage) // PAGE)}

    def windows_for(self, kind: TextKind) -> tuple[str, ...]:
        """BPF and kprobes anywhere in vmalloc, all else near the kernel (execmem_arch_setup, bpf_jit_alloc_exec)."""
        return (VMALLOC,) if kind in _ANYWHERE else (DIRECT, PLT)

    def spend_ipi_send(self, k: Kernel, targets: int) -> None:
        """Fixed part; the register writes for each target are in ipi_enqueue (irq-gic-v3.c: gic_ipi_send_mask)."""
        k.spend("ipi_send")

    def flush_tlb_all(self, k: Kernel, caller: str, *also: Work) -> Proc[None]:
        """See execbench.kernel.arm64.tlb."""
        return tlb.flush_tlb_all(k, caller, *also)

    def flush_tlb_kernel_range(self, k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
        """See execbench.kernel.arm64.tlb."""
        return tlb.flush_tlb_kernel_range(k, va, pages, caller)

    def flush_cache_vmap(self, k: Kernel, area: VmArea) -> None:
        """DSB ISHST and ISB, behind each entry or behind all (asm/pgtable.h: __set_pte, emit_pte_barriers).

        They order the walkers of all CPUs behind the stores, but drop a remembered fault on this CPU alone.
        """
        k.spend("isb", area.pages if self.rules.barrier_per_pte else 1)
        k.tell("serialize", k.now, "self", "isb")

    def set_memory_ro(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.arm64.set_memory."""
        return set_memory.change_memory_common(k, "set_memory_ro", area, first, pages, write=False)

    def set_memory_rw(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.arm64.set_memory."""
        return set_memory.change_memory_common(k, "set_memory_rw", area, first, pages, write=True)

    def set_memory_x(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.arm64.set_memory."""
        return set_memory.change_memory_common(k, "set_memory_x", area, first, pages, execute=True)

    def set_memory_nx(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.arm64.set_memory."""
        return set_memory.change_memory_common(k, "set_memory_nx", area, first, pages, execute=False)

    def set_memory_rox(self, k: Kernel, area: VmArea, first: int, pages: int, *also: Work) -> Proc[None]:
        """One after the other, each with its purge and its flush (include/linux/set_memory.h); `also` in a round."""
        if k.release.rox_merged:  # 6.1 has no function of this name
            k.count("set_memory_rox", pages)
        yield from self.set_memory_ro(k, area, first, pages)
        yield from self.set_memory_x(k, area, first, pages)
        if also:
            yield from tlb.round_of(k, "set_memory_rox", *also)

    def set_direct_map(self, k: Kernel, area: VmArea, perm: DirectPerm) -> Proc[bool]:
        """See execbench.kernel.arm64.set_memory."""
        return set_memory.set_direct_map(k, area, perm)

    def sync_each_cpu(self, k: Kernel) -> Proc[None]:
        """See execbench.kernel.arm64.icache."""
        return icache.sync_each_cpu(k)

    def flush_icache_range(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.arm64.icache."""
        return icache.flush_icache_range(k, va, size)

    def bpf_arch_text_copy(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """aarch64_insn_copy."""
        return patching.aarch64_insn_copy(k, va, size)

    def bpf_arch_text_invalidate(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """aarch64_insn_set with BRK."""
        return patching.aarch64_insn_set(k, va, size)

    def bpf_flush_icache(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.arm64.patching: what the JIT does behind bpf_arch_text_copy."""
        return patching.bpf_flush_icache(k, va, size)

    def write_temporary_mm(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """See execbench.kernel.arm64.patching."""
        return patching.write_temporary_mm(k, va, size)

    def patch_text(self, k: Kernel, sites: int, length: int) -> Proc[None]:
        """Jump labels: `length` does not matter, every instruction has four bytes."""
        return patching.jump_label_update(k, sites)
