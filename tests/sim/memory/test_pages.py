"""What follows from the size of a base page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execbench.sim.memory import FOUR_KIB, PAGE, PMD_PAGES, PUD_PAGES, Geometry

MIB = 1 << 20
any_page = st.sampled_from([4096, 16 << 10, 64 << 10])


@pytest.mark.parametrize(
    ("page", "pmd_bytes", "pud_bytes"),
    [(4096, 2 * MIB, 1 << 30), (16 << 10, 32 * MIB, 64 << 30), (64 << 10, 512 * MIB, 4 << 40)],
)
def test_leaves_are_those_of_the_architecture(page: int, pmd_bytes: int, pud_bytes: int) -> None:
    geometry = Geometry(page)
    assert (geometry.pmd_pages * page, geometry.pud_pages * page) == (pmd_bytes, pud_bytes)


def test_four_kib_is_the_default() -> None:
    assert Geometry() == FOUR_KIB == Geometry(PAGE)
    assert (FOUR_KIB.pmd_pages, FOUR_KIB.pud_pages) == (PMD_PAGES, PUD_PAGES) == (512, 512 * 512)


@pytest.mark.parametrize("page", [0, 8, 4095, 12 << 10, -4096])
def test_a_page_is_a_power_of_two_with_room_for_entries(page: int) -> None:
    with pytest.raises(ValueError, match="a page of"):
        Geometry(page)


@given(any_page, st.integers(0, 1 << 40))
def test_pages_of_a_size_hold_it_and_no_more(page: int, size: int) -> None:
    pages = Geometry(page).pages_of(size)
    assert pages * page >= size > (pages - 1) * page


@given(any_page, st.integers(0, 1 << 40), st.integers(0, 1 << 30))
def test_a_window_holds_the_whole_pages_inside(page: int, first: int, pages: int) -> None:
    va, n = Geometry(page).window(first * PAGE, pages)
    low, high = first * PAGE, (first + pages) * PAGE
    assert va % page == 0
    assert low <= va < low + page
    assert n == max((high - va) // page, 0)
