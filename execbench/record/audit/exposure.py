"""Who could have written text: writable aliases of what is executable, and of what will be (hazard 6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from execbench.record.audit.facts import Fact
from execbench.record.audit.lives import Life
from execbench.record.audit.platform import LINEAR, Platform
from execbench.record.audit.spans import Spans
from execbench.record.audit.translations import EVERYWHERE, Emit, Flushes, Held, Translations, executable, writable

KINDS: Final = ("text", "direct", "fixmap", "mm", "user")
"""Writable aliases: the text's own mapping, the direct map, a fixmap slot, a CPU's private mm, user space."""
Status = Literal["never", "windows", "permanent"]
REACHED_FROM: Final = {"mm": "one CPU"}
"""Who can write through a kind of alias, where it is not every CPU."""


@dataclass(slots=True)
class Exposure:
    """How often text was executable and writable through one kind of alias.

    windows: how many times it was and was not any more; longest: of them (ns). permanent: how many regions were so from
    their publication to their end. trace: the facts that show the first of the worse kind.
    """

    windows: int = 0
    longest: int = 0
    permanent: int = 0
    trace: tuple[Fact | None, ...] = ()

    @property
    def status(self) -> Status:
        """The worst that happened."""
        return "permanent" if self.permanent else "windows" if self.windows else "never"

    def window(self, ns: int, *facts: Fact | None) -> None:
        """Count one window."""
        if not self.windows and not self.permanent:
            self.trace = facts
        self.windows += 1
        self.longest = max(self.longest, ns)

    def all_along(self, *facts: Fact | None) -> None:
        """Count one region that was exposed for all of its publication."""
        if not self.permanent:
            self.trace = facts
        self.permanent += 1


class Alias(NamedTuple):
    """A stretch of the direct map: protection now, and the fact that took W away while no flush has followed."""

    perm: str
    lost_w: Fact | None = None
    closed: int = -1
    """When (ns) nobody could write there any more."""
    changed: Fact | None = None
    """What gave it this protection."""

    @property
    def open(self) -> bool:
        """Whether some CPU may write there."""
        return writable(self.perm) or self.lost_w is not None


class DirectMap:
    """The direct map by frame number; what nobody changed is writable."""

    def __init__(self, platform: Platform) -> None:
        """Everything is writable at boot."""
        self._page = platform.page
        self._spans: Spans[Alias] = Spans()
        self._flushes = Flushes()
        self._linear = LINEAR.get(platform.arch)

    def change(self, fact: Fact) -> None:
        """Take a change of protection of frames."""
        _, pfn, pages, perm = fact.fields
        for low, high, old in self._spans.tiled(pfn, pfn + pages):
            before = self._settled(old) if old else Alias("rw")
            if writable(perm):
                new = Alias(perm, changed=fact)
            elif writable(before.perm):
                new = Alias(perm, fact, changed=fact)
            else:
                new = before._replace(perm=perm, changed=fact)
            self._spans.put(low, high, new)

    def flush(self, fact: Fact) -> None:
        """Take a flush that covers some of the direct map."""
        begin, va, pages, how, _ = fact.fields
        if how not in EVERYWHERE:
            return
        if pages == 0:
            self._flushes.add(begin, fact.t)
        elif self._linear is not None and self._linear <= va < self._linear + (1 << 47):
            pfn = (va - self._linear) // self._page
            self._spans.change(pfn, pfn + pages, lambda _, __, old: _closed(old, begin, fact.t))

    def over(self, pfn: int, pages: int) -> list[tuple[int, int, Alias]]:
        """Return what holds for frames now, in stretches that tile them."""
        return [
            (low, high, self._settled(old) if old else Alias("rw"))
            for low, high, old in self._spans.tiled(pfn, pfn + pages)
        ]

    def _settled(self, alias: Alias) -> Alias:
        if alias.lost_w is None:
            return alias
        end = self._flushes.end_of_first_since(alias.lost_w.t)
        return alias if end is None else alias._replace(lost_w=None, closed=end)


def _closed(alias: Alias, begin: int, end: int) -> Alias:
    if alias.lost_w is None or alias.lost_w.t > begin:
        return alias
    return alias._replace(lost_w=None, closed=end)


class Exposures:
    """Windows and permanent aliases, by kind."""

    def __init__(self, platform: Platform, translations: Translations, emit: Emit, held: Held) -> None:
        """Share the translations with the other hazards."""
        self.direct = DirectMap(platform)
        self.by_kind = {kind: Exposure() for kind in KINDS}
        self.future: set[str] = set()
        """Where text lay that was not sealed yet and that any CPU could write."""
        self._translations = translations
        self._emit = emit
        self._held = held
        self._measured: dict[int, Spans[bool]] = {}  # frames by the fact that made them executable
        self._open: dict[tuple[str, int], tuple[Fact, bool]] = {}
        self._lasting: set[int] = set()  # windows that some region had for all of its publication
        self._own: Spans[_Both] = Spans()
        self._counted: set[int] = set()

    def window(self, fact: Fact) -> None:
        """Take the begin or end of a temporary alias; it exposes what somebody may execute meanwhile."""
        kind, va, size, opened = fact.fields
        if not va:
            return  # a site of the kernel's own text: that is not the API's
        if opened:
            self._open[kind, va] = fact, self._fetchable(va, size)
            return
        since, exposed = self._open.pop((kind, va))
        lasting = since.order in self._lasting
        if not exposed and not self._fetchable(va, size):
            return
        self._held(6, kind, size * (fact.t - since.t))
        if not lasting:
            self.by_kind[kind].window(fact.t - since.t, since, fact)

    def _fetchable(self, va: int, size: int) -> bool:
        return any(page.fetchable for _, _, page in self._translations.over(va, size))

    def store(self, fact: Fact) -> None:
        """Take a store of code: until it is sealed, whoever can write through the alias can change it."""
        va, _, content, through = fact.fields
        if content == "code" and va and through != "mm":
            self.future.add(through)

    def scratch(self) -> None:
        """Take note that finished text lay in plain memory before it was copied to its address."""
        self.future.add("scratch")

    def mapped(self, fact: Fact) -> None:
        """Take a change of protection: it may open or close a window of the text's own mapping."""
        area, first, pages, perm = fact.fields
        start = area.va // self._translations.page + first
        if writable(perm) and executable(perm):
            for low, high, since in self._own.tiled(start, start + pages):
                if since is None:
                    self._own.put(low, high, _Both(fact))
            return
        for low, high, both in self._own.over(start, start + pages):
            self._held(6, "text", (high - low) * self._translations.page * (fact.t - both.since.t))
            if not both.lasting:
                self.by_kind["text"].window(fact.t - both.since.t, both.since, fact)
        self._own.drop(start, start + pages)

    def reach(self, life: Life) -> None:
        """Take a publication: count what was open before, once for every time text became executable."""
        for made_x, alias, pfn, n, _ in self._aliases(life):
            if alias.lost_w is not None and not writable(alias.perm):
                self._emit(4, "downgrade", (made_x, alias.lost_w, life.reach))
            if not alias.open and alias.closed > made_x.t:
                self._direct_window(made_x, alias, alias.closed, pfn, n)

    def _direct_window(self, made_x: Fact, alias: Alias, end: int, pfn: int, n: int) -> None:
        """Count a window once for every time text became executable, and measure every frame of it once."""
        spans = self._measured.setdefault(made_x.order, Spans())
        fresh = sum(high - low for low, high, known in spans.tiled(pfn, pfn + n) if known is None)
        spans.put(pfn, pfn + n, True)
        self._held(6, "direct", fresh * self._translations.page * (end - made_x.t))
        if made_x.order not in self._counted:
            self._counted.add(made_x.order)
            self.by_kind["direct"].window(end - made_x.t, made_x, alias.changed)

    def close(self, t: int) -> None:
        """End (ns) what is open still."""
        for low, high, both in self._own:
            self._held(6, "text", (high - low) * self._translations.page * (t - both.since.t))
        for (kind, va), (since, exposed) in self._open.items():
            size = since.fields[2]
            if exposed or self._fetchable(va, size):
                self._held(6, kind, size * (t - since.t))

    def end(self, life: Life, fact: Fact) -> None:
        """Take the end of a publication: what is writable was so all the time, what is not flushed a window."""
        region = life.region
        aliases = [*self._aliases(life)]
        for _, alias, _, _, size in aliases:
            lost = alias.changed is not None and not writable(alias.perm) and alias.changed.t <= life.reach.t
            until = fact.t if alias.lost_w is not None else alias.closed
            if lost and until > life.reach.t:
                self._held(4, "downgrade", size * (until - life.reach.t))
        opened = [one for one in aliases if one[1].open]
        still = next((made_x for made_x, alias, *_ in opened if writable(alias.perm)), None)
        if still is not None:
            self.by_kind["direct"].all_along(still, life.reach)
        for made_x, alias, pfn, n, size in opened:
            if writable(alias.perm):
                self._held(6, "direct", size * (fact.t - life.reach.t))
            else:
                self._direct_window(made_x, alias, fact.t, pfn, n)
        for (kind, va), (since, _) in self._open.items():
            overlaps = va < region.va + region.size and region.va < va + since.fields[2]
            if overlaps and since.t <= life.reach.t:
                self._lasting.add(since.order)
                self.by_kind[kind].all_along(since, life.reach)
        both = [
            one
            for _, _, one in self._own.over(*self._translations.numbers(region.va, region.size))
            if one.since.t <= life.reach.t
        ]
        for one in both:
            one.lasting = True
        if both:
            self.by_kind["text"].all_along(both[0].since, life.reach)

    def _aliases(self, life: Life) -> Iterator[tuple[Fact, Alias, int, int, int]]:
        """Yield how the direct map stands behind a region: the fact that made that part executable, the alias, its
        first frame and how many, and how many bytes of the region they hold.
        """
        region = life.region
        base = self._translations.page
        for low, high, page in self._translations.over(region.va, region.size):
            if page.made_x is None:
                continue
            first, end = self._translations.numbers(low, high - low)
            at = first * base
            for pfn, n in page.area.frames(first - page.area.va // base, end - first):
                for start, stop, alias in self.direct.over(pfn, n):
                    behind = at + (start - pfn) * base, at + (stop - pfn) * base
                    size = max(min(behind[1], high) - max(behind[0], low), 0)
                    yield page.made_x, alias, start, stop - start, size
                at += n * base


@dataclass(slots=True)
class _Both:
    """A stretch that is writable and executable: since which fact, and whether it was so for all of a publication."""

    since: Fact
    lasting: bool = False
