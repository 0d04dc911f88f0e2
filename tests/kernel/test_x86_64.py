"""x86_64: flushes by interrupt or broadcast, who is told how, and set_memory_*() leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from execbench.backends.rw_inplace_finalize import RwInplaceFinalize
from execbench.contract import Proc, Request
from execbench.kernel.facade import Kernel
from execbench.kernel.text import TextKind
from execbench.sim.memory import PMD_PAGES, VmArea
from tests.kernel.bench import Bench

TEXT = TextKind.MODULE_TEXT
MERGED = ("6.12", "6.18", "7.3")
RELEASES = ("6.1", *MERGED)
WARM = 8
"""Pages whose direct map is split when a test begins: the machine has been up."""


def area_of(bench: Bench, pages: int, *, huge: bool = False) -> tuple[VmArea, VmArea]:
    """Map two neighbours; the first one's direct map is split, and with it what small areas get next."""
    made: list[VmArea] = []

    def body(k: Kernel) -> Proc[None]:
        for n in (WARM, pages):
            made.append((yield from k.vmalloc_node_range(n, TEXT, huge=huge and n == pages)))
            if n == WARM:
                yield from k.set_memory_ro(made[0])

    bench.task(body)
    bench.run()
    bench.forget()
    return made[0], made[1]


def did(bench: Bench, body: Callable[[Kernel], Proc[Any]]) -> Bench:
    """Do one thing more on a bench, and keep only what it did."""
    bench.forget()
    bench.task(body, start=bench.machine.engine.now)
    return bench.run()


def flushes(bench: Bench) -> list[str]:
    """Why everybody flushed, in order."""
    return [name for name, _ in bench.calls if name.endswith("_flush")]


# --- TLB --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("release", "broadcast"), [("6.1", False), ("6.12", False), ("6.18", True), ("7.3", True)])
def test_invlpgb_takes_processor_and_release_and_interrupts_nobody(release: str, broadcast: bool) -> None:
    for feature in (False, True):
        bench = Bench(release=release, features={"invlpgb": feature})
        did(bench, lambda k: k.flush_tlb_all("why"))
        (flush,) = bench.told("flush")
        assert bench.machine.interrupts.rounds == (0 if broadcast and feature else 1)
        assert flush[3] == ("broadcast" if broadcast and feature else "ipi")
        assert (bench.cost("invlpgb"), bench.cost("tlbsync")) == ((1, 1) if broadcast and feature else (0, 0))
        assert bench.counts["flush_tlb_all"] == bench.counts["why"] == 1


@pytest.mark.parametrize(("count_max", "pages", "instructions"), [(1, 33, 33), (8, 33, 5), (8, 8, 1), (8, 34, 1)])
def test_a_range_takes_one_invlpgb_per_chunk_and_one_wait(count_max: int, pages: int, instructions: int) -> None:
    bench = Bench(release="7.3", features={"invlpgb": True, "invlpgb_count_max": count_max})
    did(bench, lambda k: k.flush_tlb_kernel_range(4096, pages, "why"))
    assert (bench.cost("invlpgb"), bench.cost("tlbsync")) == (instructions, 1)
    everything = pages > 33
    assert bench.told("flush") == [("flush", *((0, 0) if everything else (4096, pages)), "broadcast", "why")]


@pytest.mark.parametrize(("pages", "ranged"), [(33, True), (34, False)])
def test_a_range_above_the_ceiling_is_everything(pages: int, ranged: bool) -> None:
    bench = did(Bench(), lambda k: k.flush_tlb_kernel_range(4096, pages, "why"))
    assert bench.counts["flush_tlb_kernel_range"] == ranged
    assert bench.counts["flush_tlb_all"] == (not ranged)
    assert (bench.cost("tlb_flush_page"), bench.cost("tlb_flush_all")) == ((33, 0) if ranged else (0, 1))


