"""Page tables of one vmalloc area."""

from __future__ import annotations

from typing import Literal, get_args

from execbench.sim.memory.pages import Geometry
from execbench.sim.memory.vmap import VmArea

Perm = Literal["none", "rw-nx", "ro-nx", "ro-x", "rw-x"]

NAMES: tuple[str, ...] = get_args(Perm)
CODE = {name: code for code, name in enumerate(NAMES)}
NONE, ROX, RWX = CODE["none"], CODE["ro-x"], CODE["rw-x"]


class Table:
    """Page table of one area: a permission per page, and which whole PMD slots are mapped by a PMD leaf."""

    __slots__ = ("codes", "fit", "huge", "offset", "pmd")

    def __init__(self, area: VmArea, perm: str, geometry: Geometry) -> None:
        self.codes = bytearray(bytes([CODE[perm]])) * area.pages
        self.pmd = geometry.pmd_pages
        self.offset = -(area.va // geometry.page) % self.pmd  # page where the first whole slot begins
        self.huge: set[int] = set()  # first pages of slots that are PMD leaves
        self.fit = self._fit(area)

    def slots(self, first: int, end: int) -> range:
        """Return the first pages of the whole slots that [first, end) touches."""
        low = self.offset if first <= self.offset else first - (first - self.offset) % self.pmd
        return range(low, min(end, len(self.codes) - self.pmd + 1), self.pmd)

    def _fit(self, area: VmArea) -> frozenset[int]:
        """Return the slots whose frames are contiguous and aligned; ValueError if frames do not cover the area."""
        fit: set[int] = set()
        page = chunk = 0  # [chunk, page) is physically contiguous
        expected = -1
        for pfn, n in area.runs:
            if pfn != expected:
                chunk = page
            page += n
            expected = pfn + n
            if page - chunk >= self.pmd:
                base = expected - page  # frame of page p is base + p
                fit.update(
                    s
                    for s in self.slots(chunk, page)
                    if s >= chunk and s + self.pmd <= page and not (base + s) % self.pmd
                )
        if page != area.pages:
            raise ValueError(f"the area at {area.va:#x} has {area.pages} pages and {page} frames")
        return frozenset(fit)
