"""arm64 paths step by step, against kernel-paths appendix A2, A5 and the counts traced on 6.1."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.contract import Proc
from execbench.errors import AddressSpaceExhausted, SimulatedFailure
from execbench.kernel.arm64 import icache, patching
from execbench.kernel.arm64.rules import rules_for
from execbench.kernel.facade import Kernel
from execbench.kernel.releases import RELEASES
from execbench.kernel.text import TextKind
from execbench.sim.memory import VmArea
from tests.kernel.bench import FEATURES, Bench

OLD, NEW = ("6.1", "6.12"), ("6.18", "7.3")
ALL = OLD + NEW
CPUS = 4


def area_of(k: Kernel, pages: int, kind: TextKind = TextKind.MODULE_TEXT, **how: Any) -> Proc[VmArea]:
    """An area, and all that led to it forgotten."""
    area = yield from k.vmalloc_node_range(pages, kind, **how)
    yield from k.settle()
    return area


def after(bench: Bench, pages: int, verb: Any, kind: TextKind = TextKind.MODULE_TEXT, **how: Any) -> Bench:
    """Run `verb(k, area)` on a fresh area; only what it does is kept."""

    def body(k: Kernel) -> Proc[None]:
        area = yield from area_of(k, pages, kind, **how)
        bench.forget()
        yield from verb(k, area)

    bench.task(body)
    return bench.run()


def alias(pages: int) -> list[str]:
    """The linear map of some pages: a flush for each."""
    return ["flush_tlb_kernel_range", "linear_alias_flush"] * pages + [f"tlbi {pages}" if pages > 1 else "tlbi"]


def ranged(pages: int, ops: int) -> list[str]:
    """A flush of a range by some instructions."""
    name = "flush_tlb_kernel_range" if pages == 1 else f"flush_tlb_kernel_range {pages}"
    return [name, "set_memory_flush", "tlbi" if ops == 1 else f"tlbi {ops}"]


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["6.12", *NEW])
def test_windows_have_the_pages_that_the_boot_log_prints(release: str) -> None:
    windows = Bench("arm64", release).shared.arch.windows(None)  # type: ignore[arg-type]
    assert windows["modules-direct"][1] == 22_496
    assert windows["modules-plt"][1] == 514_016
    ends = {name: va + 4096 * pages for name, (va, pages) in windows.items()}
    assert ends["modules-direct"] == ends["modules-plt"] == windows["vmalloc"][0] == 0xFFFF_8000_8000_0000


def test_on_6_1_the_fallback_reaches_up_over_the_image() -> None:
    windows = Bench("arm64", "6.1").shared.arch.windows(None)  # type: ignore[arg-type]
    direct, plt, vmalloc = (windows[name] for name in ("modules-direct", "modules-plt", "vmalloc"))
    assert direct[0] == plt[0]
    assert direct[0] + 4096 * direct[1] == vmalloc[0] == 0xFFFF_8000_0800_0000
    assert plt[1] == 514_016 and direct[1] == 32_768 - 16_896 // 4


@pytest.mark.parametrize("release", ALL)
def test_a_module_falls_back_to_the_plt_window_and_then_fails(release: str) -> None:
    bench = Bench("arm64", release)
    vmap = bench.shared.vmap
    places = []

    def body(k: Kernel) -> Proc[None]:
        for window in ("modules-direct", "modules-plt"):
            area = yield from k.vmalloc_node_range(2, TextKind.MODULE_TEXT)
            places.append((area.window, k.shared.vmap.largest_hole(window)))
            while (hole := vmap.largest_hole(window)) > 1:
                vmap.alloc(window, hole - 1)
        with pytest.raises(AddressSpaceExhausted):
            yield from k.vmalloc_node_range(2, TextKind.MODULE_TEXT)
        area = yield from k.vmalloc_node_range(2, TextKind.BPF)
        places.append((area.window, 0))

    bench.task(body)
    bench.run()
    assert [window for window, _ in places] == ["modules-direct", "modules-plt", "vmalloc"]
    assert bench.counts["window_full"] == 1 + 2


def test_every_kind_has_its_windows() -> None:
    arch = Bench("arm64", "7.3").shared.arch
    anywhere = {kind for kind in TextKind if arch.windows_for(kind) == ("vmalloc",)}
    assert anywhere == {TextKind.BPF, TextKind.KPROBES}
    assert all(arch.windows_for(kind) == ("modules-direct", "modules-plt") for kind in set(TextKind) - anywhere)


# --- protections (A2) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ALL)
def test_rox_is_ro_then_x_with_two_purges_and_n_plus_two_flushes(release: str) -> None:
    bench = after(Bench("arm64", release), 3, lambda k, area: k.set_memory_rox(area))
    ops = 3 if release in OLD else 2  # two pages by range, one by itself
    assert bench.steps == [
        *(["set_memory_rox 3"] if release != "6.1" else []),
        *("set_memory_ro 3", *alias(3), "vm_unmap_aliases", *ranged(3, ops)),
        *("set_memory_x 3", "vm_unmap_aliases", *ranged(3, ops)),
    ]
    assert bench.rounds == []
    assert [(fact[0], fact[-1]) for fact in bench.told("map", "alias", "flush")] == [
        ("alias", "ro"), ("flush", "linear_alias_flush"), ("map", "ro-nx"), ("flush", "set_memory_flush"),
        ("map", "ro-x"), ("flush", "set_memory_flush"),
    ]  # fmt: skip
    assert all(fact[3] == "broadcast" for fact in bench.told("flush"))
    assert bench.cost("dsb_ish") == bench.cost("isb") == 3 + 2


@pytest.mark.parametrize("verb", ["set_memory_x", "set_memory_nx"])
def test_x_alone_leaves_the_linear_map(verb: str) -> None:
    bench = after(Bench("arm64", "7.3"), 4, lambda k, area: getattr(k, verb)(area))
    assert bench.steps == [f"{verb} 4", "vm_unmap_aliases", *ranged(4, 1)]
    assert bench.told("alias") == []


@pytest.mark.parametrize(("release", "aliased"), [("6.1", 5), ("6.12", 5), ("6.18", 1), ("7.3", 1)])
def test_old_releases_change_the_linear_map_of_the_whole_area(release: str, aliased: int) -> None:
    bench = after(Bench("arm64", release), 5, lambda k, area: k.set_memory_ro(area, 2, 1))
    assert bench.steps == ["set_memory_ro", *alias(aliased), "vm_unmap_aliases", *ranged(1, 1)]
    assert sum(fact[3] for fact in bench.told("alias")) == aliased


@pytest.mark.parametrize("release", ALL)
def test_flushes_even_if_nothing_changes(release: str) -> None:
    bench = Bench("arm64", release)

    def twice(k: Kernel, area: VmArea) -> Proc[None]:
        yield from k.set_memory_ro(area)
        yield from k.settle()
        bench.forget()
        yield from k.set_memory_ro(area)

    after(bench, 1, twice)
    assert bench.steps == ["set_memory_ro", *alias(1), "vm_unmap_aliases", *ranged(1, 1)]


@pytest.mark.parametrize("release", ALL)
def test_without_rodata_full_the_linear_map_never_changes(release: str) -> None:
    def verb(k: Kernel, area: VmArea) -> Proc[None]:
        yield from k.set_memory_ro(area)
        yield from k.vfree(area)

    bench = after(Bench("arm64", release, {"rodata_full": False, "tlbi_range": False}), 2, verb)
    assert bench.steps == [
        "set_memory_ro 2", "vm_unmap_aliases", *ranged(2, 2),
        "vfree 2", "set_direct_map 2", "vm_unmap_aliases", "vmap_purge", "flush_tlb_all", "purge_flush", "tlbi",
        "set_direct_map 2",
    ]  # fmt: skip
    assert bench.told("alias") == []
    assert bench.shared.direct_map.leaves()[2] > 0, "block-mapped at boot"


@pytest.mark.parametrize("release", ALL)
def test_free_is_one_flush(release: str) -> None:
    bench = after(Bench("arm64", release), 3, lambda k, area: k.vfree(area))
    assert bench.steps == [
        "vfree 3", "set_direct_map 3", "vm_unmap_aliases", "vmap_purge", "flush_tlb_all", "purge_flush", "tlbi",
        "set_direct_map 3",
    ]  # fmt: skip
    assert [fact[-1] for fact in bench.told("alias")] == ["np", "rw"]
    assert bench.rounds == []


@pytest.mark.parametrize("release", ALL)
def test_areas_with_huge_leaves_are_refused(release: str) -> None:
    def verb(k: Kernel, area: VmArea) -> Proc[None]:
        assert k.text_map.is_huge(area, 0)
        with pytest.raises(SimulatedFailure, match="EINVAL"):
            yield from k.set_memory_ro(area)

    after(Bench("arm64", release), 512, verb, huge=True)


@pytest.mark.parametrize(("release", "splits"), [("6.1", 0), ("6.12", 0), ("6.18", 2), ("7.3", 2)])
def test_a_block_mapped_linear_map_is_split_live_and_for_good(release: str, splits: int) -> None:
    bench = Bench("arm64", release, {"bbml": True})
    assert bench.shared.direct_map.leaves()[2] > 0 if splits else bench.shared.direct_map.leaves()[1:] == (0, 0)

    def twice(k: Kernel, area: VmArea) -> Proc[None]:
        yield from k.set_memory_ro(area)
        yield from k.set_memory_rw(area)

    after(bench, 1, twice)
    split = [f"split_kernel_leaf_mapping {splits}"] if splits else []
    assert bench.steps == [
        *("set_memory_ro", *split, *alias(1), "vm_unmap_aliases", *ranged(1, 1)),
        *("set_memory_rw", *alias(1), "vm_unmap_aliases", *ranged(1, 1)),
    ]
    assert bench.cost("linear_split") == splits
    assert bench.shared.locks["pgtable_split_lock"].acquisitions == (1 if splits else 0)


# --- TLB --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "by_range", "pages", "ops"),
    [
        ("6.1", True, 512, 512), ("6.1", True, 513, 0), ("6.12", True, 512, 512), ("6.12", False, 513, 0),
        ("7.3", False, 511, 511), ("7.3", False, 512, 0), ("6.18", True, 512, 1), ("7.3", True, 513, 2),
        ("7.3", True, 1, 1), ("7.3", True, 32 << 16, 1), ("7.3", True, (32 << 16) + 1, 0),
    ],
)  # fmt: skip
def test_long_ranges_become_one_flush_of_everything(release: str, by_range: bool, pages: int, ops: int) -> None:
    bench = Bench("arm64", release, {"tlbi_range": by_range})
    bench.task(lambda k: k.flush_tlb_kernel_range(1 << 40, pages, "why"))
    bench.run()
    first = "flush_tlb_all" if not ops else "flush_tlb_kernel_range" + (f" {pages}" if pages > 1 else "")
    assert bench.steps == [first, "why", f"tlbi {ops}" if ops > 1 else "tlbi"]
    what = (1 << 40, pages) if ops else (0, 0)
    assert bench.told() == [("flush", *what, "broadcast", "why"), ("serialize", "self", "isb")]


def test_range_operations_are_as_many_as_the_loop_issues() -> None:
    rules = rules_for(RELEASES["7.3"], FEATURES["arm64"])

    def issued(pages: int) -> int:
        """__flush_tlb_range_op, literally."""
        ops, at, scale = 0, 0, 3
        while at != pages:
            if pages - at == 1:
                ops, at = ops + 1, at + 1
                continue
            num = ((pages - at) >> (5 * scale + 1)) - 1
            if num >= 0:
                ops += 1
                at += (num + 1) << (5 * scale + 1)
            scale -= 1
        return ops

    for pages in [*range(1, 2200), (1 << 16) - 1, (1 << 16) + 63, (32 << 16) - 1, 32 << 16]:
        assert rules.tlbi_ops(pages) == issued(pages), pages


def test_what_would_ride_in_a_handler_gets_a_round() -> None:
    bench = Bench("arm64", "7.3")
    bench.task(lambda k: k.flush_tlb_all("why", ("isb", 1)))
    bench.run()
    assert bench.steps == ["flush_tlb_all", "why", "tlbi", "round"]
    assert bench.rounds == [("why", CPUS - 1)]
    assert bench.told("serialize") == [("serialize", "self", "isb"), ("serialize", "others", "why")]


# --- instruction fetch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("idc", "dic", "cleaned", "invalidated", "waits"),
    [(False, False, 3, 3, 2), (True, False, 0, 3, 2), (False, True, 3, 0, 1), (True, True, 0, 0, 1)],
)
def test_maintenance_is_what_ctr_el0_asks_for(idc: bool, dic: bool, cleaned: int, invalidated: int, waits: int) -> None:
    bench = Bench("arm64", "7.3", {"idc": idc, "dic": dic})
    bench.task(lambda k: k.flush_icache_range(0x1000 + 63, 64 + 2))  # the last byte of a line, a line, one more
    bench.run()
    assert bench.steps == ["flush_icache_range 66", "caches_clean_inval_pou 66", "kick_all_cpus_sync", "round"]
    figures = {name: bench.cost(name) for name in ("dc_cvau", "ic_ivau", "dsb_ish", "isb")}
    assert figures == {"dc_cvau": cleaned, "ic_ivau": invalidated, "dsb_ish": waits, "isb": 1}
    assert bench.told() == [
        *([] if dic else [("icache", 0x1000 + 63, 66, "ic-ivau")]),
        ("serialize", "self", "isb"), ("serialize", "others", "kick_all_cpus_sync"),
    ]  # fmt: skip
    assert bench.rounds == [("kick_all_cpus_sync", CPUS - 1)], "nobody is skipped"


def test_everybody_is_synchronized_by_a_kick_and_an_isb() -> None:
    bench = Bench("arm64", "6.12")
    bench.task(lambda k: k.sync_each_cpu())
    bench.run()
    assert bench.steps == ["kick_all_cpus_sync", "round"]
    assert bench.told() == [("serialize", "others", "kick_all_cpus_sync"), ("serialize", "self", "isb")]


@pytest.mark.parametrize(("release", "barriers"), [("6.1", 7), ("6.12", 7), ("6.18", 1), ("7.3", 1)])
def test_new_entries_are_followed_by_barriers(release: str, barriers: int) -> None:
    bench = Bench("arm64", release)
    bench.task(lambda k: k.vmalloc_node_range(7, TextKind.MODULE_TEXT))
    bench.run()
    assert bench.cost("isb") == barriers
    assert bench.rounds == []


# --- patching (A5) ----------------------------------------------------------------------------------------------------

POKE = ["patch_map", "tlbi"]
NOSYNC = ["aarch64_insn_patch_text_nosync", *POKE, "caches_clean_inval_pou 4"]


@pytest.mark.parametrize("release", ["6.12", "6.18", "7.3"])
@pytest.mark.parametrize(
    ("verb", "name", "content"),
    [("bpf_arch_text_copy", "aarch64_insn_copy", "code"), ("bpf_arch_text_invalidate", "aarch64_insn_set", "trap")],
)
def test_a_copy_is_pages_through_the_fixmap_and_one_kick(release: str, verb: str, name: str, content: str) -> None:
    size = 4096 + 100
    bench = after(Bench("arm64", release), 3, lambda k, area: getattr(k, verb)(area.va + 4000, size))
    assert bench.steps == [
        f"{name} {size}", *POKE, *POKE, *POKE,
        f"flush_icache_range {size}", f"caches_clean_inval_pou {size}", "kick_all_cpus_sync", "round",
    ]  # fmt: skip
    va = bench.told("window")[0][2]
    pieces = [(va, 96), (va + 96, 4096), (va + 96 + 4096, 4)]
    expected: list[Any] = []
    for at, n in pieces:
        expected += [("window", "fixmap", at, n, True), ("store", at, n, content, "fixmap")]
        expected += [("window", "fixmap", at, n, False)]
    assert bench.told()[:9] == expected
    assert bench.told()[9:] == [
        ("icache", va, size, "ic-ivau"), ("serialize", "self", "isb"), ("serialize", "others", "kick_all_cpus_sync"),
    ]  # fmt: skip
    assert bench.shared.locks["patch_lock"].acquisitions == 1
    assert bench.shared.locks["text_mutex"].acquisitions == 0


def test_the_whole_copy_runs_with_interrupts_off() -> None:
    bench = Bench("arm64", "7.3")
    size = 8 * 4096

    def kick(k: Kernel) -> Proc[None]:
        yield from icache.kick_all_cpus_sync(k)

    def copy(k: Kernel) -> Proc[None]:
        yield from patching.aarch64_insn_copy(k, 1 << 40, size)

    bench.task(copy, cpu=0)
    bench.task(kick, cpu=1, start=bench.shared.costs.ns("copy_byte", 4096))  # while the second page is copied
    bench.run()
    closed = [fact[1] for fact in bench.facts if fact[0] == "window" and not fact[-1]]
    kicked = [fact[1] for fact in bench.facts if fact[0] == "serialize" and fact[-1] == "kick_all_cpus_sync"]
    assert len(closed) == 8 and len(kicked) == 2
    assert min(kicked) > max(closed)


def test_who_waits_for_patch_lock_takes_no_interrupt() -> None:
    bench = Bench("arm64", "7.3", hosts=(0, 1, 2))
    for cpu in (0, 1):
        bench.task(lambda k: patching.aarch64_insn_copy(k, 1 << 40, 4096), cpu=cpu, start=cpu)
    bench.task(icache.kick_all_cpus_sync, cpu=2, start=bench.shared.costs.ns("copy_byte", 100))
    bench.run()
    closed = [fact[1] for fact in bench.facts if fact[0] == "window" and not fact[-1]]
    kicked = [fact[1] for fact in bench.facts if fact[0] == "serialize" and fact[-1] == "kick_all_cpus_sync"]
    assert min(kicked) > max(closed), "both copies are done before the first kick is acknowledged"
    assert bench.shared.locks["patch_lock"].contended == 1


@pytest.mark.parametrize("release", ALL)
@pytest.mark.parametrize("sites", [1, 64])
def test_a_static_key_is_n_writes_and_one_kick(release: str, sites: int) -> None:
    """ground-truth 2.1, 6.1 arm64: 1 kick, N writes."""
    bench = Bench("arm64", release)
    bench.task(lambda k: k.patch_text(sites))
    bench.run()
    assert bench.steps == [*NOSYNC * sites, "kick_all_cpus_sync", "round"]
    assert bench.told("store") == [("store", 0, 4, "site", "fixmap")] * sites
    assert bench.counts["round"] == 1


def test_a_program_on_6_1_is_one_kick_and_two_set_memory() -> None:
    """ground-truth 2.1, 6.1 arm64: bpf_jit_binary_alloc, bpf_flush_icache, bpf_jit_binary_lock_ro."""
    bench = Bench("arm64", "6.1")
    at = []

    def load(k: Kernel) -> Proc[None]:
        area = yield from k.vmalloc_node_range(1, TextKind.BPF)
        k.store_text(area.va, 500)
        yield from k.flush_icache_range(area.va, 500)
        yield from k.set_memory_ro(area)
        yield from k.set_memory_x(area)
        at.append(area.va)

    bench.task(load)
    bench.run()
    assert bench.counts["round"] == bench.counts["kick_all_cpus_sync"] == 1
    assert bench.counts["set_memory_ro"] + bench.counts["set_memory_x"] == 2
    assert at == [0xFFFF_8000_0800_0000], "the lowest address of vmalloc"


def test_a_program_on_6_1_is_freed_with_two_set_direct_map() -> None:
    """ground-truth 2.1, 6.1 arm64: 2..20 set_direct_map for programs of one to ten pages."""
    bench = after(Bench("arm64", "6.1"), 1, lambda k, area: k.vfree(area), TextKind.BPF)
    assert bench.units("set_direct_map") == 2


@pytest.mark.parametrize(("release", "ops"), [("6.12", 512), ("6.18", 1), ("7.3", 1)])
def test_a_new_pack_flushes_each_page_of_the_linear_map(release: str, ops: int) -> None:
    """A5 row 1'; on 6.12 a pack of 512 pages is the longest range that is still flushed page by page."""

    def fill(k: Kernel, area: VmArea) -> Proc[None]:
        k.store_text(area.va, 2 << 20, "trap")
        yield from k.set_memory_rox(area)

    bench = after(Bench("arm64", release), 512, fill, TextKind.BPF)
    assert bench.steps == [
        *("set_memory_rox 512", "set_memory_ro 512", *alias(512), "vm_unmap_aliases", *ranged(512, ops)),
        *("set_memory_x 512", "vm_unmap_aliases", *ranged(512, ops)),
    ]
    assert bench.rounds == [], "the fill is not kicked"


