"""Virtual addresses: windows that overlap, guards, lazy freeing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from execbench.sim.memory import PAGE, PMD_PAGES, Geometry, Lazy, Run, VmapSpace, VmArea

FAST = settings(max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])


def pages_of(runs: tuple[Run, ...]) -> list[int]:
    return [pfn + i for pfn, n in runs for i in range(n)]


class VmapMachine(RuleBasedStateMachine):
    """Areas of two overlapping windows never overlap, lowest fit is lowest, nothing is reusable before a purge."""

    WIDE, NARROW = (0x100, 3000), (0x100 + 512, 1000)

    def __init__(self) -> None:
        super().__init__()
        self.page = 0
        self.taken = bytearray(self.WIDE[1] + 0x100)
        self.taken[:0x100] = b"\1" * 0x100
        self.busy: list[VmArea] = []
        self.lazy: list[VmArea] = []
        self.elsewhere: list[int] = []
        self.flushing: list[Lazy] = []

    @initialize(page=st.sampled_from([4096, 16 << 10, 64 << 10]))
    def boot(self, page: int) -> None:
        self.page = page
        self.space = VmapSpace({name: (low * page, n) for name, (low, n) in self.windows().items()}, Geometry(page))

    @classmethod
    def windows(cls) -> dict[str, tuple[int, int]]:
        return {"wide": cls.WIDE, "narrow": cls.NARROW}

    @rule(
        window=st.sampled_from(["wide", "narrow"]),
        pages=st.one_of(st.integers(1, 9), st.sampled_from([64, 512, 5000])),
        guard=st.integers(0, 1),
        align=st.sampled_from([1, 1, 8, 512]),
    )
    def alloc(self, window: str, pages: int, guard: int, align: int) -> None:
        low, n = self.windows()[window]
        size = pages + guard
        want = None
        for need in (size + align - 1, size):  # the kernel's adjusted search length first
            for start in range(-(-low // align) * align, low + n - size + 1, align):
                left = self.taken.rfind(b"\1", 0, start) + 1
                right = self.taken.find(b"\1", start)
                right = len(self.taken) if right < 0 else right
                if start + size <= right and right - left >= need:
                    want = start
                    break
            if want is not None:
                break
        area = self.space.alloc(window, pages, guard, align)
        assert (area.va // self.page if area else None) == want
        if area is not None and want is not None:
            self.taken[want : want + size] = b"\1" * size
            self.busy.append(area)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def free_lazy(self, data: st.DataObject) -> None:
        area = self.busy.pop(data.draw(st.integers(0, len(self.busy) - 1)))
        self.space.free_lazy(area)
        with pytest.raises(ValueError):
            self.space.free_lazy(area)
        self.lazy.append(area)

    @rule(pages=st.integers(1, 99))
    def add_lazy(self, pages: int) -> None:
        self.space.add_lazy(pages)
        self.elsewhere.append(pages)

    @rule(released=st.booleans())
    def purge(self, released: bool) -> None:
        done = self.space.purge() if released else self.space.take_lazy()
        sizes = [a.pages + a.guard for a in self.lazy]
        assert (done.areas, done.pages) == (len(sizes) + len(self.elsewhere), sum(sizes) + sum(self.elsewhere))
        assert done.placed == tuple(self.lazy)
        if not self.elsewhere:
            covered = {page for a in self.lazy for page in (a.va // self.page, a.end // self.page)}
            assert done.pages_spanned == (max(covered) - min(covered) if covered else 0)
        else:
            assert done.pages_spanned >= done.pages
        if not released:
            self.flushing.append(done)
        else:
            self.reusable(done.placed)
        self.lazy.clear()
        self.elsewhere.clear()

    @precondition(lambda self: self.flushing)
    @rule()
    def release(self) -> None:
        done = self.flushing.pop(0)
        self.space.release_lazy(done)
        self.reusable(done.placed)

    def reusable(self, areas: tuple[VmArea, ...]) -> None:
        for area in areas:
            assert area.state == "free"
            self.taken[area.va // self.page : area.end // self.page] = bytes(area.pages + area.guard)

    @invariant()
    def conserved(self) -> None:
        if not self.page:
            return
        self.space.check()
        assert (self.space.busy_areas, self.space.lazy_areas) == (len(self.busy), len(self.lazy) + len(self.elsewhere))
        flushing = sum(done.pages for done in self.flushing)
        assert self.space.lazy_pages == sum(a.pages + a.guard for a in self.lazy) + sum(self.elsewhere) + flushing
        for name, (low, n) in self.windows().items():
            part = bytes(self.taken[low : low + n])
            assert self.space.free_pages(name) == part.count(b"\0")
            assert self.space.largest_hole(name) == max(map(len, part.split(b"\1")))


VmapMachine.TestCase.settings = FAST
TestVmap = VmapMachine.TestCase


def test_vmap_leaves_2m_holes_between_aligned_areas() -> None:
    space = VmapSpace({"modules": (0, 8 * PMD_PAGES)})
    areas = [space.alloc("modules", PMD_PAGES, align=PMD_PAGES) for _ in range(3)]
    assert [a.va // PAGE if a else None for a in areas] == [0, 2 * PMD_PAGES, 4 * PMD_PAGES]
    small = space.alloc("modules", 3)
    assert small is not None and small.va == (PMD_PAGES + 1) * PAGE


@given(st.lists(st.integers(1, 9), max_size=12))
@FAST
def test_frames_of_an_area_are_its_runs(lengths: list[int]) -> None:
    runs = tuple(Run(100 * i, n) for i, n in enumerate(lengths))
    area = VmArea(0, sum(lengths), 1, "w", runs)
    for first in range(area.pages):
        rest = tuple(area.frames(first, area.pages - first))
        assert pages_of(rest) == [area.pfn(p) for p in range(first, area.pages)]
    with pytest.raises(IndexError):
        area.pfn(area.pages)


@pytest.mark.parametrize("page", [4096, 16 << 10, 64 << 10])
def test_an_area_is_measured_in_its_pages(page: int) -> None:
    space = VmapSpace({"w": (8 * page, 100)}, Geometry(page))
    area = space.alloc("w", 3)
    assert area is not None
    assert (area.va, area.size, area.at(2), area.end) == (8 * page, 3 * page, 10 * page, 12 * page)
    with pytest.raises(ValueError, match="window 'w'"):
        VmapSpace({"w": (page // 2, 1)}, Geometry(page))


@pytest.mark.parametrize("page", [4096, 16 << 10, 64 << 10])
def test_plain_data_is_spread_over_the_whole_vmalloc_range(page: int) -> None:
    space = VmapSpace({"w": (0, 100)}, Geometry(page))
    space.add_lazy(1)
    space.add_lazy(1)
    taken = space.take_lazy()
    assert (taken.pages, taken.pages_spanned * page, taken.va) == (2, 32 << 40, 0)
