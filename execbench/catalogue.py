"""The names of costs: what one unit of each is, what it stands for, and the architectures that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["ARCHITECTURES", "CATALOGUE", "Entry", "Estimate", "catalogue", "required"]

ARCHITECTURES: Final = ("x86_64", "arm64", "riscv64")
_X86, _ARM, _RISCV = ((name,) for name in ARCHITECTURES)


class Estimate(NamedTuple):
    """What a client believes of one of its costs on `server-64`, for machine files that do not state it (assumed)."""

    value: str
    low: str
    high: str
    source: str


class Entry(NamedTuple):
    """One named cost: what one unit of it is, what it stands for, and the architectures that have it.

    Where a machine file states nothing, `like` names the cost whose figures are taken (client.CLIENT.COST); else
    `estimate` stands in, times the machine's `code_factor`.
    """

    per: str
    meaning: str
    arch: tuple[str, ...] = ARCHITECTURES
    estimate: Estimate | None = None
    like: str = ""


CATALOGUE: Final[dict[str, Entry]] = {
    # interrupts between CPUs
    "ipi_send": Entry("round", "sender writes the ICR or makes the hypercall (arch_send_call_function_ipi_mask)"),
    "ipi_enqueue": Entry("target", "sender enqueues the csd and later checks its ack (smp_call_function_many_cond)"),
    "ipi_flight": Entry("interrupt", "from the send until the handler starts on a running, unmasked target"),
    "ipi_handler": Entry("interrupt", "entry, exit and csd work on the target (sysvec_call_function)"),
    "ipi_ack": Entry("target", "from the end of the handler until the sender sees csd_unlock"),
    "sync_core": Entry("call", "SERIALIZE or IRET-to-self inside the handler (sync_core)", _X86),
    "ibpb": Entry("barrier", "indirect branch predictor barrier inside the handler (write_ibpb)", _X86),
    "stopper_switch": Entry("CPU", "to the stopper thread and back (kernel/stop_machine.c: cpu_stopper_thread)"),
    "sbi_call": Entry("call", "ecall into the firmware and back, fixed part (sbi_ecall)", _RISCV),
    "sbi_hart": Entry("hart", "what the firmware adds for each hart it interrupts (sbi_remote_fence_i)", _RISCV),
    # TLB
    "tlb_flush_all": Entry(
        "flush", "full flush on the local CPU, global entries included (__flush_tlb_all, local_flush_tlb_all)",
        _X86 + _RISCV,
    ),
    "tlb_flush_page": Entry(
        "page", "one INVLPG or sfence.vma (flush_tlb_one_kernel, local_flush_tlb_page)", _X86 + _RISCV
    ),
    "invlpgb": Entry("instruction", "one broadcast INVLPGB (invlpgb_kernel_range_flush)", _X86),
    "tlbsync": Entry("wait", "TLBSYNC: until all CPUs completed the broadcast flushes (__tlbsync)", _X86),
    "tlbi": Entry("instruction", "one broadcast TLBI (__tlbi: vaale1is, vmalle1is)", _ARM),
    "dsb_ish": Entry("barrier", "DSB ISH: until all CPUs completed the broadcast operations (dsb)", _ARM),
    "sfence_fault": Entry("fault", "repair of one absent entry by a fault (entry.S: new_valid_map_cpus_check)", _RISCV),
    # instruction fetch
    "isb": Entry("barrier", "context synchronization of the local CPU (isb)", _ARM),
    "dc_cvau": Entry("line", "clean one data cache line to unification (dcache_clean_pou)", _ARM),
    "ic_ivau": Entry("line", "invalidate one instruction cache line, broadcast (caches_clean_inval_pou)", _ARM),
    "fence_i": Entry("instruction", "FENCE.I on the local hart (local_flush_icache_all)", _RISCV),
    # tasks
    "syscall": Entry("call", "entry and exit of a system call (do_syscall_64)"),
    "context_switch": Entry("switch", "from one task to another on a CPU (__schedule, context_switch)"),
    "task_wakeup": Entry("wake-up", "try_to_wake_up and the switch to the woken task"),
    "idle_exit_shallow": Entry("wake-up", "leaving a shallow idle state or a polling loop (cpuidle_enter_state)"),
    "idle_exit_deep": Entry("wake-up", "leaving a deep idle state or the host's halt (cpuidle_enter_state)"),
    "lock_handoff": Entry("hand-off", "from the unlock until a waiting owner runs on (mutex_unlock to mutex_lock)"),
    # memory
    "vmap_area_alloc": Entry("area", "find, insert and describe a virtual area (__get_vm_area_node)"),
    "vmap_area_free": Entry("area", "unlink an area and queue it for purging (remove_vm_area, free_vmap_area_noflush)"),
    "page_alloc": Entry("page", "one base page from the buddy allocator (vm_area_alloc_pages)"),
    "page_free": Entry("page", "one base page back to the buddy allocator (vfree: __free_page)"),
    "pte_set": Entry("entry", "write or clear one page-table entry (vmap_pages_range, vunmap_range_noflush)"),
    "kmalloc": Entry("call", "one small allocation (kmalloc)"),
    "kfree": Entry("call", "one small free (kfree)"),
    "vmap_purge": Entry("purge", "fixed part of one purge without its flush (__purge_vmap_area_lazy)"),
    "vmap_purge_area": Entry("area", "merge one lazily freed area back (purge_vmap_node)"),
    "unmap_aliases_cpu": Entry("possible CPU", "scan of one CPU's vmap blocks (_vm_unmap_aliases)"),
    "cpa_page": Entry("leaf", "look up or change one leaf (__change_page_attr)", _X86),
    "cpa_split": Entry("split", "allocate and fill one page table for a large leaf (split_large_page)", _X86),
    "cpa_collapse": Entry("collapse", "restore one large leaf from its page table (cpa_collapse_large_pages)", _X86),
    "pageattr_page": Entry("leaf", "look up and change one leaf (pageattr_pte_entry)", _ARM + _RISCV),
    "linear_split": Entry(
        "leaf", "split one leaf of the live linear map (split_kernel_leaf_mapping, split_linear_mapping)", _ARM + _RISCV
    ),
    "fixmap_map": Entry("page", "set and clear one fixmap entry (patch_map, patch_unmap)", _ARM + _RISCV),
    "mm_switch": Entry("visit", "load a temporary mm and go back (switch_mm twice)", _ARM + _RISCV),
    # text
    "copy_byte": Entry("byte", "copy into memory that is mapped writable (memcpy)"),
    "fill_byte": Entry("byte", "fill memory that is mapped writable (memset)"),
    "text_poke": Entry("poke", "one pass through the temporary mm without its bytes (__text_poke)", _X86),
    "int3_queue": Entry("site", "queue, sort and look up one site of a batched patch (text_poke_queue)", _X86),
    "list_walk": Entry("element", "one step along a list (list_for_each_entry)"),
    "bitmap_word": Entry("64-bit word", "search of one word of a bitmap (bitmap_find_next_zero_area)"),
    # RCU
    "rcu_gp_init": Entry("grace period", "start of a grace period in the kthread (rcu_gp_init)"),
    "rcu_gp_cleanup": Entry("grace period", "end of a grace period in the kthread (rcu_gp_cleanup)"),
    "rcu_wake": Entry("waiter", "wake one waiter of a grace period (rcu_sr_normal_complete, wakeme_after_rcu)"),
    "call_rcu": Entry("call", "queue one callback (call_rcu)"),
    "rcu_callback": Entry("callback", "run one callback without what it does (rcu_do_batch)"),
    "exp_gp_fixed": Entry("grace period", "expedited: funnel, kworkers, selection (synchronize_rcu_expedited)"),
    "exp_handler": Entry("interrupt", "expedited: the work on one target (rcu_exp_handler)"),
    "tasks_scan": Entry("scan", "one scan of the task list (rcu_tasks_pertask, check_all_holdout_tasks)"),
}  # fmt: skip
"""The costs of machines; each client states its own in its class (`costs`)."""


def catalogue(clients: Mapping[str, Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return by full name all costs that machine files may state for these clients (name -> the client's own costs)."""
    own = {f"client.{client}.{cost}": entry for client, costs in clients.items() for cost, entry in costs.items()}
    return CATALOGUE | own


def required(arch: str, clients: Mapping[str, Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return by full name what a machine of `arch` must state to run these clients."""
    return {name: entry for name, entry in catalogue(clients).items() if arch in entry.arch}
