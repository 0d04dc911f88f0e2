"""The words for each primitive, lock and fact: what kernel developers call it, and what its place there rests on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

UNREAD: Final = {"6.18": ("7.3", "6.12")}
"""Releases whose source was not read, and those whose source stands for it where no trace of its own shows a step."""
_SOURCE = re.compile(r"(?:(?P<file>[^\s:]+):)?(?P<function>\w+)@(?P<releases>[\d.,]+)")
_COMMIT = re.compile(r"commit (?P<hash>[0-9a-f]{12})@(?P<releases>[\w.-]+)")


class Evidence(NamedTuple):
    """What one line rests on: kind "source", "trace", "commit", "INFER" or "DESIGN"; releases for the first three."""

    kind: str
    releases: tuple[str, ...] = ()
    file: str = ""
    name: str = ""

    def text(self, releases: Iterable[str]) -> str:
        """Return it as it is written, for these of its releases."""
        named = ",".join(releases)
        match self.kind:
            case "source":
                return f"{self.file}:{self.name}@{named}"
            case "trace":
                return f"trace@{named}"
            case "commit":
                return f"commit {self.name}@{named}"
        return self.kind


@dataclass(frozen=True)
class Words:
    """How one primitive is written: `verb` with {n} for its units and {text} for the fact; evidence by architecture.

    The other fields are described at the head of vocabulary.toml.
    """

    verb: str
    evidence: Mapping[str, tuple[Evidence, ...]] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)
    by: Mapping[str, str] = field(default_factory=dict)
    tag: bool = False
    rest_of: str = ""
    instead_of: str = ""
    takes_stores: bool = False
    passed: str = ""
    behind: bool = False

    def on(self, arch: str) -> tuple[Evidence, ...]:
        """Return the evidence on an architecture; KeyError if there is none."""
        evidence = self.evidence[arch] if arch in self.evidence else self.evidence[""]
        if arch not in self.seen:
            return evidence
        return (*evidence, Evidence("trace", tuple(self.seen[arch].split(","))))

    def source(self, architectures: Sequence[str], releases: Iterable[str]) -> str:
        """Return the evidence as text, of what bears on `releases`; by architecture where several differ."""
        parts: dict[str, list[str]] = {}
        for arch in architectures:
            for text in _texts(self.on(arch), releases):
                parts.setdefault(text, []).append(arch)
        everywhere = len(architectures)
        return "; ".join(
            text if len(where) == everywhere else f"{text} ({', '.join(where)})" for text, where in parts.items()
        )


def _texts(evidence: Sequence[Evidence], releases: Iterable[str]) -> list[str]:
    wanted = wanted_releases(evidence, releases)
    bearing = [(one, tuple(release for release in one.releases if release in wanted)) for one in evidence]
    bearing = [(one, named) for one, named in bearing if named or not one.releases or one.kind == "commit"]
    if not bearing:
        bearing = [(one, one.releases) for one in evidence]
    return [one.text(named or one.releases) for one, named in bearing]


def wanted_releases(evidence: Iterable[Evidence], releases: Iterable[str]) -> set[str]:
    """Return the releases to be named: those asked for, and what stands for those whose source was not read.

    That is a neighbour which takes the same path, else the next one that has the step.
    """
    wanted = set(releases)
    known = {release for one in evidence for release in one.releases}
    for unread in wanted & set(UNREAD):
        if not wanted & set(UNREAD[unread]):
            wanted |= set([release for release in UNREAD[unread] if release in known][:1])
    return wanted


def covers(evidence: Iterable[Evidence], release: str) -> bool:
    """Say whether evidence bears on a release: source or trace of it or of what stands for it, or none is claimed."""
    evidence = tuple(evidence)
    stands = {release, *UNREAD.get(release, ())}
    return any(one.kind in ("INFER", "DESIGN", "commit") or stands & {*one.releases} for one in evidence)


@cache
def vocabulary() -> Mapping[str, Words]:
    """Return the words of vocabulary.toml for every primitive, lock and fact by its name in the code."""
    table = tomllib.loads((files("execbench.record.steps") / "vocabulary.toml").read_text(encoding="utf-8"))
    return {name: _words(row) for name, row in table.items()}


def _words(row: Mapping[str, Any]) -> Words:
    rest = dict(row)
    evidence = rest.pop("evidence", "")
    by_arch = {"": evidence} if isinstance(evidence, str) else evidence
    return Words(evidence={arch: parsed(text) for arch, text in by_arch.items()}, **rest)


def parsed(text: str) -> tuple[Evidence, ...]:
    """Read evidence: parts joined by ";", of which a source without a file is of the file before. ValueError if not."""
    found: list[Evidence] = []
    file = ""
    for part in filter(None, (part.strip() for part in text.split(";"))):
        if part in ("INFER", "DESIGN"):
            found.append(Evidence(part))
        elif match := _COMMIT.fullmatch(part):
            found.append(Evidence("commit", (match["releases"],), "", match["hash"]))
        elif (match := _SOURCE.fullmatch(part)) and (file := match["file"] or file):
            found.append(Evidence("source", tuple(match["releases"].split(",")), file, match["function"]))
        else:
            raise ValueError(f"evidence {part!r}: FILE:FUNCTION@RELEASES, commit HASH@RELEASE, INFER, DESIGN")
    return tuple(found)