@pytest.mark.parametrize(("release", "aliased"), [("6.1", 4), ("6.12", 4), ("6.18", 1), ("7.3", 1)])
def test_a_far_target_makes_a_live_page_writable_and_executable(release: str, aliased: int) -> None:
    """A5 row P."""
    bench = Bench("arm64", release)

    def poke(k: Kernel, area: VmArea) -> Proc[None]:
        yield from k.set_memory_rox(area)
        yield from k.settle()
        bench.forget()
        yield from patching.bpf_arch_text_poke(k, area, 2, plt=True)

    after(bench, 4, poke, TextKind.BPF)
    assert bench.steps == [
        "bpf_arch_text_poke",
        *("set_memory_rw", *alias(aliased), "vm_unmap_aliases", *ranged(1, 1)),
        *("set_memory_ro", *alias(aliased), "vm_unmap_aliases", *ranged(1, 1)),
        *NOSYNC,
    ]
    maps = [fact[1:] for fact in bench.told("map")]
    assert maps == [(2, 1, "rw-x"), (2, 1, "ro-x")]
    writable = [fact[3] for fact in bench.told("alias") if fact[-1] == "rw"]
    assert sum(writable) == aliased
    assert bench.rounds == [], "nobody is synchronized"


def test_a_near_target_is_one_instruction() -> None:
    bench = after(Bench("arm64", "7.3"), 1, lambda k, area: patching.bpf_arch_text_poke(k, area, 0, plt=False))
    assert bench.steps == ["bpf_arch_text_poke", *NOSYNC]
    assert bench.shared.locks["text_mutex"].acquisitions == 1


