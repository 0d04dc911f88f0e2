"""What verdicts rest on: the ladder, and one cited row per hazard, architecture and condition (rules.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final

HAZARDS: Final = {
    1: "stale bytes",
    2: "torn bytes",
    3: "spurious fault",
    4: "stale translation",
    5: "freed or overwritten",
    6: "W^X exposure",
}
EVERY: Final = "*"
"""In `arch`: the row holds on every architecture that has no row of its own."""
ARCHITECTURES: Final = ("x86_64", "arm64", "riscv64")
"""Those of which rules.toml knows what their manuals say."""


class Verdict(IntEnum):
    """How sure it is that the hazard cannot happen; the greater the worse."""

    ARCHITECTURE = 0
    PROTOCOL = 1
    NO_KNOWN_MECHANISM = 2
    MECHANISM_KNOWN = 3
    VIOLATED = 4

    def __str__(self) -> str:
        """The words of the ladder."""
        return _WORDS[self]

    @property
    def excluded(self) -> bool:
        """Whether the hazard is out of the question."""
        return self <= Verdict.PROTOCOL


_WORDS = {
    Verdict.ARCHITECTURE: "excluded by the architecture",
    Verdict.PROTOCOL: "excluded by protocol",
    Verdict.NO_KNOWN_MECHANISM: "permitted by the manual, no known mechanism",
    Verdict.MECHANISM_KNOWN: "permitted, mechanism known",
    Verdict.VIOLATED: "violated",
}
_NAMES = {
    "architecture": Verdict.ARCHITECTURE,
    "protocol": Verdict.PROTOCOL,
    "no-known-mechanism": Verdict.NO_KNOWN_MECHANISM,
    "mechanism-known": Verdict.MECHANISM_KNOWN,
    "violated": Verdict.VIOLATED,
}


@dataclass(frozen=True)
class Rule:
    """One row: what a condition means on an architecture, and what says so.

    clause: the rule in our words. manual: where it stands. silent: the manual does not say it, so the verdict is not
    better than `permitted by the manual, no known mechanism`. missing: what would have excluded it.
    """

    hazard: int
    arch: str
    condition: str
    verdict: Verdict
    clause: str
    manual: tuple[str, ...]
    silent: bool = False
    missing: str = ""

    @property
    def id(self) -> str:
        """The row's name: hazard/architecture/condition."""
        return f"{self.hazard}/{self.arch}/{self.condition}"


@dataclass(frozen=True)
class Facts:
    """What the machines do, as far as verdicts depend on it.

    unit: bytes that a store changes for fetch all at once. coherent: fetch sees stores without maintenance of the
    instruction cache. interrupted: whether the handler of a TLB flush by interrupt leaves its CPU synchronized.
    pipeline_faults: a CPU that fetched ahead and was refused may remember it until it synchronizes. because: why so.
    """

    arch: str
    unit: int
    line: int
    coherent: bool
    interrupted: bool
    pipeline_faults: bool
    because: Mapping[str, str]


@cache
def table() -> dict[tuple[int, str, str], Rule]:
    """Return all rows by hazard, architecture and condition."""
    rows: dict[tuple[int, str, str], Rule] = {}
    for row in _file()["rule"]:
        for arch, manual in _cited(row):
            key = row["hazard"], arch, row["condition"]
            if key in rows:
                raise ValueError(f"rules.toml has two rows for {key}")
            rows[key] = Rule(
                row["hazard"], arch, row["condition"], _NAMES[row["verdict"]], " ".join(row["clause"].split()),
                manual, row.get("silent", False), row.get("missing", ""),
            )  # fmt: skip
    return rows


def _cited(row: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (architecture, manuals) of one row: a verdict cites what binds its own architecture, and no other.

    A row for all that cites some architecture's manual is a row for each, but for those with a row of their own.
    """
    common = tuple(row.get("manual", ()))
    given = [row["arch"]] if isinstance(row["arch"], str) else row["arch"]
    cited = [arch for arch in ARCHITECTURES if f"manual_{arch}" in row]
    for arch in cited if given == [EVERY] and cited else given:
        yield arch, tuple(row.get(f"manual_{arch}", ())) + common


def rule(hazard: int, arch: str, condition: str) -> Rule:
    """Return the row of a condition: that of the architecture, else that of all."""
    rows = table()
    return rows.get((hazard, arch, condition)) or rows[hazard, EVERY, condition]


def machine_facts(arch: str, features: Mapping[str, Any]) -> Facts:
    """Return what rules.toml says of an architecture with these features of one machine."""
    row = _file()["machine"][arch]
    coherent, interrupted = row["coherent"], row["interrupted"]
    because = {name: row[f"{name}_because"] for name in ("unit", "coherent", "interrupted")}
    for name, changes in row.get("features", {}).items():
        if features.get(name):
            coherent = changes.get("coherent", coherent)
            interrupted = changes.get("interrupted", interrupted)
            because |= {key.removesuffix("_because"): text for key, text in changes.items() if key.endswith("_because")}
    return Facts(arch, row["unit"], row["line"], coherent, interrupted, row["pipeline_faults"], because)


@cache
def _file() -> dict[str, Any]:
    text = files("execbench.record.audit").joinpath("rules.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
