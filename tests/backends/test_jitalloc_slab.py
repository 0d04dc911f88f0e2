"""jitalloc-slab: size classes, slabs and bitmaps as the prototype's, and what jit_update and jit_free do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execbench.backends.jitalloc_slab import JitallocSlab
from execbench.kernel import sync
from execbench.kernel.arch import ARCHITECTURES
from tests.backends.verbs import Verbs, conforms, lines, policies, variants

PAGE = 4096
COPY = {"x86_64": "text_poke_copy", "arm64": "text_copy_nosync", "riscv64": "patch_insn_write"}
NEW = lines(
    """
    jit_slab_alloc
    vmalloc
    set_memory_rox
    vm_unmap_aliases
    flush_tlb_all
    cpa_flush
    """
)


@pytest.mark.parametrize(
    ("size", "reserved"),
    [(1, 16), (16, 16), (17, 32), (50, 64), (64, 64), (1025, 2048), (2048, 2048), (2049, PAGE), (5000, 2 * PAGE)],
)
def test_classes_are_powers_of_two_from_16_bytes_to_half_a_page(size: int, reserved: int) -> None:
    verbs = Verbs(JitallocSlab())
    (region,) = verbs.alloc(size)
    assert region.reserved == reserved
    assert verbs.usage == (size, max(reserved, PAGE), reserved - size)


@pytest.mark.parametrize(("page_size", "largest"), [(4096, 2048), (65536, 32768)])
def test_a_slab_is_a_page_whatever_its_size(page_size: int, largest: int) -> None:
    verbs = Verbs(JitallocSlab(), "arm64", config={"page_size": page_size})
    (small,) = verbs.alloc(50)
    (large,) = verbs.alloc(largest)
    assert (small.own.objects, large.own.objects) == (page_size // 64, 2)
    assert verbs.alloc(largest + 1)[0].reserved == page_size


def test_the_first_object_pays_for_the_slab_and_the_next_are_found_by_the_bitmap() -> None:
    verbs = Verbs(JitallocSlab())
    (one,) = verbs.alloc(50)
    assert verbs.steps == ["jit_alloc 50", *NEW]
    assert verbs.bench.told("store") == []  # what was in the page is executable now
    (two,) = verbs.alloc(64)
    assert verbs.steps == ["jit_alloc 64"]
    assert two.va == one.va + 64
    assert verbs.bench.cost("bitmap_word") == 2  # find_first_zero_bit and bitmap_weight, one word each
    (other,) = verbs.alloc(16)
    assert verbs.steps == ["jit_alloc 16", *NEW]
    assert verbs.bench.cost("bitmap_word") == 1 + 4
    assert other.va // PAGE != one.va // PAGE


def test_a_full_slab_leaves_the_list_and_comes_back_first() -> None:
    verbs = Verbs(JitallocSlab())
    one, _, third = verbs.alloc(2048, 2048, 2048)
    assert third.own is not one.own
    verbs.free(one)
    (again,) = verbs.alloc(2000)
    assert again.va == one.va
    assert verbs.alloc(2000)[0].own is third.own


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_freeing_clears_a_bit_and_the_last_object_gives_the_page_back(arch: str) -> None:
    verbs = Verbs(JitallocSlab(), arch)
    one, two = verbs.load(50, 60)
    verbs.free(one)
    assert (verbs.steps, verbs.bench.told()) == ([], [])
    assert verbs.usage == (60, PAGE, 4)
    verbs.free(two)
    assert verbs.steps[0] == "vfree"
    assert verbs.usage == (0, 0, 0)


def test_whole_pages_are_freed_at_once_without_the_lock() -> None:
    verbs = Verbs(JitallocSlab())
    (region,) = verbs.load(5000)
    verbs.free(region)
    assert verbs.steps[0] == "vfree 2"
    assert verbs.bench.shared.locks["jit_alloc_lock"].acquisitions == 0


@pytest.mark.parametrize(("arch", "traps"), [("x86_64", "text_poke_set"), ("arm64", "aarch64_insn_set"),
                                             ("riscv64", "patch_text_set_nosync")])  # fmt: skip
def test_traps_fill_a_new_page_before_it_is_executable_and_an_object_when_it_is_freed(arch: str, traps: str) -> None:
    verbs = Verbs(JitallocSlab(fill="traps"), arch)
    (region,) = verbs.alloc(50)
    assert verbs.bench.told("store") == [("store", region.va, PAGE, "trap", "text")]
    (other,) = verbs.load(50)
    verbs.free(region)
    assert verbs.steps[0] == f"{traps} 64"
    assert other.own is region.own


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_jit_update_is_one_copy_for_each_text_and_one_synchronization(arch: str) -> None:
    verbs = Verbs(JitallocSlab(sync="rcu"), arch)
    one, two = verbs.alloc(50, 100)
    verbs.write(one, patches=5)
    assert (verbs.steps, verbs.bench.spent) == ([], [])
    verbs.finalize(one, two)
    heads = [step.split()[0] for step in verbs.steps]
    assert [head for head in heads if head in (COPY[arch], "synchronize_rcu")] == [COPY[arch]] * 2 + ["synchronize_rcu"]
    assert [fact[1:4] for fact in verbs.bench.told("store")] == [(one.va, 50, "code"), (two.va, 100, "code")]
    verbs.rewrite(one)
    assert [fact[1:4] for fact in verbs.bench.told("store")] == [(one.va, 50, "code")]


@pytest.mark.parametrize(("fill", "traps"), [("none", 1), ("traps", 0)])
def test_a_guard_writes_its_trap_where_none_is(fill: str, traps: int) -> None:
    verbs = Verbs(JitallocSlab(fill=fill, sync="trap-and-retry"))  # type: ignore[arg-type]
    (region,) = verbs.alloc(50)
    verbs.finalize(region)
    assert [fact[3] for fact in verbs.bench.told("store")] == ["trap"] * traps + ["code", "code"]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6000)), min_size=1, max_size=40))
def test_figures_equal_a_recount_and_texts_never_overlap(acts: list[tuple[bool, int]]) -> None:
    verbs = Verbs(JitallocSlab())
    live = []
    for frees, size in acts:
        if frees and live:
            verbs.free(live.pop(size % len(live)))
        else:
            live += verbs.alloc(size)
        slabs = {id(region.own): region.own for region in live if region.size <= PAGE // 2}
        pages = PAGE * len(slabs) + sum(region.reserved for region in live if region.size > PAGE // 2)
        asked, taken = sum(region.size for region in live), sum(region.reserved for region in live)
        assert verbs.usage == (asked, pages, taken - asked)
        assert sum(slab.used.bit_count() for slab in slabs.values()) == sum(r.size <= PAGE // 2 for r in live)
        spans = sorted((region.va, region.va + region.reserved) for region in live)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        partial = [slab for slabs_ in verbs.state.partial.values() for slab in slabs_]
        assert all(0 < slab.used.bit_count() < slab.objects for slab in partial)


def test_the_policies_offered() -> None:
    assert set(policies(JitallocSlab)) == set(sync.POLICIES) - {"merged-flush"}


@pytest.mark.parametrize(("backend", "arch"), variants(JitallocSlab), ids=str)
def test_conforms(backend: JitallocSlab, arch: str) -> None:
    assert conforms(backend, arch) == []
