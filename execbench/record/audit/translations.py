"""Translations that CPUs may hold: what is mapped at text's own addresses, and what was and has not been flushed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple, Protocol

from execbench.record.audit.could import Could
from execbench.record.audit.facts import Fact
from execbench.record.audit.spans import Spans

NEVER = -1
EVERYWHERE = ("ipi", "broadcast", "rfence", "mm")
"""Flushes that reach every CPU that may hold a translation ("mm": of a process that no other runs); not "local"."""


def writable(perm: str) -> bool:
    """Say whether a protection allows stores."""
    return perm.startswith("rw")


def executable(perm: str) -> bool:
    """Say whether a protection allows fetch."""
    return perm.endswith("-x")


class Emit(Protocol):
    """Takes findings."""

    def __call__(
        self, hazard: int, condition: str, facts: Iterable[Fact | None], detail: str = "", could: Could | None = None
    ) -> None:
        """Take what holds, the facts that show it, and who could have fetched meanwhile."""


Held = Callable[[int, str, int], None]
"""Takes for how long something held: hazard, condition, bytes times ns."""


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
    to fetch from this area here. wrong: the condition of hazard 4 that holds, since `wrong_at` (ns); "" if none does.
    """

    area: Any
    perm: str = "none"
    made: Fact | None = None
    made_x: Fact | None = None
    was: str = "none"
    opened_at: int = NEVER
    stale: tuple[Stale, ...] = ()
    clean_at: int = NEVER
    wrong: str = ""
    wrong_at: int = NEVER

    @property
    def fetchable(self) -> bool:
        """Whether some CPU may fetch this area's bytes at this address."""
        return executable(self.perm) or any(executable(old.perm) for old in self.stale if old.area is self.area)

    @property
    def refusing(self) -> bool:
        """Whether it is executable and some CPU may still hold a translation that forbids fetching."""
        return self.made_x is not None and any(not executable(old.perm) for old in self.stale)

    def opened(self) -> int:
        """Return when (ns) the last CPU may have met what forbade fetching."""
        return max(self.opened_at, NEVER if self.made_x is None else self.made_x.t)

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

    def foreign(self) -> Stale | None:
        """Return a translation to another area's frames while this area is mapped here."""
        if self.perm == "none":
            return None
        return next((old for old in self.stale if old.area is not self.area), None)

    def overlap(self) -> tuple[Stale, Stale] | None:
        """Return a translation that allows stores and another that allows fetch; both in one are hazard 6."""
        if writable(self.perm) and executable(self.perm):
            return None
        mine = [old for old in self.stale if old.area is self.area]
        if not mine:
            return None
        here = [Stale(self.area, self.perm, self.made, mine[0].fact), *mine]
        pairs = ((one, other) for one, other in permutations(here, 2) if one.perm != other.perm)
        return next(((one, other) for one, other in pairs if writable(one.perm) and executable(other.perm)), None)

    def condition(self) -> str:
        """Return the worst condition of hazard 4 that holds; "" if none does."""
        if not self.stale:
            return ""
        return "reused" if self.foreign() is not None else "overlap" if self.overlap() is not None else ""

    def lingering(self) -> Stale | None:
        """Return a translation that allows stores where the page tables do not any more."""
        if writable(self.perm):
            return None
        return next((old for old in self.stale if writable(old.perm) and old.area is self.area), None)


def _at(gone: Callable[[Stale], int | None], end: int, old: Stale) -> int | None:
    """Return `end` if a translation went then."""
    return end if gone(old) == end else None


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

    def __init__(self, page: int, emit: Emit, held: Held) -> None:
        """`page` bytes each; `emit` takes what is found on the way, `held` for how long."""
        self.page = page
        self.pages: Spans[Page] = Spans()
        self.flushes = Flushes()
        self._emit = emit
        self._held = held

    def close(self, t: int) -> None:
        """End (ns) what holds still."""
        for low, high, page in self.pages:
            new = self._settled(low, high, page)
            if new.wrong:
                self._held(4, new.wrong, (high - low) * self.page * (t - new.wrong_at))

    def over(self, va: int, size: int) -> list[tuple[int, int, Page]]:
        """Return (first byte, end, page) of the stretches of an address range that are known, as of now."""
        start, end = self.numbers(va, size)
        self.pages.change(start, end, self._settled)
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
            before = self._settled(low, high, old) if old else Page(None)
            new = self._changed(before, area, perm, fact)
            new = self._wrong(low, high, new, new.condition(), fact.t)
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
        new = Page(area, perm, made, made_x, was, kept[0], stale, kept[1], old.wrong, old.wrong_at)
        self._check(new, fact)
        return new

    def _check(self, page: Page, fact: Fact) -> None:
        """Emit hazard 4: another area's translation in use, or one CPU that may write what another executes."""
        foreign = page.foreign()
        if foreign is not None:
            self._emit(4, "reused", (foreign.made, foreign.fact, fact))
        pair = page.overlap()
        if pair is not None:
            self._emit(4, "overlap", (pair[0].made, pair[1].made, fact))

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
            lambda low, high, page: self._without(
                low, high, self._settled(low, high, page), lambda old: fact.t if old.fact.t <= begin else None
            ),
        )  # fmt: skip

    def _settled(self, low: int, high: int, page: Page) -> Page:
        """Apply the flushes of everything that were complete since to the pages from `low` to `high`."""
        if not page.stale:
            return page
        return self._without(low, high, page, lambda old: self.flushes.end_of_first_since(old.fact.t))

    def _without(self, low: int, high: int, page: Page, gone: Callable[[Stale], int | None]) -> Page:
        """Take translations away in the order in which they went, and tell how long hazard 4 was open."""
        if not page.wrong:
            return page.without(gone)
        for end in sorted({end for end in map(gone, page.stale) if end is not None}):
            page = page.without(partial(_at, gone, end))
            page = self._wrong(low, high, page, page.condition(), end)
        return page

    def _wrong(self, low: int, high: int, page: Page, condition: str, t: int) -> Page:
        """Note which condition of hazard 4 holds from `t` (ns) on, and for how long another did."""
        if condition == page.wrong:
            return page
        if page.wrong:
            self._held(4, page.wrong, (high - low) * self.page * (t - page.wrong_at))
        return page._replace(wrong=condition, wrong_at=t)
