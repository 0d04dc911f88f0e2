"""riscv64 paths step by step, against kernel-paths appendix A3, A6."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.contract import Proc
from execbench.costs import CostTable
from execbench.errors import SimulatedFailure
from execbench.kernel.facade import Kernel
from execbench.kernel.riscv64 import patch
from execbench.kernel.text import TextKind
from execbench.kernel.user_arch import flush_tlb_mm_range
from execbench.sim.memory import Run, VmArea
from tests.kernel.bench import Bench

ALL = ("6.1", "6.12", "6.18", "7.3")
SBI, IPI = {"rfence": "sbi"}, {"rfence": "ipi"}
CPUS = 4


def after(bench: Bench, pages: int, verb: Any, kind: TextKind = TextKind.MODULE_TEXT, **how: Any) -> Bench:
    """Run `verb(k, area)` on a fresh area; only what it does is kept."""

    def body(k: Kernel) -> Proc[None]:
        area = yield from k.vmalloc_node_range(pages, kind, **how)
        yield from k.settle()
        bench.forget()
        yield from verb(k, area)

    bench.task(body)
    return bench.run()


def call(release: str) -> str:
    """The firmware's function behind a flush of everything."""
    return "sbi_remote_sfence_vma" if release == "6.1" else "sbi_remote_sfence_vma_asid"


def flush(release: str, caller: str, rfence: str = "sbi") -> list[str]:
    """A flush of everything on every hart."""
    return ["flush_tlb_all", caller, *([call(release)] if rfence == "sbi" or release == "6.1" else []), "round"]


def fence_i(release: str = "7.3", rfence: str = "sbi") -> list[str]:
    """fence.i on every hart."""
    return ["flush_icache_all", *(["sbi_remote_fence_i"] if rfence == "sbi" or release == "6.1" else []), "round"]


# --- windows ----------------------------------------------------------------------------------------------------------


def test_windows_are_those_of_the_boot_log() -> None:
    """U-Boot doc/board/starfive/visionfive2.rst: modules 0xffffffff0136a000 - 0xffffffff80000000 (2028 MB)."""
    windows = Bench("riscv64", "7.3").shared.arch.windows(None)  # type: ignore[arg-type]
    spans = {name: (va, va + 4096 * pages) for name, (va, pages) in windows.items()}
    assert spans["modules"] == (0xFFFF_FFFF_0136_A000, 0xFFFF_FFFF_8000_0000)
    assert (spans["modules"][1] - spans["modules"][0]) >> 20 == 2028
    assert spans["bpf"] == (0xFFFF_FFFF_7800_0000, 0xFFFF_FFFF_8000_0000)
    assert (spans["vmalloc"][1] - spans["vmalloc"][0]) >> 30 == 64


def test_bpf_lies_at_the_top_of_the_modules_and_they_share_it() -> None:
    bench = Bench("riscv64", "7.3")
    places = {}

    def body(k: Kernel) -> Proc[None]:
        for kind in (TextKind.BPF, TextKind.KPROBES, TextKind.MODULE_TEXT):
            area = yield from k.vmalloc_node_range(1, kind)
            places[kind] = area.va
        below = k.shared.vmap.largest_hole("modules")
        k.shared.vmap.alloc("modules", below - 1)
        area = yield from k.vmalloc_node_range(1, TextKind.MODULE_TEXT)
        places["last"] = area.va

    bench.task(body)
    bench.run()
    assert places[TextKind.BPF] == 0xFFFF_FFFF_7800_0000
    assert places[TextKind.KPROBES] == 0xFFFF_FFC8_0000_0000
    assert places[TextKind.MODULE_TEXT] == 0xFFFF_FFFF_0136_A000
    assert places["last"] > places[TextKind.BPF]


