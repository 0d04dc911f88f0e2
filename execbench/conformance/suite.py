"""The suite over one backend: everything that it declares, and what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from execbench.conformance.machine import Finding
from execbench.conformance.places import PAGE_SIZES, Place, places, refusal
from execbench.conformance.scenarios import SCENARIOS
from execbench.contract import Support
from execbench.errors import InputError, did_you_mean
from execbench.kernel.arch import ARCHITECTURES
from execbench.registry.params import constructed, given_fields, resolved
from execbench.registry.plugins import class_for, source_of
from execbench.study.arms import parse_arm

VERBS: Final = ("start", "alloc", "write", "finalize", "free", "usage")


@dataclass(frozen=True)
class Conformance:
    """What the suite found about one backend as it was named."""

    backend: str
    places: tuple[Place, ...]
    refused: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no rule is broken and something was checked."""
        return not self.findings and bool(self.places)

    def __str__(self) -> str:
        """The findings, or what was checked."""
        if not self.places and not self.findings:
            return f"{self.backend}: n/a ({self.refused})"
        architectures = ", ".join(dict.fromkeys(place.arch for place in self.places))
        releases = ", ".join(dict.fromkeys(place.release for place in self.places))
        head = f"{self.backend} on {architectures}, releases {releases}: "
        lines = [f"  n/a: {self.refused}"] if self.refused else []
        if self.ok:
            return "\n".join([f"{head}conforms ({len(self.places)} places, {len(SCENARIOS)} scenarios each)", *lines])
        lines += [f"  {finding}" for finding in self.findings]
        return "\n".join([f"{head}{len(self.findings)} findings", *lines])


def check(backend: Any, architectures: Iterable[str] | None = None) -> list[Finding]:
    """Return what the backend breaks on any release and page size of these architectures (default: all it declares).

    An empty list means that it conforms.
    """
    findings = list(_shape(backend))
    if findings:
        return findings
    return [finding for place in places(backend, architectures, PAGE_SIZES) for finding in check_at(backend, place)]


def check_at(backend: Any, place: Place) -> list[Finding]:
    """Return what the backend breaks in one place."""
    findings: list[Finding] = []
    for scenario in SCENARIOS:
        where = f"({scenario.__name__}, {place})"
        try:
            findings += (Finding(f"{found.rule} {where}", found.seen) for found in scenario(backend, place))
        except Exception as error:  # raised by start or usage, which may raise anything
            findings.append(Finding(f"runs {where}", repr(error)))
    return findings


def conformance(arm: str, architectures: Iterable[str] | None = None) -> Conformance:
    """Return what the suite finds about an arm as `--backend` takes it; InputError if there is no such backend."""
    parsed = parse_arm(arm, "BACKEND")
    source = source_of(parsed.file, "BACKEND") if parsed.file else None
    name = parsed.cls or (Path(parsed.file).stem if parsed.file else parsed.name)
    cls = class_for("backends", name, "BACKEND", source)
    root = f"backend.{name}"
    backend = constructed(cls, resolved(cls, given_fields(cls, parsed.params, root), root), root)
    wanted = None if architectures is None else tuple(architectures)
    for arch in wanted or ():
        if arch not in ARCHITECTURES:
            raise InputError(
                "--arch", arch, ", ".join(ARCHITECTURES), did_you_mean(arch, ARCHITECTURES) or "correct it"
            )
    if not isinstance(getattr(cls, "support", None), Support):
        return Conformance(arm, (), "", tuple(check(backend)))
    asked = wanted or cls.support.architectures  # type: ignore[attr-defined]
    reasons = {arch: refusal(backend, arch) for arch in asked}
    served = [arch for arch in asked if not reasons[arch]]
    where = tuple(places(backend, served, PAGE_SIZES))
    refused = "; ".join(dict.fromkeys(filter(None, reasons.values())))
    return Conformance(arm, where, refused, tuple(check(backend, served)))


def _shape(backend: Any) -> Iterator[Finding]:
    cls = type(backend)
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield Finding("is a frozen dataclass", cls.__name__)
    elif any(not field.kw_only for field in dataclasses.fields(cls)):
        yield Finding("has keyword-only parameters", cls.__name__)
    if not isinstance(getattr(cls, "support", None), Support):
        yield Finding("declares its support", f"support = {getattr(cls, 'support', None)!r}")
    for verb in VERBS:
        if not callable(getattr(backend, verb, None)):
            yield Finding("has all verbs", f"no {verb}")
