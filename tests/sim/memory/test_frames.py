"""Page frames of any page size: random programs, and known situations of the page allocator."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from execbench.sim.memory import FOUR_KIB, PMD_PAGES, PUD_PAGES, Frames, Geometry, OutOfFrames, Run

FAST = settings(max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(FAST, max_examples=10, stateful_step_count=20)


def pages_of(runs: tuple[Run, ...]) -> list[int]:
    return [pfn + i for pfn, n in runs for i in range(n)]


class FramesMachine(RuleBasedStateMachine):
    """No frame twice, none lost, in either extreme of fragmentation."""

    geometry = FOUR_KIB

    @property
    def pmd(self) -> int:
        return self.geometry.pmd_pages

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Run, ...]] = []

    @initialize(blocks=st.sampled_from([0, 1, 4, 8]), more=st.sampled_from([1, 3]), fragmented=st.booleans())
    def boot(self, blocks: int, more: int, fragmented: bool) -> None:
        self.frames = Frames(blocks * self.pmd + more, fragmented=fragmented, geometry=self.geometry)
        self.most = self.frames.available

    @rule(n=st.integers(1, 20), thirds=st.integers(0, 9))
    def alloc(self, n: int, thirds: int) -> None:
        n += thirds * self.pmd // 3
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
            assert all(pfn % self.pmd == 0 and n % self.pmd == 0 for pfn, n in runs)
            assert len(pages_of(runs)) == k * self.pmd
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


class TinyFrames(FramesMachine):
    """Blocks of 8 pages: many of them come and go."""

    geometry = Geometry(64)


class MiddleFrames(FramesMachine):
    """16 KiB pages."""

    geometry = Geometry(16 << 10)


class LargeFrames(FramesMachine):
    """64 KiB pages."""

    geometry = Geometry(64 << 10)


TestFrames, TestTinyFrames = FramesMachine.TestCase, TinyFrames.TestCase
TestMiddleFrames, TestLargeFrames = MiddleFrames.TestCase, LargeFrames.TestCase
TestFrames.settings = TestTinyFrames.settings = FAST
TestMiddleFrames.settings = TestLargeFrames.settings = FEW


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


@pytest.mark.parametrize(("page", "batch"), [(4096, 63), (16 << 10, 15), (64 << 10, 3), (1 << 20, 1)])
def test_a_per_cpu_list_gives_back_256_kib_less_a_page_at_a_time(page: int, batch: int) -> None:
    frames = Frames(4 * (page // 8), geometry=Geometry(page))
    runs = frames.alloc(4 * batch + 1)
    frames.free(runs)
    hot = [pages_of(frames.alloc(1))[0] for _ in range(3 * batch + 1)]
    assert hot == list(range(4 * batch, batch - 1, -1))  # the youngest are still there, the oldest batch has gone
    assert pages_of(frames.alloc(1)) == [0]
