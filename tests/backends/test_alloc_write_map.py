"""alloc-write-map against the rows A of appendix A8, for each parameter and architecture."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.backends.alloc_write_map import AllocWriteMap
from execbench.kernel import sync
from execbench.kernel.arch import ARCHITECTURES
from tests.backends.verbs import Verbs, conforms, policies, variants

ICACHE = {"x86_64": [], "arm64": ["caches_clean_inval_pou 5000"], "riscv64": ["flush_icache_all"]}
MAP = {"x86_64": ["map_text 2"], "arm64": ["map_text 2"], "riscv64": ["map_text 2", "mark_new_valid_map"]}
TLBI = ["flush_tlb_kernel_range", "alias_flush"]
ALIAS: dict[tuple[str, str], list[str]] = {
    ("x86_64", "read-only"): ["vm_unmap_aliases", "set_direct_map 2", "flush_tlb_all", "alias_flush"],
    ("x86_64", "removed"): ["set_direct_map 2", "flush_tlb_all", "alias_flush"],
    ("arm64", "read-only"): ["set_direct_map 2", *TLBI, *TLBI],
    ("arm64", "removed"): ["set_direct_map 2", *TLBI, *TLBI],
    ("riscv64", "read-only"): ["set_memory_ro 2", "flush_tlb_all", "alias_flush"],
    ("riscv64", "removed"): ["set_direct_map 2", *["flush_tlb_all", "set_direct_map_flush"] * 2],
}
"""A8's row perms, and for an alias that is removed what set_direct_map_invalid_noflush() does on each architecture."""
KEPT = {"kept": "rw", "read-only": "ro", "removed": "np"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("alias", KEPT)
def test_finalize_is_the_rows_icache_perms_and_publish(arch: str, alias: Any) -> None:
    verbs = Verbs(AllocWriteMap(alias=alias), arch)
    (region,) = verbs.alloc(5000)
    assert verbs.steps == ["vmalloc 2"]
    assert (verbs.perm(region), verbs.alias(region)) == ("none", "rw")
    verbs.write(region)
    assert verbs.bench.told("store") == [("store", region.va, 5000, "code", "direct-map")]
    verbs.finalize(region)
    assert verbs.steps == [*ICACHE[arch], *ALIAS.get((arch, alias), []), *MAP[arch]]
    assert (verbs.perm(region), verbs.alias(region)) == ("ro-x", KEPT[alias])


def test_on_x86_64_nobody_is_told_of_a_load() -> None:
    verbs = Verbs(AllocWriteMap())
    before = verbs.bench.machine.interrupts.rounds
    verbs.load(5000, 100)
    assert verbs.bench.machine.interrupts.rounds == before


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_group_pays_once_for_its_aliases_and_once_for_its_synchronization(arch: str) -> None:
    verbs = Verbs(AllocWriteMap(alias="read-only", sync="rcu"), arch)
    verbs.load(5000, 100, 9000)
    counts = verbs.bench.counts
    assert counts["alias_flush"] == (1 if arch != "arm64" else 6)
    assert counts["synchronize_rcu"] == 1
    assert counts["map_text"] == 3


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_alias_that_cannot_change_costs_no_flush(arch: str) -> None:
    features = {"rodata_full": False} if arch == "arm64" else {}
    verbs = Verbs(AllocWriteMap(alias="removed"), arch, features=features)
    (region,) = verbs.load(5000)
    assert verbs.alias(region) == ("rw" if arch == "arm64" else "np")
    assert ("alias_flush" in verbs.steps) == (arch == "x86_64")


@pytest.mark.parametrize(
    ("arch", "write"),
    [("x86_64", ["text_poke 5000"]), ("arm64", ["use_temporary_mm 5000"]), ("riscv64", ["use_temporary_mm 5000"])],
)
def test_through_a_temporary_mm_no_other_cpu_can_write(arch: str, write: list[str]) -> None:
    verbs = Verbs(AllocWriteMap(write_through="temporary-mm"), arch)
    (region,) = verbs.alloc(5000)
    verbs.write(region)
    assert verbs.steps == write
    assert verbs.bench.told("store", "window") == [
        ("window", "mm", region.va, 5000, True),
        ("store", region.va, 5000, "code", "mm"),
        ("window", "mm", region.va, 5000, False),
    ]
    assert verbs.bench.shared.locks["text_mutex"].acquisitions == 0


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_deferred_address_waits_for_a_purge_and_a_flushed_one_is_free_at_once(arch: str) -> None:
    deferred, flushed = Verbs(AllocWriteMap(), arch), Verbs(AllocWriteMap(recycle="flushed"), arch)
    for verbs in (deferred, flushed):
        (region,) = verbs.load(5000)
        verbs.free(region)
        (again,) = verbs.alloc(5000)
        assert (again.va == region.va) == (verbs is flushed)
        verbs.free(again)  # never mapped: nothing to flush for it
        assert "vmap_purge" not in verbs.steps


def test_a_flushed_address_is_flushed_before_its_pages_are_free() -> None:
    verbs = Verbs(AllocWriteMap(recycle="flushed", alias="read-only"))
    (region,) = verbs.load(5000)
    verbs.free(region)
    assert verbs.steps == ["vfree 2", "vmap_purge", "flush_tlb_kernel_range 3", "purge_flush", "set_direct_map 2"]
    order = dict.fromkeys(fact[0] for fact in verbs.bench.facts if fact[0] in ("map", "flush", "alias", "freed"))
    assert list(order) == ["map", "flush", "alias", "freed"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_deferred_free_flushes_nothing_and_sets_the_alias_back(arch: str) -> None:
    verbs = Verbs(AllocWriteMap(alias="removed"), arch)
    (region,) = verbs.load(5000)
    verbs.free(region)
    assert verbs.steps[:2] == ["vfree 2", "set_direct_map 2"]
    assert "purge_flush" not in verbs.steps
    assert verbs.alias(region) == "rw"
    assert verbs.usage == (0, 0, 0)


@pytest.mark.parametrize(("arch", "last"), [("x86_64", "sync_core"), ("arm64", "kick_all_cpus_sync"),
                                            ("riscv64", "flush_icache_all")])  # fmt: skip
def test_the_policy_follows_the_mapping(arch: str, last: str) -> None:
    verbs = Verbs(AllocWriteMap(sync="sync-core-ipi"), arch)
    verbs.load(5000)
    assert verbs.steps == [*ICACHE[arch], *MAP[arch], last]


def test_the_policies_offered() -> None:
    assert set(policies(AllocWriteMap)) == set(sync.POLICIES) - {*sync.GUARDED, "merged-flush"}


@pytest.mark.parametrize(("backend", "arch"), variants(AllocWriteMap), ids=str)
def test_conforms(backend: AllocWriteMap, arch: str) -> None:
    assert conforms(backend, arch) == []
