"""Permissions and leaves of vmalloc areas against a recount; what a temporary change of protection costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from execbench.sim.memory import FOUR_KIB, PMD_PAGES, Geometry, KernelMap, Run, VmArea

PERMS = ("none", "rw-nx", "ro-nx", "ro-x", "rw-x")
FAST = settings(max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(FAST, max_examples=10, stateful_step_count=20)


class KernelMapMachine(RuleBasedStateMachine):
    """Permissions and leaves against a recount; PMD only where frames and addresses allow it."""

    geometry = FOUR_KIB

    def __init__(self) -> None:
        super().__init__()
        self.pmd, self.page = self.geometry.pmd_pages, self.geometry.page
        self.map = KernelMap(self.geometry)
        self.areas: list[VmArea] = []
        self.perms: dict[VmArea, bytearray] = {}  # per page the index of its permission
        self.next = 0

    def huge(self, area: VmArea) -> list[int]:
        """The first pages of PMD leaves; every page of a leaf says that it belongs to one, all others do not."""
        aligned = range(-(area.va // self.page) % self.pmd, area.pages - self.pmd + 1, self.pmd)
        slots = [page for page in aligned if self.map.is_huge(area, page)]
        seen = {page for page in (*range(0, area.pages, max(self.pmd // 8, 1)), area.pages - 1)
                if self.map.is_huge(area, page)}  # fmt: skip
        assert all(any(slot <= page < slot + self.pmd for slot in slots) for page in seen)
        assert all(self.map.is_huge(area, slot + self.pmd - 1) for slot in slots)
        return slots

    @rule(
        shift=st.sampled_from([0, 0, 3]),
        size=st.sampled_from([(0, 1), (0, 5), (1, 0), (1, 6), (2, 0)]),
        phys=st.sampled_from([0, 0, 1]),
        cut=st.booleans(),
        perm=st.sampled_from(PERMS),
        huge=st.booleans(),
    )
    def new(self, shift: int, size: tuple[int, int], phys: int, cut: bool, perm: Any, huge: bool) -> None:
        pages = size[0] * self.pmd + size[1]
        base = self.next * 4 * self.pmd
        self.next += 1
        pfn = base + shift + phys
        runs = (Run(pfn, 1), Run(pfn + 1, pages - 1)) if pages > 1 else (Run(pfn, 1),)
        if cut and pages > 1:
            runs = (Run(pfn, 1), Run(pfn + 2, pages - 1))
        area = VmArea((base + shift) * self.page, pages, 1, "w", runs, page=self.page)
        with pytest.raises(ValueError):
            self.map.map(VmArea(area.va, pages + 1, 1, "w", runs), perm)
        written = self.map.map(area, perm, huge)
        assert (written == 0) == (perm == "none")
        self.areas.append(area)
        self.perms[area] = bytearray([PERMS.index(perm)]) * pages

    @precondition(lambda self: self.areas)
    @rule(data=st.data(), perm=st.sampled_from(PERMS))
    def protect(self, data: st.DataObject, perm: Any) -> None:
        area = data.draw(st.sampled_from(self.areas))
        first = data.draw(st.one_of(st.just(0), st.integers(0, area.pages - 1)))
        n = data.draw(st.one_of(st.just(area.pages - first), st.integers(1, area.pages - first)))
        before = self.huge(area)
        old, code = self.perms[area], PERMS.index(perm)
        change = self.map.protect(area, first, n, perm)
        after = self.huge(area)
        differ = n - old.count(code, first, first + n)
        rewritten = sum(first <= slot and slot + self.pmd <= first + n and old[slot] != code for slot in after)
        assert change.ptes == differ - rewritten * (self.pmd - 1)
        assert change.splits == len(before) - len(after)
        assert set(after) <= set(before)
        assert change.ptes <= change.looked <= n
        old[first : first + n] = bytes([code]) * n

    @precondition(lambda self: self.areas)
    @rule(data=st.data())
    def collapse(self, data: st.DataObject) -> None:
        area = data.draw(st.sampled_from(self.areas))
        before = self.huge(area)
        assert self.map.collapse(area) == len(self.huge(area)) - len(before)
        for page in range(-(area.va // self.page) % self.pmd, area.pages - self.pmd + 1, self.pmd):
            pfn, perms = area.pfn(page), set(self.perms[area][page : page + self.pmd])
            joined = pfn % self.pmd == 0 and area.pfn(page + self.pmd - 1) == pfn + self.pmd - 1
            fits = joined and len(perms) == 1 and perms != {PERMS.index("none")}
            assert self.map.is_huge(area, page) == (page in before or fits)

    @precondition(lambda self: self.areas)
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        area = data.draw(st.sampled_from(self.areas))
        huge = [slot for slot in self.huge(area) if self.perms[area][slot] != PERMS.index("none")]
        present = area.pages - self.perms[area].count(PERMS.index("none"))
        assert self.map.unmap(area) == present - len(huge) * (self.pmd - 1)
        self.areas.remove(area)
        del self.perms[area]
        with pytest.raises(ValueError):
            self.map.protect(area, 0, 1, "ro-x")

    @invariant()
    def conserved(self) -> None:
        self.map.check()
        codes = [PERMS.index("ro-x"), PERMS.index("rw-x")]
        text = sum(perms.count(code) for perms in self.perms.values() for code in codes)
        large = sum(self.perms[area][slot] in codes for area in self.areas for slot in self.huge(area))
        assert self.map.text_leaves() == (text - large * self.pmd, large)
        assert self.map.wx_pages == sum(perms.count(codes[1]) for perms in self.perms.values())
        for area in self.areas:
            assert self.map.perm(area, area.pages - 1) == PERMS[self.perms[area][-1]]


class TinyKernelMap(KernelMapMachine):
    """PMD leaves of 8 pages."""

    geometry = Geometry(64)


class MiddleKernelMap(KernelMapMachine):
    """16 KiB pages."""

    geometry = Geometry(16 << 10)


class LargeKernelMap(KernelMapMachine):
    """64 KiB pages."""

    geometry = Geometry(64 << 10)


TestKernelMap, TestTinyKernelMap = KernelMapMachine.TestCase, TinyKernelMap.TestCase
TestMiddleKernelMap, TestLargeKernelMap = MiddleKernelMap.TestCase, LargeKernelMap.TestCase
TestKernelMap.settings = TestTinyKernelMap.settings = FAST
TestMiddleKernelMap.settings = TestLargeKernelMap.settings = FEW


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
