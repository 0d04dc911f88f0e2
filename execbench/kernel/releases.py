"""What differs between kernel releases, as typed data; each field names the file and function that fixes it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from execbench.errors import InputError, did_you_mean

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """Facts of one release on x86_64; `None` in a rule means: computed from the machine as the release does."""

    name: str
    module_window: int = 1008 * MIB
    """Bytes of the module area with RANDOMIZE_BASE (arch/x86/include/asm/pgtable_64_types.h: MODULES_VADDR, _END)."""
    pack_bytes: int = 2 * MIB
    """Bytes of a bpf_prog_pack per possible node (kernel/bpf/core.c: BPF_PROG_PACK_SIZE)."""
    pack_chunk: int = 64
    """Allocation unit inside a pack (kernel/bpf/core.c: BPF_PROG_CHUNK_SIZE)."""
    rox_collapse: bool
    """set_memory_rox tries to restore huge leaves and flushes again if it did (arch/x86/mm/pat/set_memory.c:
    CPA_COLLAPSE, 6.15)."""
    poke_batch: int = 256
    """Sites per batch of the int3 protocol (arch/x86/kernel/alternative.c: TEXT_POKE_ARRAY_MAX, TP_VEC_MAX)."""
    flush_ceiling: int = 33
    """Pages above which a kernel range flush becomes a full one (arch/x86/mm/tlb.c: tlb_single_page_flush_ceiling)."""
    wake_from_gp: bool | None
    """rcu_normal_wake_from_gp: None = on up to 16 possible CPUs (kernel/rcu/tree.c: WAKE_FROM_GP_CPU_THRESHOLD)."""
    direct_wakes: int = 5
    """Waiters that the grace-period kthread wakes itself (kernel/rcu/tree.c: SR_MAX_USERS_WAKE_FROM_GP)."""
    jiffies_till_first_fqs: int | None = None
    """None = 1 + (HZ > 250) + (HZ > 500) + nr_cpu_ids / 256 (kernel/rcu/tree.h: RCU_JIFFIES_TILL_FORCE_QS)."""
    jiffies_till_next_fqs: int | None = None
    """As jiffies_till_first_fqs (kernel/rcu/tree.c: jiffies_till_next_fqs)."""
    lazy_max_pages: int | None = None
    """None = fls(num_online_cpus()) * 32 MiB / PAGE_SIZE (mm/vmalloc.c: lazy_max_pages)."""
    aux_bytes: int
    """sizeof(struct bpf_insn_aux_data), one per instruction, vzalloc'ed for the verifier (kernel/bpf/verifier.c)."""
    source: str

    def __post_init__(self) -> None:
        """Refuse rules that no kernel could have."""
        rules = {
            "module_window": (self.module_window >= 16 * MIB, "at least 16MiB"),
            "pack_bytes": (self.pack_bytes >= 4096 and self.pack_bytes % 4096 == 0, "whole pages"),
            "pack_chunk": (0 < self.pack_chunk <= 4096 and not self.pack_chunk & (self.pack_chunk - 1),
                           "a power of two up to 4096 bytes"),
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

    def fqs_jiffies(self, first: bool, hz: int, cpus: int) -> int:
        """Return the jiffies until the first (or next) force-quiescent-state scan."""
        fixed = self.jiffies_till_first_fqs if first else self.jiffies_till_next_fqs
        return 1 + (hz > 250) + (hz > 500) + cpus // 256 if fixed is None else fixed

    def lazy_limit(self, cpus: int) -> int:
        """Return the lazily freed vmalloc pages above which the drain work is queued."""
        return cpus.bit_length() * (32 * MIB >> 12) if self.lazy_max_pages is None else self.lazy_max_pages

    def wakes_from_gp(self, cpus: int) -> bool:
        """Say whether the grace-period kthread wakes synchronous waiters itself."""
        return cpus <= 16 if self.wake_from_gp is None else self.wake_from_gp


RELEASES = {
    release.name: release
    for release in (
        Release(
            name="6.12",
            rox_collapse=False,
            wake_from_gp=False,
            aux_bytes=80,
            source="Debian linux-source-6.12 (6.12.117)",
        ),
        Release(
            name="6.18",
            rox_collapse=True,
            wake_from_gp=None,
            aux_bytes=80,
            source="counts measured on 6.18.15; paths of the neighbouring releases, pinned by those counts",
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
