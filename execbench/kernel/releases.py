"""What differs between kernel releases, as typed data; each field names the file and function that fixes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from execbench.errors import InputError, did_you_mean
from execbench.kernel.text import TextKind

MIB = 1 << 20
MODULE_ROX = (TextKind.MODULE_TEXT, TextKind.INIT_TEXT, TextKind.KPROBES, TextKind.FTRACE)
"""Types whose range has EXECMEM_ROX_CACHE since 6.18 (arch/x86/mm/init.c: execmem_arch_setup)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """Facts of one release; `None` in a rule means: computed from the machine as the release does."""

    name: str
    module_window: int = 1008 * MIB
    """Bytes of the module area with RANDOMIZE_BASE (arch/x86/include/asm/pgtable_64_types.h: MODULES_VADDR, _END)."""
    pack_bytes: int = 2 * MIB
    """Bytes of a bpf_prog_pack per possible node (kernel/bpf/core.c: BPF_PROG_PACK_SIZE)."""
    pack_chunk: int = 64
    """Allocation unit inside a pack (kernel/bpf/core.c: BPF_PROG_CHUNK_SIZE)."""
    ibpb_on_cbpf: bool
    """A classic program that reuses a pack flushes every CPU's branch predictor first, where the CPUs need it
    (kernel/bpf/core.c: bpf_prog_pack_alloc, bpf_arch_pred_flush; arch/x86/kernel/cpu/bugs.c)."""
    execmem: bool
    """mm/execmem.c with a range for each type; before it, arch/*/kernel/module.c: module_alloc for all."""
    mod_mem: bool
    """A module has an area per type of memory, and a second request for one that is being loaded waits before it
    allocates anything; before it two areas, core_layout and init_layout (kernel/module/main.c: module_memory_alloc,
    idempotent_init_module, 6.4)."""
    sealed_alone: bool
    """When init has run only what is read-only from then on is set so, .static_call_sites with it (kernel/module/
    strict_rwx.c: module_enable_rodata_ro_after_init); before it constants are set read-only once more."""
    vmap_nodes: bool
    """Data gets its addresses from pools of the caller's node; before it, from one tree under free_vmap_area_lock, as
    code does (mm/vmalloc.c: node_alloc, 6.9)."""
    rox_cache: tuple[TextKind, ...]
    """Kinds that x86_64 serves from the cache of read-only executable 2M pages (arch/x86/mm/init.c:
    execmem_arch_setup; mm/execmem.c: execmem_cache_alloc)."""
    rox_merged: bool
    """x86_64 has a set_memory_rox of one operation; else it is set_memory_ro, then set_memory_x
    (arch/x86/mm/pat/set_memory.c: set_memory_rox, 6.2)."""
    rox_collapse: bool
    """set_memory_rox tries to restore huge leaves and flushes again if it did (arch/x86/mm/pat/set_memory.c:
    CPA_COLLAPSE, 6.15)."""
    nx_ranged_flush: bool
    """Operations on NX alone look for no alias, so that their flush may be ranged (arch/x86/mm/pat/set_memory.c:
    change_page_attr_set_clr, checkalias)."""
    cpa_mmap_lock: bool
    """change_page_attr walks under the read side of init_mm's mmap lock, a collapse and a text poke's page walk too
    (arch/x86/mm/pat/set_memory.c: __change_page_attr_set_clr, cpa_collapse_large_pages, 7.x)."""
    alias_whole_area: bool
    """arm64 changes the linear map of the whole vm_area, whatever part was asked for (arch/arm64/mm/pageattr.c:
    change_memory_common, the loop over area->nr_pages)."""
    linear_block_map: bool
    """arm64 keeps block mappings in the linear map under rodata=full and splits them live, where the CPU can
    (arch/arm64/mm/mmu.c: split_kernel_leaf_mapping, 6.18)."""
    bpf_cfi: bool
    """The JIT puts FineIBT preambles before its functions (arch/x86/net/bpf_jit_comp.c: emit_fineibt, 6.9)."""
    invlpgb: bool
    """The kernel uses broadcast TLB flushes where the CPUs have them (arch/x86/mm/tlb.c: flush_tlb_all, 6.15)."""
    poke_batch: int = 256
    """Sites per batch of the int3 protocol (arch/x86/kernel/alternative.c: TEXT_POKE_ARRAY_MAX, TP_VEC_MAX)."""
    flush_ceiling: int = 33
    """Pages above which a kernel range flush becomes a full one (arch/x86/mm/tlb.c: tlb_single_page_flush_ceiling)."""
    wake_from_gp_param: bool
    """There is a parameter rcu_normal_wake_from_gp, which a machine may set; before it synchronous waiters are always
    callbacks (kernel/rcu/tree.c: synchronize_rcu_normal; 6.1: synchronize_rcu)."""
    wake_from_gp: bool | None
    """rcu_normal_wake_from_gp where nobody sets it: None = on up to 16 possible CPUs (kernel/rcu/tree.c:
    WAKE_FROM_GP_CPU_THRESHOLD)."""
    direct_wakes: int = 5
    """Waiters that the grace-period kthread wakes itself (kernel/rcu/tree.c: SR_MAX_USERS_WAKE_FROM_GP)."""
    jiffies_till_first_fqs: int | None = None
    """None = 1 + (HZ > 250) + (HZ > 500) + nr_cpu_ids / 256 (kernel/rcu/tree.h: RCU_JIFFIES_TILL_FORCE_QS)."""
    jiffies_till_next_fqs: int | None = None
    """As jiffies_till_first_fqs (kernel/rcu/tree.c: jiffies_till_next_fqs)."""
    lazy_max_pages: int | None = None
    """None = fls(num_online_cpus()) * 32 MiB / PAGE_SIZE (mm/vmalloc.c: lazy_max_pages)."""
    csd_preemptible: bool
    """A sender may be preempted while it waits for its calls (kernel/smp.c: smp_call_function_many_cond, put_cpu before
    csd_lock_wait)."""
    tasks_trace: Literal["holdouts", "srcu"]
    """Tasks Trace RCU scans for readers itself, or is an SRCU domain (kernel/rcu/tasks.h: call_rcu_tasks_trace)."""
    aux_bytes: int
    """sizeof(struct bpf_insn_aux_data), one per instruction, vzalloc'ed for the verifier (kernel/bpf/verifier.c)."""
    source: str

    def __post_init__(self) -> None:
        """Refuse rules that no kernel could have; kinds may be given by their names."""
        known = {kind.value for kind in TextKind}
        rules = {
            "module_window": (self.module_window >= 16 * MIB, "at least 16MiB"),
            "pack_bytes": (self.pack_bytes >= 4096 and self.pack_bytes % 4096 == 0, "whole pages"),
            "pack_chunk": (0 < self.pack_chunk <= 4096 and not self.pack_chunk & (self.pack_chunk - 1),
                           "a power of two up to 4096 bytes"),
            "rox_cache": (set(self.rox_cache) <= known, "of " + ", ".join(sorted(known))),
            "tasks_trace": (self.tasks_trace in ("holdouts", "srcu"), "holdouts or srcu"),
            "poke_batch": (self.poke_batch >= 1, "at least 1"),
            "flush_ceiling": (self.flush_ceiling >= 0, "0 or more"),
            "direct_wakes": (self.direct_wakes >= 0, "0 or more"),
            "jiffies_till_first_fqs": ((self.jiffies_till_first_fqs or 0) >= 0, "0 or more"),
            "jiffies_till_next_fqs": ((self.jiffies_till_next_fqs or 0) >= 0, "0 or more"),
            "lazy_max_pages": ((self.lazy_max_pages or 0) >= 0, "0 or more"),
            "aux_bytes": (self.aux_bytes >= 0, "0 or more"),
        }  # fmt: skip
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise InputError(f"kernel.{name}", getattr(self, name), allowed, f"correct {name}")
        object.__setattr__(self, "rox_cache", tuple(TextKind(kind) for kind in self.rox_cache))

    def fqs_jiffies(self, first: bool, hz: int, cpus: int) -> int:
        """Return the jiffies until the first (or next) force-quiescent-state scan."""
        fixed = self.jiffies_till_first_fqs if first else self.jiffies_till_next_fqs
        return 1 + (hz > 250) + (hz > 500) + cpus // 256 if fixed is None else fixed

    def lazy_limit(self, cpus: int) -> int:
        """Return the lazily freed vmalloc pages above which the drain work is queued."""
        return cpus.bit_length() * (32 * MIB >> 12) if self.lazy_max_pages is None else self.lazy_max_pages

    def wakes_from_gp(self, cpus: int, wanted: bool | None = None) -> bool:
        """Say whether the grace-period kthread wakes synchronous waiters itself; `wanted`: the parameter, if set."""
        if wanted is not None and self.wake_from_gp_param:
            return wanted
        return cpus <= 16 if self.wake_from_gp is None else self.wake_from_gp


