"""Virtual addresses of vmalloc areas: windows, guard pages, lazy freeing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from execbench.sim.memory.frames import Run
from execbench.sim.memory.holes import Holes
from execbench.sim.memory.pages import FOUR_KIB, PAGE, Geometry, equal

_ANYWHERE = 1 << 45
"""Bytes of the whole vmalloc range of x86_64 with four-level tables (32 TiB)."""


@dataclass(slots=True, eq=False)
class VmArea:
    """One vmap area: `pages` of `page` bytes mapped from byte address `va` on, followed by `guard` unmapped pages.

    runs: the frames behind it in mapping order (the caller sets them). reset_perms: VM_FLUSH_RESET_PERMS. huge: asked
    for with VM_ALLOW_HUGE_VMAP. Compared and hashed by identity.
    """

    va: int
    pages: int
    guard: int
    window: str
    runs: tuple[Run, ...] = ()
    reset_perms: bool = False
    huge: bool = False
    state: Literal["busy", "lazy", "free"] = "busy"
    page: int = PAGE

    @property
    def end(self) -> int:
        """First byte address after the guard pages."""
        return self.va + (self.pages + self.guard) * self.page

    @property
    def size(self) -> int:
        """Bytes mapped, without the guard pages."""
        return self.pages * self.page

    def at(self, page: int) -> int:
        """Return the byte address of the page-th page."""
        return self.va + page * self.page

    def pfn(self, page: int) -> int:
        """Return the frame behind the page-th page; IndexError if none is."""
        left = page
        for pfn, n in self.runs:
            if 0 <= left < n:
                return pfn + left
            left -= n
        raise IndexError(f"no frame behind page {page} of the area at {self.va:#x}")

    def frames(self, first_page: int, pages: int) -> Iterator[Run]:
        """Yield the physical runs behind a part of the area, in mapping order."""
        skip = first_page
        for pfn, n in self.runs:
            if skip < n:
                take = min(n - skip, pages)
                if take <= 0:
                    return
                yield Run(pfn + skip, take)
                pages -= take
                skip = 0
            else:
                skip -= n


class Lazy(NamedTuple):
    """Areas taken off the lazy list: how many, their pages with guards, and the pages that one flush must span."""

    areas: int
    pages: int
    pages_spanned: int
    placed: tuple[VmArea, ...]
    va: int
    """First byte of what the flush spans; 0 where unplaced areas make it everything."""


class VmapSpace:
    """vmalloc address windows: lowest-address first fit, and areas that stay unusable until a purge.

    Follows mm/vmalloc.c. A request for alignment searches for a hole of size + align - 1 first, as
    `find_vmap_lowest_match` does, so an aligned hole of exactly the size is passed over while a larger one exists; the
    kernel then accepts a tighter hole only if its tree walk meets it, here the lowest one is taken. Windows may
    overlap (the arm64 128M window inside the 2G one): they share one set of holes. The per-node pools are left out:
    they serve requests for the whole vmalloc range only. Lazy pages count guards, as `vmap_lazy_nr` does.
    """

    __slots__ = (
        "_busy", "_flushing", "_holes", "_lazy", "_page", "_span", "_taken", "_unplaced", "_windows", "lazy_pages",
    )  # fmt: skip

    def __init__(self, windows: Mapping[str, tuple[int, int]], geometry: Geometry = FOUR_KIB) -> None:
        """Start with every window free; windows: name -> (first byte address, pages)."""
        self._page = geometry.page
        self._windows: dict[str, tuple[int, int]] = {}
        self._holes = Holes()
        self._busy: set[VmArea] = set()
        self._lazy: list[VmArea] = []
        self._unplaced: list[int] = []
        self._taken = 0
        self._flushing: set[VmArea] = set()
        self.lazy_pages = 0
        for name, (va, pages) in windows.items():
            if va % self._page or va < 0 or pages <= 0:
                raise ValueError(f"window {name!r}: {va:#x} with {pages} pages")
            self._windows[name] = va // self._page, va // self._page + pages
        end = 0
        for low, high in sorted(self._windows.values()):
            if high > end:
                self._holes.give(max(low, end), high)
                end = high
        self._span = self._holes.free

    @property
    def busy_areas(self) -> int:
        """Areas that are allocated and not freed."""
        return len(self._busy)

    @property
    def lazy_areas(self) -> int:
        """Areas freed and waiting for a purge."""
        return len(self._lazy) + len(self._unplaced)

    def alloc(self, window: str, pages: int, guard: int = 1, align: int = 1) -> VmArea | None:
        """Return the lowest area of pages + guard in the window, or None if no hole fits (a purge may make one).

        align: in pages. KeyError for an unknown window.
        """
        if pages <= 0 or guard < 0 or align <= 0:
            raise ValueError(f"cannot place {pages} + {guard} pages aligned to {align}")
        low, high = self._windows[window]
        size = pages + guard
        fit = self._holes.first_fit(low, high, size, align, size + align - 1)
        if fit is None and align > 1:
            fit = self._holes.first_fit(low, high, size, align)
        if fit is None:
            return None
        self._holes.take(fit.start, fit.start + size)
        area = VmArea(fit.start * self._page, pages, guard, window, page=self._page)
        self._busy.add(area)
        return area

    def free_lazy(self, area: VmArea) -> None:
        """Put a busy area on the lazy list: unmapped, its addresses not reusable; ValueError if it is not busy."""
        if area not in self._busy:
            raise ValueError(f"the area at {area.va:#x} is {area.state}, not busy")
        self._busy.remove(area)
        area.state = "lazy"
        self._lazy.append(area)
        self.lazy_pages += area.pages + area.guard

    def add_lazy(self, pages: int) -> None:
        """Put an area outside the windows (plain data, whose place is not modelled) on the lazy list; with guards."""
        self._unplaced.append(pages)
        self.lazy_pages += pages

    def take_lazy(self) -> Lazy:
        """Empty the lazy list; the addresses stay unusable until `release_lazy`, when everybody has flushed them.

        One area spans itself. Several span whatever lies between them: the windows for placed ones; unplaced ones are
        spread over the whole vmalloc range, so two of them span more pages than any flush does one by one.
        """
        areas = len(self._lazy) + len(self._unplaced)
        pages = self.lazy_pages - self._taken
        if areas == 1:
            spanned = pages
        elif self._unplaced:
            spanned = _ANYWHERE // self._page
        else:
            spanned = (
                max((area.end for area in self._lazy), default=0) - min((area.va for area in self._lazy), default=0)
            ) // self._page
        first = 0 if self._unplaced else min((area.va for area in self._lazy), default=0)
        taken = Lazy(areas, pages, spanned, tuple(self._lazy), first)
        self._flushing.update(self._lazy)
        self._lazy.clear()
        self._unplaced.clear()
        self._taken += pages
        return taken

    def release_lazy(self, taken: Lazy) -> None:
        """Return the addresses of `take_lazy` to the holes; until now they counted as lazy (purge_vmap_node)."""
        self._taken -= taken.pages
        self.lazy_pages -= taken.pages
        for area in taken.placed:
            self._flushing.remove(area)
            self._holes.give(area.va // self._page, area.end // self._page)
            area.state = "free"

    def purge(self) -> Lazy:
        """Take and release at once, for when no flush stands between."""
        taken = self.take_lazy()
        self.release_lazy(taken)
        return taken

    def largest_hole(self, window: str) -> int:
        """Return the pages of the widest free hole in a window."""
        return self._holes.largest(*self._windows[window])

    def free_pages(self, window: str) -> int:
        """Return the free pages of a window; lazy ones are not free."""
        return self._holes.total(*self._windows[window])

    def check(self) -> None:
        """Raise AssertionError unless holes, busy and lazy areas tile the windows and lazy_pages equals a recount."""
        self._holes.check()
        placed = sum(area.pages + area.guard for area in self._lazy)
        equal("lazy pages", self.lazy_pages, placed + sum(self._unplaced) + self._taken)
        areas = [*self._busy, *self._lazy, *self._flushing]
        parts = sorted([*self._holes, *((a.va // self._page, a.end // self._page) for a in areas)])
        for (_, end), (start, _) in pairwise(parts):
            if end > start:
                raise AssertionError(f"[..., {end:#x}) and [{start:#x}, ...) overlap (page numbers)")
        equal("pages of all windows", self._span, sum(end - start for start, end in parts))
        for area in areas:
            low, high = self._windows[area.window]
            if not low * self._page <= area.va < area.end <= high * self._page:
                raise AssertionError(f"the area at {area.va:#x} is outside window {area.window!r}")
