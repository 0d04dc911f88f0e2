"""The direct map against a model page by page, and known situations of set_memory."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from execbench.sim.memory import FOUR_KIB, PMD_PAGES, PUD_PAGES, DirectMap, Geometry, Run, Split

FAST = settings(max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(FAST, max_examples=10, stateful_step_count=20)


class DirectMapMachine(RuleBasedStateMachine):
    """A direct map of two PUD leaves, three PMD leaves and seven pages against a model page by page."""

    geometry = FOUR_KIB
    puds = 2

    def __init__(self) -> None:
        super().__init__()
        self.pmd, self.pud = self.geometry.pmd_pages, self.geometry.pud_pages
        self.total = self.puds * self.pud + 3 * self.pmd + 7

    @initialize(leaf=st.sampled_from(["1G", "1G", "2M", "4K"]))
    def boot(self, leaf: Any) -> None:
        self.map = DirectMap(self.total, leaf, self.geometry)
        self.leaf = bytearray(self.total)  # per page: 2 = PUD, 1 = PMD, 0 = PTE
        if leaf != "4K":
            self.leaf[: self.total - 7] = b"\1" * (self.total - 7)
        if leaf == "1G":
            self.leaf[: self.puds * self.pud] = b"\2" * (self.puds * self.pud)
        self.model = bytearray(self.total)  # 0 rw, 1 ro, 2 np
        self.sums = Split(0, 0, 0)

    @rule(
        begin=st.tuples(st.integers(0, 5), st.sampled_from([0, 0, 0, 1, 2, 5]), st.sampled_from([0, 0, 0, 1, 7])),
        length=st.sampled_from([(0, 0, 1), (0, 0, 5), (0, 1, 0), (0, 2, 3), (1, 0, 0), (1, 0, 1), (2, 0, 0)]),
        perm=st.sampled_from(["rw", "ro", "np"]),
        by_page=st.booleans(),
    )
    def change(self, begin: tuple[int, int, int], length: tuple[int, int, int], perm: Any, by_page: bool) -> None:
        """Begin and length are counts of PUDs, PMDs and pages."""
        start, n = (puds * self.pud + pmds * self.pmd + pages for puds, pmds, pages in (begin, length))
        start %= self.total
        n = min(n, self.total - start)
        code, end = ["rw", "ro", "np"].index(perm), start + n
        pud = pmd = entries = 0
        for size, kind in ((self.pud, 2), (self.pmd, 1)):
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
        for pfn in {0, start, end - 1, max(0, start - 1), min(self.total - 1, end)}:
            assert self.map.perm(pfn) == ["rw", "ro", "np"][self.model[pfn]]

    @invariant()
    def conserved(self) -> None:
        if hasattr(self, "map"):
            self.map.check()
            counts = self.leaf.count(0), self.leaf.count(1) // self.pmd, self.leaf.count(2) // self.pud
            assert self.map.leaves() == counts
            assert self.map.splits == self.sums


class TinyDirectMap(DirectMapMachine):
    """PUD leaves of 64 pages, five of them: some are still whole when a change covers one."""

    geometry = Geometry(64)
    puds = 5


class MiddleDirectMap(DirectMapMachine):
    """16 KiB pages, too little memory for a PUD leaf."""

    geometry = Geometry(16 << 10)
    puds = 0


class LargeDirectMap(DirectMapMachine):
    """64 KiB pages, too little memory for a PUD leaf."""

    geometry = Geometry(64 << 10)
    puds = 0


TestDirectMap, TestTinyDirectMap = DirectMapMachine.TestCase, TinyDirectMap.TestCase
TestMiddleDirectMap, TestLargeDirectMap = MiddleDirectMap.TestCase, LargeDirectMap.TestCase
TestDirectMap.settings, TestTinyDirectMap.settings = FAST, settings(FAST, max_examples=250)
TestMiddleDirectMap.settings = TestLargeDirectMap.settings = FEW


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