RELEASES = {
    release.name: release
    for release in (
        Release(
            name="6.1",
            ibpb_on_cbpf=True,
            execmem=False,
            mod_mem=False,
            sealed_alone=False,
            vmap_nodes=False,
            rox_cache=(),
            rox_merged=False,
            rox_collapse=False,
            nx_ranged_flush=True,
            cpa_mmap_lock=False,
            alias_whole_area=True,
            linear_block_map=False,
            bpf_cfi=False,
            invlpgb=False,
            wake_from_gp_param=False,
            wake_from_gp=False,
            csd_preemptible=False,
            tasks_trace="holdouts",
            aux_bytes=56,
            source="Debian linux-source-6.1 (6.1.192)",
        ),
        Release(
            name="6.12",
            ibpb_on_cbpf=True,
            execmem=True,
            mod_mem=True,
            sealed_alone=False,
            vmap_nodes=True,
            rox_cache=(),
            rox_merged=True,
            rox_collapse=False,
            nx_ranged_flush=False,
            cpa_mmap_lock=False,
            alias_whole_area=True,
            linear_block_map=False,
            bpf_cfi=True,
            invlpgb=False,
            wake_from_gp_param=True,
            wake_from_gp=False,
            csd_preemptible=False,
            tasks_trace="holdouts",
            aux_bytes=80,
            source="Debian linux-source-6.12 (6.12.117)",
        ),
        Release(
            name="6.18",
            ibpb_on_cbpf=True,
            execmem=True,
            mod_mem=True,
            sealed_alone=True,
            vmap_nodes=True,
            rox_cache=MODULE_ROX,
            rox_merged=True,
            rox_collapse=True,
            nx_ranged_flush=False,
            cpa_mmap_lock=True,
            alias_whole_area=False,
            linear_block_map=True,
            bpf_cfi=True,
            invlpgb=True,
            wake_from_gp_param=True,
            wake_from_gp=None,
            csd_preemptible=False,
            tasks_trace="holdouts",  # traced: trc_wait_for_one_reader
            aux_bytes=80,
            source="counts measured on 6.18.15; paths of the neighbouring releases, pinned by those counts",
        ),
        Release(
            name="7.3",
            ibpb_on_cbpf=True,
            execmem=True,
            mod_mem=True,
            sealed_alone=True,
            vmap_nodes=True,
            rox_cache=(*MODULE_ROX, TextKind.BPF),
            rox_merged=True,
            rox_collapse=True,
            nx_ranged_flush=False,
            cpa_mmap_lock=True,
            alias_whole_area=False,
            linear_block_map=True,
            bpf_cfi=True,
            invlpgb=True,
            wake_from_gp_param=True,
            wake_from_gp=True,
            csd_preemptible=True,
            tasks_trace="srcu",
            aux_bytes=136,
            source="Debian linux-source-7.3 (7.3.4)",
        ),
    )
}
DEFAULT_RELEASE = "6.18"


def release_from(spec: dict[str, Any]) -> Release:
    """Return the release named by `spec["release"]` with the other keys of spec in place of its fields."""
    name = spec["release"]
    if name not in RELEASES:
        raise InputError("kernel.release", name, ", ".join(RELEASES), did_you_mean(str(name), RELEASES))
    changes = {key: value for key, value in spec.items() if key != "release"}
    known = sorted({field.name for field in dataclasses.fields(Release)} - {"name", "source"})
    for key, value in changes.items():
        if key not in known:
            raise InputError(f"kernel.{key}", value, ", ".join(known), did_you_mean(key, known))
    return dataclasses.replace(RELEASES[name], **changes)
