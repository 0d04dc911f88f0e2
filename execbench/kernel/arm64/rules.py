"""What the arm64 paths depend on: the release's rules of this architecture, and the machine's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from execbench.kernel.arm64.arch import Arch
    from execbench.kernel.facade import Kernel
    from execbench.kernel.releases import Release

MAX_TLBI_RANGE_PAGES = 32 << 16
"""arch/arm64/include/asm/tlbflush.h: __TLBI_RANGE_PAGES(31, 3)."""


def tlbi_range_ops(pages: int) -> int:
    """Return how many TLBI by range invalidate `pages` pages: one per scale, one for an odd page.

    arch/arm64/include/asm/tlbflush.h: __flush_tlb_range_op; a scale s takes up to 31 times 2^(5s+1) pages.
    """
    ops = 0
    for scale in (3, 2, 1, 0):
        granule = 5 * scale + 1
        ops += pages >> granule > 0
        pages %= 1 << granule
    return ops + pages


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Facts of one release on one machine."""

    modules_above: bool = False
    """The fallback window reaches up from the direct one over the kernel image, instead of down from the image's end
    (arch/arm64/kernel/module.c: module_alloc on 6.1; arch/arm64/mm/init.c: module_init_limits since 6.5)."""
    kernel_range_ops: bool = True
    """flush_tlb_kernel_range uses TLBI by range where the CPUs have it (asm/tlbflush.h, 6.13)."""
    barrier_per_pte: bool = False
    """Each valid kernel entry is followed by DSB ISHST and ISB, instead of one pair for a whole mapping
    (asm/pgtable.h: __set_pte; lazy MMU mode since 6.16)."""
    refuses_huge: bool = True
    """set_memory_*() refuses every area that may have huge leaves, not only those that have them
    (arch/arm64/mm/pageattr.c: change_memory_common, VM_ALLOW_HUGE_VMAP, 6.16)."""
    bpf_flush_again: bool = False
    """The JIT calls flush_icache_range for text that the copy into the pack has flushed already
    (arch/arm64/net/bpf_jit_comp.c: bpf_int_jit_compile, arch_prepare_bpf_trampoline)."""
    alias_whole_area: bool
    linear_splits: bool
    """The linear map is made of blocks that are split live (release.linear_block_map and the CPUs' BBML)."""
    rodata_full: bool
    idc: bool
    dic: bool
    tlbi_range: bool

    def flushes_all(self, pages: int, dvm_ops: int) -> bool:
        """Say whether a kernel range is too long and everything is flushed instead (flush_tlb_kernel_range).

        dvm_ops: MAX_DVM_OPS (MAX_TLBI_OPS on 6.1), the entries of a page table.
        """
        if not self.kernel_range_ops:
            return pages > dvm_ops
        return pages > MAX_TLBI_RANGE_PAGES if self.tlbi_range else pages >= dvm_ops

    def tlbi_ops(self, pages: int) -> int:
        """Return how many TLBI instructions invalidate `pages` pages (__flush_tlb_range_op)."""
        return tlbi_range_ops(pages) if self.kernel_range_ops and self.tlbi_range else pages


_OLD: dict[str, Any] = {"kernel_range_ops": False, "barrier_per_pte": True, "refuses_huge": False}
_BY_RELEASE: dict[str, dict[str, Any]] = {
    "6.1": {**_OLD, "modules_above": True},
    "6.12": {**_OLD, "bpf_flush_again": True},
    "6.18": {"bpf_flush_again": True},
    "7.3": {},
}


def rules_for(release: Release, features: Mapping[str, Any]) -> Rules:
    """Return the rules of a release on a machine with `features` (all keys of arm64)."""
    return Rules(
        alias_whole_area=release.alias_whole_area,
        linear_splits=release.linear_block_map and features["bbml"] and features["rodata_full"],
        rodata_full=features["rodata_full"],
        idc=features["idc"],
        dic=features["dic"],
        tlbi_range=features["tlbi_range"],
        **_BY_RELEASE[release.name],
    )


def rules_of(k: Kernel) -> Rules:
    """Return the rules of the machine that `k` runs on."""
    return cast("Arch", k.arch).rules
