"""execmem: memory for code by type, and the cache of read-only executable huge pages on x86_64 (mm/execmem.c).

Not modelled: the retry of a free that failed (pending_free_cnt). It fails only where no page for a page table or no
node of the tree can be had, and those the model never lacks.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from execbench.errors import AddressSpaceExhausted
from execbench.kernel import vmalloc
from execbench.kernel.text import TextKind
from execbench.kernel.x86_64.set_memory import change_alias
from execbench.sim.engine import Proc
from execbench.sim.memory import PMD_PAGES, Holes, Perm, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


class Piece(NamedTuple):
    """What execmem_alloc handed out: `pages` pages of `area` from page `first` on; `cached`: it is the cache's."""

    area: VmArea
    first: int
    pages: int
    cached: bool

    @property
    def va(self) -> int:
        """First byte address."""
        return self.area.at(self.first)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.pages * self.area.page


class Cache:
    """struct execmem_cache: free and busy ranges of the areas that it owns, first fit by address, page granularity.

    free_areas is a line of page numbers; ranges of two areas never join, for a guard page lies between them.
    """

    __slots__ = ("areas", "bytes", "clean_queued", "free")

    def __init__(self) -> None:
        """Own nothing, as at boot."""
        self.areas: list[tuple[int, VmArea]] = []  # (first page number, area), by address
        self.free = Holes()
        self.bytes = 0
        self.clean_queued = False

    def add(self, area: VmArea) -> None:
        """Take over an area, all of it free (execmem_cache_add_locked)."""
        start = area.va // area.page
        insort(self.areas, (start, area), key=lambda owned: owned[0])
        self.bytes += area.size
        self.free.give(start, start + area.pages)

    def take(self, pages: int) -> tuple[Piece | None, int]:
        """Return the lowest free piece of this size, if any, and how many free ranges were looked at.

        execmem_cache_alloc_locked; its within_range holds always, for on x86_64 all types have one range.
        """
        fit = self.free.first_fit(0, 1 << 52, pages)
        if fit is None:
            return None, len(self.free)
        self.free.take(fit.start, fit.start + pages)
        start, area = self.areas[bisect_right(self.areas, fit.start, key=lambda owned: owned[0]) - 1]
        return Piece(area, fit.start - start, pages, True), fit.passed + 1

    def give(self, piece: Piece) -> None:
        """Put a piece back and merge it with its free neighbours."""
        start = piece.va // piece.area.page
        self.free.give(start, start + piece.pages)

    def idle(self) -> Iterator[VmArea]:
        """Yield the areas of whole and aligned 2M that nobody has a piece of (execmem_cache_clean)."""
        free = set(self.free)
        for start, area in self.areas:
            if not (start | area.pages) % PMD_PAGES and (start, start + area.pages) in free:
                yield area

    def drop(self, area: VmArea) -> None:
        """Forget an idle area."""
        start = area.va // area.page
        self.areas = [owned for owned in self.areas if owned[1] is not area]
        self.bytes -= area.size
        self.free.take(start, start + area.pages)


def has_rox(k: Kernel) -> bool:
    """Say whether this kernel has the cache at all (CONFIG_ARCH_HAS_EXECMEM_ROX)."""
    return k.arch.name == "x86_64" and bool(k.release.rox_cache)


def is_rox(k: Kernel, kind: TextKind) -> bool:
    """Say whether memory of this kind comes from the cache, read-only and executable (execmem_is_rox)."""
    return k.arch.name == "x86_64" and kind in k.release.rox_cache


def pgprot(k: Kernel, kind: TextKind) -> Perm:
    """Return how plain memory of this kind is mapped: RW and NX; for kprobes read-only and executable at once.

    arch/arm64/mm/init.c, arch/riscv/mm/init.c: execmem_arch_setup; on 6.1 arch/*/kernel/probes/kprobes.c:
    alloc_insn_page. Not on x86_64, where set_memory_rox follows.
    """
    return "ro-x" if kind is TextKind.KPROBES and k.arch.name != "x86_64" else "rw-nx"


def alloc(k: Kernel, pages: int, kind: TextKind) -> Proc[Piece]:
    """Return pages of this kind: ROX and full of traps from the cache, else mapped as `pgprot` says (execmem_alloc).

    Before execmem (6.10) it is module_alloc for every kind, and for what is executable at once vmalloc itself.
    """
    perm = pgprot(k, kind)
    if k.release.execmem:
        k.count("execmem_alloc", pages)
    elif perm == "rw-nx":
        k.count("module_alloc", pages)
    if is_rox(k, kind):
        return (yield from _cache_alloc(k, pages, kind))
    area = yield from vmalloc.vmalloc_node_range(k, pages, kind, perm)
    return Piece(area, 0, pages, False)


def alloc_rw(k: Kernel, pages: int, kind: TextKind) -> Proc[Piece]:
    """Return pages of this kind that are RW and NX whatever they were (execmem_alloc_rw).

    Where the cache exists this changes permissions of every kind: for data that is RW already it changes no entry, and
    purges twice nevertheless. The mutex is not held.
    """
    k.count("execmem_alloc_rw", pages)
    piece = yield from alloc(k, pages, kind)
    if has_rox(k):
        yield from _force_rw(k, piece)
    return piece