@pytest.mark.parametrize("invlpgb", [False, True])
def test_serialization_merged_with_a_flush_gets_a_round_of_its_own_where_the_flush_is_a_broadcast(
    invlpgb: bool,
) -> None:
    bench = Bench(release="7.3", features={"invlpgb": invlpgb})
    backend = RwInplaceFinalize(sync="merged-flush")

    def body(k: Kernel) -> Proc[None]:
        s = backend.start(bench.shared)
        regions = yield from backend.alloc(k, s, [Request(5_000, TEXT)])
        yield from backend.finalize(k, s, regions)

    did(bench, body)
    assert len(bench.told("serialize")) == 1
    assert bench.machine.interrupts.rounds == (1 if invlpgb else 3), "two splits of the direct map, one last flush"


@pytest.mark.parametrize(
    ("features", "cpus", "sender", "sends"),
    [
        ({"ipi": "shorthand"}, 64, 0, 1),
        ({"ipi": "shorthand", "apic": "xapic"}, 64, 0, 1),
        ({"ipi": "mask"}, 64, 0, 4),
        ({"ipi": "mask"}, 65, 0, 5),
        ({"ipi": "mask"}, 65, 64, 4),
        ({"ipi": "mask"}, 2, 1, 1),
        ({"ipi": "mask", "apic": "xapic"}, 64, 0, 63),
        ({"ipi": "hypercall"}, 128, 0, 1),
        ({"ipi": "hypercall"}, 129, 0, 2),
        ({"ipi": "hypercall"}, 300, 299, 3),
    ],
)
def test_how_often_the_interrupt_controller_is_written(
    features: dict[str, Any], cpus: int, sender: int, sends: int
) -> None:
    bench = Bench(features=features, cpus=cpus, hosts=(sender,))
    bench.task(lambda k: k.on_each_cpu("why"), cpu=sender)
    bench.run()
    assert bench.cost("ipi_send") == sends
    assert bench.rounds == [("why", cpus - 1)]


def test_a_mask_of_some_is_no_shorthand() -> None:
    bench = Bench(features={"ipi": "shorthand"}, cpus=64)

    def body(k: Kernel) -> Proc[None]:
        for targets in (1, 3, 62, 63):
            k.arch.spend_ipi_send(k, targets)
        return
        yield

    bench.task(body)
    bench.run()
    assert [n for cost, n in bench.spent if cost == "ipi_send"] == [1, 3, 4, 1]


# --- set_memory_*() ---------------------------------------------------------------------------------------------------


def test_6_1_makes_text_read_only_and_executable_in_two_steps_the_second_flushed_page_by_page() -> None:
    bench = Bench(release="6.1")
    _, area = area_of(bench, 20)
    did(bench, lambda k: k.set_memory_rox(area))
    assert [name for name, _ in bench.calls if name.startswith("set_memory")] == ["set_memory_ro", "set_memory_x"]
    assert bench.told("map") == [("map", 0, 20, "ro-nx"), ("map", 0, 20, "ro-x")]
    assert bench.told("flush") == [("flush", 0, 0, "ipi", "cpa_flush"), ("flush", area.va, 20, "ipi", "cpa_flush")]
    assert bench.counts["__cpa_flush_tlb"] == 1


@pytest.mark.parametrize("release", RELEASES)
def test_an_operation_on_nx_alone_is_ranged_only_on_6_1_and_only_up_to_the_ceiling(release: str) -> None:
    for pages in (33, 34):
        bench = Bench(release=release)
        _, area = area_of(bench, pages)
        did(bench, lambda k, area=area: k.set_memory_x(area))  # type: ignore[misc]
        ranged = release == "6.1" and pages == 33
        assert bench.told("flush") == [("flush", *((area.va, 33) if ranged else (0, 0)), "ipi", "cpa_flush")]
        assert not bench.told("alias"), "the direct map is always NX"
        assert bench.cost("cpa_page") == pages