@pytest.mark.parametrize("release", ALL)
def test_kprobes_stop_the_machine(release: str) -> None:
    """ground-truth 2.1, 6.1 arm64: stop_machine 1 to attach, 1 to detach, no kick."""
    bench = Bench("arm64", release)
    bench.task(lambda k: patching.aarch64_insn_patch_text(k))
    bench.run()
    assert bench.steps == ["aarch64_insn_patch_text", "stop_machine", *NOSYNC]
    assert bench.rounds == [("stop_machine", CPUS - 1)]
    events = [fact for fact in bench.told("store", "serialize") if fact != ("serialize", "self", "isb")]
    assert events == [("store", 0, 4, "site", "fixmap"), ("serialize", "all", "stop_machine")]


@pytest.mark.parametrize(("release", "again"), [("6.12", 1), ("6.18", 1), ("7.3", 0)])
def test_the_jit_flushes_a_second_time_until_7_x(release: str, again: int) -> None:
    bench = Bench("arm64", release)
    bench.task(lambda k: k.arch.bpf_flush_icache(k, 1 << 40, 100))
    bench.run()
    assert bench.counts["kick_all_cpus_sync"] == again


def test_a_temporary_mm_is_seen_by_one_cpu_and_nobody_is_told() -> None:
    bench = after(Bench("arm64", "7.3"), 4, lambda k, area: k.write_temporary_mm(area.va + 4095, 8193))
    assert bench.steps == ["use_temporary_mm 4097", "use_temporary_mm 4096"]
    assert [fact[1] for fact in bench.told("window")] == ["mm"] * 4
    assert bench.cost("mm_switch") == 2 and bench.cost("tlbi") == 0
    assert bench.rounds == []


