"""jit_text_alloc: executable from the start, trapping until jit_update() has written it (Rapoport 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import Image, LockKind, Proc, Region, Request, Support, TextKind, Usage
from execbench.kernel import sync
from execbench.kernel.text import writes
from execbench.sim.memory import Holes, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

JIT_TEXT_MUTEX = LockKind("jit_text_mutex", "mutex", "proposed; mm/execmem.c has execmem_cache.mutex for its own")
AREA = 2 << 20
"""Bytes of an area of the cache, unless one text is longer: a PMD leaf of 4 KiB pages."""


@dataclass(slots=True, eq=False)
class Block:
    """Memory of the cache: read-only, executable, full of traps where it is free (pages of the area)."""

    area: VmArea
    free: Holes


@dataclass(slots=True, eq=False)
class State:
    """The cache, by the windows that its blocks lie in, and the running totals (bytes)."""

    shared: Shared
    blocks: dict[tuple[str, ...], list[Block]] = field(default_factory=dict)
    opened: set[int] = field(default_factory=set)
    """Regions that have been written to and not finalized."""
    asked: int = 0
    taken: int = 0
    populated: int = 0
    regions: int = 0


@dataclass(frozen=True, kw_only=True)
class JitTextAlloc:
    """Pages from 2 MiB areas that are read-only, executable and full of traps; every write of text is a poke.

    update: each write and relocation is a jit_update() of its own, or one jit_update() brings the finished copy. sync:
    what follows the last write, or guards all of them.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        source="Mike Rapoport: v1 of 2023-06-01 <20230601101257.530867-1-rppt@kernel.org> with JIT_ALLOC_USE_TEXT_POKE "
        "(per-write), plan of 2023-06-25 <20230625161417.GK52412@kernel.org> (2M pages, int3, copy poked in one go)",
    )
    update: Literal["per-write", "once"] = "once"
    sync: Literal[
        "none", "sync-core-ipi", "int3-protocol", "rcu", "rcu-expedited", "tasks-rude", "stop-machine",
        "lazy-generation", "trap-and-retry", "defer-to-kernel-entry",
    ] = "none"  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse to stop the machine for each relocation."""
        if (self.update, self.sync) == ("per-write", "stop-machine"):
            raise ValueError("sync: stop-machine writes the finished copy while all CPUs are held, so update = once")

    def refusal(self, arch: str) -> str:
        """Return why these parameters cannot be expressed on an architecture, or ""."""
        return sync.refusal(self.sync, arch)

    def start(self, k: Shared) -> State:
        """Begin with an empty cache."""
        sync.require(k, self.sync)
        k.declare(JIT_TEXT_MUTEX)
        return State(k)

    def alloc(self, k: Kernel, s: State, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """jit_text_alloc for each request: the first free run of pages that is long enough."""
        regions = []
        for req in reqs:
            pages = k.pages_of(req.size)
            k.count("jit_text_alloc", pages)
            with (yield from k.lock("jit_text_mutex")):
                block, first = yield from self._first_fit(k, s, req.kind, pages)
                s.regions += 1
                s.asked += req.size
                s.taken += pages * k.page_size
            if self.update == "once":
                k.spend("kmalloc")  # of the copy that is written until it is finished
            regions.append(Region(s.regions, block.area.at(first), req.size, pages * k.page_size, req.kind, block))
        return tuple(regions)

    def _first_fit(self, k: Kernel, s: State, kind: TextKind, pages: int) -> Proc[tuple[Block, int]]:
        blocks = s.blocks.setdefault(k.arch.windows_for(kind), [])
        for block in blocks:
            fit = block.free.first_fit(0, block.area.pages, pages)
            k.spend("list_walk", 1 if fit is None else 1 + fit.passed)
            if fit is not None:
                break
        else:
            block = yield from self._populate(k, s, kind, pages)
            blocks.append(block)
            fit = block.free.first_fit(0, block.area.pages, pages)
            assert fit is not None
        block.free.take(fit.start, fit.start + pages)
        return block, fit.start

    def _populate(self, k: Kernel, s: State, kind: TextKind, pages: int) -> Proc[Block]:
        """Map whole 2 MiB, fill them with traps while they are NX, make them read-only and executable.

        Not by PMD on arm64, whose set_memory_*() refuse VM_ALLOW_HUGE_VMAP (arch/arm64/mm/pageattr.c).
        """
        k.count("jit_text_populate")
        k.cycle("jit_text_populate")
        pages = k.pages_of(-(-pages * k.page_size // AREA) * AREA)
        area = yield from k.vmalloc_node_range(pages, kind, huge=k.arch.name != "arm64")
        k.store_text(area.va, area.size, "trap")
        yield from sync.clean_traps(k, [(area.va, area.size)], self.sync)
        yield from k.set_memory_rox(area)
        free = Holes()
        free.give(0, pages)
        s.populated += area.size
        return Block(area, free)

    def write(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """Write into the copy; or poke the text at once, and then each relocation at its place."""
        if self.update == "once":
            k.spend("copy_byte", image.size)
            return
        if region.id not in s.opened:
            s.opened.add(region.id)
            yield from sync.open_text(k, self.sync, [(region.va, region.size)], fresh=True)
        for va, size in writes(region.va, image):
            yield from sync.write_text(k, self.sync, region.va, va, size)

    def finalize(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """Bring the finished copies, or what is left to do behind the last write; one synchronization for the group."""
        pieces = [(region.va, region.size) for region in regions]
        if self.update == "once":
            yield from sync.update_text(k, self.sync, pieces, fresh=True)
            for _ in regions:
                k.spend("kfree")
            return
        s.opened.difference_update(region.id for region in regions)
        yield from sync.close_text(k, self.sync, pieces)

    def rewrite(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """jit_update over live text, as at first but with a trap over the old first instruction where one guards."""
        piece = (region.va, image.size)
        if self.update == "once":
            k.spend("copy_byte", image.size)
            yield from sync.update_text(k, self.sync, [piece])
            return
        yield from sync.open_text(k, self.sync, [piece])
        for va, size in writes(region.va, image):
            yield from sync.write_text(k, self.sync, region.va, va, size)
        yield from sync.close_text(k, self.sync, [piece])

    def free(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """Fill with traps by poking, then back to the cache; an area that is free again goes back whole."""
        for region in regions:
            block: Block = region.own
            with (yield from k.lock("jit_text_mutex")):
                yield from k.bpf_arch_text_invalidate(region.va, region.reserved)
                yield from k.settle()
                s.asked -= region.size
                s.taken -= region.reserved
                first = (region.va - block.area.va) // k.page_size
                block.free.give(first, first + k.pages_of(region.reserved))
                if block.free.free == block.area.pages:
                    s.blocks[k.arch.windows_for(region.kind)].remove(block)
                    s.populated -= block.area.size
                    yield from k.vfree(block.area)

    def usage(self, s: State) -> Usage:
        """Reserved is all that is populated; waste is what rounding to pages adds."""
        return Usage(s.asked, s.populated, s.taken - s.asked, s.shared.text_map.text_leaves())
