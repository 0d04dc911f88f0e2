"""Synchronization policies: what each counts and tells on each architecture, what guards text, the reader's side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from execbench.contract import Proc, Region, TextKind
from execbench.errors import InputError
from execbench.kernel import sync
from execbench.kernel.arch import ARCHITECTURES
from execbench.kernel.facade import Kernel
from tests.kernel.bench import Bench

VA = 0x1000_0000
ELEVEN = (
    "none sync-core-ipi merged-flush int3-protocol rcu rcu-expedited tasks-rude stop-machine lazy-generation "
    "trap-and-retry defer-to-kernel-entry"
).split()
ROUND = {"x86_64": "sync_core", "arm64": "kick_all_cpus_sync", "riscv64": "flush_icache_all"}
"""The primitive by which an architecture makes all CPUs serialize."""
COPY = {"x86_64": "text_poke_copy", "arm64": "text_copy_nosync", "riscv64": "patch_insn_write"}


def run(body: Callable[[Kernel], Proc[Any]], arch: str, policy: str = "none", **bench: Any) -> Bench:
    machine = Bench(arch, **bench)
    sync.require(machine.shared, policy)
    machine.task(body)
    return machine.run()


def stores(bench: Bench) -> list[tuple[int, int, str]]:
    """Offset, bytes and content of the stores, in order."""
    return [(va - VA, size, content) for _, va, size, content, _ in bench.told("store")]


def spent_on(bench: Bench, *primitives: str) -> list[str]:
    return [name for name, _ in bench.calls if name in primitives]


def test_the_eleven_policies_have_rows_with_sources() -> None:
    assert list(sync.POLICIES) == ELEVEN
    for policy in sync.POLICIES.values():
        assert policy.source
        assert policy.x86_64


@pytest.mark.parametrize("arch", ["arm64", "riscv64"])
def test_what_an_architecture_cannot_express_is_refused_with_what_it_can(arch: str) -> None:
    machine = Bench(arch)
    with pytest.raises(InputError, match="rcu-expedited.*trap-and-retry") as refused:
        sync.require(machine.shared, "defer-to-kernel-entry")
    assert "defer-to-kernel-entry" not in refused.value.allowed
    assert all(name in refused.value.allowed for name in ELEVEN[:-1])
    assert "RFC v8" in sync.refusal("defer-to-kernel-entry", arch)


def test_a_trap_is_one_byte_on_x86_64_and_one_instruction_elsewhere() -> None:
    assert sync.FIRST == {"x86_64": 1, "arm64": 4, "riscv64": 4}


def test_all_others_can_be_expressed_everywhere() -> None:
    refused = {(p, arch) for p in ELEVEN for arch in ARCHITECTURES if sync.refusal(p, arch)}
    assert refused == {("defer-to-kernel-entry", "arm64"), ("defer-to-kernel-entry", "riscv64")}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("policy", "counted"),
    [
        ("none", []),
        ("merged-flush", []),
        ("int3-protocol", []),
        ("trap-and-retry", []),
        ("sync-core-ipi", ["round of all"]),
        ("rcu", ["synchronize_rcu"]),
        ("rcu-expedited", ["synchronize_rcu_expedited"]),
        ("tasks-rude", ["synchronize_rcu_tasks_rude"]),
        ("lazy-generation", ["text_generation"]),
        ("stop-machine", ["stop_machine"]),
    ],
)
def test_what_follows_the_last_write(arch: str, policy: str, counted: list[str]) -> None:
    bench = run(lambda k: sync.synchronize(k, policy), arch, policy)
    heads = [ROUND[arch] if name == "round of all" else name for name in counted]
    assert spent_on(bench, *ROUND.values(), "synchronize_rcu", "synchronize_rcu_expedited",
                    "synchronize_rcu_tasks_rude", "text_generation", "stop_machine") == heads  # fmt: skip


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("policy", ["sync-core-ipi", "stop-machine"])
def test_all_cpus_serialize_where_the_row_says_all(arch: str, policy: str) -> None:
    bench = run(lambda k: sync.synchronize(k, policy), arch, policy)
    told = {fact[1] for fact in bench.told("serialize")}
    everywhere = any(fact[3] == "fence.i-all" for fact in bench.told("icache"))
    assert everywhere if arch == "riscv64" else "all" in told or told == {"others", "self"}
    assert bench.machine.interrupts.rounds == 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("policy", ["none", "rcu", "lazy-generation", "merged-flush", "trap-and-retry"])
def test_nobody_else_is_told_where_the_row_says_nobody(arch: str, policy: str) -> None:
    bench = run(lambda k: sync.update_text(k, policy, [(VA, 100)], fresh=True), arch, policy)
    assert {fact[1] for fact in bench.told("serialize")} <= {"self"}
    assert "fence.i-all" not in {fact[3] for fact in bench.told("icache")}
    assert bench.machine.interrupts.rounds == 0


# --- text that is executable while it is written ----------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_int3_protocol_has_three_rounds_however_many_texts(arch: str) -> None:
    first = sync.FIRST[arch]
    bench = run(lambda k: sync.update_text(k, "int3-protocol", [(VA, 100), (VA + 256, 64)]), arch)
    assert stores(bench) == [
        (0, first, "trap"), (256, first, "trap"),
        (first, 100 - first, "code"), (256 + first, 64 - first, "code"),
        (0, first, "code"), (256, first, "code"),
    ]  # fmt: skip
    assert spent_on(bench, ROUND[arch], "text_poke", "text_copy_nosync", "text_set_nosync", "patch_insn_write",
                    "patch_insn_set").index(ROUND[arch]) == 2  # fmt: skip
    assert bench.counts[ROUND[arch]] == 3


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_text_without_a_tail_saves_the_middle_round(arch: str) -> None:
    first = sync.FIRST[arch]
    bench = run(lambda k: sync.update_text(k, "int3-protocol", [(VA, first)]), arch)
    assert stores(bench) == [(0, first, "trap"), (0, first, "code")]
    assert bench.counts[ROUND[arch]] == 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_trap_and_retry_pays_one_more_write_over_traps_and_two_over_live_text(arch: str) -> None:
    first = sync.FIRST[arch]
    guarded = [(first, 100 - first, "code"), (0, first, "code")]
    for fresh in (True, False):
        bench = run(lambda k, fresh=fresh: sync.update_text(k, "trap-and-retry", [(VA, 100)], fresh), arch)
        assert stores(bench) == ([] if fresh else [(0, first, "trap")]) + guarded
        assert bench.machine.interrupts.rounds == (arch == "riscv64" and not fresh), "to let all harts meet the trap"


@pytest.mark.parametrize(("arch", "how"), [("x86_64", []), ("arm64", ["ic-ivau"]), ("riscv64", ["fence.i-all"])])
def test_a_fill_with_traps_is_made_visible_to_fetch_where_somebody_rests_on_it(arch: str, how: list[str]) -> None:
    for policy in ELEVEN:
        bench = run(lambda k, policy=policy: sync.clean_traps(k, [(VA, 8192)], policy), arch)
        told = [fact[3] for fact in bench.told("icache") if fact[3] != "fence.i-local"]
        assert told == (how if policy == "trap-and-retry" else [])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_unguarded_text_is_one_write_for_each_piece_then_one_synchronization(arch: str) -> None:
    bench = run(lambda k: sync.update_text(k, "sync-core-ipi", [(VA, 100), (VA + 256, 64)]), arch)
    assert stores(bench) == [(0, 100, "code"), (256, 64, "code")]
    assert spent_on(bench, COPY[arch], ROUND[arch]) == [COPY[arch], COPY[arch], ROUND[arch]]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_pieces_that_come_one_by_one_leave_the_guard_for_the_end(arch: str) -> None:
    first = sync.FIRST[arch]

    def body(k: Kernel) -> Proc[None]:
        yield from sync.open_text(k, "int3-protocol", [(VA, 100)], fresh=True)
        yield from sync.write_text(k, "int3-protocol", VA, VA, 100)
        yield from sync.write_text(k, "int3-protocol", VA, VA, first)  # inside the guard: nothing is left of it
        yield from sync.write_text(k, "int3-protocol", VA, VA + 8, 4)
        yield from sync.close_text(k, "int3-protocol", [(VA, 100)])

    bench = run(body, arch)
    assert stores(bench) == [(0, first, "trap"), (first, 100 - first, "code"), (8, 4, "code"), (0, first, "code")]
    assert bench.counts[ROUND[arch]] == 3


@pytest.mark.parametrize(("arch", "held"), [("x86_64", 1), ("arm64", 0), ("riscv64", 1)])
def test_text_mutex_is_held_over_a_guarded_update_and_for_each_piece_of_another(arch: str, held: int) -> None:
    pieces = [(VA, 100), (VA + 256, 64), (VA + 512, 8)]
    for policy, times in (("int3-protocol", 1), ("stop-machine", 1), ("none", 3)):
        bench = run(lambda k, policy=policy: sync.update_text(k, policy, pieces), arch, policy)
        assert bench.shared.locks["text_mutex"].acquisitions == times * held


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_with_the_machine_stopped_the_write_happens_inside(arch: str) -> None:
    bench = run(lambda k: sync.update_text(k, "stop-machine", [(VA, 100)]), arch)
    assert stores(bench) == [(0, 100, "code")]
    (stored,) = (fact[1] for fact in bench.facts if fact[0] == "store")
    ends = [(fact[2], fact[1]) for fact in bench.facts if fact[0] == "serialize" and fact[4] == "stop_machine"]
    assert [begin < stored < end for begin, end in ends] == [True]


def test_nobody_waits_for_a_sleeping_lock_while_the_machine_is_stopped() -> None:
    """Its owner may be stopped: on 7.x a poke looks pages up under init_mm's mmap lock, elsewhere than there."""
    taken = {}
    for policy in ("int3-protocol", "stop-machine"):
        bench = run(lambda k, policy=policy: sync.update_text(k, policy, [(VA, 100)]), "x86_64", policy, release="7.3")
        taken[policy] = bench.shared.locks["init_mm.mmap_lock"].acquisitions
    assert taken == {"int3-protocol": 3, "stop-machine": 0}


