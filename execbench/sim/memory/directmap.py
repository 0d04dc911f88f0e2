"""The direct map: all of physical memory, mapped by the largest leaves until somebody changes a part of one."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

from execbench.sim.memory.frames import Run
from execbench.sim.memory.pages import FOUR_KIB, Geometry, equal, pieces, span

Leaf = Literal["1G", "2M", "4K"]
"""A PUD, PMD or PTE leaf, called by its size with 4 KiB pages."""
DirectPerm = Literal["rw", "ro", "np"]


class Split(NamedTuple):
    """What one change of the direct map needed: 1G->2M splits, 2M->4K splits, leaf entries rewritten."""

    pud: int
    pmd: int
    entries: int


class DirectMap:
    """Leaves and permissions of the direct map; splits are permanent.

    Follows arch/x86/mm/pat/set_memory.c: `__should_split_large_page` leaves a large leaf alone if it already has the
    permission or if the change covers the whole aligned leaf; collapse looks at the primary range only, never at the
    alias. Only 2M blocks that hold pages other than 'rw' are stored. Memory above the last whole 1G (2M) is mapped by
    2M (4K) leaves. The sizes are those of 4 KiB pages; `geometry` scales them.
    """

    __slots__ = ("_base", "_full", "_masks", "_pmd", "_pmd_pages", "_pud", "_pud_pages", "_puds", "_total", "splits")

    def __init__(self, total_pages: int, leaf: Leaf = "1G", geometry: Geometry = FOUR_KIB) -> None:
        """Map total_pages frames 'rw' with the largest leaves up to `leaf`."""
        if total_pages <= 0 or leaf not in ("1G", "2M", "4K"):
            raise ValueError(f"cannot map {total_pages} pages with {leaf!r} leaves")
        self._total = total_pages
        self._pmd_pages, self._pud_pages = geometry.pmd_pages, geometry.pud_pages
        self._full = span(0, self._pmd_pages)
        self._puds = total_pages // self._pud_pages if leaf == "1G" else 0  # 1G leaves at boot: the lowest ones
        self._base = (
            total_pages // self._pmd_pages if leaf != "4K" else 0
        )  # blocks not mapped by 4K at boot: the lowest
        self._pud: set[int] = set()  # 1G leaves split since
        self._pmd: set[int] = set()  # 2M leaves split since
        self._masks: dict[str, dict[int, int]] = {"ro": {}, "np": {}}  # permission -> 2M block -> its pages
        self.splits = Split(0, 0, 0)

    def change(self, run: Run, perm: DirectPerm, by_page: bool = False) -> Split:
        """Give exactly the pages of `run` permission `perm` and return what that took.

        by_page: the pages come one after the other, as the alias of an area that is mapped by 4K leaves does
        (`cpa_process_alias` runs once per primary entry) and as set_direct_map_invalid_noflush does: then a large
        leaf is split even if the run covers it. ValueError if the run leaves the map.
        """
        pfn, n = run
        if n <= 0 or pfn < 0 or pfn + n > self._total or (perm != "rw" and perm not in self._masks):
            raise ValueError(f"cannot make pages {pfn} + {n} of {self._total} {perm!r}")
        pmd_pages, pud_pages = self._pmd_pages, self._pud_pages
        puds = pmds = entries = 0
        skip = -1
        for block, offset, count in pieces(pfn, n, pmd_pages):
            bits = span(offset, count)
            differ = bits & ~self._with(perm, block)
            pud = block // pmd_pages
            if pud == skip or not differ:
                if differ:
                    self._put(perm, block, bits)
                continue
            if pud < self._puds and pud not in self._pud:
                if not by_page and pfn <= pud * pud_pages and (pud + 1) * pud_pages <= pfn + n:
                    skip = pud  # the whole 1G leaf is rewritten once; its blocks follow without further entries
                    entries += 1
                    self._put(perm, block, bits)
                    continue
                self._pud.add(pud)
                puds += 1
            if block < self._base and block not in self._pmd:
                if count == pmd_pages and not by_page:
                    entries += 1
                    self._put(perm, block, bits)
                    continue
                self._pmd.add(block)
                pmds += 1
            entries += differ.bit_count()
            self._put(perm, block, bits)
        done = self.splits
        self.splits = Split(done.pud + puds, done.pmd + pmds, done.entries + entries)
        return Split(puds, pmds, entries)

    def perm(self, pfn: int) -> DirectPerm:
        """Return the permission of one page."""
        if not 0 <= pfn < self._total:
            raise ValueError(f"page {pfn} of {self._total}")
        block, offset = divmod(pfn, self._pmd_pages)
        for name, masks in self._masks.items():
            if masks.get(block, 0) >> offset & 1:
                return cast(DirectPerm, name)
        return "rw"

    def leaves(self) -> tuple[int, int, int]:
        """Return how many 4K, 2M and 1G leaves map memory now."""
        n1g = self._puds - self.splits.pud
        n2m = self._base + (self.splits.pud - self._puds) * self._pmd_pages - self.splits.pmd
        n4k = self._total + (self.splits.pmd - self._base) * self._pmd_pages
        return n4k, n2m, n1g

    def check(self) -> None:
        """Raise AssertionError unless splits equal a recount, leaves tile memory and unsplit leaves are uniform."""
        equal("1G splits", self.splits.pud, len(self._pud))
        equal("2M splits", self.splits.pmd, len(self._pmd))
        n4k, n2m, n1g = self.leaves()
        equal("pages mapped", n4k + n2m * self._pmd_pages + n1g * self._pud_pages, self._total)
        for block in self._pmd:
            pud = block // self._pmd_pages
            if block >= self._base or (pud < self._puds and pud not in self._pud):
                raise AssertionError(f"2M block {block} is split below a 1G leaf that is not")
        ro, np = self._masks["ro"], self._masks["np"]
        for block in ro.keys() | np.keys():
            if ro.get(block, 0) & np.get(block, 0):
                raise AssertionError(f"2M block {block}: a page has two permissions")
            whole = ro.get(block, 0) in (0, self._full) and np.get(block, 0) in (0, self._full)
            if block < self._base and block not in self._pmd and not whole:
                raise AssertionError(f"2M block {block} is one leaf with two permissions")
            pud = block // self._pmd_pages
            if pud < self._puds and pud not in self._pud:
                first = pud * self._pmd_pages
                for masks in (ro, np):
                    if len({masks.get(b, 0) for b in range(first, first + self._pmd_pages)}) > 1:
                        raise AssertionError(f"1G leaf {pud} has two permissions")

    def _with(self, perm: str, block: int) -> int:
        """Return the pages of a block that have a permission."""
        if perm != "rw":
            return self._masks[perm].get(block, 0)
        return self._full & ~(self._masks["ro"].get(block, 0) | self._masks["np"].get(block, 0))

    def _put(self, perm: str, block: int, bits: int) -> None:
        for name, masks in self._masks.items():
            mask = masks.get(block, 0)
            mask = mask | bits if name == perm else mask & ~bits
            if mask:
                masks[block] = mask
            elif block in masks:
                del masks[block]
