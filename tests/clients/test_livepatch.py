"""The client of live patches: late relocations, a handler per function, tasks that change over second by second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from execbench import api
from execbench.api import Results
from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.clients.livepatch import LivepatchClient, _Run, _Transition
from execbench.contract import Proc, Setting
from execbench.errors import ExecbenchError
from execbench.kernel.facade import Kernel
from execbench.kernel.livepatch import (
    Patch,
    klp_patch_object,
    klp_synchronize_transition,
    klp_unpatch_objects,
    klp_write_section_relocs,
)  # fmt: skip
from execbench.kernel.text import Region, TextKind
from tests.kernel.bench import Bench

SECOND = 1_000_000_000
TEXT = Region(1, 0xFFFF_FFFF_C100_0000, 16 << 10, 16 << 10, TextKind.MODULE_TEXT)


@pytest.fixture(autouse=True, scope="module")
def somewhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Results go, and are looked for, in a directory of these tests."""
    with contextlib.chdir(tmp_path_factory.mktemp("results")):
        yield


def do(bench: Bench, step: Callable[[Kernel], Proc[None]]) -> None:
    bench.forget()
    bench.task(step, start=bench.machine.engine.now)
    bench.run()


@pytest.mark.parametrize("release", ["6.1", "6.12", "6.18", "7.3"])
def test_a_section_of_relocations_is_a_poke_each_and_one_round_on_x86(release: str) -> None:
    bench = Bench(release=release)
    do(bench, lambda k: klp_write_section_relocs(k, TEXT, 12))
    assert (bench.counts["text_poke"], bench.counts["round"]) == (12, 1)
    assert bench.shared.locks["text_mutex"].acquisitions == 1
    stores = [fields[1:3] for fields in bench.told("store")]
    assert len(set(stores)) == 12
    assert all(TEXT.va <= va < TEXT.va + TEXT.size for va, _ in stores)


def test_arm64_kicks_everybody_for_each_relocation() -> None:
    bench = Bench("arm64", "7.3")
    do(bench, lambda k: klp_write_section_relocs(k, TEXT, 12))
    assert (bench.counts["aarch64_insn_copy"], bench.counts["kick_all_cpus_sync"]) == (12, 12)


def test_each_function_has_ops_of_its_own_and_each_waits_on_its_way_off() -> None:
    bench, patch = Bench(release="6.12"), Patch(TEXT)
    do(bench, lambda k: klp_patch_object(k, patch, 5))
    assert (len(patch.ops), bench.counts["create_trampoline"]) == (5, 5)
    assert bench.counts["smp_text_poke_batch_finish"] == 5 + 2  # and once the two calls to the list function
    do(bench, lambda k: klp_unpatch_objects(k, patch))
    assert (bench.counts["synchronize_rcu_tasks_rude"], bench.counts["synchronize_rcu_tasks"]) == (5, 5)
    assert patch.ops == []


def test_a_transition_ends_with_a_kworker_on_every_cpu() -> None:
    bench = Bench()
    do(bench, klp_synchronize_transition)
    assert bench.counts["klp_synchronize_transition"] == 1
    assert bench.cost("context_switch") == 2


def run(*settings: str, **options: object) -> Results:
    return api.run("livepatch", backends=["execmem"], duration="20s", warmup="0s", replications=1,
                   set=list(settings), **options)  # type: ignore[arg-type] # fmt: skip


def test_with_nobody_in_the_way_a_patch_is_in_place_at_once_else_after_a_second_or_more() -> None:
    at_once, later = run("client.livepatch.busy=0"), run("client.livepatch.busy=0.05")
    fast, slow = (results.table("totals").set_index("kind") for results in (at_once, later))
    assert fast.loc["enable", "latency_ns"] / fast.loc["enable", "operations"] < SECOND / 10
    assert slow.loc["enable", "latency_ns"] / slow.loc["enable", "operations"] > SECOND
    assert "transition" not in fast.index
    assert slow.loc["transition", "operations"] >= slow.loc["enable", "operations"]


def test_taking_a_patch_back_holds_ftrace_lock_over_a_grace_period_of_tasks_rcu_per_function() -> None:
    results = run("client.livepatch.busy=0", "client.livepatch.functions=6")
    counters, totals = results.table("counters"), results.table("totals").set_index("kind")
    mine = counters[counters["kind"] == "disable"].set_index("primitive")["count"]
    operations = totals.loc["disable", "operations"]
    assert operations >= 2
    assert mine["synchronize_rcu_tasks"] == 6 * operations
    assert mine["synchronize_rcu"] == operations
    locks = results.table("locks").set_index("lock")
    assert locks.loc["klp_mutex", "hold_ns"] > locks.loc["ftrace_lock", "hold_ns"] > 8_000_000 * 6 * operations


def test_a_check_meets_the_same_draws_whenever_it_is_made() -> None:
    """Draws depend on operation, way and check: what other patches did before, and on which backend, changes none."""

    def found(order: list[tuple[int, bool]]) -> dict[tuple[int, bool, int], int]:
        bench = Bench()
        backend = BpfProgPack()
        setting = Setting(bench.shared, backend, backend.start(bench.shared), 1 << 60, 0, 0, lambda _: [])
        run, left = _Run(LivepatchClient(tasks=400, busy=0.3), setting), dict[tuple[int, bool, int], int]()

        def body(k: Kernel) -> Proc[None]:
            for number, enable in order:
                patch = Patch(TEXT, unswitched=400)
                transition = _Transition(patch, number, enable)
                for check in range(2):
                    assert not (yield from run._try_complete(k, transition))
                    left[number, enable, check] = patch.unswitched

        bench.task(body)
        bench.run()
        return left

    order = [(0, True), (0, False), (1, True), (7, True)]
    one, other = found(order), found(order[::-1])
    assert one == other
    first = [one[number, enable, 0] for number, enable in order]
    assert len(set(first)) == len(order), "operations and ways have draws of their own"
    assert all(one[number, enable, 1] not in (0, one[number, enable, 0]) for number, enable in order)


@pytest.mark.parametrize(("machine", "release"), [("riscv64-server-64", "7.3"), ("arm64-server-128", "6.12")])
def test_where_the_kernel_has_no_live_patching_it_is_refused(machine: str, release: str) -> None:
    with pytest.raises(ExecbenchError, match="livepatch"):
        run(machine=machine, kernel=release)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"functions": 0}, {"sections": -1}, {"busy": 1.0}, {"rate": 0.0}])
def test_what_cannot_run_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LivepatchClient(**wrong)  # type: ignore[arg-type]