# --- protections (A3) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rfence", ["sbi", "ipi"])
@pytest.mark.parametrize("release", ALL)
def test_rox_is_two_locks_and_two_flushes_of_everything_on_every_hart(release: str, rfence: str) -> None:
    bench = after(Bench("riscv64", release, {"rfence": rfence}), 3, lambda k, area: k.set_memory_rox(area))
    assert bench.steps == [
        *(["set_memory_rox 3"] if release != "6.1" else []),
        *("set_memory_ro 3", "split_linear_mapping", *flush(release, "set_memory_flush", rfence)),
        *("set_memory_x 3", *flush(release, "set_memory_flush", rfence)),
    ]
    how = "rfence" if rfence == "sbi" or release == "6.1" else "ipi"
    assert bench.told("alias", "map", "flush") == [
        ("alias", "direct", 0, 3, "ro"), ("map", 0, 3, "ro-nx"), ("flush", 0, 0, how, "set_memory_flush"),
        ("alias", "direct", 0, 3, "ro-x"), ("map", 0, 3, "ro-x"), ("flush", 0, 0, how, "set_memory_flush"),
    ]  # fmt: skip
    assert bench.shared.locks["init_mm.mmap_lock"].acquisitions == 2
    assert bench.shared.locks["vmap_purge_lock"].acquisitions == 0, "no purge"
    assert bench.rounds == [("set_memory_flush", CPUS - 1)] * 2


def test_the_linear_map_is_split_page_by_page_for_good() -> None:
    bench = Bench("riscv64", "7.3", memory=1 << 30)
    assert bench.shared.direct_map.leaves() == (0, 512, 0), "2M leaves at boot"
    area = VmArea(0xFFFF_FFFF_0136_A000, 3, 1, "modules", runs=(Run(0, 1), Run(600, 1), Run(700, 1)))
    bench.shared.text_map.map(area, "rw-nx")

    def verb(k: Kernel) -> Proc[None]:
        yield from k.set_memory_nx(area)
        yield from k.set_memory_ro(area)

    bench.task(verb)
    bench.run()
    where = [step for step in bench.steps if step.startswith(("split", "set"))]
    split = ["split_linear_mapping"] * 2
    assert where == ["set_memory_nx 3", *split, "set_memory_flush", "set_memory_ro 3", "set_memory_flush"]
    assert bench.shared.direct_map.leaves() == (1024, 510, 0)
    assert bench.cost("linear_split") == 2


@pytest.mark.parametrize("release", ALL)
def test_taking_x_away_takes_it_from_the_linear_map_too(release: str) -> None:
    bench = Bench("riscv64", release)

    def verb(k: Kernel, area: VmArea) -> Proc[None]:
        yield from k.set_memory_x(area)
        yield from k.set_memory_nx(area)
        yield from k.set_memory_ro(area)

    after(bench, 1, verb)
    assert [fact[-1] for fact in bench.told("alias")] == ["rw-x", "rw", "ro"]
    assert [fact[-1] for fact in bench.told("map")] == ["rw-x", "rw-nx", "ro-nx"]


@pytest.mark.parametrize("pages", [1, 3, 8])
@pytest.mark.parametrize("release", ALL)
def test_free_of_n_pages_is_2n_plus_1_flushes(release: str, pages: int) -> None:
    bench = after(Bench("riscv64", release), pages, lambda k, area: k.vfree(area))
    units = f" {pages}" if pages > 1 else ""
    changed = flush(release, "set_direct_map_flush") * pages
    assert bench.steps == [
        f"vfree{units}", f"set_direct_map{units}", "split_linear_mapping", *changed,
        "vm_unmap_aliases", "vmap_purge", *flush(release, "purge_flush"),
        f"set_direct_map{units}", *changed,
    ]  # fmt: skip
    assert bench.counts["flush_tlb_all"] == bench.counts["round"] == 2 * pages + 1
    assert [fact[2:] for fact in bench.told("alias")] == [
        *((page, 1, "np") for page in range(pages)), *((page, 1, "rw") for page in range(pages)),
    ]  # fmt: skip


def test_a_part_of_a_huge_leaf_is_refused_and_a_whole_one_is_not() -> None:
    def verb(k: Kernel, area: VmArea) -> Proc[None]:
        assert k.text_map.is_huge(area, 0)
        with pytest.raises(SimulatedFailure, match="would change all"):
            yield from k.set_memory_ro(area, 3, 5)
        yield from k.set_memory_ro(area)
        assert k.text_map.perm(area, 511) == "ro-nx"

    after(Bench("riscv64", "7.3"), 512, verb, huge=True)


# --- remote fences ----------------------------------------------------------------------------------------------------


