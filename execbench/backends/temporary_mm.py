"""temporary-mm: alloc-write-map whose writable alias only one CPU has, by use_temporary_mm() (Lutomirski 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from execbench.contract import Image, Proc, Region, Request, Support, Totals, Usage
from execbench.kernel import sync
from execbench.kernel.direct_map import close_alias
from execbench.kernel.text import writes

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

SWITCH: Final = {"x86_64": "text_poke", "arm64": "mm_switch", "riscv64": "mm_switch"}
"""Cost of loading a temporary mm and going back; on x86_64 one __text_poke without its bytes is that."""


@dataclass(slots=True, eq=False)
class State:
    """Totals, and the images of regions that wait for the one pass of their load."""

    totals: Totals
    waiting: dict[int, list[Image]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TemporaryMm:
    """Pages leave the direct map before they are written, are written through a temporary mm, and mapped when complete.

    writes: every write and relocation loads the mm, as a poke does; or finalize loads it once for all texts of a load,
    whose pages it maps there together. mm: one for the kernel, under text_mutex as text_poke_mm is; or one per loader.
    sync: what follows the mapping. On arm64 without rodata=full the direct map cannot be changed and stays writable.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        source="Andy Lutomirski, 2023-06-19 <a17c65c6-863f-4026-9c6f-a04b659e9ab4@app.fastmail.com>; "
        "arch/x86/mm/tlb.c:use_temporary_mm",
    )
    writes: Literal["per-write", "per-load"] = "per-write"
    mm: Literal["global", "per-loader"] = "global"
    sync: Literal[
        "none", "sync-core-ipi", "rcu", "rcu-expedited", "tasks-rude", "stop-machine", "lazy-generation",
        "defer-to-kernel-entry",
    ] = "none"  # fmt: skip

    def refusal(self, arch: str) -> str:
        """Return why these parameters cannot be expressed on an architecture, or ""."""
        return sync.refusal(self.sync, arch)

    def start(self, k: Shared) -> State:
        """Nothing to set up but the policy; the mms exist."""
        sync.require(k, self.sync)
        return State(Totals(k))

    def alloc(self, k: Kernel, s: State, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Reserve addresses and take pages, which leave the direct map: no alias is writable on other CPUs."""
        regions = []
        for req in reqs:
            area = yield from k.get_vm_area(k.pages_of(req.size), req.kind)
            regions.append(s.totals.take(req, area))
        yield from close_alias(k, [region.own for region in regions], "np")
        return tuple(regions)

    def write(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """Write through the mm now, each relocation by itself; or keep the image until the load is complete."""
        if self.writes == "per-load":
            s.waiting.setdefault(region.id, []).append(image)
            return
        for va, size in writes(region.va, image):
            if self.mm == "global":
                with (yield from k.lock("text_mutex")):
                    yield from k.write_temporary_mm(va, size)
            else:
                yield from k.write_temporary_mm(va, size)

    def _write_all(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """Load the mm once and write everything, with interrupts off until it is unloaded (see use_temporary_mm).

        The entries of the alias are set before and cleared behind that; nobody else can have cached them.
        """
        images = [(region, image) for region in regions for image in s.waiting.pop(region.id, ())]
        if not images:
            return
        pages = sum(region.own.pages for region in {region.id: region for region, _ in images}.values())
        lock = (yield from k.lock("text_mutex")) if self.mm == "global" else nullcontext()
        with lock:
            k.count("use_temporary_mm", sum(image.size for _, image in images))
            k.spend("pte_set", 2 * pages)
            with k.irqs_off():
                k.spend(SWITCH[k.arch.name])
                for region, image in images:
                    k.tell("window", "mm", region.va, image.size, True)
                    for va, size in writes(region.va, image):
                        k.store_text(va, size, through="mm")
                    k.tell("window", "mm", region.va, image.size, False)

    def finalize(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """Write what waits, let fetch see the text, map it: absent entries become executable."""
        yield from self._write_all(k, s, regions)
        yield from sync.clean_text(k, [(region.va, region.size) for region in regions])
        for region in regions:
            yield from k.map_text(region.own)
        yield from sync.synchronize(k, self.sync)

    def free(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """Unmap; pages enter the direct map again, the address returns to use by the next purge."""
        for region in regions:
            s.waiting.pop(region.id, None)
            yield from k.vfree_text(region.own, reset_alias=True)
            s.totals.give(region)

    def usage(self, s: State) -> Usage:
        """Waste is what rounding to pages adds."""
        return s.totals.usage()
