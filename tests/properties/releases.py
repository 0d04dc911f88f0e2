"""What a release changes on an architecture: counts of every backend's verbs, and each cause taken back by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any
from unittest.mock import patch

from execbench.conformance import Place, places
from execbench.kernel.arm64 import rules as arm64
from execbench.kernel.releases import RELEASES, Release
from execbench.kernel.riscv64 import rules as riscv64
from execbench.registry.plugins import class_for, registered
from tests.properties.lifecycle import Counts, counted

PAIRS = tuple(pairwise(RELEASES))
MACHINES: dict[str, tuple[Mapping[str, Any], ...]] = {
    "x86_64": ({}, {"invlpgb": True}),
    "arm64": ({}, {"bbml": True}),
    "riscv64": ({},),
}
"""Features of the toy machines that a release may use."""
RULES = {"arm64": arm64, "riscv64": riscv64}
"""What an architecture knows of releases besides the fields of Release."""

Cause = str
"""`Release.FIELD`, or `Rules.FIELD` of the architecture."""
Paths = frozenset[tuple[str, str]]
"""(backend, verb)."""


@cache
def counts(arch: str, release: str, older: str = "", causes: tuple[Cause, ...] = ()) -> dict[tuple[str, ...], Counts]:
    """Counts by (backend, kind, machine) on a release, in which `causes` are as in the `older` one."""
    found = {}
    fields = {name: getattr(RELEASES[older], name) for name in _named(causes, "Release")}
    with _rules(arch, older, _named(causes, "Rules")):
        for name in registered("backends"):
            backend = class_for("backends", name, "test")()
            for kind in dict.fromkeys(place.kind for place in places(backend, [arch])):
                for machine, features in enumerate(MACHINES[arch]):
                    place = Place(arch, release, kind)
                    found[name, str(kind), str(machine)] = counted(backend, place, None, features, fields)
    return found


def changed(before: dict[tuple[str, ...], Counts], after: dict[tuple[str, ...], Counts]) -> Paths:
    """The verbs of backends whose counts differ, for any kind of text and on any machine."""
    return frozenset(
        (where[0], verb)
        for where in before
        for verb in {*before[where], *after[where]}
        if before[where].get(verb) != after[where].get(verb)
    )


def causes_between(arch: str, older: str, newer: str) -> list[Cause]:
    """All facts of the two releases that differ: fields of Release, and the rules that the name alone decides."""
    fields = [field.name for field in dataclasses.fields(RELEASES[newer]) if field.name not in ("name", "source")]
    found = [
        f"Release.{name}" for name in fields if getattr(RELEASES[older], name) != getattr(RELEASES[newer], name)
    ]  # fmt: skip
    if arch in RULES:
        as_named = dataclasses.replace(RELEASES[newer], name=older)
        first, second = (_rules_of(arch, release) for release in (as_named, RELEASES[newer]))
        found += [f"Rules.{name}" for name in first if first[name] != second[name]]
    return found


def _named(causes: tuple[Cause, ...], kind: str) -> list[str]:
    return [cause.partition(".")[2] for cause in causes if cause.startswith(f"{kind}.")]


def _rules_of(arch: str, release: Release) -> dict[str, Any]:
    """The rules of a release where the machine has everything."""
    features = {"idc": True, "dic": True, "rodata_full": True, "bbml": True, "tlbi_range": True, "rfence": "ipi"}
    return dataclasses.asdict(RULES[arch].rules_for(release, features))


@contextmanager
def _rules(arch: str, older: str, names: list[str]) -> Iterator[None]:
    """Let the named rules of an architecture be those of the older release."""
    if not names:
        yield
        return
    rules_for = RULES[arch].rules_for

    def mixed(release: Any, features: Mapping[str, Any]) -> Any:
        before = rules_for(RELEASES[older], features)
        return dataclasses.replace(rules_for(release, features), **{name: getattr(before, name) for name in names})

    with patch(f"execbench.kernel.{arch}.arch.rules_for", mixed):
        yield
