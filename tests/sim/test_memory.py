"""Random programs against recounts and brute-force models of the memory structures, and known kernel situations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from execbench.sim.memory import (
    PAGE,
    PMD_PAGES,
    PUD_PAGES,
    ChunkBitmap,
    DirectMap,
    Frames,
    Holes,
    KernelMap,
    Lazy,
    OutOfFrames,
    Run,
    Split,
    VmapSpace,
    VmArea,
)

FAST = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def pages_of(runs: tuple[Run, ...]) -> list[int]:
    return [pfn + i for pfn, n in runs for i in range(n)]


class HolesMachine(RuleBasedStateMachine):
    """Holes against a bytearray, with enough holes for several buckets."""

    SIZE = 4000

    def __init__(self) -> None:
        super().__init__()
        self.holes = Holes()
        self.free = bytearray(self.SIZE)

    @initialize(every=st.sampled_from([3, 5, 4000]))
    def comb(self, every: int) -> None:
        for start in range(0, self.SIZE, every):
            end = min(self.SIZE, start + max(1, every // 2))
            self.holes.give(start, end)
            self.free[start:end] = b"\1" * (end - start)

    @rule(start=st.integers(0, SIZE - 1), n=st.integers(1, 40))
    def give_or_take(self, start: int, n: int) -> None:
        end = min(self.SIZE, start + n)
        part = self.free[start:end]
        if all(part):
            with pytest.raises(ValueError):
                self.holes.give(start, end)
            self.holes.take(start, end)
            self.free[start:end] = bytes(end - start)
        elif not any(part):
            with pytest.raises(ValueError):
                self.holes.take(start, end)
            self.holes.give(start, end)
            self.free[start:end] = b"\1" * (end - start)
        else:
            with pytest.raises(ValueError):
                self.holes.give(start, end)
            with pytest.raises(ValueError):
                self.holes.take(start, end)

    @rule(
        low=st.integers(0, SIZE), width=st.integers(1, SIZE), size=st.integers(1, 30), align=st.sampled_from([1, 8, 64])
    )
    def search(self, low: int, width: int, size: int, align: int) -> None:
        high = min(self.SIZE, low + width)
        starts = range(-(-low // align) * align, high - size + 1, align)
        want = next((s for s in starts if all(self.free[s : s + size])), None)
        fit = self.holes.first_fit(low, high, size, align)
        assert (fit.start if fit else None) == want
        assert self.holes.total(low, high) == sum(self.free[low:high])
        assert self.holes.largest(low, high) == max(map(len, bytes(self.free[low:high]).split(b"\0")))

    @invariant()
    def conserved(self) -> None:
        self.holes.check()
        assert self.holes.free == sum(self.free)
        assert len(self.holes) == len(bytes(self.free).translate(None).replace(b"\0", b" ").split())


class FramesMachine(RuleBasedStateMachine):
    """No frame twice, none lost, in either extreme of fragmentation."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Run, ...]] = []

    @initialize(total=st.sampled_from([1, 700, 4 * PMD_PAGES, 8 * PMD_PAGES + 3]), fragmented=st.booleans())
    def boot(self, total: int, fragmented: bool) -> None:
        self.frames = Frames(total, fragmented=fragmented)
        self.most = self.frames.available

    @rule(n=st.one_of(st.integers(1, 20), st.integers(1, 1500)))
    def alloc(self, n: int) -> None:
        if n > self.frames.available:
            with pytest.raises(OutOfFrames):
                self.frames.alloc(n)
        else:
            self.held.append(self.frames.alloc(n))
            assert len(pages_of(self.held[-1])) == n

    @rule(k=st.integers(1, 3))
    def alloc_pmd(self, k: int) -> None:
        runs = self.frames.alloc_pmd(k)
        if runs is not None:
            assert all(pfn % PMD_PAGES == 0 and n % PMD_PAGES == 0 for pfn, n in runs)
            assert len(pages_of(runs)) == k * PMD_PAGES
            self.held.append(runs)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        runs = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.frames.free(runs)
        with pytest.raises(ValueError):
            self.frames.free(runs[:1])

    @invariant()
    def conserved(self) -> None:
        if not hasattr(self, "frames"):
            return
        self.frames.check()
        pages = [p for runs in self.held for p in pages_of(runs)]
        assert len(pages) == len(set(pages)) == self.frames.in_use == self.most - self.frames.available
        assert all(0 <= p < self.frames.total for p in pages)

    def teardown(self) -> None:
        if hasattr(self, "frames"):
            for runs in self.held:
                self.frames.free(runs)
            assert self.frames.in_use == 0
            self.frames.check()
            if self.most:
                assert len(pages_of(self.frames.alloc(self.most))) == self.most


