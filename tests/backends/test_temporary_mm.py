"""temporary-mm: rows C of appendix A8, how often the mm is loaded, under which lock, and that no other alias exists."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.backends.temporary_mm import TemporaryMm
from execbench.kernel import sync
from execbench.kernel.arch import ARCHITECTURES
from tests.backends.verbs import Verbs, conforms, policies, variants

SWITCH = {"x86_64": "text_poke", "arm64": "mm_switch", "riscv64": "mm_switch"}
LOADS = {"x86_64": "text_poke", "arm64": "use_temporary_mm", "riscv64": "use_temporary_mm"}
REMOVED = {
    "x86_64": ["set_direct_map 2", "flush_tlb_all", "alias_flush"],
    "arm64": ["set_direct_map 2", *["flush_tlb_kernel_range", "alias_flush"] * 2],
    "riscv64": ["set_direct_map 2", *["flush_tlb_all", "set_direct_map_flush"] * 2],
}
ICACHE = {"x86_64": [], "arm64": ["caches_clean_inval_pou 5000"], "riscv64": ["flush_icache_all"]}
MAP = {"x86_64": ["map_text 2"], "arm64": ["map_text 2"], "riscv64": ["map_text 2", "mark_new_valid_map"]}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("mm", ["global", "per-loader"])
def test_per_write_each_write_and_relocation_loads_the_mm(arch: str, mm: Any) -> None:
    verbs = Verbs(TemporaryMm(mm=mm), arch)
    (region,) = verbs.alloc(5000)
    assert verbs.steps == ["vmalloc 2", *REMOVED[arch]]
    assert (verbs.perm(region), verbs.alias(region)) == ("none", "np")
    verbs.write(region, patches=3)
    assert verbs.steps == [f"{LOADS[arch]} 5000", *[f"{LOADS[arch]} 4"] * 3]
    assert verbs.bench.cost(SWITCH[arch]) == 4
    assert verbs.bench.shared.locks["text_mutex"].acquisitions == (4 if mm == "global" else 0)
    verbs.finalize(region)
    assert verbs.steps == [*ICACHE[arch], *MAP[arch]]
    assert (verbs.perm(region), verbs.alias(region)) == ("ro-x", "np")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("mm", ["global", "per-loader"])
def test_per_load_the_mm_is_loaded_once_for_all_texts(arch: str, mm: Any) -> None:
    verbs = Verbs(TemporaryMm(mm=mm, writes="per-load"), arch)
    regions = verbs.alloc(5000, 100)
    for region in regions:
        verbs.write(region, patches=3)
        assert verbs.steps == []
        assert verbs.bench.facts == []
    verbs.finalize(*regions)
    assert verbs.steps[0] == "use_temporary_mm 5100"
    assert verbs.bench.counts["use_temporary_mm"] == 1
    assert verbs.bench.cost(SWITCH[arch]) == 1
    assert verbs.bench.cost("copy_byte") == 5100 + 2 * 3 * 4
    assert len(verbs.bench.told("store")) == 2 * (1 + 3)
    assert {fact[4] for fact in verbs.bench.told("store")} == {"mm"}
    assert verbs.bench.shared.locks["text_mutex"].acquisitions == (mm == "global")


def test_per_load_interrupts_are_off_while_the_mm_is_loaded() -> None:
    verbs = Verbs(TemporaryMm(writes="per-load"), run={"merge": True})
    (region,) = verbs.alloc(5000)
    verbs.write(region)
    spans: list[int] = []
    cpu = verbs.bench.machine.active_cpu(0)
    unmask = type(cpu).unmask

    def seen(self: Any) -> None:
        spans.append(self.owed - max(self.masked_from, 0))
        unmask(self)

    type(cpu).unmask = seen  # type: ignore[method-assign]
    try:
        verbs.finalize(region)
    finally:
        type(cpu).unmask = unmask  # type: ignore[method-assign]
    costs = verbs.bench.shared.costs
    assert spans == [costs.ns("text_poke") + costs.ns("copy_byte", 5000)]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("writes", ["per-write", "per-load"])
def test_no_alias_is_writable_by_another_cpu_at_any_time(arch: str, writes: Any) -> None:
    """The pages leave the direct map before the first store, and every store lies inside a window of this CPU's mm."""
    verbs = Verbs(TemporaryMm(writes=writes), arch)
    (region,) = verbs.alloc(5000)
    assert verbs.alias(region) == "np"
    verbs.write(region, patches=2)
    told = verbs.bench.told("window", "store")
    verbs.finalize(region)
    open_ = 0
    for event, *fields in told + verbs.bench.told("window", "store"):
        if event == "window":
            assert fields[0] == "mm"
            open_ += 1 if fields[3] else -1
        else:
            assert open_ == 1
    assert open_ == 0
    verbs.free(region)
    assert verbs.alias(region) == "rw"
    assert verbs.usage == (0, 0, 0)


def test_an_empty_group_is_free() -> None:
    verbs = Verbs(TemporaryMm(writes="per-load"))
    verbs.load()
    assert (verbs.steps, verbs.bench.spent) == ([], [])


def test_a_load_that_is_given_up_forgets_its_images() -> None:
    verbs = Verbs(TemporaryMm(writes="per-load"))
    (region,) = verbs.alloc(5000)
    verbs.write(region)
    assert verbs.state.waiting
    verbs.free(region)
    assert not verbs.state.waiting


def test_the_policies_offered() -> None:
    assert set(policies(TemporaryMm)) == set(sync.POLICIES) - {*sync.GUARDED, "merged-flush"}


@pytest.mark.parametrize(("backend", "arch"), variants(TemporaryMm), ids=str)
def test_conforms(backend: TemporaryMm, arch: str) -> None:
    assert conforms(backend, arch) == []
