"""Layout figures: leaves and pages of text that can be reached, against what a machine's TLBs hold, as counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from execbench.contract import Region, TextKind
from execbench.errors import InputError, MachineError
from execbench.record import layout
from execbench.sim.memory import PAGE, KernelMap, Run, VmArea
from execbench.simulate import World, simulate
from execbench.study import resolve
from execbench.study.expand import Asked, expand

PMD = 512
BASE = 1 << 30
SKYLAKE = {"itlb_4k": 128, "itlb_2m": 8, "stlb": 1536, "walk_at_most": 100}
ONE_ARRAY = {"itlb_4k": 64, "itlb_2m": 0}


def area(first: int, pages: int, pfn: int) -> VmArea:
    return VmArea(BASE + first * PAGE, pages, 1, "w", (Run(pfn, pages),))


@pytest.fixture
def text() -> KernelMap:
    """Pages 0 to 3; a PMD leaf from 512 on, and half of one behind it in PTEs."""
    text = KernelMap()
    text.map(area(0, 4, 10), "ro-x")
    text.map(area(512, PMD + 256, PMD), "ro-x", huge=True)
    return text


def spans(*bytes_of: tuple[int, int]) -> list[tuple[int, int]]:
    return [(BASE + first, BASE + last) for first, last in bytes_of]


def test_bytes_of_one_page_are_one_leaf(text: KernelMap) -> None:
    assert text.leaves_over(spans((0, 50), (50, 100), (4000, 4096))) == (1, 1, 0)
    assert text.leaves_over(spans((4000, 4097))) == (2, 2, 0)


def test_bytes_of_a_pmd_leaf_are_one_leaf_on_many_pages(text: KernelMap) -> None:
    large = 512 * PAGE
    assert text.leaves_over(spans((large, large + 1), (large + 100 * PAGE, large + 102 * PAGE))) == (3, 0, 1)
    behind = (512 + PMD) * PAGE
    assert text.leaves_over(spans((behind - 1, behind + 1))) == (2, 1, 1)
    assert text.leaves_over(spans((0, 4 * PAGE), (large, behind + 256 * PAGE))) == (4 + PMD + 256, 4 + 256, 1)


def test_a_split_leaf_is_as_many_as_its_pages_that_are_hot(text: KernelMap) -> None:
    whole = next(a for a in text._tables if a.pages > 4)
    text.protect(whole, 3, 1, "rw-nx")
    assert text.leaves_over(spans((512 * PAGE, 514 * PAGE))) == (2, 2, 0)


def test_what_is_not_mapped_counts_nowhere(text: KernelMap) -> None:
    assert text.leaves_over([]) == (0, 0, 0)
    assert text.leaves_over(spans((4 * PAGE, 6 * PAGE), (-PAGE, 0), (2000 * PAGE, 2001 * PAGE))) == (0, 0, 0)
    reserved = area(3000, 2, 9000)
    text.map(reserved, "none")
    assert text.leaves_over(spans((3000 * PAGE, 3002 * PAGE))) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_leaves_are_those_of_a_count_page_by_page(text: KernelMap, seed: int) -> None:
    import random

    draw = random.Random(seed)
    chosen = []
    for _ in range(40):
        low = draw.randrange(0, 1300 * PAGE)
        chosen.append((low, low + draw.randrange(1, 3 * PAGE)))
    pages = {page for low, high in chosen for page in range(low // PAGE, (high - 1) // PAGE + 1)}
    small = {page for page in pages if page < 4 or 512 + PMD <= page < 512 + PMD + 256}
    large = {page for page in pages if 512 <= page < 512 + PMD}
    assert text.leaves_over(spans(*chosen)) == (len(small) + len(large), len(small), int(bool(large)))


# --- figures ----------------------------------------------------------------------------------------------------------


def named(samples: list[layout.Hot], tlb: dict[str, Any] | None) -> dict[str, float]:
    return {metric: value for metric, _, value in layout.figures(samples, tlb)}


def test_without_published_tlbs_there_are_counts_and_no_reach() -> None:
    assert named([(10, 4, 1), (20, 6, 3)], None) == {
        "text_pages_hot": 15, "text_leaves_hot_4k": 5, "text_leaves_hot_2m": 2
    }  # fmt: skip


def test_reach_is_leaves_for_each_entry() -> None:
    found = named([(1000, 64, 16)], SKYLAKE)
    assert (found["itlb_reach_4k"], found["itlb_reach_2m"], found["stlb_reach"]) == (0.5, 2.0, 80 / 1536)
    assert "itlb_reach" not in found
    assert named([(1000, 64, 16)], ONE_ARRAY).keys() == {
        "text_pages_hot", "text_leaves_hot_4k", "text_leaves_hot_2m", "itlb_reach"
    }  # fmt: skip
    assert named([(1000, 64, 16)], ONE_ARRAY)["itlb_reach"] == 80 / 64


@pytest.mark.parametrize(
    ("hot", "tlb", "ns"),
    [
        ((0, 128, 8), SKYLAKE, 0),
        ((0, 129, 8), SKYLAKE, 12_900),
        ((0, 128, 9), SKYLAKE, 900),
        ((0, 60, 4), {**ONE_ARRAY, "walk_at_most": 100}, 0),
        ((0, 60, 5), {**ONE_ARRAY, "walk_at_most": 100}, 6_500),
    ],
)
def test_a_pass_costs_nothing_where_all_fits_and_at_most_a_walk_each_where_not(
    hot: layout.Hot, tlb: dict[str, Any], ns: float
) -> None:
    assert named([hot], tlb)["itlb_pass_at_most"] == ns


# --- in a run ---------------------------------------------------------------------------------------------------------


def spec_of(arm: str, machine: str = "server-64", workload: str = "bpf", **settings: Any) -> dict[str, Any]:
    short = {"run.duration": "80ms", "run.warmup": "10ms", "run.drain": "20ms"}
    asked = Asked.of(workload=workload, backends=[arm], machine=machine, cpus=16, set=short | settings)
    return json.loads(json.dumps(expand(asked).cells[0].spec))


def metrics(spec: dict[str, Any]) -> dict[str, float]:
    table = simulate(spec, 0, {}).tables["metrics"]
    return dict(zip(table["metric"], table["value"], strict=True))


def test_hot_text_of_a_run_is_where_its_programs_lie() -> None:
    """Programs that stay: the pages of every region that is live at the end, counted one by one."""
    for arm in ("module_alloc", "bpf_prog_pack", "jit_text_alloc"):
        spec = spec_of(arm, **{"client.bpf.loaded": 30, "client.bpf.think": "1s"})
        world = World(spec, 0, {})
        assert world.run().outcome == "ok"
        regions = list(world.shared.published.regions)
        pages = {page for r in regions for page in range(r.va // PAGE, (r.va + r.size - 1) // PAGE + 1)}
        found = layout.hot(world.shared)
        assert found[0] == len(pages)
        assert len(regions) >= 30
        if arm == "jit_text_alloc":  # a leaf of 2 MiB for all of them
            assert found[1:] == (0, 1)
        else:
            assert found[1:] == (len(pages), 0)


def test_a_machine_without_published_tlbs_has_no_reach() -> None:
    assert not [name for name in metrics(spec_of("execmem", "riscv64-server-64")) if "lb_" in name]
    found = metrics(spec_of("execmem"))
    assert found["itlb_reach_4k"] == found["text_leaves_hot_4k"] / 128


def test_machines_state_tlbs_with_their_source() -> None:
    for name in ("server-64", "amd-invlpgb-128", "arm64-server-128"):
        tables, _ = resolve.machine_tables(name)
        tlb = resolve.machine(name, tables, {})["tlb"]
        assert tlb["source"]
        assert 0 < tlb["walk_at_most"] < 1000
    tables, _ = resolve.machine_tables("riscv64-board-8")
    assert "tlb" not in resolve.machine("riscv64-board-8", tables, {})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("machine.tlb.itlb_4k", 0, "itlb_4k: got 0"),
        ("machine.tlb.stlb", -1, "stlb"),
        ("machine.tlb.walk_source", "", "walk_source"),
        ("machine.tlb.walk_at_most", "1 parsec", "walk_at_most"),
        ("machine.tlb.dtlb", 64, "unknown key 'dtlb'"),
    ],
)
def test_wrong_tlbs_are_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises((MachineError, InputError), match=said):
        spec_of("execmem", **{key: value})


def test_hot_is_kernel_text_only() -> None:
    shared = World(spec_of("execmem"), 0, {}).shared
    assert not shared.published.expect(Region(1, BASE, 10, PAGE, TextKind.USER))
    assert layout.hot(shared) == (0, 0, 0)