@pytest.mark.parametrize("release", RELEASES)
def test_a_change_that_changes_nothing_looks_purges_and_flushes_nobody(release: str) -> None:
    bench = Bench(release=release)
    _, area = area_of(bench, 5)
    did(bench, lambda k: k.set_memory_rw(area))
    assert bench.counts["vm_unmap_aliases"] == 1
    assert bench.cost("cpa_page") == 10, "five pages and their aliases"
    assert not bench.told("flush")
    did(bench, lambda k: k.vfree_data(3))
    did(bench, lambda k: k.set_memory_nx(area))
    assert flushes(bench) == ["purge_flush"]


def test_a_flush_comes_only_if_an_entry_of_the_range_changed_not_for_its_alias() -> None:
    bench = Bench()
    _, area = area_of(bench, 5)

    def body(k: Kernel) -> Proc[None]:
        yield from k.set_memory_ro(area)
        yield from k.set_direct_map(area, "rw")
        bench.forget()
        yield from k.set_memory_ro(area)

    bench.task(body, start=bench.machine.engine.now)
    bench.run()
    assert bench.told("alias") == [("alias", "direct", area.runs[0].pfn, 5, "ro")]
    assert not flushes(bench), "CPA_FLUSHTLB is set in a copy of cpa_data"


@pytest.mark.parametrize("release", MERGED)
def test_the_direct_map_is_split_once_with_a_flush_for_each_leaf_before_its_page_changes(release: str) -> None:
    bench = Bench(release=release)
    did(bench, lambda k: k.vmalloc_node_range(4, TEXT))
    area = next(fields[2] for fields in bench.facts if fields[0] == "map")
    did(bench, lambda k: k.set_memory_rox(area))
    order = [event if event != "flush" else fields[-1] for event, *fields in bench.told("map", "flush", "alias")]
    assert order == ["map", "split_flush", "split_flush", "alias", "cpa_flush"], "1G, then 2M, then the page"
    did(bench, lambda k: k.set_memory_rw(area))
    assert flushes(bench) == ["cpa_flush"], "splits of the direct map are for ever"


@pytest.mark.parametrize("release", MERGED)
def test_a_whole_huge_leaf_is_rewritten_whole_here_and_in_the_direct_map(release: str) -> None:
    bench = Bench(release=release)
    _, area = area_of(bench, 2 * PMD_PAGES, huge=True)
    before = bench.shared.direct_map.splits
    did(bench, lambda k: k.set_memory_rox(area))
    assert bench.told("map") == [("map", 0, 2 * PMD_PAGES, "ro-x")]
    after = bench.shared.direct_map.splits
    assert (after.pud, after.pmd) == (before.pud, before.pmd), "the 1G leaf was split before, the 2M leaves stay"
    assert after.entries - before.entries == 2
    assert flushes(bench) == ["cpa_flush"]
    assert bench.shared.text_map.text_leaves() == (0, 2)


@pytest.mark.parametrize("release", RELEASES)
def test_a_part_of_a_huge_leaf_splits_it_with_a_flush_before_the_pages_change(release: str) -> None:
    bench = Bench(release=release)
    _, area = area_of(bench, PMD_PAGES, huge=True)
    did(bench, lambda k: k.set_memory_ro(area, 7, 3))
    order = [event if event != "flush" else fields[-1] for event, *fields in bench.told("map", "flush")]
    assert order == ["split_flush", "map", "split_flush", "cpa_flush"], "its leaf, and that of the direct map"
    assert bench.counts["cpa_split"] == 2
    did(bench, lambda k: k.set_memory_ro(area, 100, 3))
    assert flushes(bench) == ["cpa_flush"]


