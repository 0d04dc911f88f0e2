"""The may-analysis: facts in the order of their happening, findings out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from execbench.record.audit.could import Could
from execbench.record.audit.exposure import Exposure, Exposures
from execbench.record.audit.facts import Fact
from execbench.record.audit.forced import Forced
from execbench.record.audit.lives import Life, Lives, Open
from execbench.record.audit.platform import Platform
from execbench.record.audit.text import Text, shown
from execbench.record.audit.translations import Page, Translations, executable


@dataclass(slots=True)
class Finding:
    """What held at least once: a hazard's condition, how often, and the shortest trace that shows it."""

    hazard: int
    condition: str
    detail: str
    count: int
    trace: tuple[Fact, ...]
    could: Could | None = None
    """Who could have fetched in this trace, where that depends on the finding (hazards 1 to 3)."""


@dataclass(slots=True)
class Findings:
    """What an audit found: findings by hazard, condition and detail; exposures by kind of alias."""

    platform: Platform
    found: dict[tuple[int, str, str], Finding] = field(default_factory=dict)
    exposures: dict[str, Exposure] = field(default_factory=dict)
    future: tuple[str, ...] = ()
    published: int = 0
    paths: set[str] = field(default_factory=set)
    """How: the paths of publication that were taken."""
    kinds: set[str] = field(default_factory=set)
    """What: the kinds of text that were published."""
    facts: int = 0
    open_for: dict[tuple[int, str], int] = field(default_factory=dict)
    """How long: bytes times ns, by hazard and condition (6: kind of alias), as docs/audit.md defines it."""

    def held(self, hazard: int, condition: str, byte_ns: int) -> None:
        """Add to how many bytes a condition held for how long."""
        self.open_for[hazard, condition] = self.open_for.get((hazard, condition), 0) + byte_ns

    def __call__(
        self, hazard: int, condition: str, facts: Iterable[Fact | None], detail: str = "", could: Could | None = None
    ) -> None:
        """Take a finding."""
        trace = shown(facts)
        known = self.found.get((hazard, condition, detail))
        if known is None:
            self.found[hazard, condition, detail] = Finding(hazard, condition, detail, 1, trace, could)
            return
        known.count += 1
        if len(trace) < len(known.trace):
            known.trace, known.could = trace, could

    def conditions(self, hazard: int) -> set[str]:
        """Return what was found of a hazard."""
        return {finding.condition for finding in self.found.values() if finding.hazard == hazard}


def analyse(facts: Iterable[Fact], platform: Platform) -> Findings:
    """Return what the facts of one replication permit, whatever chance did; facts come in the order of time."""
    analysis = _Analysis(platform)
    for fact in facts:
        analysis.take(fact)
    return analysis.close()


