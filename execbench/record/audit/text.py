"""Bytes of text: what was written where, what CPUs may have fetched of what was there before (hazards 1 and 2).

arm64 and riscv64 cache instructions by physical address: what a frame held while any address led to it may still be
there, so every byte written needs maintenance, whoever had the frame before. x86_64 fetches what memory holds. Beyond
the caches there is what a CPU has fetched ahead, by address: only what could be fetched at this very address, and only
until the CPU synchronizes, or until the address has been unmapped and flushed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from execbench.record.audit.could import Could
from execbench.record.audit.facts import Fact
from execbench.record.audit.forced import Forced
from execbench.record.audit.lives import Open
from execbench.record.audit.platform import Platform
from execbench.record.audit.spans import Spans
from execbench.record.audit.translations import NEVER, Emit, Held, Page, Translations

WORDS = {"trap": "traps", "code": "code"}
"""What may have been fetched, by what was there."""
FENCE = "riscv64"
"""Where maintenance of the instruction cache and synchronization are one instruction (fence.i)."""


class Mark(NamedTuple):
    """The last store to a stretch of bytes.

    pre: what could be fetched there, "trap" or "code" (which is also what nobody knows). live: whether a region there
    could be reached. fetchable: whether some CPU could fetch it at this address. cleaned: when the caches were clean of
    older bytes. ahead: up to when (ns) a CPU may have fetched older bytes ahead; NEVER if none may.
    """

    store: Fact
    pre: str
    pre_t: int
    live: bool
    fetchable: bool
    cleaned: int = NEVER
    ahead: int = NEVER

    @property
    def size(self) -> int:
        """Bytes of the whole store."""
        return int(self.store.fields[1])

    @property
    def content(self) -> str:
        """What was written."""
        return str(self.store.fields[2])


class Text:
    """Marks by byte address."""

    def __init__(self, platform: Platform, translations: Translations, forced: Forced, emit: Emit, held: Held) -> None:
        """Share the translations and the synchronization that the other hazards look at too."""
        self.platform = platform
        self.facts = platform.facts
        self.marks: Spans[Mark] = Spans()
        self._translations = translations
        self._forced = forced
        self._emit = emit
        self._held = held

    def forget(self, start: int, end: int) -> None:
        """Addresses have a new tenant: nobody knows what is in its frames."""
        self.marks.drop(start, end)

    def store(self, fact: Fact, live: bool) -> None:
        """Take a store; `live`: somebody may execute there."""
        va, size, content, _ = fact.fields
        if content == "site":
            return
        for low, high, page in self._translations.over(va, size):
            for start, end, old in self.marks.tiled(low, high):
                pre, pre_t = ("code", NEVER) if old is None else (self._seen(old), old.store.t)
                ahead = fact.t if page.fetchable and self.facts.coherent else NEVER
                mark = Mark(fact, pre, pre_t, live, page.fetchable, fact.t if self.facts.coherent else NEVER, ahead)
                self.marks.put(start, end, mark)

    def _seen(self, old: Mark) -> str:
        """Return what every CPU fetches now: a trap only if the caches had to let go of what was there before it."""
        if old.cleaned == NEVER and self._forced.fence((old.store.task,), old.store.t) is None:
            return "code"
        return old.content

    def icache(self, fact: Fact) -> None:
        """Take maintenance by line on all CPUs: whole lines are clean of what was in memory before it began."""
        begin, va, size, how = fact.fields
        if size == 0 or how == "fence.i-local":
            return
        line = self.facts.line
        start, end = va // line * line, -(-(va + size) // line) * line
        for low, high, page in self._translations.over(start, end - start):
            self.marks.change(low, high, partial(self._cleaned, page=page, fact=fact, begin=begin))

    def _cleaned(self, _: int, __: int, mark: Mark, page: Page, fact: Fact, begin: int) -> Mark:
        if mark.store.task is not fact.task or mark.cleaned != NEVER or mark.store.t > begin:
            return mark
        return mark._replace(cleaned=fact.t, ahead=fact.t if page.fetchable else NEVER)

    def last_store(self, va: int, size: int) -> Fact | None:
        """Return the last store to a range."""
        stores = (mark.store for _, _, mark in self.marks.over(va, va + size))
        return max(stores, key=lambda fact: (fact.t, fact.order), default=None)

    # --- judging ------------------------------------------------------------------------------------------------------

    def judge(self, reach: Fact, va: int, size: int, live: bool = False) -> list[Open]:
        """Emit what holds for text that is published now by the task of `reach`, or (`live`) was rewritten since.

        Returns what stays open until the end of the publication: stale bytes from the publication on, torn bytes from
        the store on.
        """
        guard = self._guard(va)
        still: list[Open] = []
        for start, end, page, mark in self._marks(va, size):
            if mark.live != live:
                continue
            stale, why = self._stale(mark, page, reach.task)
            size = end - start
            shown = (page.made_x if mark.fetchable or stale != "icache" else None, mark.store, reach)
            self._emit(1, stale or why, shown, could=self._old(start, size, mark, stale, reach) if stale else None)
            torn = self._torn(mark, stale, guard)
            self._emit(2, torn, shown, could=_half(start, size, mark, torn))
            begin = max(reach.t, mark.store.t)
            if stale:
                still.append((1, stale, size, begin))
            if torn == "torn-then-synchronized":
                self._held(2, torn, size * (begin - mark.store.t))
            elif torn.startswith("torn"):
                still.append((2, torn, size, mark.store.t))
        return still

    def _marks(self, va: int, size: int) -> Iterator[tuple[int, int, Page, Mark]]:
        for low, high, page in self._translations.over(va, size):
            for start, end, mark in self.marks.over(low, high):
                yield start, end, page, mark

    def _stale(self, mark: Mark, page: Page, publisher: Any) -> tuple[str, str]:
        """Return (condition of hazard 1 if it is open, condition that excludes it)."""
        tasks = (mark.store.task, publisher)
        entered = self._forced.entered(tasks) >= mark.store.t
        ahead = mark.ahead
        if mark.cleaned == NEVER:
            fence = self._forced.fence(tasks, mark.store.t)
            if fence is None:
                if self.platform.arch == FENCE and (entered or self._retried(mark)):
                    return "", "entry" if entered else "retried"
                return "icache", ""
            if self.platform.arch == FENCE:
                return "", "synchronized" if mark.fetchable else "not-fetchable"
            ahead = fence if page.fetchable else NEVER
        if ahead == NEVER or page.clean_at >= ahead:
            return "", "not-fetchable"
        if self._forced.others(tasks) < ahead:
            if entered:
                return "", "entry"
            if self._retried(mark):
                return "", "retried"
            return f"stale-{mark.pre}", ""
        if not entered and any(self._forced.own(task, tasks) < ahead for task in tasks if not self._jumps(mark, task)):
            return "own-cpu", ""
        return "", "synchronized"

    def _old(self, va: int, size: int, mark: Mark, stale: str, reach: Fact) -> Could:
        """Return who may hold the bytes from before the store when they are published, hazard 1 being open."""
        tasks = (mark.store.task, reach.task)
        if stale == "icache":
            own = tuple(task for task in tasks if self._forced.own(task, tasks) >= mark.store.t)
            return Could(va, size, "into its instruction cache in an earlier life of the frame, and keep it", but=own)
        what = f"as it was before the store ({WORDS[mark.pre]}), and keep it"
        until = mark.ahead if mark.ahead != NEVER else self._forced.fence(tasks, mark.store.t)
        assert until is not None
        clean = {
            id(task): task
            for task in tasks
            if self._jumps(mark, task) or self._forced.own(task, tasks) >= until
        }  # fmt: skip
        if stale == "own-cpu":
            return Could(va, size, what, until, only=tuple(task for task in tasks if id(task) not in clean))
        return Could(va, size, what, until, but=tuple(clean.values()))

    def _retried(self, mark: Mark) -> bool:
        """Say whether all that may have been fetched too early is a trap that leads back here."""
        return self.platform.retries and mark.pre == "trap"

    def _jumps(self, mark: Mark, task: Any) -> bool:
        """Say whether a jump is all that a task's own CPU needs: it stored where it will fetch."""
        return self.platform.arch == "x86_64" and mark.store.fields[3] == "text" and mark.store.task is task

    def _torn(self, mark: Mark, stale: str, guarded: Mark | None) -> str:
        """Return the condition of hazard 2."""
        if not mark.fetchable:
            return "not-fetchable"
        if mark.size <= self.facts.unit:
            return "atomic"
        if self._forced.stopped(mark.store.task, mark.store.t) or (guarded and self._kept_out(mark, guarded)):
            return "kept-out"
        if mark.live:
            return "torn-live"
        return f"torn-{mark.pre}" if stale else "torn-then-synchronized"

    def _guard(self, va: int) -> Mark | None:
        """Return the last store to the first instruction if it replaced a trap at once."""
        first = self.marks.at(va)
        fits = first is not None and first.pre == "trap" and first.size <= self.facts.unit
        return first if fits else None

    def _kept_out(self, mark: Mark, first: Mark) -> bool:
        """Say whether everybody who came while `mark` was written met the trap that `first` replaced afterwards."""
        if mark.store.t >= first.store.t:
            return False
        if self.platform.retries:
            return True
        rounds = self._forced.rounds(mark.store.task)
        before = any(first.pre_t <= begin and end <= mark.store.t for end, begin in rounds)
        behind = any(mark.store.t <= begin and end <= first.store.t for end, begin in rounds)
        return before and behind


def _half(va: int, size: int, mark: Mark, torn: str) -> Could | None:
    """Return who may have fetched bytes half written; the CPU that stores them fetches what it is told to store."""
    if not torn.startswith("torn"):
        return None
    then = ", and lost it again" if torn == "torn-then-synchronized" else ", and keep it"
    return Could(va, size, f"half written{then}", mark.store.t, but=(mark.store.task,))


def shown(facts: Iterable[Fact | None]) -> tuple[Fact, ...]:
    """Return the facts of a trace in their order, each once."""
    return tuple(sorted({fact.order: fact for fact in facts if fact}.values(), key=lambda fact: (fact.t, fact.order)))
