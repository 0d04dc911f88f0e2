"""Protection of mapped vmalloc areas, page by page and leaf by leaf."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, cast

from execbench.sim.memory.pages import FOUR_KIB, Geometry, equal
from execbench.sim.memory.table import CODE, NAMES, NONE, ROX, RWX, Perm, Table
from execbench.sim.memory.vmap import VmArea

_TEXT = bytes(code in (ROX, RWX) for code in range(256))
"""Codes of permissions to 1 for those that execute, else 0."""


class Change(NamedTuple):
    """What one protection change took.

    ptes: leaf entries rewritten (PTEs, or PMDs that stayed whole); splits: PMDs split into PTEs; looked: entries
    the walk visited, rewritten or not.
    """

    ptes: int
    splits: int
    looked: int


class KernelMap:
    """Leaves (PTE and PMD) and permissions of every mapped vmalloc area.

    Follows the primary side of arch/x86/mm/pat/set_memory.c: an entry that already has the permission is looked at and
    left alone; a PMD leaf is rewritten whole if the change covers it and split otherwise; `collapse` is
    `cpa_collapse_large_pages` without its PUD step. PMD slots are those of the virtual address.
    """

    __slots__ = ("_geometry", "_pmd", "_tables", "_text2m", "_text4k", "wx_pages")

    def __init__(self, geometry: Geometry = FOUR_KIB) -> None:
        """Map nothing."""
        self._geometry = geometry
        self._pmd = geometry.pmd_pages
        self._tables: dict[VmArea, Table] = {}
        self._text4k = 0
        self._text2m = 0
        self.wx_pages = 0

    def map(self, area: VmArea, perm: Perm, huge: bool = False) -> int:
        """Map all pages of an area with one permission and return the leaf entries written.

        huge: use a PMD where its address and frames are whole, aligned and contiguous (vmap_pages_range_noflush with
        PMD_SHIFT), PTEs elsewhere. 'none' reserves the area without writing entries. ValueError if the area is mapped
        already or its frames do not cover it.
        """
        if area in self._tables:
            raise ValueError(f"the area at {area.va:#x} is mapped already")
        table = Table(area, perm, self._geometry)
        if huge:
            table.huge.update(table.fit)
        self._tables[area] = table
        self._count(table, 1)
        return 0 if perm == "none" else area.pages - (self._pmd - 1) * len(table.huge)

    def protect(self, area: VmArea, first_page: int, pages: int, perm: Perm) -> Change:
        """Give `pages` pages from `first_page` on a permission; ValueError if they leave the area."""
        table, code, end = self._table(area), CODE[perm], first_page + pages
        if first_page < 0 or pages <= 0 or end > area.pages:
            raise ValueError(f"pages {first_page} + {pages} of an area of {area.pages}")
        ptes = splits = looked = 0
        at = first_page
        if table.huge:
            for slot in table.slots(first_page, end):
                if slot not in table.huge:
                    continue
                if slot > at:  # the 4K pages below
                    ptes += self._rewrite(table, at, slot, code)
                    looked += slot - at
                    at = slot
                stop = min(slot + self._pmd, end)
                if table.codes[slot] == code:
                    looked += 1
                elif at == slot and stop == slot + self._pmd:
                    self._count_slot(table, slot, -1)
                    table.codes[slot:stop] = bytes([code]) * self._pmd
                    self._count_slot(table, slot, 1)
                    looked += 1
                    ptes += 1
                else:
                    self._set_huge(table, slot, False)
                    splits += 1
                    ptes += self._rewrite(table, at, stop, code)
                    looked += stop - at
                at = stop
        if at < end:
            ptes += self._rewrite(table, at, end, code)
            looked += end - at
        return Change(ptes, splits, looked)

    def collapse(self, area: VmArea, first_page: int = 0, pages: int | None = None) -> int:
        """Put back a PMD for every slot touched whose PTEs are present, equal and fit; return how many."""
        table = self._table(area)
        end = area.pages if pages is None else first_page + pages
        done = 0
        for slot in table.slots(first_page, end):
            code = table.codes[slot]
            if (
                slot in table.fit
                and slot not in table.huge
                and code != NONE
                and table.codes.count(code, slot, slot + self._pmd) == self._pmd
            ):
                self._set_huge(table, slot, True)
                done += 1
        return done

    def unmap(self, area: VmArea) -> int:
        """Clear all entries of an area, forget it, and return how many present leaves there were."""
        table = self._table(area)
        self._count(table, -1)
        del self._tables[area]
        present = len(table.codes) - table.codes.count(NONE)
        return present - (self._pmd - 1) * sum(table.codes[slot] != NONE for slot in table.huge)

    def __contains__(self, area: object) -> bool:
        """Say whether the area has page-table entries."""
        return area in self._tables

    def perm(self, area: VmArea, page: int) -> Perm:
        """Return the permission of one page."""
        return cast(Perm, NAMES[self._table(area).codes[page]])

    def is_huge(self, area: VmArea, page: int) -> bool:
        """Return whether a page is mapped by a PMD leaf now."""
        table = self._table(area)
        return page - (page - table.offset) % self._pmd in table.huge

    def leaves_over(self, spans: Iterable[tuple[int, int]]) -> tuple[int, int, int]:
        """Return the base pages that some bytes [low, high) lie on, and the PTE and PMD leaves that map them now.

        What several spans share counts once; bytes that are not mapped count nowhere.
        """
        size = self._geometry.page
        areas = sorted(self._tables.items(), key=lambda item: item[0].va)
        starts = [area.va for area, _ in areas]
        leaves: dict[tuple[int, int], bool] = {}
        pages = 0
        after = 0
        for low, high in sorted(spans):
            for page in range(max(low // size, after), -(-high // size)):
                after = page + 1
                i = bisect_right(starts, page * size) - 1
                if i < 0 or page * size >= starts[i] + areas[i][0].pages * size:
                    continue
                table, within = areas[i][1], page - starts[i] // size
                if table.codes[within] == NONE:
                    continue
                pages += 1
                slot = within - (within - table.offset) % self._pmd
                huge = slot in table.huge
                leaves[i, slot if huge else within] = huge
        large = sum(leaves.values())
        return pages, len(leaves) - large, large

    def text_leaves(self) -> tuple[int, int]:
        """Return how many PTE and PMD leaves map executable memory now."""
        return self._text4k, self._text2m

    def check(self) -> None:
        """Raise AssertionError unless PMD leaves are legal and the running totals equal a recount page by page."""
        small = large = both = 0
        for area, table in self._tables.items():
            equal(f"pages of the area at {area.va:#x}", area.pages, len(table.codes))
            text = table.codes.translate(_TEXT)
            for slot in table.huge:
                frames = tuple(area.frames(slot, self._pmd))
                if (
                    (area.va // self._geometry.page + slot) % self._pmd
                    or frames[0].pfn % self._pmd
                    or any(run.pfn + run.n != follower.pfn for run, follower in pairwise(frames))
                    or len(set(table.codes[slot : slot + self._pmd])) != 1
                ):
                    raise AssertionError(f"page {slot} of the area at {area.va:#x} cannot be a PMD leaf")
                large += text[slot]
                small -= text[slot] * self._pmd
            small += sum(text)
            both += table.codes.count(RWX)
        equal("text leaves", self.text_leaves(), (small, large))
        equal("wx pages", self.wx_pages, both)

    def _table(self, area: VmArea) -> Table:
        table = self._tables.get(area)
        if table is None:
            raise ValueError(f"the area at {area.va:#x} is not mapped")
        return table

    def _rewrite(self, table: Table, first: int, end: int, code: int) -> int:
        """Rewrite 4K entries and return how many differed."""
        codes, n = table.codes, end - first
        differ = n - codes.count(code, first, end)
        if differ:
            wx = codes.count(RWX, first, end)
            self.wx_pages += (n if code == RWX else 0) - wx
            self._text4k += (n if code in (ROX, RWX) else 0) - wx - codes.count(ROX, first, end)
            codes[first:end] = bytes([code]) * n
        return differ

    def _set_huge(self, table: Table, slot: int, huge: bool) -> None:
        """Split a PMD leaf into PTEs or put it back."""
        sign = 1 if huge else -1
        if table.codes[slot] in (ROX, RWX):
            self._text4k -= sign * self._pmd
            self._text2m += sign
        if huge:
            table.huge.add(slot)
        else:
            table.huge.discard(slot)

    def _count_slot(self, table: Table, slot: int, sign: int) -> None:
        """Add a PMD leaf to the totals, or take it away."""
        code = table.codes[slot]
        self._text2m += sign * (code in (ROX, RWX))
        self.wx_pages += sign * self._pmd * (code == RWX)

    def _count(self, table: Table, sign: int) -> None:
        """Add an area to the totals, or take it away."""
        wx = table.codes.count(RWX)
        large = sum(table.codes[slot] in (ROX, RWX) for slot in table.huge)
        self.wx_pages += sign * wx
        self._text2m += sign * large
        self._text4k += sign * (wx + table.codes.count(ROX) - large * self._pmd)