# --- larger pages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "most"), [(16 << 10, 2048), (64 << 10, 8192)])
def test_limits_and_pieces_follow_the_page(page: int, most: int) -> None:
    bench = Bench("arm64", "6.12", config={"page_size": page})
    base = bench.shared.arch.windows(None)["modules-direct"][0]  # type: ignore[arg-type]

    def verb(k: Kernel, area: VmArea) -> Proc[None]:
        assert 0 <= area.va - base < page and area.va % page == 0
        yield from k.flush_tlb_kernel_range(area.va, most, "why")
        yield from k.flush_tlb_kernel_range(area.va, most + 1, "why")
        yield from k.bpf_arch_text_copy(area.va + page - 4, 8)

    after(bench, 2, verb)
    assert bench.steps[:6] == [f"flush_tlb_kernel_range {most}", "why", f"tlbi {most}", "flush_tlb_all", "why", "tlbi"]
    assert bench.steps[6:11] == ["aarch64_insn_copy 8", *POKE, *POKE]


# --- the simulation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ALL)
def test_merging_costs_changes_nothing(release: str) -> None:
    heard = []
    for merge in (True, False):
        bench = Bench("arm64", release, run={"merge": merge})

        def body(k: Kernel) -> Proc[None]:
            for _ in range(3):
                area = yield from k.vmalloc_node_range(2, TextKind.BPF)
                yield from k.set_memory_rox(area)
                yield from k.bpf_arch_text_copy(area.va, 5000)
                yield from k.patch_text(2)
                yield from k.vfree(area)

        bench.task(body, cpu=0)
        bench.task(body, cpu=1, start=7)
        bench.run()
        heard.append([(fact[0], fact[1], *(f for f in fact[2:] if not isinstance(f, VmArea))) for fact in bench.facts])
    assert heard[0] == heard[1]
