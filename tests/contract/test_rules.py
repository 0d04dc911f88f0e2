"""Each rule of the suite is broken by a backend that breaks it, and found."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.backends.module_alloc import ModuleAlloc
from execbench.backends.user_mmap import UserMmap
from execbench.backends.vmalloc_exec import VmallocExec
from execbench.conformance import PATHS, Place, check, check_at, places
from execbench.conformance.machine import ToyMachine
from tests.contract.broken import BROKEN

PLACE = Place("x86_64", "6.18", PATHS[0])
SHAPE = ("is a frozen dataclass", "has keyword-only parameters", "declares its support", "has all verbs")


@pytest.mark.parametrize(("rule", "backend"), BROKEN, ids=[f"{rule}: {type(cls).__name__}" for rule, cls in BROKEN])
def test_a_broken_backend_is_found(rule: str, backend: Any) -> None:
    findings = check_at(backend, PLACE) if rule not in SHAPE else check(backend)
    assert any(finding.rule.startswith(rule) for finding in findings), findings


def test_every_rule_that_is_asked_has_a_backend_that_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {*SHAPE, "runs", "memory adds up"}  # these are only said when they are broken

    def expect(self: ToyMachine, rule: str, holds: bool, seen: object) -> None:
        asked.add(rule)

    monkeypatch.setattr(ToyMachine, "expect", expect)
    for backend in (ModuleAlloc(), BpfProgPack(), VmallocExec(), UserMmap()):
        assert check_at(backend, next(places(backend))) == []
    assert len(asked) > 35
    assert asked == {rule for rule, _ in BROKEN}