def test_the_firmware_takes_time_for_each_hart_and_the_kernel_sends_no_interrupt() -> None:
    for rfence, sender in (("sbi", {"sbi_call": 1, "sbi_hart": 3}), ("ipi", {"ipi_send": 1, "ipi_enqueue": 3})):
        bench = Bench("riscv64", "7.3", {"rfence": rfence})
        bench.task(lambda k: k.flush_tlb_all("why"))
        bench.run()
        names = ("sbi_call", "sbi_hart", "ipi_send", "ipi_enqueue")
        assert {name: n for name in names if (n := bench.cost(name))} == sender
        assert bench.cost("tlb_flush_all") == 1, "the sender's own"
        assert bench.rounds == [("why", CPUS - 1)]


def test_calls_between_harts_go_through_the_firmware_too() -> None:
    for rfence, calls in (("sbi", 1), ("ipi", 0)):
        bench = Bench("riscv64", "7.3", {"rfence": rfence})
        bench.task(lambda k: k.on_each_cpu("why"))
        bench.run()
        assert bench.cost("sbi_call") == calls and bench.cost("ipi_send") == 1 - calls


def test_targets_lose_the_time_of_the_fence() -> None:
    stolen = []
    for rounds in (0, 5):
        bench = Bench("riscv64", "7.3", SBI)

        def body(k: Kernel, rounds: int = rounds) -> Proc[None]:
            for _ in range(rounds):
                yield from k.flush_tlb_all("why")

        bench.task(body)
        bench.run()
        stolen.append(bench.machine.background.stolen_ns(None))
    costs = bench.shared.costs
    assert stolen == [0, 5 * (CPUS - 1) * (costs.ns("ipi_handler") + costs.ns("tlb_flush_all"))]


@pytest.mark.parametrize(
    ("release", "rfence", "pages", "work"),
    [
        ("6.1", "sbi", 2, None), ("6.12", "sbi", 1, ("tlb_flush_page", 1)), ("7.3", "sbi", 2, ("tlb_flush_all", 1)),
        ("6.12", "ipi", 64, ("tlb_flush_page", 64)), ("7.3", "ipi", 65, ("tlb_flush_all", 1)),
    ],
)  # fmt: skip
def test_a_range_is_flushed_page_by_page_up_to_a_threshold(
    release: str, rfence: str, pages: int, work: tuple[str, int] | None
) -> None:
    bench = Bench("riscv64", release, {"rfence": rfence})
    bench.task(lambda k: k.flush_tlb_kernel_range(1 << 40, pages, "why"))
    bench.run()
    if work is None:
        assert bench.steps == flush(release, "why")
        return
    sent = [call(release)] if rfence == "sbi" else []
    assert bench.steps == [f"flush_tlb_kernel_range{f' {pages}' if pages > 1 else ''}", "why", *sent, "round"]
    assert bench.cost(work[0]) == work[1]
    what = (1 << 40, pages) if pages <= 64 else (0, 0)
    assert bench.told("flush") == [("flush", *what, {"sbi": "rfence", "ipi": "ipi"}[rfence], "why")]


@pytest.mark.parametrize(("release", "steps"), [("6.1", flush("6.1", "why")), ("7.3", ["flush_tlb_all", "why"])])
def test_a_lonely_hart_needs_nobody(release: str, steps: list[str]) -> None:
    bench = Bench("riscv64", release, cpus=1)
    bench.task(lambda k: k.flush_tlb_all("why"))
    bench.run()
    assert bench.steps == steps
    assert bench.rounds == []
    assert bench.cost("tlb_flush_all") == 1


@pytest.mark.parametrize(("rfence", "rounds"), [("sbi", 2), ("ipi", 1)])
def test_fence_i_rides_with_a_flush_by_the_kernels_own_interrupt_only(rfence: str, rounds: int) -> None:
    bench = after(
        Bench("riscv64", "7.3", {"rfence": rfence}), 1, lambda k, area: k.set_memory_rox(area, ("fence_i", 1))
    )
    assert bench.counts["round"] == 1 + rounds
    assert bench.told("icache") == [("icache", 0, 0, "fence.i-all")]


