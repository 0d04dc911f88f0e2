"""Findings held against the rules: per hazard the worst that was met, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from execbench.record.audit.analysis import Finding, Findings
from execbench.record.audit.exposure import REACHED_FROM
from execbench.record.audit.rules import HAZARDS, Rule, Verdict, rule
from execbench.record.audit.text import shown
from execbench.record.audit.traces import told
from execbench.units import show_time


@dataclass(frozen=True)
class Judgement:
    """The verdict on one hazard: the row it rests on, how often its condition was met, the shortest trace in words.

    also: conditions of other rows that were met, worst first. A hazard that was not met at all has no judgement: where
    nothing was freed, nothing can be said about frees.
    """

    hazard: int
    rule: Rule
    detail: str
    count: int
    trace: tuple[str, ...]
    also: tuple[str, ...] = ()
    byte_ns: int | None = 0
    """Bytes times ns for which conditions held that are not excluded, as docs/audit.md defines it; None: no end is
    known (hazard 5)."""

    @property
    def byte_seconds(self) -> float | None:
        """The same in seconds."""
        return None if self.byte_ns is None else self.byte_ns / 1e9

    @property
    def verdict(self) -> Verdict:
        """Where it stands on the ladder."""
        return self.rule.verdict


def verdicts(findings: Findings) -> dict[int, Judgement]:
    """Return the judgement on every hazard that the replication met."""
    arch = findings.platform.arch
    judged = {}
    for hazard in HAZARDS:
        found = [*_of(findings, hazard)]
        if found:
            ranked = sorted(found, key=lambda one: (-rule(hazard, arch, one.condition).verdict, one.condition))
            worst = ranked[0]
            judged[hazard] = Judgement(
                hazard, rule(hazard, arch, worst.condition), worst.detail, worst.count,
                told(worst, findings.platform),
                tuple(dict.fromkeys(one.condition for one in ranked if one.condition != worst.condition)),
                _byte_ns(findings, hazard, ranked),
            )  # fmt: skip
    return judged


def _byte_ns(findings: Findings, hazard: int, found: Iterable[Finding]) -> int | None:
    """Return for how long what is not excluded held."""
    arch = findings.platform.arch
    conditions = {one.condition for one in found if not rule(hazard, arch, one.condition).verdict.excluded}
    if hazard == 5:
        return None if conditions else 0
    if hazard == 6:
        return sum(ns for (of, _), ns in findings.open_for.items() if of == 6)
    return sum(findings.open_for.get((hazard, condition), 0) for condition in conditions)


def _of(findings: Findings, hazard: int) -> Iterable[Finding]:
    if hazard != 6:
        return (finding for finding in findings.found.values() if finding.hazard == hazard)
    if not findings.published:
        return ()
    return (
        Finding(
            6,
            f"{kind}-{one.status}" if one.status != "never" else "never",
            exposed(findings, kind),
            one.permanent or one.windows,
            shown(one.trace),
        )
        for kind, one in findings.exposures.items()
    )


def exposed(findings: Findings, kind: str) -> str:
    """Return one alias's exposure in words."""
    one = findings.exposures[kind]
    name = {"text": "its own mapping", "direct": "the direct map", "user": "user space"}.get(kind, kind)
    if one.status == "never":
        return f"{name}: never"
    if one.status == "permanent":
        return f"{name}: permanent"
    who = REACHED_FROM.get(kind, "all CPUs")
    if one.windows == 1:
        return f"{name}: one window ({show_time(one.longest)}), from {who}"
    return f"{name}: windows ({one.windows}, the longest {show_time(one.longest)}), from {who}"
