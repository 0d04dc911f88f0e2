"""jit_text_alloc: the cache of executable pages, and each way to update it under each policy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execbench.backends.jit_text_alloc import AREA, JitTextAlloc
from execbench.contract import Image, TextKind
from execbench.kernel import sync
from execbench.kernel.arch import ARCHITECTURES
from execbench.kernel.text import writes
from tests.backends.verbs import Verbs, conforms, lines, policies, variants

PAGE = 4096
ROUND = {"x86_64": "sync_core", "arm64": "kick_all_cpus_sync", "riscv64": "flush_icache_all"}
COPY = {"x86_64": "text_poke_copy", "arm64": "text_copy_nosync", "riscv64": "patch_insn_write"}
"""One jit_update: on arm64 and riscv64 what their pokes are without the kick or fence.i of all CPUs at the end."""
TRAPS = {"x86_64": "text_poke_set", "arm64": "aarch64_insn_set", "riscv64": "patch_text_set_nosync"}


def stores(verbs: Verbs, start: int) -> list[tuple[int, int, str]]:
    return [(va - start, size, content) for _, va, size, content, _ in verbs.bench.told("store")]


# --- the cache --------------------------------------------------------------------------------------------------------


def test_a_miss_populates_two_mebibytes_and_a_hit_changes_no_mapping() -> None:
    verbs = Verbs(JitTextAlloc())
    (first,) = verbs.alloc(5000)
    assert verbs.steps == lines(
        """
        jit_text_alloc 2
        jit_text_populate
        vmalloc 512
        set_memory_rox 512
        vm_unmap_aliases
        flush_tlb_all
        cpa_flush
        """
    )
    assert verbs.bench.told("store") == [("store", first.va, AREA, "trap", "text")]
    assert verbs.bench.shared.text_map.text_leaves() == (0, 1)
    (second,) = verbs.alloc(100)
    assert verbs.steps == ["jit_text_alloc"]
    assert second.va == first.va + 2 * PAGE
    assert verbs.usage == (5100, AREA, 3 * PAGE - 5100)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_it_is_executable_from_the_start_and_full_of_traps_before_that(arch: str) -> None:
    verbs = Verbs(JitTextAlloc(), arch)
    (region,) = verbs.alloc(100)
    events = [(fact[0], fact[-1]) for fact in verbs.bench.facts if fact[0] in ("map", "store")]
    assert events[:3] == [("map", "none"), ("map", "rw-nx"), ("store", "text")]
    assert verbs.bench.shared.text_map.perm(region.own.area, 0) == "ro-x"
    small, large = verbs.bench.shared.text_map.text_leaves()
    assert (small, large) == ((512, 0) if arch == "arm64" else (0, 1))


def test_the_first_run_of_pages_that_is_long_enough() -> None:
    verbs = Verbs(JitTextAlloc())
    one, two, three = verbs.alloc(PAGE, 2 * PAGE, PAGE)
    verbs.free(two)
    (large,) = verbs.alloc(3 * PAGE)
    (small,) = verbs.alloc(PAGE)
    assert small.va == one.va + PAGE
    assert large.va == three.va + PAGE
    assert verbs.bench.cost("list_walk") == 1


def test_an_area_for_each_window_and_a_larger_one_for_a_larger_text() -> None:
    verbs = Verbs(JitTextAlloc(), "arm64")
    (bpf,) = verbs.alloc(100, kind=TextKind.BPF)
    (module,) = verbs.alloc(100, kind=TextKind.MODULE_TEXT)
    assert bpf.own is not module.own
    assert bpf.own.area.window == "vmalloc"
    assert module.own.area.window == "modules-direct"
    verbs = Verbs(JitTextAlloc())
    (large,) = verbs.alloc(AREA + 1)
    assert large.own.area.size == 2 * AREA


@pytest.mark.parametrize(("page_size", "pages"), [(4096, 512), (16384, 128), (65536, 32)])
def test_an_area_is_two_mebibytes_whatever_the_page(page_size: int, pages: int) -> None:
    verbs = Verbs(JitTextAlloc(), "arm64", config={"page_size": page_size})
    (region,) = verbs.alloc(100)
    assert (region.own.area.pages, region.own.area.size, region.reserved) == (pages, AREA, page_size)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 << 18)), min_size=1, max_size=20))
@settings(max_examples=30)
def test_figures_equal_a_recount_and_texts_never_overlap(acts: list[tuple[bool, int]]) -> None:
    verbs = Verbs(JitTextAlloc())
    live = []
    for frees, size in acts:
        if frees and live:
            verbs.free(live.pop(size % len(live)))
        else:
            live += verbs.alloc(size)
        blocks = {id(region.own): region.own for region in live}.values()
        asked, taken = sum(region.size for region in live), sum(region.reserved for region in live)
        populated = sum(block.area.size for block in blocks)
        assert verbs.usage == (asked, populated, taken - asked)
        assert sum(block.free.free for block in blocks) * PAGE == populated - taken
        spans = sorted((region.va, region.va + region.reserved) for region in live)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_freed_text_is_traps_again_and_an_empty_area_goes_back(arch: str) -> None:
    verbs = Verbs(JitTextAlloc(), arch)
    one, two = verbs.load(5000, 100)
    verbs.free(one)
    assert verbs.steps[0] == f"{TRAPS[arch]} 8192"
    assert "vfree" not in "".join(verbs.steps)
    assert stores(verbs, one.va)[0][0::2] == (0, "trap")
    assert verbs.usage == (100, AREA, PAGE - 100)
    verbs.free(two)
    assert "vfree 512" in verbs.steps
    assert verbs.usage == (0, 0, 0)


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_once_the_finished_copy_is_one_update(arch: str) -> None:
    verbs = Verbs(JitTextAlloc(sync="sync-core-ipi"), arch)
    (region,) = verbs.alloc(100)
    verbs.write(region, patches=5)
    assert (verbs.steps, verbs.bench.spent) == ([], [("copy_byte", 100)])
    verbs.finalize(region)
    assert [step for step in verbs.steps if step.split()[0] in (COPY[arch], ROUND[arch])] == [
        f"{COPY[arch]} 100", ROUND[arch],
    ]  # fmt: skip
    assert stores(verbs, region.va) == [(0, 100, "code")]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_per_write_each_relocation_is_an_update(arch: str) -> None:
    verbs = Verbs(JitTextAlloc(update="per-write", sync="sync-core-ipi"), arch)
    (region,) = verbs.alloc(100)
    verbs.write(region, patches=3)
    assert verbs.bench.counts[COPY[arch]] == 4
    assert verbs.bench.counts[ROUND[arch]] == 0
    assert stores(verbs, region.va) == [(0, 100, "code"), (32, 4, "code"), (64, 4, "code"), (96, 4, "code")]
    verbs.finalize(region)
    assert verbs.steps == [ROUND[arch]]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("policy", "rounds"), [("int3-protocol", 3), ("trap-and-retry", 0)])
@pytest.mark.parametrize("update", ["once", "per-write"])
def test_a_guard_is_lifted_by_the_last_write(arch: str, policy: Any, rounds: int, update: Any) -> None:
    first = sync.FIRST[arch]
    verbs = Verbs(JitTextAlloc(update=update, sync=policy), arch)
    (region,) = verbs.alloc(100)
    before = [(0, first, "trap")] if policy == "int3-protocol" else []
    verbs.write(region, patches=1)
    done, seen = stores(verbs, region.va), verbs.bench.counts[ROUND[arch]]
    verbs.finalize(region)
    patched = [(96, 4, "code")] if update == "per-write" else []
    expected = [*before, (first, 100 - first, "code"), *patched, (0, first, "code")]
    assert done + stores(verbs, region.va) == expected
    assert seen + verbs.bench.counts[ROUND[arch]] == rounds
    verbs.rewrite(region, patches=1)
    assert stores(verbs, region.va) == [(0, first, "trap"), (first, 100 - first, "code"), *patched, (0, first, "code")]
    to_see_the_trap = policy == "trap-and-retry" and arch == "riscv64"
    assert verbs.bench.counts[ROUND[arch]] == rounds + to_see_the_trap


def test_the_finished_copy_is_written_while_the_machine_stands_still() -> None:
    verbs = Verbs(JitTextAlloc(sync="stop-machine"))
    (region,) = verbs.load(100, patches=2)
    assert stores(verbs, region.va) == [(0, 100, "code")]
    assert verbs.bench.counts["stop_machine"] == 1
    with pytest.raises(ValueError, match="sync: .*update = once"):
        JitTextAlloc(update="per-write", sync="stop-machine")


def test_a_group_synchronizes_once() -> None:
    verbs = Verbs(JitTextAlloc(sync="sync-core-ipi"))
    verbs.load(100, 200, 300)
    assert (verbs.bench.counts["text_poke_copy"], verbs.bench.counts["sync_core"]) == (3, 1)


def test_several_writes_before_finalize_open_a_guard_once() -> None:
    verbs = Verbs(JitTextAlloc(update="per-write", sync="int3-protocol"))
    (region,) = verbs.alloc(100)
    verbs.write(region)
    assert verbs.bench.counts["sync_core"] == 1
    verbs.write(region)
    assert verbs.bench.counts["sync_core"] == 0
    verbs.finalize(region)
    assert verbs.bench.counts["sync_core"] == 2


@pytest.mark.parametrize("size", [1, 3, 4, 5, 63, 5000])
@pytest.mark.parametrize("patches", [0, 1, 7])
def test_relocations_lie_inside_their_text(size: int, patches: int) -> None:
    places = list(writes(1024, Image(1, size, patches)))
    assert places[0] == (1024, size)
    assert len(places) == 1 + patches
    assert all(va >= 1024 and n > 0 and va + n <= 1024 + size for va, n in places)


def test_the_policies_offered() -> None:
    assert set(policies(JitTextAlloc)) == set(sync.POLICIES) - {"merged-flush"}


MORE = [JitTextAlloc(update="per-write", sync=policy) for policy in ("int3-protocol", "trap-and-retry")]


@pytest.mark.parametrize(("backend", "arch"), variants(JitTextAlloc, *MORE), ids=str)
def test_conforms(backend: JitTextAlloc, arch: str) -> None:
    assert conforms(backend, arch) == []