# --- instruction fetch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [lambda k: k.flush_icache_range(1 << 40, 8), lambda k: k.sync_each_cpu()])
@pytest.mark.parametrize("rfence", ["sbi", "ipi"])
@pytest.mark.parametrize("release", ALL)
def test_fence_i_is_executed_here_and_then_everywhere(release: str, rfence: str, verb: Any) -> None:
    bench = Bench("riscv64", release, {"rfence": rfence})
    bench.task(verb)
    bench.run()
    assert bench.steps == fence_i(release, rfence)
    assert bench.told() == [("icache", 0, 0, "fence.i-local"), ("icache", 0, 0, "fence.i-all")]
    assert bench.cost("fence_i") == 2, "the call on all harts includes this one"
    assert bench.rounds == [("flush_icache_all", CPUS - 1)]


@pytest.mark.parametrize("release", ALL)
def test_a_new_mapping_tells_nobody_and_its_first_touch_faults(release: str) -> None:
    bench = Bench("riscv64", release)
    bench.task(lambda k: k.vmalloc_node_range(5, TextKind.MODULE_TEXT))
    bench.run()
    assert bench.steps == ["vmalloc 5", "vmalloc_fault" if release == "6.1" else "mark_new_valid_map"]
    assert bench.cost("sfence_fault") == 1
    assert bench.rounds == []


# --- patching (A6) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["6.12", "6.18", "7.3"])
@pytest.mark.parametrize(
    ("verb", "name", "write", "content"),
    [
        ("bpf_arch_text_copy", "patch_text_nosync", "patch_insn_write", "code"),
        ("bpf_arch_text_invalidate", "patch_text_set_nosync", "patch_insn_set", "trap"),
    ],
)
def test_a_copy_is_two_pages_at_a_time_and_one_fence_i_everywhere(
    release: str, verb: str, name: str, write: str, content: str
) -> None:
    size = 3 * 4096
    bench = after(Bench("riscv64", release), 4, lambda k, area: getattr(k, verb)(area.va + 4000, size))
    assert bench.steps == [
        f"{name} {size}", f"{write} {size}", "patch_map 2", "patch_map 2", *fence_i(release),
    ]  # fmt: skip
    va = bench.told("window")[0][2]
    expected: list[Any] = []
    for at, n in ((va, 96 + 4096), (va + 96 + 4096, 2 * 4096 - 96)):
        expected += [("window", "fixmap", at, n, True), ("store", at, n, content, "fixmap")]
        expected += [("icache", 0, 0, "fence.i-local"), ("window", "fixmap", at, n, False)]
    assert bench.told() == [*expected, ("icache", 0, 0, "fence.i-local"), ("icache", 0, 0, "fence.i-all")]
    assert bench.cost("tlb_flush_page") == 2 * 4, "local, when an entry is set and when it is cleared"
    assert bench.shared.locks["text_mutex"].acquisitions == 1


@pytest.mark.parametrize("release", ALL)
def test_jump_labels_are_batched_since_6_11(release: str) -> None:
    bench = Bench("riscv64", release)
    bench.task(lambda k: k.patch_text(3))
    bench.run()
    site = ["patch_insn_write 4", "patch_map"]
    if release == "6.1":
        assert bench.steps == [*site, *fence_i("6.1")] * 3
    else:
        assert bench.steps == [*site * 3, *fence_i()]
    assert bench.shared.locks["text_mutex"].acquisitions == 3
    assert bench.told("store") == [("store", 0, 4, "site", "fixmap")] * 3


@pytest.mark.parametrize("release", ALL)
def test_kprobes_stop_the_machine(release: str) -> None:
    bench = Bench("riscv64", release)

    def arm(k: Kernel) -> Proc[None]:
        with (yield from k.lock("text_mutex")):
            yield from patch.patch_text(k)

    bench.task(arm)
    bench.run()
    assert bench.steps == ["patch_text 4", *stopped(release, 4)]
    fence, stop = ("icache", 0, 0, "fence.i-all"), ("serialize", "all", "stop_machine")
    local = ("icache", 0, 0, "fence.i-local")
    assert bench.told("icache", "serialize") == ([local, fence, stop] if release == "6.1" else [local, stop, fence])
    rounds = [("flush_icache_all", CPUS - 1)] if release == "6.1" else []
    assert bench.rounds == [*rounds, ("stop_machine", CPUS - 1)]


