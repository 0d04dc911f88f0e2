"""The conformance suite over every registered backend, over a plug-in file, and over backends that break a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.backends.module_alloc import ModuleAlloc
from execbench.backends.rw_inplace_finalize import RwInplaceFinalize
from execbench.conformance import check
from execbench.contract import Proc, Region, Totals
from execbench.kernel.facade import Kernel
from execbench.registry.plugins import class_for, registered

PLUGIN = Path(__file__).parent / "bump_allocator.py"
VARIANTS = [
    *(RwInplaceFinalize(sync=sync) for sync in ("none", "sync-core-ipi", "merged-flush", "rcu")),
    BpfProgPack(chunk=256),
]


@pytest.mark.parametrize("name", sorted(registered("backends")))
def test_registered_backends_conform(name: str) -> None:
    assert check(class_for("backends", name, "test")()) == []


@pytest.mark.parametrize("backend", VARIANTS, ids=repr)
def test_parameters_conform(backend: Any) -> None:
    assert check(backend) == []


def test_a_backend_in_a_file_conforms() -> None:
    cls = class_for("backends", "BumpAllocator", "test", PLUGIN.read_text())
    assert len([line for line in PLUGIN.read_text().splitlines() if line.strip()]) <= 40
    assert check(cls()) == []


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Leaks(ModuleAlloc):
    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from k.settle()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _KeepsTheLock(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from k.lock("text_mutex")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _NeverExecutable(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from k.settle()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WrongSize(ModuleAlloc):
    def alloc(self, k: Kernel, s: Totals, reqs: Any) -> Proc[tuple[Region, ...]]:
        regions = yield from super().alloc(k, s, reqs)
        for region in regions:
            region.size += 1
        return regions


@dataclasses.dataclass(kw_only=True)
class _NotFrozen(ModuleAlloc.__bases__[0]):  # type: ignore[misc,name-defined]
    pass


@pytest.mark.parametrize(
    ("backend", "rule"),
    [
        (_Leaks(), "usage.asked is the sum"),
        (_KeepsTheLock(), "every task comes to its end"),
        (_NeverExecutable(), "finished text is mapped"),
        (_WrongSize(), "a region has the size"),
        (_NotFrozen(), "is a frozen dataclass"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_broken_backend_is_found(backend: Any, rule: str) -> None:
    assert any(finding.rule.startswith(rule) for finding in check(backend))
