"""bpf_prog_pack: programs share read-only executable packs of 2 MiB per node and are poked in (kernel/bpf/core.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from execbench.contract import Image, LockKind, Proc, Region, Request, Support, TextKind, Usage
from execbench.kernel.execmem import Piece
from execbench.sim.memory import ChunkBitmap

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

PACK_MUTEX = LockKind("pack_mutex", "mutex", "kernel/bpf/core.c: pack_mutex")
HEADER = 8 + 16
"""struct bpf_binary_header and the random hole of illegal instructions (bpf_jit_binary_pack_alloc)."""


@dataclass(slots=True, eq=False)
class Pack:
    """struct bpf_prog_pack: its memory and the bitmap of its chunks; bitmap is None for a lone oversized program.

    arch_flush_needed: since the last predictor flush the pack was made, or a program was freed in it.
    """

    memory: Piece
    bitmap: ChunkBitmap | None
    arch_flush_needed: bool = False


@dataclass(slots=True, eq=False)
class State:
    """pack_list and the running totals (bytes); pred_flush is the static key bpf_pred_flush_enabled."""

    pack_bytes: int
    chunk: int
    shared: Shared
    pred_flush: bool
    packs: list[Pack] = field(default_factory=list)
    lone: int = 0
    asked: int = 0
    taken: int = 0
    regions: int = 0
    written: dict[int, list[int]] = field(default_factory=dict)
    """By region, the bytes of each image that is in a scratch and not in its pack yet."""

    def charged(self, size: int) -> int:
        """Return what a function of `size` bytes takes and is copied as: with its header, in whole chunks."""
        return -(-(size + HEADER) // self.chunk) * self.chunk


@dataclass(frozen=True, kw_only=True)
class BpfProgPack:
    """Programs from packs; `chunk` bytes is the allocation unit (0: the release's).

    Packs are mapped by 4 KiB pages that are filled and made read-only and executable, or, on x86_64 since 7.3, come
    from execmem's cache of 2M pages, where they are that already.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"),
        kinds=(TextKind.BPF, TextKind.JIT),
        sub_page=True,
        shipped=("6.1/x86_64", "6.12", "6.18", "7.3"),
        source="kernel/bpf/core.c",
    )
    chunk: int = 0

    def __post_init__(self) -> None:
        """Refuse chunks that do not tile a pack."""
        if self.chunk < 0 or self.chunk & (self.chunk - 1) or self.chunk > 4096:
            raise ValueError("chunk: 0, or a power of two up to 4096 bytes")

    def start(self, k: Shared) -> State:
        """Begin without packs, as at boot."""
        k.declare(PACK_MUTEX)
        pred_flush = k.release.ibpb_on_cbpf and bool(k.machine.features.get("ibpb_on_cbpf"))
        return State(k.release.pack_bytes * k.nodes, self.chunk or k.release.pack_chunk, k, pred_flush)

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
        k.count("bpf_prog_pack_alloc", size)
        with (yield from k.lock("pack_mutex")):
            if size > s.pack_bytes:
                pack, offset, size = (yield from self._pages_of_its_own(k, s, size)), 0, k.pages_of(size) * k.page_size
            else:
                pack, offset = yield from self._from_a_pack(k, s, size, req.classic)
            s.asked += req.size
            s.taken += size
            s.regions += 1
        return Region(s.regions, pack.memory.va + offset, req.size, size, req.kind, pack)

    def _from_a_pack(self, k: Kernel, s: State, size: int, was_classic: bool) -> Proc[tuple[Pack, int]]:
        """Take the first pack with room; where predictors are flushed, cBPF prefers a clean one, others a dirty one."""
        fallback: Pack | None = None
        for pack in s.packs:
            k.spend("list_walk")
            assert pack.bitmap is not None
            offset = pack.bitmap.alloc(size)
            k.spend("bitmap_word", pack.bitmap.words_scanned)
            if offset is None:
                continue
            if not s.pred_flush or was_classic != pack.arch_flush_needed:
                break
            pack.bitmap.free(offset, size)  # not this one, unless there is no better
            fallback = fallback or pack
        else:
            pack = fallback or (yield from self._alloc_new_pack(k, s))
            assert pack.bitmap is not None
            offset = pack.bitmap.alloc(size)
        assert offset is not None
        if s.pred_flush and pack.arch_flush_needed and was_classic:
            yield from self._bpf_arch_pred_flush(k, s)
        return pack, offset

    def _bpf_arch_pred_flush(self, k: Kernel, s: State) -> Proc[None]:
        """Flush every CPU's indirect branch predictor under pack_mutex (bpf_arch_ibpb); all packs are clean then."""
        k.count("bpf_arch_ibpb")
        yield from k.on_each_cpu("bpf_arch_ibpb", ("ibpb", 1))
        for pack in s.packs:
            pack.arch_flush_needed = False

    def _alloc_new_pack(self, k: Kernel, s: State) -> Proc[Pack]:
        k.count("alloc_new_pack")
        k.cycle("pack_growth")
        memory = yield from self._bpf_jit_alloc_exec(k, s.pack_bytes)
        pack = Pack(memory, ChunkBitmap(s.pack_bytes, s.chunk), s.pred_flush)
        s.packs.append(pack)
        return pack

    def _pages_of_its_own(self, k: Kernel, s: State, size: int) -> Proc[Pack]:
        memory = yield from self._bpf_jit_alloc_exec(k, size)
        s.lone += memory.size
        return Pack(memory, None)

    def _bpf_jit_alloc_exec(self, k: Kernel, size: int) -> Proc[Piece]:
        """Return memory that is read-only, executable and full of traps, by the cache or as it is made here."""
        memory = yield from k.execmem_alloc(k.pages_of(size), TextKind.BPF)
        if not memory.cached:
            k.store_text(memory.va, size, "trap")
            yield from k.set_memory_rox(memory.area)
        return memory

    def write(self, k: Kernel, s: State, region: Region, image: Image) -> Proc[None]:
        """The JIT writes into its scratch; nothing shared is touched."""
        k.spend("copy_byte", image.size)
        s.written.setdefault(region.id, []).append(image.size)
        return
        yield

    def finalize(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """bpf_jit_binary_pack_finalize: copy the scratch over the traps, as the architecture writes live text.

        A program is one image with its header; of a page that several share each image is copied behind the one before
        (arch_prepare_bpf_trampoline), and what nobody wrote stays traps.
        On arm64 and riscv64 the JIT flushes the same bytes once more behind it until 7.x (bpf_flush_icache).
        """
        for region in regions:
            va = region.va
            for image in s.written.pop(region.id, ()):
                size = s.charged(image) if image == region.size else image
                yield from k.bpf_arch_text_copy(va, size)
                yield from k.arch.bpf_flush_icache(k, va, size)
                va += image
            k.spend("kfree")

    def free(self, k: Kernel, s: State, regions: Sequence[Region]) -> Proc[None]:
        """bpf_prog_pack_free: int3 over the program, then its chunks; an empty pack goes back."""
        for region in regions:
            k.count("bpf_prog_pack_free", region.reserved)
            with (yield from k.lock("pack_mutex")):
                pack: Pack = region.own
                s.asked -= region.size
                s.taken -= region.reserved
                s.written.pop(region.id, None)
                if pack.bitmap is None:
                    s.lone -= pack.memory.size
                    yield from k.execmem_free(pack.memory)
                    continue
                yield from k.bpf_arch_text_invalidate(region.va, region.reserved)
                yield from k.settle()
                pack.bitmap.free(region.va - pack.memory.va, region.reserved)
                pack.arch_flush_needed = s.pred_flush
                if pack.bitmap.empty:
                    s.packs.remove(pack)
                    k.cycle("pack_free")
                    yield from k.execmem_free(pack.memory)

    def usage(self, s: State) -> Usage:
        """Reserved are whole packs, or the cache that they are cut from; what chunks add is the internal waste."""
        reserved = len(s.packs) * s.pack_bytes + s.lone
        if s.shared.arch.name == "x86_64" and TextKind.BPF in s.shared.release.rox_cache:
            reserved = s.shared.execmem_cache.bytes
        return Usage(s.asked, reserved, s.taken - s.asked, s.shared.text_map.text_leaves())