def test_the_sites_of_the_int3_protocol_are_queued_for_its_handler() -> None:
    bench = run(lambda k: sync.update_text(k, "int3-protocol", [(VA, 100), (VA + 256, 64)]), "x86_64")
    assert bench.cost("int3_queue") == 2


# --- the reader's side ------------------------------------------------------------------------------------------------


def reader(times: int, at: int = 0) -> Callable[[Kernel], Proc[None]]:
    region = Region(1, VA, 100, 4096, TextKind.JIT)

    def body(k: Kernel) -> Proc[None]:
        yield from k.sleep_until(at)
        for _ in range(times):
            yield from k.enter_text(region)

    return body


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_cpu_serializes_once_for_a_generation_and_checks_every_time(arch: str) -> None:
    bench = Bench(arch)
    sync.require(bench.shared, "lazy-generation")
    bench.task(lambda k: sync.synchronize(k, "lazy-generation"))
    for cpu in (0, 1):
        bench.task(reader(3, 10_000), cpu)
    bench.run()
    assert bench.counts["text_generation_check"] == 6
    assert bench.counts["text_generation_sync"] == 2
    assert bench.cost(sync.SERIALIZE[arch][0]) == 2
    assert [fact for fact in bench.told("serialize") if fact[2] == "lazy-generation"] == [
        ("serialize", "self", "lazy-generation")
    ] * 2
    assert len(bench.told("fetch")) == 6
    assert bench.machine.interrupts.rounds == 0


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_reader_that_is_not_behind_serializes_nothing(arch: str) -> None:
    bench = run(reader(2), arch, "lazy-generation")
    assert bench.counts == {"text_generation_check": 2}
    assert bench.told("serialize") == []


