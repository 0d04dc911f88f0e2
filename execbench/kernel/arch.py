"""What an architecture provides to the rest of the kernel: windows, TLB, protections, instruction fetch, patching."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from execbench.errors import MachineError
from execbench.kernel.text import TextKind
from execbench.sim.engine import Proc
from execbench.sim.memory import DirectPerm, Leaf, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.releases import Release
    from execbench.kernel.smp import Work
    from execbench.sim.rng import Stream

ARCHITECTURES: Final = ("x86_64", "arm64", "riscv64")


class Arch(Protocol):
    """One architecture of one release with the features of one machine; all verbs act for the task of `k`.

    Facts for auditors (`k.tell`) are reported where they happen: `map`, `store`, `flush`, `serialize`, `icache`,
    `alias`; execbench.sim.probe describes their fields.
    """

    name: str
    direct_map_leaf: Leaf
    release: Release
    features: Mapping[str, Any]
    bpf_mitigation_bytes: int
    """What mitigations of this machine add to each function that the BPF JIT makes."""

    def windows(self, stream: Stream) -> dict[str, tuple[int, int]]:
        """Return the address windows for code: name -> (first byte, pages); `stream` moves what KASLR moves."""

    def windows_for(self, kind: TextKind) -> tuple[str, ...]:
        """Return the windows that may hold a kind, in the order in which they are tried."""

    def spend_ipi_send(self, k: Kernel, targets: int) -> None:
        """Spend what raising one interrupt on each of `targets` CPUs costs the sender."""

    # --- TLB ----------------------------------------------------------------------------------------------------------

    def flush_tlb_all(self, k: Kernel, caller: str, *also: Work) -> Proc[None]:
        """Flush everything on every CPU; `also` rides in the handler where there is one, else gets a round."""

    def flush_tlb_kernel_range(self, k: Kernel, va: int, pages: int, caller: str) -> Proc[None]:
        """Flush a range on every CPU, or everything above the architecture's ceiling."""

    def flush_cache_vmap(self, k: Kernel, area: VmArea) -> None:
        """Absent entries of `area` became present: do what the walker needs to see them."""

    # --- protections --------------------------------------------------------------------------------------------------

    def set_memory_ro(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """Clear W, in the alias too."""

    def set_memory_rw(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """Set W, in the alias too."""

    def set_memory_x(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """Set X."""

    def set_memory_nx(self, k: Kernel, area: VmArea, first: int, pages: int) -> Proc[None]:
        """Clear X."""

    def set_memory_rox(self, k: Kernel, area: VmArea, first: int, pages: int, *also: Work) -> Proc[None]:
        """Clear W and set X."""

    def set_direct_map(self, k: Kernel, area: VmArea, perm: DirectPerm) -> Proc[bool]:
        """Change the direct map of an area page by page, without a flush where the architecture can do without."""

    # --- text ---------------------------------------------------------------------------------------------------------

    def sync_each_cpu(self, k: Kernel) -> Proc[None]:
        """Force a context-synchronizing event on every CPU and wait."""

    def flush_icache_range(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """Make stores visible to instruction fetch, with what else the kernel's function of this name does."""

    def bpf_arch_text_copy(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """Copy over live read-only text."""

    def bpf_arch_text_invalidate(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """Fill live read-only text with trapping instructions."""

    def bpf_flush_icache(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """Do what the JIT does behind the copy into a pack, on releases where it still does."""

    def write_temporary_mm(self, k: Kernel, va: int, size: int) -> Proc[None]:
        """Write through a mm that only this CPU has loaded."""

    def patch_text(self, k: Kernel, sites: int, length: int) -> Proc[None]:
        """Patch live branch instructions as jump labels do."""


def arch_of(name: str, release: Release, features: Mapping[str, Any]) -> Arch:
    """Return the architecture called `name` (execbench.kernel.<name>.arch); MachineError for one that is not there."""
    if name not in ARCHITECTURES:
        raise MachineError("machine.arch", name, ", ".join(ARCHITECTURES), "correct the architecture")
    return cast(Arch, import_module(f"execbench.kernel.{name}.arch").Arch(release, features))
