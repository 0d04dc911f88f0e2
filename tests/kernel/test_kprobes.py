"""Kprobes: slots page by page, breakpoints and jumps by exact rounds, and what the optimizer holds while it waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from execbench.kernel.kprobe_slots import DIRTY, InsnCache, ReleaseSlots, Slot, free_insn_slot, get_insn_slot
from execbench.kernel.kprobes import (
    INSN_SIZE,
    OPTIMIZE_DELAY,
    Kprobe,
    Kprobes,
    disable_kprobe,
    enable_kprobe,
    register_kprobe,
    unregister_kprobes,
)
from execbench.kernel.operation import Operation
from tests.kernel.bench import Bench

Step = Callable[[Kernel], Proc[Any]]
RELEASES = ("6.1", "6.12", "6.18", "7.3")
JIFFY = 1_000_000


def kprobes(bench: Bench, optimize: bool = True) -> Kprobes:
    """The kprobes of a machine, the optimizer's passes counted for nobody."""
    recorder = bench.shared.recorder
    return Kprobes.of(
        bench.shared.arch.name,
        lambda number: Operation("kprobes", "optimize", number, 0, "deferred", recorder),
        optimize=optimize,
    )


def do(bench: Bench, *steps: Step, alone: bool = False) -> Counter[str]:
    """What steps count one after the other, with all that they set off; `alone`: until the last of them returns."""
    bench.forget()
    kept: list[Counter[str]] = []

    def body(k: Kernel) -> Proc[None]:
        for step in steps:
            yield from step(k)
            yield from k.settle()
        kept.append(bench.counts)

    bench.task(body, start=bench.machine.engine.now)
    bench.run()
    return kept[0] if alone else bench.counts


def text(counts: Counter[str]) -> tuple[int, int, int]:
    """Rounds, pokes, stopped machines."""
    return counts["round"], counts["text_poke"], counts["stop_machine"]


# --- slots ------------------------------------------------------------------------------------------------------------


def cache_of(bench: Bench, size: int = 1024) -> InsnCache:
    return InsnCache("kprobe_insn_slots.mutex", size, ReleaseSlots())


def taken(bench: Bench, cache: InsnCache, n: int) -> list[Slot]:
    """Take slots one after the other."""
    slots: list[Slot] = []

    def take(k: Kernel) -> Proc[None]:
        slots.append((yield from get_insn_slot(k, cache)))

    do(bench, *[take] * n)
    return slots


@pytest.mark.parametrize(("arch", "per_page"), [("x86_64", 273), ("arm64", 512), ("riscv64", 512)])
def test_a_page_holds_the_slots_of_its_architecture(arch: str, per_page: int) -> None:
    bench = Bench(arch)
    cache = cache_of(bench, INSN_SIZE[arch])
    slots = taken(bench, cache, per_page)
    assert [slot.region.va for slot in slots] == [slots[0].region.va + INSN_SIZE[arch] * i for i in range(per_page)]
    assert len(cache.pages) == 1
    taken(bench, cache, 1)
    assert len(cache.pages) == 2


@pytest.mark.parametrize(("release", "rounds"), [("6.1", 2), ("6.12", 1), ("6.18", 0), ("7.3", 0)])
def test_a_further_page_costs_the_flushes_of_its_permissions(release: str, rounds: int) -> None:
    """set_memory_ro and _x, set_memory_rox, or a page of the ROX cache that is executable; direct map split before."""
    bench = Bench(release=release)
    cache = cache_of(bench, 4096)
    taken(bench, cache, 1)
    taken(bench, cache, 1)
    assert bench.counts["round"] == rounds


def test_a_clean_slot_is_free_at_once_and_a_dirty_one_behind_a_grace_period() -> None:
    bench = Bench()
    cache = cache_of(bench)
    first, second, *_ = taken(bench, cache, 4)
    do(bench, lambda k: free_insn_slot(k, cache, first, dirty=False))
    assert bench.counts["synchronize_rcu"] == 0
    assert taken(bench, cache, 1)[0].region.va == first.region.va
    do(bench, lambda k: free_insn_slot(k, cache, second, dirty=True))
    assert (bench.counts["synchronize_rcu"], second.page.states[1]) == (0, DIRTY)
    assert taken(bench, cache, 1)[0].region.va == second.region.va  # the page is full, so the garbage is collected
    assert (bench.counts["collect_garbage_slots"], bench.counts["synchronize_rcu"]) == (1, 1)


