"""Steps as text: each primitive under the name that kernel developers use, with the evidence for its place there."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from execbench.record.steps.sink import Step

__all__ = ["Words", "render", "vocabulary"]

_VERB, _EFFECT = 48, 44
"""Widths of the columns."""


@dataclass(frozen=True)
class Words:
    """How one primitive is written: `verb` with {n} for its units, and evidence by architecture ("" for all).

    A tag is no step of its own: it says why the step before it was taken.
    """

    verb: str
    evidence: Mapping[str, str]
    tag: bool = False

    def source(self, arch: str) -> str:
        """Return the evidence on an architecture; KeyError if there is none."""
        return self.evidence[arch] if arch in self.evidence else self.evidence[""]


@cache
def vocabulary() -> Mapping[str, Words]:
    """Return the words of vocabulary.toml for every primitive and lock by its name in the code."""
    table = tomllib.loads((files("execbench.record.steps") / "vocabulary.toml").read_text(encoding="utf-8"))
    return {name: _words(row) for name, row in table.items()}


def _words(row: Mapping[str, Any]) -> Words:
    evidence = row.get("evidence", "")
    return Words(row["verb"], {"": evidence} if isinstance(evidence, str) else dict(evidence), row.get("tag", False))


def render(steps: Iterable[Step], arch: str) -> list[str]:
    """Return the lines of a path: step, effect, evidence; KeyError for a primitive that the vocabulary does not know.

    Locks indent what is done under them; a tag goes into brackets behind the step that it explains. Like effects in a
    row are one.
    """
    words = vocabulary()
    lines: list[Line] = []
    for step in steps:
        if step.what == "effect":
            if not lines:
                lines.append(Line("(before)", [], ""))
            if step.name not in lines[-1].effects[-1:]:
                lines[-1].effects.append(step.name)
        elif step.what != "release":
            known = words[step.name]
            text = known.verb.format(n=step.n)
            if known.tag and lines:
                lines[-1].verb += f" [{text}]"
            else:
                lines.append(Line("  " * step.depth + text, [], known.source(arch)))
    return [f"{line.verb:<{_VERB}}  {'; '.join(line.effects):<{_EFFECT}}  {line.evidence}".rstrip() for line in lines]


@dataclass(slots=True)
class Line:
    """One line while it is being put together."""

    verb: str
    effects: list[str]
    evidence: str