class VmapMachine(RuleBasedStateMachine):
    """Areas of two overlapping windows never overlap, lowest fit is lowest, nothing is reusable before a purge."""

    WIDE, NARROW = (0x100, 3000), (0x100 + 512, 1000)

    def __init__(self) -> None:
        super().__init__()
        self.space = VmapSpace({name: (low * PAGE, n) for name, (low, n) in self.windows().items()})
        self.taken = bytearray(self.WIDE[1] + 0x100)
        self.taken[:0x100] = b"\1" * 0x100
        self.busy: list[VmArea] = []
        self.lazy: list[VmArea] = []
        self.elsewhere: list[int] = []
        self.flushing: list[Lazy] = []

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
        assert (area.va // PAGE if area else None) == want
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
            covered = {page for a in self.lazy for page in (a.va // PAGE, a.end // PAGE)}
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
            self.taken[area.va // PAGE : area.end // PAGE] = bytes(area.pages + area.guard)

    @invariant()
    def conserved(self) -> None:
        self.space.check()
        assert (self.space.busy_areas, self.space.lazy_areas) == (len(self.busy), len(self.lazy) + len(self.elsewhere))
        flushing = sum(done.pages for done in self.flushing)
        assert self.space.lazy_pages == sum(a.pages + a.guard for a in self.lazy) + sum(self.elsewhere) + flushing
        for name, (low, n) in self.windows().items():
            part = bytes(self.taken[low : low + n])
            assert self.space.free_pages(name) == part.count(b"\0")
            assert self.space.largest_hole(name) == max(map(len, part.split(b"\1")))


class DirectMapMachine(RuleBasedStateMachine):
    """A direct map of two 1G leaves, one 2M leaf and seven pages against a model page by page."""

    TOTAL = 2 * PUD_PAGES + PMD_PAGES + 7

    @initialize(leaf=st.sampled_from(["1G", "2M", "4K"]))
    def boot(self, leaf: Any) -> None:
        self.map = DirectMap(self.TOTAL, leaf)
        self.leaf = bytearray(self.TOTAL)  # per page: 2 = 1G, 1 = 2M, 0 = 4K
        if leaf != "4K":
            self.leaf[: self.TOTAL - 7] = b"\1" * (self.TOTAL - 7)
        if leaf == "1G":
            self.leaf[: 2 * PUD_PAGES] = b"\2" * (2 * PUD_PAGES)
        self.model = bytearray(self.TOTAL)  # 0 rw, 1 ro, 2 np
        self.sums = Split(0, 0, 0)

    @rule(
        start=st.one_of(
            st.sampled_from([0, PMD_PAGES, 5 * PMD_PAGES, PUD_PAGES, 2 * PUD_PAGES]), st.integers(0, TOTAL - 1)
        ),
        n=st.one_of(st.integers(1, 5), st.sampled_from([PMD_PAGES, 2 * PMD_PAGES, PUD_PAGES, PUD_PAGES + 1])),
        perm=st.sampled_from(["rw", "ro", "np"]),
        by_page=st.booleans(),
    )
    def change(self, start: int, n: int, perm: Any, by_page: bool) -> None:
        n = min(n, self.TOTAL - start)
        code, end = ["rw", "ro", "np"].index(perm), start + n
        pud = pmd = entries = 0
        for size, kind in ((PUD_PAGES, 2), (PMD_PAGES, 1)):
            for low in range(start - start % size, end, size):
                if self.leaf[low] != kind or self.model[low] == code:
                    continue
                if not by_page and start <= low and low + size <= end:
                    entries += 1
                    self.model[low : low + size] = bytes([code]) * size
                else:
                    self.leaf[low : low + size] = bytes([kind - 1]) * size
                    pud, pmd = pud + (kind == 2), pmd + (kind == 1)
        entries += n - self.model.count(code, start, end)
        self.model[start:end] = bytes([code]) * n
        got = self.map.change(Run(start, n), perm, by_page)
        assert got == Split(pud, pmd, entries)
        self.sums = Split(*(a + b for a, b in zip(self.sums, got, strict=True)))
        for pfn in {0, start, end - 1, max(0, start - 1), min(self.TOTAL - 1, end)}:
            assert self.map.perm(pfn) == ["rw", "ro", "np"][self.model[pfn]]

    @invariant()
    def conserved(self) -> None:
        if hasattr(self, "map"):
            self.map.check()
            counts = self.leaf.count(0), self.leaf.count(1) // PMD_PAGES, self.leaf.count(2) // PUD_PAGES
            assert self.map.leaves() == counts
            assert self.map.splits == self.sums


class KernelMapMachine(RuleBasedStateMachine):
    """Permissions and leaves against a recount; PMD only where frames and addresses allow it."""

    PERMS = ("none", "rw-nx", "ro-nx", "ro-x", "rw-x")

    def __init__(self) -> None:
        super().__init__()
        self.map = KernelMap()
        self.areas: list[VmArea] = []
        self.perms: dict[VmArea, list[str]] = {}
        self.next = 0

    @rule(
        shift=st.sampled_from([0, 0, 3]),
        pages=st.sampled_from([1, 5, 512, 700, 1024]),
        phys=st.sampled_from([0, 0, 1]),
        cut=st.booleans(),
        perm=st.sampled_from(PERMS),
        huge=st.booleans(),
    )
    def new(self, shift: int, pages: int, phys: int, cut: bool, perm: Any, huge: bool) -> None:
        base = self.next * 4 * PMD_PAGES
        self.next += 1
        pfn = base + shift + phys
        runs = (Run(pfn, 1), Run(pfn + 1, pages - 1)) if pages > 1 else (Run(pfn, 1),)
        if cut and pages > 1:
            runs = (Run(pfn, 1), Run(pfn + 2, pages - 1))
        area = VmArea((base + shift) * PAGE, pages, 1, "w", runs)
        with pytest.raises(ValueError):
            self.map.map(VmArea(area.va, pages + 1, 1, "w", runs), perm)
        written = self.map.map(area, perm, huge)
        assert (written == 0) == (perm == "none")
        self.areas.append(area)
        self.perms[area] = [perm] * pages

    @precondition(lambda self: self.areas)
    @rule(data=st.data(), perm=st.sampled_from(PERMS))
    def protect(self, data: st.DataObject, perm: Any) -> None:
        area = data.draw(st.sampled_from(self.areas))
        first = data.draw(st.one_of(st.just(0), st.integers(0, area.pages - 1)))
        n = data.draw(st.one_of(st.just(area.pages - first), st.integers(1, area.pages - first)))
        before = [self.map.is_huge(area, p) for p in range(area.pages)]
        old = self.perms[area]
        change = self.map.protect(area, first, n, perm)
        after = [self.map.is_huge(area, p) for p in range(area.pages)]
        differ = [p for p in range(first, first + n) if old[p] != perm]
        whole = sum(after[p] for p in differ)
        assert whole % PMD_PAGES == 0
        assert change.ptes == len(differ) - whole + whole // PMD_PAGES
        assert change.splits == (sum(before) - sum(after)) // PMD_PAGES
        assert change.ptes <= change.looked <= n
        old[first : first + n] = [perm] * n

    @precondition(lambda self: self.areas)
    @rule(data=st.data())
    def collapse(self, data: st.DataObject) -> None:
        area = data.draw(st.sampled_from(self.areas))
        before = sum(self.map.is_huge(area, p) for p in range(area.pages))
        done = self.map.collapse(area)
        after = sum(self.map.is_huge(area, p) for p in range(area.pages))
        assert after - before == done * PMD_PAGES
        for page in range(area.pages - PMD_PAGES + 1):  # whatever could become a PMD is one
            pfn = area.pfn(page)
            if (area.va // PAGE + page) % PMD_PAGES == 0 == pfn % PMD_PAGES:
                same = set(self.perms[area][page : page + PMD_PAGES])
                joined = area.pfn(page + PMD_PAGES - 1) == pfn + PMD_PAGES - 1
                assert self.map.is_huge(area, page) or same == {"none"} or len(same) > 1 or not joined

    @precondition(lambda self: self.areas)
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        area = data.draw(st.sampled_from(self.areas))
        present = [p for p in range(area.pages) if self.perms[area][p] != "none"]
        huge = sum(self.map.is_huge(area, p) for p in present)
        assert self.map.unmap(area) == len(present) - huge + huge // PMD_PAGES
        self.areas.remove(area)
        del self.perms[area]
        with pytest.raises(ValueError):
            self.map.protect(area, 0, 1, "ro-x")

    @invariant()
    def conserved(self) -> None:
        self.map.check()
        text = [self.map.is_huge(a, p) for a in self.areas for p, x in enumerate(self.perms[a]) if x[-2:] == "-x"]
        assert self.map.text_leaves() == (text.count(False), text.count(True) // PMD_PAGES)
        assert self.map.wx_pages == sum(perms.count("rw-x") for perms in self.perms.values())
        for area in self.areas:
            assert self.map.perm(area, area.pages - 1) == self.perms[area][-1]


class BitmapMachine(RuleBasedStateMachine):
    """A pack of 512 chunks against the kernel's search written out."""

    CHUNKS = 512

    def __init__(self) -> None:
        super().__init__()
        self.bitmap = ChunkBitmap(self.CHUNKS * 64)
        self.used = bytearray(self.CHUNKS)
        self.held: list[tuple[int, int]] = []

    def search(self, n: int) -> tuple[int | None, int, int]:
        """bitmap_find_next_zero_area: place, words read, refused holes that end a word."""
        start = words = even = 0
        while True:
            index = self.used.find(0, start)
            words += (
                (min(index % (1 << 32), self.CHUNKS - 1) if index >= 0 else self.CHUNKS - 1) // 64 - start // 64 + 1
            )
            if index < 0 or index + n > self.CHUNKS:
                return None, words, even
            stop = self.used.find(1, index, index + n)
            words += ((stop if stop >= 0 else index + n - 1) // 64) - index // 64 + 1
            if stop < 0:
                return index, words, even
            even += stop % 64 == 63
            start = stop + 1

    @rule(nbytes=st.one_of(st.integers(1, 700), st.integers(1, 20000)))
    def alloc(self, nbytes: int) -> None:
        n = -(-nbytes // 64)
        index, words, even = self.search(n)
        offset = self.bitmap.alloc(nbytes)
        assert offset == (None if index is None else index * 64)
        if index is None:
            assert self.bitmap.words_scanned >= words
        else:
            assert self.bitmap.words_scanned == words + even
            self.used[index : index + n] = b"\1" * n
            self.held.append((index * 64, nbytes))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset, nbytes = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.bitmap.free(offset, nbytes)
        n = -(-nbytes // 64)
        self.used[offset // 64 : offset // 64 + n] = bytes(n)
        with pytest.raises(ValueError):
            self.bitmap.free(offset, nbytes)

    @invariant()
    def conserved(self) -> None:
        self.bitmap.check()
        assert self.bitmap.used_chunks == sum(self.used)
        assert self.bitmap.empty == (not self.held)


for _machine in (HolesMachine, FramesMachine, VmapMachine, DirectMapMachine, KernelMapMachine, BitmapMachine):
    _machine.TestCase.settings = FAST
    globals()[f"Test{_machine.__name__}"] = _machine.TestCase


def test_holes_of_neighbouring_buckets_merge() -> None:
    holes = Holes()
    for start in range(0, 3000, 3):
        holes.give(start, start + 2)
    gaps = [(500 * i) % 999 * 3 + 2 for i in range(999)]
    for done, gap in enumerate(gaps):
        holes.give(gap, gap + 1)
        if done % 37 == 0:
            holes.check()
    holes.check()
    assert list(holes) == [(0, 2999)]


def test_frames_reuse_hot_pages_last_in_first_out() -> None:
    frames = Frames(PUD_PAGES)
    first = frames.alloc(4)
    assert first == (Run(0, 4),)
    assert frames.alloc(2) == (Run(4, 2),)
    frames.free(first)
    assert pages_of(frames.alloc(5)) == [3, 2, 1, 0, 6]


def test_frames_merge_a_freed_block_only_after_it_left_the_hot_list() -> None:
    frames = Frames(2 * PMD_PAGES)
    runs = frames.alloc(PMD_PAGES)
    assert frames.alloc_pmd(2) is None
    frames.free(runs)
    assert frames.alloc_pmd(2) == (Run(0, 2 * PMD_PAGES),)  # drain_all_pages


def test_fragmented_frames_spread_over_2m_blocks() -> None:
    frames = Frames(8 * PMD_PAGES, fragmented=True)
    assert [p // PMD_PAGES for p in pages_of(frames.alloc(8))] == list(range(8))
    assert frames.alloc_pmd(1) is None


def test_out_of_frames_survives_a_copy_of_its_arguments() -> None:
    with pytest.raises(OutOfFrames) as caught:
        Frames(10).alloc(11)
    assert caught.value.args == (11, 10) == OutOfFrames(*caught.value.args).args


def test_direct_map_of_a_rox_chunk_keeps_its_2m_leaf() -> None:
    direct = DirectMap(16 * PUD_PAGES)
    assert direct.change(Run(PMD_PAGES, PMD_PAGES), "ro") == Split(1, 0, 1)
    assert direct.change(Run(PMD_PAGES + 9, 3), "ro") == Split(0, 0, 0)
    assert direct.change(Run(PMD_PAGES + 9, 3), "rw") == Split(0, 1, 3)
    assert direct.change(Run(PMD_PAGES, PMD_PAGES), "rw") == Split(0, 0, PMD_PAGES - 3)
    assert direct.leaves() == (512, 511, 15)


def test_direct_map_splits_for_the_alias_of_4k_mapped_pages() -> None:
    direct = DirectMap(PUD_PAGES, "2M")
    assert direct.change(Run(0, PMD_PAGES), "ro", by_page=True) == Split(0, 1, PMD_PAGES)


def test_vmap_leaves_2m_holes_between_aligned_areas() -> None:
    space = VmapSpace({"modules": (0, 8 * PMD_PAGES)})
    areas = [space.alloc("modules", PMD_PAGES, align=PMD_PAGES) for _ in range(3)]
    assert [a.va // PAGE if a else None for a in areas] == [0, 2 * PMD_PAGES, 4 * PMD_PAGES]
    small = space.alloc("modules", 3)
    assert small is not None and small.va == (PMD_PAGES + 1) * PAGE


def test_kernel_map_temporary_rw_costs_a_2m_leaf_until_collapse() -> None:
    kernel = KernelMap()
    area = VmArea(0, PMD_PAGES, 1, "modules", (Run(PMD_PAGES, PMD_PAGES),))
    assert kernel.map(area, "rw-nx", huge=True) == 1
    assert kernel.protect(area, 0, PMD_PAGES, "ro-x") == (1, 0, 1)
    assert kernel.text_leaves() == (0, 1)
    assert kernel.protect(area, 8, 4, "ro-nx") == (4, 1, 4)
    assert kernel.text_leaves() == (508, 0)
    assert kernel.collapse(area) == 0
    assert kernel.protect(area, 8, 4, "ro-x") == (4, 0, 4)
    assert kernel.collapse(area) == 1
    assert kernel.text_leaves() == (0, 1)
    assert kernel.unmap(area) == 1


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