def restore_rox(k: Kernel, piece: Piece) -> Proc[None]:
    """Make a piece read-only and executable again, and its 2M leaf whole if it was the last (execmem_restore_rox)."""
    k.count("execmem_restore_rox", piece.pages)
    return k.set_memory_rox(piece.area, first=piece.first, pages=piece.pages)


def free(k: Kernel, piece: Piece) -> Proc[None]:
    """Take a piece back (execmem_free, module_memfree before it): into the cache under its mutex, or by vfree.

    execmem_cache_free: everything is done with the mutex held, so that who allocates waits for all these flushes. Areas
    that nobody uses any more go back by work.
    """
    k.count("execmem_free" if k.release.execmem else "module_memfree", piece.pages)
    if not piece.cached:
        yield from k.vfree(piece.area)
        return
    cache = k.shared.execmem_cache
    with (yield from k.lock("execmem_cache.mutex")):
        k.spend("list_walk")
        yield from _force_rw(k, piece)
        fill_trapping_insns(k, piece)
        yield from restore_rox(k, piece)
        yield from k.settle()
        k.count("execmem_cache_add", piece.pages)
        cache.give(piece)
        queue_clean(k, cache)


def queue_clean(k: Kernel, cache: Cache) -> None:
    """Queue the work that gives idle areas back, unless it is queued already (execmem_cache_clean_work)."""
    if not cache.clean_queued:
        cache.clean_queued = True
        k.count("execmem_cache_clean_work")
        k.queue_work("execmem_cache_clean", lambda worker: clean(worker, cache))


def clean(k: Kernel, cache: Cache) -> Proc[None]:
    """Give areas that are free from end to end back: direct map as before, plain vfree (execmem_cache_clean)."""
    cache.clean_queued = False
    with (yield from k.lock("execmem_cache.mutex")):
        k.spend("list_walk", max(len(cache.free), 1))
        for area in list(cache.idle()):
            k.count("execmem_cache_clean", area.pages)
            k.cycle("rox_clean")
            yield from set_direct_map_valid(k, area, valid=True)
            cache.drop(area)
            yield from k.vfree(area)


def set_direct_map_valid(k: Kernel, area: VmArea, valid: bool) -> Proc[None]:
    """Change the direct map of an area in steps of its page order, without a flush (execmem_set_direct_map_valid)."""
    k.count("set_direct_map_valid_noflush", area.pages)
    yield from change_alias(k, area.runs, "rw" if valid else "np", by_page=not area.huge)


def _cache_alloc(k: Kernel, pages: int, kind: TextKind) -> Proc[Piece]:
    """execmem_cache_alloc: what is free in the cache, else a new area."""
    cache = k.shared.execmem_cache
    piece = yield from take_locked(k, cache, pages)
    if piece is not None:
        return piece
    return (yield from _cache_populate_alloc(k, cache, pages, kind))


def take_locked(k: Kernel, cache: Cache, pages: int) -> Proc[Piece | None]:
    """Look for a free piece under the mutex (__execmem_cache_alloc)."""
    with (yield from k.lock("execmem_cache.mutex")):
        piece, looked = cache.take(pages)
        k.spend("list_walk", max(looked, 1))
    return piece


def _cache_populate_alloc(k: Kernel, cache: Cache, pages: int, kind: TextKind) -> Proc[Piece]:
    """Make a new area of whole 2M pages, outside the mutex; add it and take from the cache in one step.

    execmem_cache_populate_alloc: where no such range is free, an area of exactly the size.
    """
    k.count("execmem_cache_populate_alloc", pages)
    k.cycle("rox_growth")
    rounded = -(-pages // PMD_PAGES) * PMD_PAGES
    try:
        area = yield from vmalloc.vmalloc_node_range(k, rounded, kind, huge=True, reset_perms=False)
    except AddressSpaceExhausted:
        area = yield from vmalloc.vmalloc_node_range(k, pages, kind, reset_perms=False)
    fill_trapping_insns(k, Piece(area, 0, area.pages, True))
    yield from k.set_memory_rox(area)
    with (yield from k.lock("execmem_cache.mutex")):
        k.count("execmem_cache_add", area.pages)
        cache.add(area)
        piece, looked = cache.take(pages)
        k.spend("list_walk", looked)
    assert piece is not None
    return piece


def fill_trapping_insns(k: Kernel, piece: Piece) -> None:
    """Fill memory that is writable with instructions that trap (execmem_fill_trapping_insns)."""
    k.count("execmem_fill_trapping_insns", piece.pages)
    k.store_text(piece.va, piece.size, "trap")


def _force_rw(k: Kernel, piece: Piece) -> Proc[None]:
    """execmem_force_rw: NX first, so that it is never writable and executable."""
    yield from k.set_memory_nx(piece.area, piece.first, piece.pages)
    yield from k.set_memory_rw(piece.area, piece.first, piece.pages)
