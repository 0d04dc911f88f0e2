"""Translations that CPUs may hold: what is mapped at text's own addresses, and what was and has not been flushed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import permutations
from typing import Any, NamedTuple, Protocol

from execbench.record.audit.facts import Fact
from execbench.record.audit.spans import Spans

NEVER = -1
EVERYWHERE = ("ipi", "broadcast", "rfence")
"""Flushes that reach every CPU; "local" reaches one."""


def writable(perm: str) -> bool:
    """Say whether a protection allows stores."""
    return perm.startswith("rw")


def executable(perm: str) -> bool:
    """Say whether a protection allows fetch."""
    return perm.endswith("-x")


class Emit(Protocol):
    """Takes findings."""

    def __call__(self, hazard: int, condition: str, facts: Iterable[Fact | None], detail: str = "") -> None:
        """Take what holds, and the facts that show it."""


class Stale(NamedTuple):
    """A translation that may be in a TLB: of which area, what it allows, what made it, and what took it away."""

    area: Any
    perm: str
    made: Fact | None
    fact: Fact


class Page(NamedTuple):
    """What is known of a stretch of pages that went through the same changes.

    area: who lives there. made: the fact that gave it this protection. made_x: the fact that made it executable, if it
    is. was: what CPUs may have held of it then, "none" (absent) or "nx". opened_at: when (ns) they were last sure to
    hold no translation that forbids what is allowed now. clean_at: when (ns) they were last sure to have lost the way
    to fetch from this area here.
    """

    area: Any
    perm: str = "none"
    made: Fact | None = None
    made_x: Fact | None = None
    was: str = "none"
    opened_at: int = NEVER
    stale: tuple[Stale, ...] = ()
    clean_at: int = NEVER

    @property
    def fetchable(self) -> bool:
        """Whether some CPU may fetch this area's bytes at this address."""
        return executable(self.perm) or any(executable(old.perm) for old in self.stale if old.area is self.area)

    @property
    def refusing(self) -> bool:
        """Whether it is executable and some CPU may still hold a translation that forbids fetching."""
        return self.made_x is not None and any(not executable(old.perm) for old in self.stale)

    def without(self, gone: Callable[[Stale], int | None]) -> Page:
        """Return it without the translations that a flush took away; gone(old) says when (ns), None: it did not."""
        kept, clean_at, opened_at = [], self.clean_at, self.opened_at
        for old in self.stale:
            end = gone(old)
            if end is None:
                kept.append(old)
            elif not executable(old.perm):
                opened_at = max(opened_at, end)
            elif old.area is self.area:
                clean_at = max(clean_at, end)
        if len(kept) == len(self.stale):
            return self
        new = self._replace(stale=tuple(kept), opened_at=opened_at)
        return new if new.fetchable else new._replace(clean_at=clean_at)

    def lingering(self) -> Stale | None:
        """Return a translation that allows stores where the page tables do not any more."""
        if writable(self.perm):
            return None
        return next((old for old in self.stale if writable(old.perm) and old.area is self.area), None)


class Flushes:
    """Complete flushes of everything, by the time of their end."""

    def __init__(self) -> None:
        """None so far."""
        self._ends: list[int] = []
        self._begins: list[int] = []

    def add(self, begin: int, end: int) -> None:
        """Note one; ends do not decrease."""
        self._begins.append(begin)
        self._ends.append(end)

    def end_of_first_since(self, t: int) -> int | None:
        """Return when the first flush was complete that began at `t` or later; None if none was."""
        for i in range(bisect_left(self._ends, t), len(self._ends)):
            if self._begins[i] >= t:
                return self._ends[i]
        return None


class Translations:
    """Pages by number."""

    def __init__(self, page: int, emit: Emit) -> None:
        """`page` bytes each; `emit` takes what is found on the way."""
        self.page = page
        self.pages: Spans[Page] = Spans()
        self.flushes = Flushes()
        self._emit = emit

    def over(self, va: int, size: int) -> list[tuple[int, int, Page]]:
        """Return (first byte, end, page) of the stretches of an address range that are known, as of now."""
        start, end = self.numbers(va, size)
        self.pages.change(start, end, lambda low, high, page: self._settled(page))
        return [
            (max(low * self.page, va), min(high * self.page, va + size), page)
            for low, high, page in self.pages.over(start, end)
        ]

    def numbers(self, va: int, size: int) -> tuple[int, int]:
        """Return (first page number, end) of an address range."""
        return va // self.page, (va + size - 1) // self.page + 1

    def map(self, fact: Fact) -> list[tuple[int, int]]:
        """Take a change of protection; return the byte ranges that have a new tenant."""
        area, first, pages, perm = fact.fields
        start = area.va // self.page + first
        fresh = []
        for low, high, old in self.pages.tiled(start, start + pages):
            new = self._changed(self._settled(old) if old else Page(None), area, perm, fact)
            self.pages.put(low, high, new)
            if old is None or old.area is not area:
                fresh.append((low * self.page, high * self.page))
        return fresh

    def _changed(self, old: Page, area: Any, perm: str, fact: Fact) -> Page:
        same = old.area is area
        stale = old.stale
        if old.perm != "none" and (not same or old.perm != perm):
            stale = (*stale, Stale(old.area, old.perm, old.made, fact))
        made_x, was = None, "none"
        if executable(perm):
            if same and executable(old.perm):
                made_x, was = old.made_x, old.was
            else:
                forbidden = any(not executable(entry.perm) for entry in stale)
                made_x, was = fact, "nx" if forbidden else "none"
        kept = (old.opened_at, old.clean_at) if same else (NEVER, NEVER)
        made = old.made if same and old.perm == perm else fact
        new = Page(area, perm, made, made_x, was, kept[0], stale, kept[1])
        self._check(new, fact)
        return new

    def _check(self, page: Page, fact: Fact) -> None:
        """Emit hazard 4: another area's translation in use, or one CPU that may write what another executes."""
        foreign = next((old for old in page.stale if old.area is not page.area), None)
        if page.perm != "none" and foreign is not None:
            self._emit(4, "reused", (foreign.made, foreign.fact, fact))
        if writable(page.perm) and executable(page.perm):
            return  # one translation that allows both is hazard 6
        here = [Stale(page.area, page.perm, page.made, fact), *(old for old in page.stale if old.area is page.area)]
        for one, other in permutations(here, 2):
            if writable(one.perm) and executable(other.perm) and one.perm != other.perm:
                self._emit(4, "overlap", (one.made, other.made, fact))
                return

    def flush(self, fact: Fact) -> None:
        """Take a complete flush; one that reaches a single CPU proves nothing about the others."""
        begin, va, pages, how, _ = fact.fields
        if how not in EVERYWHERE:
            return
        if pages == 0:
            self.flushes.add(begin, fact.t)
            return
        start = va // self.page
        self.pages.change(
            start, start + pages,
            lambda low, high, page: self._settled(page).without(lambda old: fact.t if old.fact.t <= begin else None),
        )  # fmt: skip

    def _settled(self, page: Page) -> Page:
        """Apply the flushes of everything that were complete since."""
        return page.without(lambda old: self.flushes.end_of_first_since(old.fact.t)) if page.stale else page
