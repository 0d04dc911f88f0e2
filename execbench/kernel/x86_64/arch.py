"""The x86_64 kernel's side of execbench.kernel.arch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from execbench.kernel.text import TextKind
from execbench.kernel.x86_64 import poke, set_memory, tlb
from execbench.sim.engine import Proc
from execbench.sim.memory import PAGE, DirectPerm, Leaf, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.releases import Release
    from execbench.kernel.smp import Work
    from execbench.sim.rng import Stream

MODULES = "modules"
MODULES_VADDR = 0xFFFF_FFFF_C000_0000
"""arch/x86/include/asm/pgtable_64_types.h: MODULES_VADDR with a 1 GiB kernel image window (RANDOMIZE_BASE)."""


FINEIBT_BYTES = 16
"""ENDBR, SUB of the hash and JNE in front of a function (arch/x86/net/bpf_jit_comp.c: emit_fineibt)."""
RETHUNK_BYTES = 3
"""A jump to the return thunk for RET and INT3 (arch/x86/net/bpf_jit_comp.c: emit_return, cpu_wants_rethunk)."""


class Arch:
    """One release on one machine."""

    name = "x86_64"
    direct_map_leaf: Leaf = "1G"

    def __init__(self, release: Release, features: Mapping[str, Any]) -> None:
        """`features` are the machine's."""
        self.release = release
        self.features = features
        fineibt = FINEIBT_BYTES if features["fineibt"] and release.bpf_cfi else 0
        self.bpf_mitigation_bytes = fineibt + (RETHUNK_BYTES if features["its"] else 0)

    def windows(self, stream: Stream) -> dict[str, tuple[int, int]]:
        """One window for modules, BPF and all other text; KASLR moves its start by 1 to 1024 pages.

        arch/x86/kernel/module.c:get_module_load_offset, arch/x86/mm/init.c:execmem_arch_setup.
        """
        offset = 1 + int(stream.u() * 1024)
        return {MODULES: (MODULES_VADDR + offset * PAGE, self.release.module_window // PAGE - offset)}

    def windows_for(self, kind: TextKind) -> tuple[str, ...]:
        """All text must lie within 2 GiB of the kernel image."""
        return (MODULES,)

    def spend_ipi_send(self, k: Kernel, targets: int) -> None:
        """One write for all others by shorthand; else as many as the APIC's addressing needs for the mask."""
        k.spend("ipi_send", self._sends(targets, k.cpu, k.shared.cpus))

    def _sends(self, targets: int, sender: int, cpus: int) -> int:
        """Return how often the ICR is written, or the hypercall made.

        arch/x86/kernel/apic/ipi.c:native_send_call_func_ipi: the shorthand needs a mask of everybody. x2APIC in cluster
        mode reaches 16 CPUs with one write (x2apic_cluster.c:__x2apic_send_IPI_mask), xAPIC one
        (default_send_IPI_mask_sequence_phys), a KVM guest 128 with one hypercall (arch/x86/kernel/kvm.c:
        __send_ipi_mask, KVM_IPI_CLUSTER_SIZE). APIC identifiers are taken to be as dense as CPU numbers; which CPUs a
        smaller mask has is not known here, so that it is taken to be spread over all clusters.
        """
        how = self.features.get("ipi", "shorthand")
        if how == "shorthand" and targets == cpus - 1:
            return 1
        reach = 128 if how == "hypercall" else 16 if self.features.get("apic", "x2apic") == "x2apic" else 1
        groups = -(-cpus // reach)
        alone = reach > 1 and sender // reach * reach == sender == cpus - 1  # nobody else in the sender's group
        return min(targets, groups - alone)

    def flush_tlb_all(self, k: Kernel, caller: str, *also: Work) -> Proc[None]:
        """See execbench.kernel.x86_64.tlb."""
        return tlb.flush_tlb_all(k, caller, *also)

    def flush_tlb_kernel_range(self, k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
        """See execbench.kernel.x86_64.tlb."""
        return tlb.flush_tlb_kernel_range(k, va, pages, caller)

    def flush_cache_vmap(self, k: Kernel, area: VmArea) -> None:
        """Nothing: absent entries are never cached."""

    def set_memory_ro(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.x86_64.set_memory."""
        return set_memory.set_memory_ro(k, area, first, pages)

    def set_memory_rw(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.x86_64.set_memory."""
        return set_memory.set_memory_rw(k, area, first, pages)

    def set_memory_x(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.x86_64.set_memory."""
        return set_memory.set_memory_x(k, area, first, pages)

    def set_memory_nx(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """See execbench.kernel.x86_64.set_memory."""
        return set_memory.set_memory_nx(k, area, first, pages)

    def set_memory_rox(self, k: Kernel, area: VmArea, first: int, pages: int, *also: Work) -> Proc[None]:
        """See execbench.kernel.x86_64.set_memory."""
        return set_memory.set_memory_rox(k, area, first, pages, *also)

    def set_direct_map(self, k: Kernel, area: VmArea, perm: DirectPerm) -> Proc[bool]:
        """No flush but those of splits."""
        return set_memory.change_alias(k, area.runs, perm)

    def sync_each_cpu(self, k: Kernel) -> Proc[None]:
        """See execbench.kernel.x86_64.tlb.sync_core_each_cpu."""
        return tlb.sync_core_each_cpu(k)

    def flush_icache_range(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """Nothing: instruction fetch is coherent with stores."""
        return
        yield

    def bpf_arch_text_copy(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """text_poke_copy."""
        return poke.text_poke_copy(k, va, size)

    def bpf_arch_text_invalidate(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """text_poke_set with int3."""
        return poke.text_poke_set(k, va, size)

    def bpf_flush_icache(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """Nothing: instruction fetch is coherent with stores."""
        return
        yield

    def write_temporary_mm(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """__text_poke without text_mutex."""
        for n in poke.chunks(va, size):
            poke.text_poke(k, va, n, "copy_byte", "code")
            va += n
        return
        yield

    def patch_text(self, k: Kernel, sites: int, length: int) -> Proc[None]:
        """smp_text_poke_batch: the int3 protocol."""
        return poke.text_poke_batch(k, sites, length)