def test_more_garbage_than_a_page_holds_is_collected_and_empty_pages_go_back_but_the_last() -> None:
    bench = Bench()
    cache = cache_of(bench)
    slots = taken(bench, cache, 12)
    assert len(cache.pages) == 3
    for i, slot in enumerate(slots[:5]):
        do(bench, lambda k, slot=slot: free_insn_slot(k, cache, slot, dirty=True))  # type: ignore[misc]
        # four fill a page; the fifth collects: once for all, and once more before the page that is empty goes back
        assert bench.counts["synchronize_rcu"] == (2 if i == 4 else 0)
    assert len(cache.pages) == 2
    for slot in slots[5:]:
        do(bench, lambda k, slot=slot: free_insn_slot(k, cache, slot, dirty=False))  # type: ignore[misc]
    assert len(cache.pages) == 1
    assert cache.pages[0].used == 0


# --- breakpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_x86_arms_and_disarms_by_one_poke_and_one_round(release: str) -> None:
    """Two pokes more put the instruction into its slot and the detour into its."""
    bench = Bench(release=release)
    s, warm, p = kprobes(bench, optimize=False), Kprobe(False), Kprobe(False)
    do(bench, lambda k: register_kprobe(k, s, warm))
    assert text(do(bench, lambda k: register_kprobe(k, s, p))) == (1, 3, 0)
    counts = do(bench, lambda k: unregister_kprobes(k, s, [p]))
    assert text(counts) == (1, 1, 0)
    assert (counts["synchronize_rcu"], counts["free_insn_slot"]) == (1, 2)


@pytest.mark.parametrize("arch", ["arm64", "riscv64"])
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("entry", [True, False])
def test_elsewhere_the_machine_is_stopped_once_each_way(arch: str, release: str, entry: bool) -> None:
    """An entry goes through ftrace on riscv64 of 6.1, which stops it as well; slots are freed on arm64 only."""
    bench = Bench(arch, release)
    s, warm, p = kprobes(bench), Kprobe(entry), Kprobe(entry)
    do(bench, lambda k: register_kprobe(k, s, warm, disabled=True))
    do(bench, lambda k: register_kprobe(k, s, p, disabled=True))
    assert do(bench, lambda k: enable_kprobe(k, s, p))["stop_machine"] == 1
    assert do(bench, lambda k: disable_kprobe(k, s, p))["stop_machine"] == 1
    freed = do(bench, lambda k: unregister_kprobes(k, s, [p]))["free_insn_slot"]
    assert freed == (arch == "arm64")  # riscv64 never frees one


def test_a_batch_waits_for_one_grace_period() -> None:
    bench = Bench()
    s = kprobes(bench, optimize=False)
    probes = [Kprobe(False) for _ in range(20)]
    do(bench, *[lambda k, p=p: register_kprobe(k, s, p) for p in probes])  # type: ignore[misc]
    counts = do(bench, lambda k: unregister_kprobes(k, s, probes))
    assert (counts["round"], counts["synchronize_rcu"], counts["free_insn_slot"]) == (20, 1, 40)


# --- through ftrace ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("release", "second", "last"), [("6.1", 3, 16), ("6.12", 3, 16), ("6.18", 3, 16)])
def test_an_entry_is_one_site_of_common_ops_which_the_first_registers_and_the_last_takes_off(
    release: str, second: int, last: int
) -> None:
    bench = Bench(release=release)
    s, one, other = kprobes(bench), Kprobe(True), Kprobe(True)
    do(bench, lambda k: register_kprobe(k, s, one))
    assert one.slot is None
    assert text(do(bench, lambda k: register_kprobe(k, s, other))) == (second, 3, 0)
    assert text(do(bench, lambda k: disable_kprobe(k, s, other))) == (second, 3, 0)
    assert do(bench, lambda k: disable_kprobe(k, s, one))["round"] == last
    assert do(bench, lambda k: enable_kprobe(k, s, one))["round"] == 19  # its trampoline's call is patched too


