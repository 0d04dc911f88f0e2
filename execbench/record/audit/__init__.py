"""Whether text was safe: a may-analysis over the facts of a replication, judged by cited rules.

`FactLog` is the sink that keeps facts, `analyse` makes findings of them, `verdicts` holds those against rules.toml.
"""

from __future__ import annotations

from execbench.record.audit.analysis import Finding, Findings, analyse
from execbench.record.audit.facts import Fact, FactLog
from execbench.record.audit.platform import Platform
from execbench.record.audit.rules import HAZARDS, Rule, Verdict, rule
from execbench.record.audit.verdicts import Judgement, verdicts

__all__ = [
    "HAZARDS", "Fact", "FactLog", "Finding", "Findings", "Judgement", "Platform", "Rule", "Verdict", "analyse", "rule",
    "verdicts",
]  # fmt: skip
