"""ftrace: which code a change of its ops patches, by how many rounds, and what the end of an ops waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Any

import pytest

from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from execbench.kernel.ftrace import (
    FtraceOps,
    ftrace_modify_all_code,
    ftrace_set_hash,
    inside,
    register_ftrace_function,
    unregister_ftrace_function,
)
from execbench.kernel.ftrace_code import LIST, STUB, Ftrace
from execbench.kernel.ftrace_direct import (
    DIRECT,
    DirectFunctions,
    modify_ftrace_direct,
    register_ftrace_direct,
    unregister_ftrace_direct,
)
from tests.kernel.bench import Bench

Step = Callable[[Kernel], Proc[Any]]
RELEASES = ("6.1", "6.12", "6.18", "7.3")
GUARDED = RELEASES[1:]
"""Releases in which update_ftrace_func writes nothing that is there already."""


def do(bench: Bench, step: Step) -> Counter[str]:
    """What one step counts, alone."""
    bench.forget()
    bench.task(step, start=bench.machine.engine.now)
    bench.run()
    return bench.counts


def static(sites: int = 1, name: str = "static") -> FtraceOps:
    return FtraceOps(name, sites, dynamic=False, direct=True)


def dynamic(sites: int = 1, name: str = "dynamic") -> FtraceOps:
    return FtraceOps(name, sites, direct=True)


# --- call sites -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("sites", "batches"), [(1, 1), (256, 1), (257, 2), (1_000, 4)])
def test_x86_patches_256_sites_by_three_rounds_and_three_pokes_each(release: str, sites: int, batches: int) -> None:
    bench = Bench(release=release)
    counts = do(bench, lambda k: ftrace_modify_all_code(k, sites))
    assert counts["round"] == 3 * batches == counts["sync_core"]
    assert counts["text_poke"] == 3 * sites
    assert bench.cost("list_walk") == 2 * bench.shared.ftrace.records


@pytest.mark.parametrize(("release", "writes"), [("6.1", 1), ("6.12", 2), ("6.18", 2), ("7.3", 2)])
def test_arm64_interrupts_nobody_for_a_site(release: str, writes: int) -> None:
    """Behind 6.3 the literal before the function is written too (CALL_OPS); nobody is kicked."""
    counts = do(Bench("arm64", release), lambda k: ftrace_modify_all_code(k, 7))
    assert (counts["round"], counts["kick_all_cpus_sync"], counts["stop_machine"]) == (0, 0, 0)
    assert counts["aarch64_insn_patch_text_nosync"] == 7
    assert counts["patch_map"] == 7 * writes
    assert counts["aarch64_insn_write_literal_u64"] == 7 * (writes - 1)


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_riscv64_stops_the_machine_once_for_all_sites(release: str) -> None:
    counts = do(Bench("riscv64", release), lambda k: ftrace_modify_all_code(k, 7))
    fences = 7 if release == "6.1" else 0  # the firmware's, one for each site, while the others are held
    assert (counts["stop_machine"], counts["patch_insn_write"]) == (1, 7)
    assert counts["patch_text_nosync"] == counts["sbi_remote_fence_i"] == fences


@pytest.mark.parametrize("release", ["6.18", "7.3"])
@pytest.mark.parametrize("rfence", ["sbi", "ipi"])
def test_riscv64_since_6_16_fences_all_harts_for_each_literal_and_once_at_the_end(release: str, rfence: str) -> None:
    counts = do(Bench("riscv64", release, {"rfence": rfence}), lambda k: ftrace_modify_all_code(k, 7))
    assert (counts["stop_machine"], counts["patch_insn_write"]) == (0, 14)
    assert counts["flush_icache_all"] == counts["round"] == 8
    assert counts["sbi_remote_fence_i"] == (8 if rfence == "sbi" else 0)


@pytest.mark.parametrize(("arch", "held"), [("x86_64", True), ("arm64", False), ("riscv64", True)])
def test_text_mutex_is_held_over_a_whole_change_but_not_on_arm64(arch: str, held: bool) -> None:
    bench = Bench(arch, "6.18")
    do(bench, lambda k: ftrace_modify_all_code(k, 300))
    assert bench.shared.locks["text_mutex"].acquisitions == held


# --- the function behind the sites ------------------------------------------------------------------------------------


def test_the_common_function_is_the_stub_the_ops_own_or_the_list() -> None:
    state = Ftrace()
    one, other = static(name="one"), dynamic(name="other")
    assert (state.update_function(), state.trace_function) == (False, STUB)
    for ops, function, changed in [
        ([one], "one", True),
        ([one, other], LIST, True),
        ([other], LIST, False),
        ([], STUB, True),
    ]:
        state.ops = ops
        assert (state.update_function(), state.trace_function) == (changed, function)


@pytest.mark.parametrize("release", GUARDED)
def test_rounds_of_static_ops_alone_are_16_each_way(release: str) -> None:
    """Two calls to the list function, the site, an empty call of everybody, two to its own: 6 + 3 + 1 + 6."""
    bench, ops = Bench(release=release), static()
    for step in (register_ftrace_function, unregister_ftrace_function) * 2:
        counts = do(bench, lambda k, step=step: step(k, ops))  # type: ignore[misc]
        assert (counts["round"], counts["text_poke"]) == (16, 15)
        assert sum(why == "ftrace_sync_ipi" for why, _ in bench.rounds) == 1


@pytest.mark.parametrize(("release", "off"), [("6.1", 16), *((release, 10) for release in GUARDED)])
def test_rounds_of_dynamic_ops_alone_are_9_on_and_10_off(release: str, off: int) -> None:
    """The list function stays behind, so the way off need not write it again; 6.1 does (fentry as traced: 9 and 10)."""
    bench, ops = Bench(release=release), dynamic()
    assert do(bench, lambda k: register_ftrace_function(k, ops))["round"] == 9
    assert do(bench, lambda k: unregister_ftrace_function(k, ops))["round"] == off


@pytest.mark.parametrize("release", RELEASES)
def test_more_sites_of_registered_ops_patch_only_these(release: str) -> None:
    bench, ops = Bench(release=release), static()
    assert do(bench, lambda k: ftrace_set_hash(k, static(0), 1))["round"] == 0
    do(bench, lambda k: register_ftrace_function(k, ops))
    for sites in (1, 300, -1):
        counts = do(bench, lambda k, sites=sites: ftrace_set_hash(k, ops, sites))  # type: ignore[misc]
        assert (counts["round"], counts["call_rcu"]) == (3 * -(-abs(sites) // 256), 1)
    assert ops.sites == 301


@pytest.mark.parametrize(("release", "patches"), [("6.1", 1), ("6.12", 0), ("7.3", 0)])
def test_arm64_has_one_call_to_the_function_until_its_sites_name_their_ops(release: str, patches: int) -> None:
    bench, ops = Bench("arm64", release), static()
    counts = do(bench, lambda k: register_ftrace_function(k, ops))
    assert counts["ftrace_update_ftrace_func"] == 2 * patches
    assert (counts["round"], counts["aarch64_insn_patch_text_nosync"]) == (1, 1 + 2 * patches)


# --- records that are walked ------------------------------------------------------------------------------------------

ALL = Ftrace().records
ONE, TWO = 30_001, 40_001
"""Where the last of one site, of two, is expected: 60,001 / 2 and 60,001 * 2 / 3, rounded."""
KINDS: dict[str, tuple[Callable[[], FtraceOps], list[int]]] = {
    "plain": (lambda: FtraceOps("plain", 1, dynamic=False), []),
    "direct": (static, [ALL]),
    "ipmodify": (lambda: FtraceOps("patch", 1, ipmodify=True), [ALL]),
}
"""Ops, and the walk of __ftrace_hash_update_ipmodify."""


def walks(bench: Bench, step: Step) -> list[int]:
    """The walks over records that one step makes, in their order; those over shorter lists are left out."""
    do(bench, step)
    return [n for cost, n in bench.spent if cost == "list_walk" and n > 1_000]


@pytest.mark.parametrize("records", range(1, 9))
def test_a_walk_that_ends_at_the_last_site_is_as_long_as_it_is_on_average(records: int) -> None:
    state = Ftrace(records=records)
    for sites in range(1, records + 1):
        last = [max(places) for places in combinations(range(1, records + 1), sites)]
        mean = Fraction(sum(last), comb(records, sites))
        assert abs(state.until_last(sites) - mean) <= Fraction(1, 2)
    assert (state.until_last(0), state.until_last(records + 5)) == (0, records)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("arch", "code"), [("x86_64", 2 * ALL), ("arm64", ALL), ("riscv64", ALL)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_change_walks_the_records_as_often_as_the_kernel_does(
    arch: str, release: str, code: int, kind: str
) -> None:
    """To share sites, to count who calls (twice for another filter), to change code, and behind the last ops."""
    bench = Bench(arch, release)
    make, shares = KINDS[kind]
    ops, other = make(), static(name="other")
    assert walks(bench, lambda k: register_ftrace_function(k, ops)) == [*shares, ONE, code]
    assert walks(bench, lambda k: ftrace_set_hash(k, ops, 1)) == [*shares, ONE, TWO, code]
    assert walks(bench, lambda k: ftrace_set_hash(k, ops, -1)) == [*shares, TWO, ONE, code]
    do(bench, lambda k: register_ftrace_function(k, other))
    assert walks(bench, lambda k: unregister_ftrace_function(k, ops)) == [*shares, ONE, code]
    assert walks(bench, lambda k: unregister_ftrace_function(k, other)) == [ALL, ONE, code, ALL]
    assert walks(bench, lambda k: ftrace_set_hash(k, ops, 1)) == []


@pytest.mark.parametrize("release", RELEASES)
def test_a_direct_call_is_modified_by_three_walks_for_static_ops_and_one_for_its_own(release: str) -> None:
    bench, direct = Bench(release=release), DirectFunctions()
    ops = direct.direct_ops if release == "7.3" else dynamic()
    assert walks(bench, lambda k: register_ftrace_direct(k, direct, ops)) == [ALL, ONE, 2 * ALL]
    for _ in range(2):
        assert walks(bench, lambda k: modify_ftrace_direct(k, direct, ops)) == [ONE, 2 * ALL, ALL, ONE, 2 * ALL]
    assert walks(bench, lambda k: unregister_ftrace_direct(k, direct, ops)) == [ALL, ONE, 2 * ALL, ALL]


def test_common_ops_of_direct_calls_free_one_filter_and_one_table_for_each_further_call() -> None:
    bench, direct = Bench(release="7.3"), DirectFunctions()
    do(bench, lambda k: register_ftrace_direct(k, direct, direct.direct_ops))
    for step, updates in ((register_ftrace_direct, [ONE, TWO]), (unregister_ftrace_direct, [TWO, ONE])):
        assert walks(bench, lambda k, step=step: step(k, direct, direct.direct_ops)) == [  # type: ignore[misc]
            ALL, *updates, 2 * ALL
        ]  # fmt: skip
        assert [bench.counts[name] for name in ("call_rcu", "call_rcu_tasks", "ftrace_set_hash")] == [1, 1, 0]
        assert bench.counts["round"] == 3


# --- trampolines and the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_ops_that_stay_keep_their_trampoline_and_patch_its_call(release: str) -> None:
    bench, ops = Bench(release=release), FtraceOps("kprobes", 1, dynamic=False)
    assert do(bench, lambda k: register_ftrace_function(k, ops))["create_trampoline"] == 1
    kept = ops.trampoline
    do(bench, lambda k: unregister_ftrace_function(k, ops))
    counts = do(bench, lambda k: register_ftrace_function(k, ops))
    assert (counts["create_trampoline"], counts["round"], ops.trampoline) == (0, 19, kept)


@pytest.mark.parametrize("release", RELEASES)
def test_ops_that_may_be_freed_wait_with_the_lock_held_then_free_their_trampoline(release: str) -> None:
    bench, ops = Bench(release=release), FtraceOps("tracer", 300)
    do(bench, lambda k: register_ftrace_function(k, ops))
    do(bench, lambda k: unregister_ftrace_function(k, ops))
    order = [
        name for name in bench.steps if name.startswith(("synchronize", "ftrace_shutdown", "execmem_free", "module"))
    ]
    free = "execmem_free" if release != "6.1" else "module_memfree"
    assert order == ["ftrace_shutdown", "synchronize_rcu_tasks_rude", "synchronize_rcu_tasks", free]
    assert bench.shared.locks["ftrace_lock"].hold_ns > 2_000_000
    assert ops.trampoline is None
    assert not bench.shared.ftrace.ops


@pytest.mark.parametrize("arch", ["arm64", "riscv64"])
def test_only_x86_has_trampolines(arch: str) -> None:
    counts = do(Bench(arch, "6.18"), lambda k: register_ftrace_function(k, FtraceOps("tracer", 1)))
    assert counts["create_trampoline"] == 0


@pytest.mark.parametrize(
    ("release", "preempt", "waits", "protects"),
    [
        ("6.1", "full", ["synchronize_rcu_tasks_rude", "synchronize_rcu_tasks"], "rude+tasks"),
        ("6.18", "full", ["synchronize_rcu_tasks_rude", "synchronize_rcu_tasks"], "tasks"),
        ("6.1", "none", ["synchronize_rcu_tasks_rude"], "rude"),
        ("6.12", "none", ["synchronize_rcu_tasks_rude", "synchronize_rcu"], "rude"),
        ("6.18", "none", ["synchronize_rcu_tasks_rude", "synchronize_rcu"], "rcu"),
    ],
)
def test_what_a_kernel_without_tasks_rcu_waits_for(release: str, preempt: str, waits: list[str], protects: str) -> None:
    """arm64, where a kernel that does not preempt has no Tasks RCU: 6.1 then leaves that wait out."""
    bench, ops, said = Bench("arm64", release, config={"preempt": preempt}), dynamic(), []
    do(bench, lambda k: register_ftrace_function(k, ops))

    def off(k: Kernel) -> Proc[None]:
        said.append(inside(k))
        return unregister_ftrace_function(k, ops)

    do(bench, off)
    assert [name for name in bench.steps if name.startswith("synchronize")] == waits
    assert said == [protects]


# --- locks ------------------------------------------------------------------------------------------------------------


def taken(bench: Bench, name: str) -> int:
    """How often a lock was taken so far."""
    return bench.shared.locks[name].acquisitions if name in bench.shared.locks else 0


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("arch", ["x86_64", "arm64", "riscv64"])
@pytest.mark.parametrize(("ipmodify", "at_end"), [(False, 0), (True, 1)])
def test_registering_takes_direct_mutex_where_there_are_direct_calls(
    arch: str, release: str, ipmodify: bool, at_end: int
) -> None:
    """Unregistering takes it for ops that return elsewhere, which look for direct calls at each site."""
    here = arch == "x86_64" or release != "6.1"
    bench, ops = Bench(arch, release), FtraceOps("tracer", 3, ipmodify=ipmodify)
    do(bench, lambda k: register_ftrace_function(k, ops))
    assert taken(bench, "direct_mutex") == here
    assert taken(bench, "ftrace_lock") == 1 + 3 * (here and ipmodify)
    do(bench, lambda k: unregister_ftrace_function(k, ops))
    assert taken(bench, "direct_mutex") == here * (1 + at_end)


@pytest.mark.parametrize(("arch", "release"), [("x86_64", "6.1"), ("arm64", "6.12"), ("riscv64", "6.18")])
def test_a_tracer_waits_for_the_grace_periods_of_a_direct_call_that_is_taken_off(arch: str, release: str) -> None:
    """It stands behind direct_mutex, not behind ftrace_lock; one that goes away stands behind ftrace_lock."""
    bench, direct = Bench(arch, release), DirectFunctions()
    ops, mine = FtraceOps(DIRECT, 1, direct=True), FtraceOps("tracer", 1)
    do(bench, lambda k: register_ftrace_direct(k, direct, ops))
    began = bench.machine.engine.now
    ends: list[int] = []

    def tracer(k: Kernel) -> Proc[None]:
        yield from register_ftrace_function(k, mine)
        yield from k.settle()
        ends.append(k.now)

    bench.task(lambda k: unregister_ftrace_direct(k, direct, ops), start=began)
    bench.task(tracer, cpu=1, start=began + 1_000_000)
    bench.run()
    assert ends[0] - began > 2_000_000
    assert bench.shared.locks["direct_mutex"].wait_ns > 1_000_000
    assert bench.shared.locks["ftrace_lock"].wait_ns == 0


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
def test_a_direct_call_is_modified_without_taking_direct_mutex_twice(release: str) -> None:
    bench, direct = Bench(release=release), DirectFunctions()
    ops = direct.direct_ops if release == "7.3" else FtraceOps(DIRECT, 1, direct=True)
    do(bench, lambda k: register_ftrace_direct(k, direct, ops))
    do(bench, lambda k: modify_ftrace_direct(k, direct, ops))
    assert taken(bench, "direct_mutex") == 2