@pytest.mark.parametrize("release", ["6.18", "7.3"])
def test_only_the_leaves_of_the_range_are_collapsed_and_only_when_all_their_pages_are_alike(release: str) -> None:
    bench = Bench(release=release)
    _, area = area_of(bench, 2 * PMD_PAGES, huge=True)

    def body(k: Kernel) -> Proc[None]:
        yield from k.set_memory_rox(area)
        yield from k.set_memory_rw(area, 10, 5)  # in the first leaf
        yield from k.set_memory_rw(area, PMD_PAGES + 10, 5)  # in the second, twice
        yield from k.set_memory_rw(area, PMD_PAGES + 100, 5)
        for first in (PMD_PAGES + 10, 10, PMD_PAGES + 100):
            bench.forget()
            yield from k.set_memory_rox(area, first=first, pages=5)
            seen.append((flushes(bench), [k.text_map.is_huge(area, page) for page in (0, PMD_PAGES)]))

    seen: list[tuple[list[str], list[bool]]] = []
    did(bench, body)
    both = ["cpa_flush", "collapse_flush"]
    assert seen == [(["cpa_flush"], [False, False]), (both, [True, False]), (both, [True, True])]


def test_a_leaf_beside_the_range_stays_split_even_if_its_pages_are_alike() -> None:
    bench = Bench(release="7.3")
    _, area = area_of(bench, 2 * PMD_PAGES, huge=True)

    def body(k: Kernel) -> Proc[None]:
        yield from k.set_memory_rox(area)
        for first in (10, PMD_PAGES + 10):
            yield from k.set_memory_rw(area, first, 5)
        yield from k.set_memory_ro(area, 10, 5)  # all alike again, but nobody looked
        yield from k.set_memory_rox(area, first=PMD_PAGES + 10, pages=5)

    did(bench, body)
    assert [bench.shared.text_map.is_huge(area, page) for page in (0, PMD_PAGES)] == [False, True]


def test_a_collapse_is_looked_for_only_after_a_flush_and_only_by_rox() -> None:
    bench = Bench(release="7.3")
    _, area = area_of(bench, PMD_PAGES, huge=True)

    def body(k: Kernel) -> Proc[None]:
        yield from k.set_memory_rox(area)
        yield from k.set_memory_rw(area, 0, 3)
        yield from k.set_memory_ro(area, 0, 3)
        bench.forget()
        yield from k.set_memory_rox(area)

    did(bench, body)
    assert not bench.shared.text_map.is_huge(area, 0), "no entry changed, no flush, no collapse"
    assert not flushes(bench)


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_older_releases_never_make_a_leaf_whole(release: str) -> None:
    bench = Bench(release=release)
    _, area = area_of(bench, PMD_PAGES, huge=True)

    def body(k: Kernel) -> Proc[None]:
        yield from k.set_memory_rox(area)
        yield from k.set_memory_rw(area, 0, 3)
        yield from k.set_memory_rox(area, first=0, pages=3)

    did(bench, body)
    assert bench.shared.text_map.text_leaves() == (PMD_PAGES, 0)
    assert "collapse_flush" not in flushes(bench)


# --- huge areas -------------------------------------------------------------------------------------------------------


def test_a_huge_area_is_aligned_and_of_whole_blocks_or_like_any_other() -> None:
    for fragmented in (False, True):
        bench = Bench(release="7.3")
        if fragmented:
            bench.shared.frames = type(bench.shared.frames)(1 << 20, fragmented=True)
        made: list[VmArea] = []

        def body(k: Kernel, made: list[VmArea] = made) -> Proc[None]:
            made.append((yield from k.vmalloc_node_range(PMD_PAGES, TEXT, huge=True)))

        bench.task(body)
        bench.run()
        (area,) = made
        assert area.huge == (not fragmented) == bench.shared.text_map.is_huge(area, 0)
        assert (area.va % (PMD_PAGES * 4096) == 0) == (not fragmented)
        assert bench.shared.vmap.lazy_areas == fragmented, "the aligned address was given back"
        assert len(area.runs) == (PMD_PAGES if fragmented else 1)
