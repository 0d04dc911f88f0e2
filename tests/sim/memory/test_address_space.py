"""The whole address space at once: areas with frames, page tables and their direct map, at every page size."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from execbench.sim.memory import DirectMap, Frames, Geometry, KernelMap, Lazy, OutOfFrames, Run, VmapSpace, VmArea

MIB = 1 << 20
BASE = 0xFFFF_8000_0000_0000
WINDOWS = {"direct": (BASE + 1920 * MIB, 128 * MIB), "plt": (BASE, 2048 * MIB)}
"""As on arm64: branches reach 128M, which lie inside the 2G that veneers reach; first byte and size."""
Load = tuple[str, tuple[int, int], int, bool]
LOADS = st.tuples(
    st.sampled_from(["direct", "direct", "plt"]),
    st.sampled_from([(0, 1), (0, 3), (0, 40), (1, 0), (1, 0), (1, 1), (2, 0), (3, 9)]),  # PMD blocks, and pages more
    st.sampled_from([0, 1, 1]),
    st.sampled_from([True, True, False]),
)
"""Window, size, guard pages, whether PMD leaves are asked for."""


class AddressSpaceMachine(RuleBasedStateMachine):
    """Two clients' worth of loads, seals, collapses, frees and purges; nothing overlaps, leaks or is miscounted."""

    geometry = Geometry()
    blocks = 12
    """PMD blocks of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.page, self.pmd = self.geometry.page, self.geometry.pmd_pages
        self.windows = {name: self.geometry.window(va, size // 4096) for name, (va, size) in WINDOWS.items()}
        self.total = self.blocks * self.pmd + 5
        self.space = VmapSpace(self.windows, self.geometry)
        self.frames = Frames(self.total, geometry=self.geometry)
        self.direct = DirectMap(self.total, "2M", self.geometry)
        self.map = KernelMap(self.geometry)
        self.perms: dict[VmArea, bytearray] = {}  # per page: 0 ro-nx, 1 ro-x, 2 rw-nx, 3 rw-x
        self.flushing: list[Lazy] = []
        self.splits = self.fills = 0

    # --- what a kernel does -------------------------------------------------------------------------------------------

    @initialize(loads=st.lists(LOADS, min_size=3, max_size=9))
    def boot(self, loads: list[Load]) -> None:
        for load in loads:
            self.load(load)

    @rule(loads=st.lists(LOADS, min_size=1, max_size=3))
    def load_some(self, loads: list[Load]) -> None:
        for load in loads:
            self.load(load)

    def load(self, load: Load) -> None:
        """vmalloc: an address, frames (whole PMD blocks if they are asked for and there), page tables."""
        window, size, guard, huge = load
        pages = size[0] * self.pmd + size[1]
        whole = huge and not size[1]
        largest, before = self.space.largest_hole(window), self.frames.in_use
        area = self.space.alloc(window, pages, guard, self.pmd if whole else 1)
        if area is None:
            assert largest < pages + guard + (self.pmd if whole else 1) - 1, "there was a hole of this size"
            assert self.frames.in_use == before
            return
        blocks = self.frames.alloc_pmd(size[0]) if whole else None
        if blocks is None and pages > self.frames.available:
            with pytest.raises(OutOfFrames):
                self.frames.alloc(pages)
            assert self.frames.in_use == before
            self.space.free_lazy(area)  # what was taken goes back: the address, and no frame
            return
        area.runs = blocks or self.frames.alloc(pages)
        written = self.map.map(area, "rw-nx", huge=blocks is not None)
        assert written == (size[0] if blocks else pages)
        self.perms[area] = bytearray([2]) * pages

    @precondition(lambda self: self.perms)
    @rule(data=st.data(), perm=st.sampled_from(["ro-nx", "ro-x", "rw-nx", "rw-x"]))
    def protect(self, data: st.DataObject, perm: Any) -> None:
        """set_memory of a part: here page by page or leaf by leaf, in the direct map alike."""
        area = data.draw(st.sampled_from(list(self.perms)), "area")
        first = data.draw(st.sampled_from([0, 0, 0, 1, area.pages // 2]), "first") % area.pages
        n = min(data.draw(st.sampled_from([area.pages, area.pages, self.pmd, 4]), "pages"), area.pages - first)
        leaves = sum(self.map.is_huge(area, page) for page in self.slots(area))
        change = self.map.protect(area, first, n, perm)
        assert change.splits == leaves - sum(self.map.is_huge(area, page) for page in self.slots(area))
        self.perms[area][first : first + n] = bytes([("ro-nx", "ro-x", "rw-nx", "rw-x").index(perm)]) * n
        for run in area.frames(first, n):
            self.splits += self.direct.change(run, "rw" if perm[:2] == "rw" else "ro", by_page=change.ptes > n // 2).pmd

    @precondition(lambda self: self.perms)
    @rule(data=st.data())
    def collapse(self, data: st.DataObject) -> None:
        """set_memory_rox puts leaves back where it can; their text does not change."""
        area = data.draw(st.sampled_from(list(self.perms)), "area")
        small, large = self.map.text_leaves()
        done = self.map.collapse(area)
        small_now, large_now = self.map.text_leaves()
        assert small + large * self.pmd == small_now + large_now * self.pmd
        assert large <= large_now <= large + done

    @precondition(lambda self: self.perms)
    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        """vfree: the address waits for a flush, the frames do not."""
        area = data.draw(st.sampled_from(list(self.perms)), "area")
        free = self.frames.available
        self.map.unmap(area)
        self.space.free_lazy(area)
        for run in area.runs:
            self.splits += self.direct.change(run, "rw").pmd
        self.frames.free(area.runs)
        assert self.frames.available == free + area.pages
        del self.perms[area]

    @precondition(lambda self: self.space.lazy_areas)
    @rule()
    def flush(self) -> None:
        """The first half of a purge: what it took stays unusable until everybody has flushed."""
        taken = self.space.take_lazy()
        assert self.space.lazy_areas == 0
        assert taken.pages_spanned >= taken.pages or not taken.areas
        self.flushing.append(taken)

    @precondition(lambda self: self.flushing)
    @rule(which=st.integers(0, 3))
    def flushed(self, which: int) -> None:
        """The second half; purges may end in another order than they began in."""
        taken = self.flushing.pop(which % len(self.flushing))
        free = self.space.free_pages("plt")
        self.space.release_lazy(taken)
        assert self.space.free_pages("plt") == free + taken.pages

    @precondition(lambda self: self.fills < 3)
    @rule(window=st.sampled_from(sorted(WINDOWS)))
    def fill(self, window: str) -> None:
        """Exhaustion: when the widest hole is taken out, a request for as much finds none until it has been purged."""
        self.fills += 1
        size = self.space.largest_hole(window)
        if size < 2:
            return
        area = self.space.alloc(window, size - 1)
        assert area is not None
        assert area.pages + area.guard == size
        if self.space.largest_hole(window) < size:
            assert self.space.alloc(window, size - 1) is None
        self.space.free_lazy(area)
        assert self.space.largest_hole(window) <= size
        self.flushing.append(self.space.take_lazy())
        self.flushed(len(self.flushing) - 1)
        again = self.space.alloc(window, size - 1)
        assert again is not None
        self.space.free_lazy(again)

    # --- what must always hold ----------------------------------------------------------------------------------------

    @invariant()
    def recounts_agree(self) -> None:
        for part in (self.space, self.frames, self.direct, self.map):
            part.check()
        assert self.frames.in_use == sum(area.pages for area in self.perms)
        assert self.space.busy_areas == len(self.perms)
        assert self.direct.splits.pmd == self.splits
        text = sum(perms.count(1) + perms.count(3) for perms in self.perms.values())
        large = sum(
            self.perms[area][page] in (1, 3) for area in self.perms for page in self.slots(area)
            if self.map.is_huge(area, page)
        )  # fmt: skip
        assert self.map.text_leaves() == (text - large * self.pmd, large)
        assert self.map.wx_pages == sum(perms.count(3) for perms in self.perms.values())

    @invariant()
    def nothing_overlaps(self) -> None:
        waiting = [area for taken in self.flushing for area in taken.placed]
        areas = sorted([*self.perms, *waiting], key=lambda area: area.va)
        assert all(low.end <= high.va for low, high in pairwise(areas))
        for area in areas:
            first, pages = self.windows[area.window]
            assert first <= area.va < area.end <= first + pages * self.page
        runs = sorted(run for area in self.perms for run in area.runs)
        assert all(low.pfn + low.n <= high.pfn for low, high in pairwise(runs))
        assert not runs or runs[-1].pfn + runs[-1].n <= self.total

    @invariant()
    def the_direct_map_follows(self) -> None:
        for area, perms in self.perms.items():
            for page in {0, area.pages // 2, area.pages - 1}:
                assert (self.direct.perm(area.pfn(page)) == "ro") == (perms[page] in (0, 1))

    def teardown(self) -> None:
        """Nothing is lost: once all is unloaded and purged, both windows and all frames are whole again."""
        for area in self.perms:
            self.map.unmap(area)
            self.space.free_lazy(area)
            self.frames.free(area.runs)
        self.flushing.append(self.space.take_lazy())
        for taken in self.flushing:
            self.space.release_lazy(taken)
        assert self.space.lazy_pages == self.frames.in_use == self.map.wx_pages == 0
        assert self.map.text_leaves() == (0, 0)
        for name, (_, pages) in self.windows.items():
            assert self.space.free_pages(name) == self.space.largest_hole(name) == pages
        assert sum(run.n for run in self.frames.alloc(self.total)) == self.total

    def slots(self, area: VmArea) -> range:
        """The first pages of an area's whole PMD slots."""
        return range(-(area.va // self.page) % self.pmd, area.pages - self.pmd + 1, self.pmd)


class MiddlePages(AddressSpaceMachine):
    """16 KiB: 128M are four PMD leaves."""

    geometry = Geometry(16 << 10)


class LargePages(AddressSpaceMachine):
    """64 KiB: 128M are a quarter of a PMD leaf."""

    geometry = Geometry(64 << 10)
    blocks = 6


TestSmallPages, TestMiddlePages = AddressSpaceMachine.TestCase, MiddlePages.TestCase
TestLargePages = LargePages.TestCase
TestSmallPages.settings = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
TestMiddlePages.settings = settings(TestSmallPages.settings, max_examples=50)
TestLargePages.settings = settings(TestSmallPages.settings, max_examples=25)


@pytest.mark.parametrize(("page", "fits"), [(4096, 32), (16 << 10, 2), (64 << 10, 0)])
def test_the_128_mib_window_holds_fewer_large_leaves_the_larger_the_page(page: int, fits: int) -> None:
    """An aligned area and its guard page leave a hole of the rest of the next leaf behind."""
    geometry = Geometry(page)
    space = VmapSpace({name: geometry.window(va, size // 4096) for name, (va, size) in WINDOWS.items()}, geometry)
    areas = []
    while (area := space.alloc("direct", geometry.pmd_pages, align=geometry.pmd_pages)) is not None:
        areas.append(area)
    assert len(areas) == fits
    assert space.alloc("plt", geometry.pmd_pages, align=geometry.pmd_pages) is not None
    assert space.alloc("direct", 1) is not None


def test_frames_that_are_out_leave_a_named_shortage() -> None:
    frames = Frames(3, geometry=Geometry(64 << 10))
    with pytest.raises(OutOfFrames) as short:
        frames.alloc(4)
    assert (short.value.args, frames.in_use) == ((4, 3), 0)
    assert frames.alloc(3) == (Run(0, 3),)