class _Analysis:
    """One pass over the facts."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.findings = Findings(platform)
        self.translations = Translations(platform.page, self.findings, self.findings.held)
        self.forced = Forced(platform)
        self.text = Text(platform, self.translations, self.forced, self.findings, self.findings.held)
        self.lives = Lives(platform, self.findings)
        self.exposures = Exposures(platform, self.translations, self.findings, self.findings.held)
        self._writing: dict[int, int] = {}  # by task: the fact with which its call of `write` began
        self._last: Fact | None = None

    def take(self, fact: Fact) -> None:
        """Take the next fact."""
        self.findings.facts += 1
        self._last = fact
        getattr(self, f"_{fact.event}")(fact)

    def close(self) -> Findings:
        """End what is still published."""
        for life in {id(life): life for _, _, life in self.lives.lives}.values():
            if life.unreach is None and self._last is not None:
                self._ended(life, self._last)
        if self._last is not None:
            self.translations.close(self._last.t)
            self.exposures.close(self._last.t)
        self.findings.exposures = self.exposures.by_kind
        self.findings.future = tuple(sorted(self.exposures.future))
        return self.findings

    # --- facts --------------------------------------------------------------------------------------------------------

    def _map(self, fact: Fact) -> None:
        area, first, pages, perm = fact.fields
        page = self.platform.page
        start = area.va + first * page
        if not executable(perm):
            self._destroyed(fact, start, start + pages * page)
        for low, high in self.translations.map(fact):
            self.text.forget(low, high)
        self.exposures.mapped(fact)

    def _freed(self, fact: Fact) -> None:
        """Frames went back; the address may have a new tenant by now."""
        (area,) = fact.fields
        for start, end, page in self.translations.over(area.va, area.pages * self.platform.page):
            if page.area is area:
                self._destroyed(fact, start, end)

    def _store(self, fact: Fact) -> None:
        va, size, content, _ = fact.fields
        live = False
        if va and content != "site":
            live = self.lives.live(va, va + size)
            self._destroyed(fact, va, va + size, unmapped=False)
        self.text.store(fact, live)
        self.exposures.store(fact)

    def _alias(self, fact: Fact) -> None:
        self.exposures.direct.change(fact)

    def _window(self, fact: Fact) -> None:
        self.exposures.window(fact)
        kind, _, _, opened = fact.fields
        if kind == "mm" and not opened:
            self.forced.closed_mm(fact)

    def _flush(self, fact: Fact) -> None:
        self.translations.flush(fact)
        self.exposures.direct.flush(fact)
        self.forced.flush(fact)

    def _serialize(self, fact: Fact) -> None:
        self.forced.serialize(fact)

    def _icache(self, fact: Fact) -> None:
        self.text.icache(fact)
        self.forced.icache(fact)

    def _entry(self, fact: Fact) -> None:
        self.forced.entry(fact)

    def _fetch(self, fact: Fact) -> None:
        """Chance decides who enters when: no verdict rests on it."""

    def _gp(self, fact: Fact) -> None:
        self.lives.gp(fact)

    def _verb(self, fact: Fact) -> None:
        """A client hands an image to the API's `write`: unless that stores it in place, it lies in plain memory."""
        what, region, begins = fact.fields
        if what != "write":
            return
        if begins:
            self._writing[id(fact.task)] = fact.order
        else:
            mark = self.text.marks.at(region.va)
            if mark is None or mark.store.task is not fact.task or mark.store.order < self._writing[id(fact.task)]:
                self.exposures.scratch()

    def _reach(self, fact: Fact) -> None:
        region = fact.fields[0]
        self.findings.published += 1
        self.findings.paths.add(fact.fields[1])
        self.findings.kinds.add(str(region.kind))
        open_now = self.text.judge(fact, region.va, region.size)
        for low, high, page in self.translations.over(region.va, region.size):
            open_now += self._mapped_right(fact, low, high, page)
        life = self.lives.reach(fact)
        life.open = open_now
        self.exposures.reach(life)

    def _unreach(self, fact: Fact) -> None:
        life = self.lives.unreach(fact)
        if life is not None:
            self._ended(life, fact)

    # --- judging ------------------------------------------------------------------------------------------------------

    def _mapped_right(self, reach: Fact, low: int, high: int, page: Page) -> list[Open]:
        """Emit hazards 3 and 4 of pages that are published now; return what of hazard 3 stays open."""
        still: list[Open] = []
        if page.made_x is not None:
            condition, since = self._faults(reach, page)
            still.append((3, condition, high - low, reach.t))
            could = None
            if condition.endswith("-fault"):
                tasks = tuple(task for task in (reach.task,) if self.forced.own(task, (task,)) >= since)
                could = Could(low, high - low, "ahead, speculatively, and keep the fault", page.opened(), but=tasks)
            elif condition == "nx-not-flushed":
                could = Could(low, high - low, "and been refused, and be so still, by a translation from before")
            self.findings(3, condition, (page.made_x, reach), could=could)
        lingering = page.lingering()
        if lingering is not None:
            self.findings(4, "downgrade", (lingering.made, lingering.fact, reach))
        else:
            self.findings(4, "flushed", (reach,))
        return still

    def _faults(self, reach: Fact, page: Page) -> tuple[str, int]:
        """Return the condition of hazard 3, and since when (ns) what is forced counts: behind the last store."""
        assert page.made_x is not None
        if str(reach.fields[0].kind) == "user":
            return "user", 0
        if page.refusing:
            return "nx-not-flushed", 0
        if not self.platform.facts.pipeline_faults:
            return page.was, 0
        region = reach.fields[0]
        written = self.text.last_store(region.va, region.size)
        tasks = (reach.task,) if written is None else (written.task, reach.task)
        since = max(page.made_x.t, page.opened_at, -1 if written is None else written.t)
        synchronized = max(self.forced.others(tasks), self.forced.entered(tasks)) >= since
        return ("synchronized" if synchronized else f"{page.was}-fault"), since

    def _destroyed(self, fact: Fact, start: int, end: int, unmapped: bool = True) -> None:
        """The bytes of a range become something else, or nothing."""
        for life in self.lives.destroy(fact, start, end, unmapped):
            self._ended(life, fact)

    def _ended(self, life: Life, fact: Fact) -> None:
        """Nobody new can come to a region from now on."""
        self.exposures.end(life, fact)
        since_then = self.text.judge(life.reach, life.region.va, life.region.size, live=True)
        for hazard, condition, size, since in life.open + since_then:
            self.findings.held(hazard, condition, size * (fact.t - since))


def exposures(findings: Findings) -> dict[str, Any]:
    """Return how text was exposed, by kind of alias, and where it lay before it was sealed."""
    return {
        "aliases": {
            kind: {"status": one.status, "windows": one.windows, "longest_ns": one.longest, "permanent": one.permanent}
            for kind, one in findings.exposures.items()
        },
        "future_text": list(findings.future),
    }