@pytest.mark.parametrize("policy", [name for name in ELEVEN if name != "lazy-generation"])
def test_under_another_policy_a_reader_pays_nothing(policy: str) -> None:
    bench = run(reader(2), "x86_64", policy)
    assert bench.counts == {}
    assert bench.spent == []
    assert len(bench.told("fetch")) == 2


def test_the_serialization_comes_before_the_fetch_and_behind_the_write() -> None:
    bench = Bench()
    sync.require(bench.shared, "lazy-generation")
    bench.task(lambda k: sync.update_text(k, "lazy-generation", [(VA, 100)]))
    bench.task(reader(1, 10_000), 1)
    bench.run()
    events = [fact[0] for fact in bench.facts if fact[0] in ("store", "serialize", "fetch")]
    assert events == ["store", "serialize", "fetch"]


@pytest.mark.parametrize("model", ["lazy", "explicit"])
def test_deferring_spares_nohz_full_cpus_in_user_mode_and_charges_for_the_others(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 CPUs, of which 4 are isolated, in user mode or idle for good; all others are idle, or run a task of ours."""
    one = {"masked": False, "qs": True, "mean": 1_000_000_000_000}
    idle = {**one, "fraction": 1.0, "wake": "idle_exit_shallow"}
    isolated = {"user": {**one, "fraction": 0.5}, "idle": {**idle, "fraction": 0.5}}
    background = {
        "rule": "symmetric-flux", "restart": "idle", "states": {"idle": idle},
        "isolated": {"rule": "symmetric-flux", "restart": "user", "states": isolated},
    }  # fmt: skip
    monkeypatch.setattr("tests.kernel.bench.toy_background", lambda: background)
    in_user = 0
    for policy in ("sync-core-ipi", "defer-to-kernel-entry"):
        bench = Bench(cpus=16, isolated=4, run={"cpu_model": model})
        passive = bench.machine.isolated_cpus
        in_user = 4 - passive.count(0, "kernel")
        assert passive.count(0, "busy") == 0
        sync.require(bench.shared, policy)
        bench.task(lambda k, policy=policy: sync.synchronize(k, policy), 0, 1_000)
        bench.task(lambda k: (yield from k.compute("copy_byte", 1_000)), 1)
        bench.run()
        assert ("serialize", "all") in {fact[:2] for fact in bench.told("serialize")}
        spared = in_user if policy == "defer-to-kernel-entry" else 0
        assert bench.rounds == [("sync_core" if not spared else "sync_core_deferrable", 15 - spared)]
        assert bench.cost("ipi_enqueue") == 15 - spared, "who is spared costs the sender nothing"
        assert passive.interruptions() == 4 - spared
    assert 0 < in_user < 4
