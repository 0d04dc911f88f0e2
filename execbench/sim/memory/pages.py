"""Page sizes, and sets of pages of one PMD block as integers of as many bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

PAGE: Final = 4096
"""Bytes of a base page where nothing else is said."""
PMD_PAGES: Final = PAGE // 8
"""Base pages of a PMD leaf with 4 KiB pages (2M)."""
PUD_PAGES: Final = PMD_PAGES * PMD_PAGES
"""Base pages of a PUD leaf with 4 KiB pages (1G)."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes that follow from the base page (bytes), for a page table fills one page with entries of 8 bytes.

    A PMD leaf maps 2M with pages of 4K, 32M with 16K, 512M with 64K (arch/arm64/include/asm/pgtable-hwdef.h).
    """

    page: int = PAGE
    pmd_pages: int = field(init=False)
    pud_pages: int = field(init=False)

    def __post_init__(self) -> None:
        """ValueError unless the page is a power of two with room for two entries."""
        if self.page < 16 or self.page & (self.page - 1):
            raise ValueError(f"a page of {self.page} bytes")
        object.__setattr__(self, "pmd_pages", self.page // 8)
        object.__setattr__(self, "pud_pages", self.pmd_pages * self.pmd_pages)

    def pages_of(self, size: int) -> int:
        """Return the pages that `size` bytes take."""
        return -(-size // self.page)

    def window(self, va: int, pages: int) -> tuple[int, int]:
        """Return the whole pages inside `pages` pages of 4 KiB from byte `va` on, as (first byte, pages)."""
        first = self.pages_of(va)
        return first * self.page, max((va + pages * PAGE) // self.page - first, 0)


FOUR_KIB: Final = Geometry()
"""4 KiB pages."""


def span(first: int, n: int) -> int:
    """Return the bits first .. first+n-1."""
    return ((1 << n) - 1) << first


def pieces(first: int, n: int, block_pages: int) -> Iterator[tuple[int, int, int]]:
    """Yield (block, first page in it, pages) of the PMD blocks that the pages first .. first+n-1 touch."""
    end = first + n
    while first < end:
        block, offset = divmod(first, block_pages)
        count = min(end - first, block_pages - offset)
        yield block, offset, count
        first += count


def lowest_run(mask: int) -> tuple[int, int]:
    """Return (first, length) of the lowest run of set bits; mask must not be 0."""
    first = (mask & -mask).bit_length() - 1
    shifted = (mask >> first) + 1
    return first, (shifted & -shifted).bit_length() - 1


def equal(what: str, running: object, recount: object) -> None:
    """Raise AssertionError with both figures unless the running total equals the recount."""
    if running != recount:
        raise AssertionError(f"{what}: running total {running}, recount {recount}")