def stopped(release: str, size: int) -> list[str]:
    """A site is patched with all harts held; on 6.1 the writer has the firmware fence them, later they fence and go."""
    write = [f"patch_insn_write {size}", "patch_map"]
    return ["stop_machine", *([f"patch_text_nosync {size}", *write, *fence_i("6.1")] if release == "6.1" else write)]


@pytest.mark.parametrize("release", ALL)
def test_nobody_pays_twice_for_the_fence_of_a_stopped_machine(release: str) -> None:
    """Each stopped hart loses the stopper's time and one fence, which on 6.1 the firmware runs while it is held."""
    stolen = {}
    for fence in (0, 5_000):
        bench = Bench("riscv64", release)
        bench.shared.costs = Fences(bench.shared.costs, fence)  # type: ignore[assignment]
        bench.task(lambda k: patch.patch_text(k), start=1)
        bench.task(lambda k: k.compute("copy_byte", 1_000_000), cpu=1)
        bench.run()
        stolen[fence] = bench.machine.active_cpu(1).stolen
    assert bench.cost("fence_i") == 2, "6.1: flush_icache_all alone; later: the writer's own, and its wait for the rest"
    assert round(stolen[5_000] - stolen[0], -2) == 5_000


class Fences:
    """Costs in which a fence.i on another hart takes what it is told."""

    def __init__(self, costs: CostTable, ns: int) -> None:
        self.costs, self.fence = costs, ns

    def ns(self, name: str, n: int = 1) -> int:
        return self.fence * n if name == "fence_i" else self.costs.ns(name, n)


@pytest.mark.parametrize("rfence", ["sbi", "ipi"])
@pytest.mark.parametrize("release", ALL)
def test_ftrace_stops_the_machine_until_6_16_and_fences_twice_since(release: str, rfence: str) -> None:
    """Inside text_mutex; 6.1 asks the firmware although the harts could interrupt each other."""
    bench = Bench("riscv64", release, {"rfence": rfence})
    bench.task(patch.ftrace_modify_all_code)
    bench.task(lambda k: k.bpf_arch_text_copy(1 << 40, 8), cpu=1, start=1)
    bench.run()
    if release in ("6.1", "6.12"):
        steps = stopped(release, 8)
    else:
        fence = fence_i(release, rfence)
        literal = ["patch_text_nosync 8", "patch_insn_write 8", "patch_map", *fence]
        steps = [*literal, "patch_insn_write 4", "patch_map", *fence]
    assert bench.steps[: len(steps) + 1] == ["ftrace_modify_all_code", *steps]
    assert bench.steps[len(steps) + 1].startswith("patch_text_nosync"), "who waits for text_mutex comes behind it"


@pytest.mark.parametrize(("release", "rfence", "masks"), [
    ("6.1", "sbi", False), ("6.1", "ipi", False), ("6.12", "sbi", False), ("7.3", "ipi", True),
])  # fmt: skip
def test_only_what_the_firmware_runs_ignores_interrupts_off(release: str, rfence: str, masks: bool) -> None:
    """A hart has interrupts off: a remote fence ends before it turns them on, the kernel's own interrupt does not."""
    ends: dict[str, int] = {}

    def off(k: Kernel) -> Proc[None]:
        with k.irqs_off():
            k.spend("copy_byte", 10_000_000)
        yield from k.settle()
        ends["off"] = k.now

    for name, call in (("fence", lambda k: k.sync_each_cpu()), ("ipi", lambda k: k.on_each_cpu("why"))):
        bench = Bench("riscv64", release, {"rfence": rfence})

        def body(k: Kernel, name: str = name, call: Any = call) -> Proc[None]:
            yield from call(k)
            yield from k.settle()
            ends[name] = k.now

        bench.task(body, start=1)
        bench.task(off, cpu=1)
        bench.run()
    assert ends["ipi"] > 10_000_000
    assert (ends["fence"] > 10_000_000) == masks


