"""vmalloc-exec: no step between the allocation and the execution, a page that is W and X, and who may have one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from execbench.backends.module_alloc import ModuleAlloc
from execbench.backends.vmalloc_exec import VmallocExec
from execbench.contract import Support
from execbench.kernel.arch import ARCHITECTURES
from tests.backends.verbs import Verbs, conforms, variants


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_load_is_an_allocation_and_stores(arch: str) -> None:
    verbs = Verbs(VmallocExec(), arch)
    (region,) = verbs.alloc(5000)
    assert verbs.steps == ["vmalloc 2", *(["mark_new_valid_map"] if arch == "riscv64" else [])]
    assert verbs.perm(region) == "rw-x"
    for verb in (verbs.write, verbs.rewrite):
        verb(region, patches=3)
        assert verbs.steps == []
        assert verbs.bench.told("store") == [("store", region.va, 5000, "code", "text")]
    verbs.finalize(region)
    assert (verbs.steps, verbs.bench.facts, verbs.bench.spent) == ([], [], [])


@pytest.mark.parametrize(("arch", "flushes"), [("x86_64", 1), ("arm64", 1), ("riscv64", 2 * 2 + 1)])
def test_a_free_resets_permissions(arch: str, flushes: int) -> None:
    verbs = Verbs(VmallocExec(), arch)
    (region,) = verbs.load(5000)
    verbs.free(region)
    assert verbs.bench.counts["flush_tlb_all"] == flushes
    assert verbs.bench.shared.text_map.wx_pages == 0
    assert verbs.usage == (0, 0, 0)


@pytest.mark.parametrize(("backend", "arch"), variants(VmallocExec))
def test_conforms(backend: VmallocExec, arch: str) -> None:
    assert conforms(backend, arch) == []


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Hidden(VmallocExec):
    """Says nothing of its pages that are writable and executable."""

    support = Support(writable_in_place=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Boasts(ModuleAlloc):
    """Declares what it does not do."""

    support = Support(wx=True)


@pytest.mark.parametrize(
    ("backend", "rule"),
    [(_Hidden(), "no page is writable and executable"), (_Boasts(), "text is writable and executable, as declared")],
    ids=["hidden", "boasts"],
)
def test_only_who_declares_it_may_be_writable_and_executable_and_must_be(backend: Any, rule: str) -> None:
    assert any(finding.startswith(rule) for finding in conforms(backend, "x86_64"))
