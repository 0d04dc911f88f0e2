"""rw-inplace-finalize against the rows B of appendix A8, for each policy and architecture."""

from __future__ import annotations

import pytest

from execbench.backends.rw_inplace_finalize import RwInplaceFinalize
from execbench.errors import InputError
from execbench.kernel import sync
from execbench.kernel.arch import ARCHITECTURES
from tests.backends.verbs import Verbs, conforms, lines, policies, variants

SYNC = {"x86_64": ["sync_core"], "arm64": ["kick_all_cpus_sync"], "riscv64": ["flush_icache_all"]}
BEHIND = {
    "none": [],
    "merged-flush": [],
    "rcu": ["synchronize_rcu"],
    "rcu-expedited": ["synchronize_rcu_expedited"],
    "tasks-rude": ["synchronize_rcu_tasks_rude"],
    "stop-machine": ["stop_machine"],
    "lazy-generation": ["text_generation"],
}
PERMS = {
    "x86_64": """
        set_memory_rox 2
        vm_unmap_aliases
        flush_tlb_all
        cpa_flush
    """,
    "arm64": """
        set_memory_rox 2
        set_memory_ro 2
        flush_tlb_kernel_range
        linear_alias_flush
        flush_tlb_kernel_range
        linear_alias_flush
        vm_unmap_aliases
        flush_tlb_kernel_range 2
        set_memory_flush
        set_memory_x 2
        vm_unmap_aliases
        flush_tlb_kernel_range 2
        set_memory_flush
    """,
    "riscv64": """
        set_memory_rox 2
        set_memory_ro 2
        flush_tlb_all
        set_memory_flush
        set_memory_x 2
        flush_tlb_all
        set_memory_flush
    """,
}


def icache(arch: str, policy: str) -> list[str]:
    """A8's row I$: by line on arm64, fence.i on all harts of riscv64 unless the policy is that."""
    if arch == "riscv64":
        return [] if policy in sync.FENCES else ["flush_icache_all"]
    return ["caches_clean_inval_pou 5000"] if arch == "arm64" else []


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("policy", [*BEHIND, "sync-core-ipi"])
def test_finalize_is_the_rows_icache_perms_and_synchronize(arch: str, policy: str) -> None:
    verbs = Verbs(RwInplaceFinalize(sync=policy), arch)
    (region,) = verbs.alloc(5000)
    assert verbs.steps[0] == "vmalloc 2"
    verbs.write(region, patches=3)
    assert verbs.steps == []
    assert verbs.bench.told("store") == [("store", region.va, 5000, "code", "text")]
    verbs.finalize(region)
    behind = SYNC[arch] if policy == "sync-core-ipi" else BEHIND[policy]
    heads = [step for step in verbs.steps if not step.startswith("rcu_")]
    assert heads == [*icache(arch, policy), *lines(PERMS[arch]), *behind]
    assert verbs.perm(region) == "ro-x"


def test_text_is_writable_and_not_executable_until_finalize() -> None:
    verbs = Verbs(RwInplaceFinalize())
    (region,) = verbs.alloc(5000)
    assert (verbs.perm(region), verbs.alias(region)) == ("rw-nx", "rw")
    verbs.finalize(region)
    assert (verbs.perm(region), verbs.alias(region)) == ("ro-x", "ro")


@pytest.mark.parametrize(
    ("arch", "features", "rounds", "told"),
    [
        ("x86_64", {}, 1, ("serialize", "all", "sync_core")),
        ("riscv64", {"rfence": "ipi"}, None, ("icache", 0, 0, "fence.i-all")),
        ("riscv64", {"rfence": "sbi"}, None, ("icache", 0, 0, "fence.i-all")),
        ("arm64", {}, 1, ("serialize", "others", "set_memory_rox")),
    ],
)
def test_a_merged_flush_serializes_by_the_flush_or_by_a_round(
    arch: str, features: dict[str, str], rounds: int | None, told: tuple[object, ...]
) -> None:
    plain = Verbs(RwInplaceFinalize(sync="none"), arch, features=features)
    merged = Verbs(RwInplaceFinalize(sync="merged-flush"), arch, features=features)
    for verbs in (plain, merged):
        (region,) = verbs.alloc(5000)
        verbs.finalize(region)
    assert told in merged.bench.told("serialize", "icache")
    if rounds is not None:
        assert merged.bench.counts["round"] == rounds
    if arch == "x86_64":
        assert merged.bench.counts["round"] == plain.bench.counts["round"]
        assert told not in plain.bench.told("serialize")


def test_one_synchronization_for_a_group() -> None:
    verbs = Verbs(RwInplaceFinalize(sync="sync-core-ipi"))
    verbs.finalize(*verbs.alloc(5000, 100, 9000))
    assert (verbs.bench.counts["set_memory_rox"], verbs.bench.counts["sync_core"]) == (3, 1)


@pytest.mark.parametrize(("arch", "flushes"), [("x86_64", 1), ("arm64", 1), ("riscv64", 2 * 2 + 1)])
def test_freeing_is_that_of_any_module_text(arch: str, flushes: int) -> None:
    verbs = Verbs(RwInplaceFinalize(), arch)
    (region,) = verbs.load(5000)
    verbs.free(region)
    counts = verbs.bench.counts
    assert counts["vfree"] == 1
    assert counts["flush_tlb_all"] == flushes
    assert verbs.usage == (0, 0, 0)


def test_the_policies_offered() -> None:
    offered = policies(RwInplaceFinalize)
    assert set(offered) == set(sync.POLICIES) - set(sync.GUARDED)
    with pytest.raises(InputError, match="on riscv64"):
        Verbs(RwInplaceFinalize(sync="defer-to-kernel-entry"), "riscv64")
    assert RwInplaceFinalize(sync="defer-to-kernel-entry").refusal("riscv64")
    assert not RwInplaceFinalize(sync="defer-to-kernel-entry").refusal("x86_64")


@pytest.mark.parametrize(("backend", "arch"), variants(RwInplaceFinalize), ids=str)
def test_conforms(backend: RwInplaceFinalize, arch: str) -> None:
    assert conforms(backend, arch) == []