# --- the optimizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_a_probe_becomes_a_jump_by_three_rounds_behind_tasks_rcu_and_a_breakpoint_by_two(release: str) -> None:
    bench = Bench(release=release)
    s, p = kprobes(bench), Kprobe(False)
    do(bench, lambda k: register_kprobe(k, s, p, disabled=True))
    alone = do(bench, lambda k: enable_kprobe(k, s, p), alone=True)
    assert (text(alone), alone["synchronize_rcu_tasks"]) == ((1, 1, 0), 0)
    assert (text(bench.counts), bench.counts["synchronize_rcu_tasks"]) == ((4, 4, 0), 1)
    assert (p.optimized, p.queue) == (True, "")
    alone = do(bench, lambda k: disable_kprobe(k, s, p), alone=True)
    assert text(alone) == (0, 0, 0)  # it is the optimizer's business
    assert (text(bench.counts), bench.counts["synchronize_rcu_tasks"]) == ((3, 3, 0), 1)
    counts = do(bench, lambda k: unregister_kprobes(k, s, [p]))
    assert (text(counts), counts["free_insn_slot"]) == ((0, 0, 0), 2)


def test_each_probe_of_a_pass_is_patched_by_itself_behind_one_grace_period() -> None:
    bench = Bench()
    s, probes = kprobes(bench), [Kprobe(False) for _ in range(7)]
    counts = do(bench, *[lambda k, p=p: register_kprobe(k, s, p) for p in probes])  # type: ignore[misc]
    assert (counts["arch_arm_kprobe"], counts["kprobe_optimizer"], counts["synchronize_rcu_tasks"]) == (7, 1, 1)
    assert counts["smp_text_poke_batch_finish"] == 7


def test_who_unregisters_before_the_optimizer_leaves_the_rest_to_it() -> None:
    """Before the pass: no jump is made at all. While it is a jump: the optimizer frees the slots, not the caller."""
    bench = Bench()
    s, p = kprobes(bench), Kprobe(False)
    counts = do(bench, lambda k: register_kprobe(k, s, p), lambda k: unregister_kprobes(k, s, [p]))
    assert (counts["arch_disarm_kprobe"], counts["arch_optimize_kprobes"], counts["free_insn_slot"]) == (1, 0, 2)
    q = Kprobe(False)
    do(bench, lambda k: register_kprobe(k, s, q))
    alone = do(bench, lambda k: unregister_kprobes(k, s, [q]), alone=True)
    assert (q.unused, q.slot) == (True, None)
    assert (alone["arch_disarm_kprobe"], bench.counts["arch_unoptimize_kprobe"], bench.counts["free_insn_slot"]) == (
        0,
        1,
        2,
    )


@pytest.mark.parametrize("why", ["switched off", "not optimizable", "entry"])
def test_who_cannot_become_a_jump_never_wakes_the_optimizer(why: str) -> None:
    bench = Bench()
    s = kprobes(bench, optimize=why != "switched off")
    p = Kprobe(why == "entry", optimizable=why != "not optimizable")
    assert do(bench, lambda k: register_kprobe(k, s, p))["kprobe_optimizer"] == 0


@pytest.mark.parametrize("release", RELEASES)
def test_whoever_pokes_waits_for_tasks_rcu_that_the_optimizer_waits_for(release: str) -> None:
    """text_mutex is held over the grace period: the longest wait is as long, and the holder is the optimizer."""
    bench = Bench(release=release)
    s = kprobes(bench)
    tasks, asked = bench.machine.flavours.tasks, list[int]()
    tasks.periods.log = log = []

    def poke(k: Kernel) -> Proc[None]:
        while not tasks.periods.running:
            yield from k.sleep_until(k.now + JIFFY)
        asked.append(k.now)
        yield from k.bpf_arch_text_copy(0xFFFF_FFFF_C100_0000, 64)

    bench.task(lambda k: register_kprobe(k, s, Kprobe(False)))
    bench.task(poke, cpu=1)
    bench.run()
    ((begin, end),) = log
    lock = bench.shared.locks["text_mutex"]
    assert begin > OPTIMIZE_DELAY * JIFFY
    assert lock.wait_max_ns >= end - asked[0] > JIFFY
    assert lock.hold_ns >= end - begin > 2 * JIFFY
    assert set(lock.blame) == {"kprobe_optimizer"}
