"""Page sizes, and sets of pages of one 2M block as 512-bit integers."""

from __future__ import annotations

from collections.abc import Iterator

PAGE = 4096
"""Bytes of a base page."""
PMD_PAGES = 512
"""Base pages of a 2M leaf."""
PUD_PAGES = 512 * 512
"""Base pages of a 1G leaf."""

FULL = (1 << PMD_PAGES) - 1


def span(first: int, n: int) -> int:
    """Return the bits first .. first+n-1."""
    return ((1 << n) - 1) << first


def pieces(first: int, n: int) -> Iterator[tuple[int, int, int]]:
    """Yield (block, first page in it, pages) of the 2M blocks that the pages first .. first+n-1 touch."""
    end = first + n
    while first < end:
        block, offset = divmod(first, PMD_PAGES)
        count = min(end - first, PMD_PAGES - offset)
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