@pytest.mark.parametrize("release", ["6.12", "6.18", "7.3"])
def test_a_program_is_redirected_with_the_machine_stopped_under_text_mutex(release: str) -> None:
    """A6 row P: nobody else gets text_mutex before everybody runs again."""
    bench = Bench("riscv64", release)
    bench.task(patch.bpf_arch_text_poke)
    bench.task(lambda k: k.bpf_arch_text_copy(1 << 40, 8), cpu=1, start=1)
    bench.run()
    assert bench.steps[:4] == ["bpf_arch_text_poke", "patch_text 8", "stop_machine", "patch_insn_write 8"]
    stopped = next(fact[1] for fact in bench.facts if fact[0] == "serialize")
    copied = next(fact[1] for fact in bench.facts if fact[0] == "store" and fact[2])
    assert copied > stopped
    assert bench.shared.locks["text_mutex"].contended == 1


@pytest.mark.parametrize(("release", "again"), [("6.12", 1), ("6.18", 1), ("7.3", 0)])
def test_the_jit_flushes_a_second_time_until_7_x(release: str, again: int) -> None:
    bench = Bench("riscv64", release)
    bench.task(lambda k: k.arch.bpf_flush_icache(k, 1 << 40, 100))
    bench.run()
    assert bench.counts["flush_icache_all"] == again


def test_a_new_pack_is_two_flushes_on_all_harts() -> None:
    """A6 row 1'."""

    def fill(k: Kernel, area: VmArea) -> Proc[None]:
        k.store_text(area.va, 2 << 20, "trap")
        yield from k.set_memory_rox(area)

    bench = after(Bench("riscv64", "7.3"), 512, fill, TextKind.BPF)
    assert bench.counts["flush_tlb_all"] == bench.counts["round"] == 2
    assert bench.cost("pageattr_page") == 2 * 2 * 512
    assert bench.told("icache") == []


def test_a_temporary_mm_is_seen_by_one_hart_and_nobody_is_told() -> None:
    bench = after(Bench("riscv64", "7.3"), 4, lambda k, area: k.write_temporary_mm(area.va + 4095, 8193))
    assert bench.steps == ["use_temporary_mm 4097", "use_temporary_mm 4096"]
    assert [fact[1] for fact in bench.told("window")] == ["mm"] * 4
    assert bench.cost("mm_switch") == 2 and bench.cost("fence_i") == 0
    assert bench.rounds == []


# --- the simulation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rfence", ["sbi", "ipi"])
def test_merging_costs_changes_nothing(rfence: str) -> None:
    heard = []
    for merge in (True, False):
        bench = Bench("riscv64", "7.3", {"rfence": rfence}, run={"merge": merge})

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


# --- user space -------------------------------------------------------------------------------------------------------


class Process:
    """As much of a process as a flush looks at: the CPUs that run it."""

    def __init__(self, *cpus: Any) -> None:
        self.cpus = cpus

    def running(self, but: Any) -> list[Any]:
        return [cpu for cpu in self.cpus if cpu is not but]


@pytest.mark.parametrize(("arch", "features", "how"), [
    ("riscv64", SBI, "rfence"), ("riscv64", IPI, "ipi"), ("x86_64", {}, "ipi"),
])  # fmt: skip
def test_a_process_that_no_other_cpu_runs_is_flushed_by_nobodys_interrupt(
    arch: str, features: dict[str, str], how: str
) -> None:
    """And what the firmware flushes, a hart with interrupts off does at once."""
    for hosts, told in (((0,), "mm"), ((0, 1), how)):
        bench = Bench(arch, "7.3", features)
        mm: Any = Process(*(bench.machine.active_cpu(host) for host in hosts))
        ends: list[int] = []

        def flush_it(k: Kernel, mm: Any = mm, ends: list[int] = ends) -> Proc[None]:
            yield from flush_tlb_mm_range(k, mm, 1 << 30, 1)
            yield from k.settle()
            ends.append(k.now)

        def off(k: Kernel) -> Proc[None]:
            with k.irqs_off():
                k.spend("copy_byte", 10_000_000)
            yield from k.settle()

        bench.task(flush_it, start=1)
        bench.task(off, cpu=1)
        bench.run()
        assert [fact[3] for fact in bench.told("flush")] == [told]
        assert len(bench.rounds) == len(hosts) - 1
        assert (ends[0] > 10_000_000) == (told == "ipi")
