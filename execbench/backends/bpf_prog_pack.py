"""bpf_prog_pack: programs share read-only executable packs of 2 MiB per node and are poked in (kernel/bpf/core.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from execbench.contract import Image, LockKind, Proc, Region, Request, Support, TextKind, Usage, pages_of
from execbench.sim.memory import PAGE, ChunkBitmap, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

PACK_MUTEX = LockKind("pack_mutex", "mutex", "kernel/bpf/core.c: pack_mutex")
HEADER = 8 + 16
"""struct bpf_binary_header and the random hole of illegal instructions (bpf_jit_binary_pack_alloc)."""


@dataclass(slots=True, eq=False)
class Pack:
    """struct bpf_prog_pack: its area and the bitmap of its chunks; bitmap is None for a lone oversized program."""

    area: VmArea
    bitmap: ChunkBitmap | None


@dataclass(slots=True, eq=False)
class State:
    """pack_list and the running totals (bytes)."""

    pack_bytes: int
    chunk: int
    shared: Shared
    packs: list[Pack] = field(default_factory=list)
    lone: int = 0
    asked: int = 0
    taken: int = 0
    regions: int = 0

    def charged(self, size: int) -> int:
        """Return what a function of `size` bytes takes and is copied as: with its header, in whole chunks."""
        return -(-(size + HEADER) // self.chunk) * self.chunk


@dataclass(frozen=True, kw_only=True)
class BpfProgPack:
    """Programs from packs; `chunk` bytes is the allocation unit (0: the release's)."""

    support: ClassVar[Support] = Support(
        kinds=(TextKind.BPF, TextKind.JIT), sub_page=True, shipped=("6.12", "6.18"), source="kernel/bpf/core.c"
    )
    chunk: int = 0

    def __post_init__(self) -> None:
        """Refuse chunks that do not tile a pack."""
        if self.chunk < 0 or self.chunk & (self.chunk - 1) or self.chunk > 4096:
            raise ValueError("chunk: 0, or a power of two up to 4096 bytes")

    def start(self, k: Shared) -> State:
        """Begin without packs, as at boot."""
        k.declare(PACK_MUTEX)
        return State(k.release.pack_bytes * k.nodes, self.chunk or k.release.pack_chunk, k)

    def alloc(self, k: Kernel, s: State, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """bpf_jit_binary_pack_alloc for each function: a chunk run in the first pack that has one, and a RW scratch."""
        regions = []
        for req in reqs:
            size = s.charged(req.size)
            regions.append((yield from self._bpf_prog_pack_alloc(k, s, req, size)))
            k.spend("kmalloc")  # kvmalloc of the scratch
            k.spend("fill_byte", size)
        return tuple(regions)

    def _bpf_prog_pack_alloc(self, k: Kernel, s: State, req: Request, size: int) -> Proc[Region]:
        k.count("pack_alloc", size)
        with (yield from k.lock("pack_mutex")):
            if size > s.pack_bytes:
                pack, offset, size = (yield from self._pages_of_its_own(k, s, size)), 0, pages_of(size) * PAGE
            else:
                pack, offset = yield from self._from_a_pack(k, s, size)
            s.asked += req.size
            s.taken += size
            s.regions += 1
        return Region(s.regions, pack.area.va + offset, req.size, size, req.kind, pack)

    def _from_a_pack(self, k: Kernel, s: State, size: int) -> Proc[tuple[Pack, int]]:
        for pack in s.packs:
            k.spend("list_walk")
            assert pack.bitmap is not None
            offset = pack.bitmap.alloc(size)
            k.spend("bitmap_word", pack.bitmap.words_scanned)
            if offset is not None:
                return pack, offset
        pack = yield from self._alloc_new_pack(k, s)
        assert pack.bitmap is not None
        offset = pack.bitmap.alloc(size)
        assert offset is not None
        return pack, offset

    def _alloc_new_pack(self, k: Kernel, s: State) -> Proc[Pack]:
        k.count("new_pack")
        k.cycle("pack_growth")
        area = yield from self._rox(k, s.pack_bytes)
        pack = Pack(area, ChunkBitmap(s.pack_bytes, s.chunk))
        s.packs.append(pack)
        return pack

    def _pages_of_its_own(self, k: Kernel, s: State, size: int) -> Proc[Pack]:
        area = yield from self._rox(k, size)
        s.lone += area.pages * PAGE
        return Pack(area, None)

    def _rox(self, k: Kernel, size: int) -> Proc[VmArea]:
        """Map fresh pages, fill them with int3 while they are NX, make them read-only and executable."""
        area = yield from k.vmalloc_node_range(pages_of(size), TextKind.BPF)
        k.store_text(area.va, size, "trap")
        yield from k.set_memory_rox(area)
        return area

    def write(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """The JIT writes into its scratch; nothing shared is touched."""
        k.spend("copy_byte", image.size)
        return
        yield

    def finalize(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """bpf_jit_binary_pack_finalize: copy the scratch over the int3 by poking; no CPU is told."""
        for region in regions:
            yield from k.bpf_arch_text_copy(region.va, s.charged(region.size))
            k.spend("kfree")

    def free(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """bpf_prog_pack_free: int3 over the program, then its chunks; an empty pack goes back."""
        for region in regions:
            with (yield from k.lock("pack_mutex")):
                pack: Pack = region.own
                s.asked -= region.size
                s.taken -= region.reserved
                if pack.bitmap is None:
                    s.lone -= pack.area.pages * PAGE
                    yield from k.vfree(pack.area)
                    continue
                yield from k.bpf_arch_text_invalidate(region.va, region.reserved)
                yield from k.settle()
                pack.bitmap.free(region.va - pack.area.va, region.reserved)
                if pack.bitmap.empty:
                    s.packs.remove(pack)
                    k.count("free_pack")
                    k.cycle("pack_free")
                    yield from k.vfree(pack.area)

    def usage(self, s: State) -> Usage:
        """Reserved are whole packs; what chunks add to the programs is the internal waste."""
        reserved = len(s.packs) * s.pack_bytes + s.lone
        return Usage(s.asked, reserved, s.taken - s.asked, s.shared.text_map.text_leaves())
