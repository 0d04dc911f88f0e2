"""User space's ways to make text: what each tells, counts and interrupts on every architecture, and the client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execbench.backends.module_alloc import ModuleAlloc
from execbench.backends.user_dual_map import UserDualMap
from execbench.backends.user_mmap import UserMmap
from execbench.backends.user_mprotect import UserMprotect
from execbench.clients.jit import Jit
from execbench.contract import Image, Proc, Region, Request, Setting, TextKind
from execbench.errors import AddressSpaceExhausted, InputError
from execbench.kernel import user, user_text
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation
from execbench.kernel.user import Mm
from execbench.kernel.user_arch import tlbi_instructions
from execbench.kernel.user_heap import Heap, Space
from execbench.sim.dists import Constant
from tests.kernel.bench import Bench

PAGE = 4096
BACKENDS: dict[str, Any] = {
    "rwx-once": UserMmap(through="store", mapping="once"),
    "rwx-fresh": UserMmap(through="store"),
    "flip-fresh": UserMprotect(mapping="fresh"),
    "flip-reused": UserMprotect(),
    "dual": UserDualMap(),
    "dual-sync-core": UserDualMap(sync="sync-core"),
    "dual-temporary": UserDualMap(alias="temporary"),
    "pwrite-map": UserMmap(),
    "pwrite-mapped": UserMmap(mapping="once"),
}
each_way = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
EVERYWHERE = [(arch, release) for arch in ("x86_64", "arm64", "riscv64") for release in ("6.1", "6.18", "7.3")]


class User(Bench):
    """A bench with one process: threads on hosts, and `publish` for one group of pieces."""

    def __init__(self, backend: Any = None, *args: Any, spinners: int = 0, **more: Any) -> None:
        super().__init__(*args, hosts=tuple(range(1 + spinners)) if "hosts" not in more else more.pop("hosts"), **more)
        self.backend = backend or UserMmap()
        self.heap: Heap = self.backend.start(self.shared)
        self.mm: Mm = self.heap.mm
        self.busy = True
        for cpu in range(1, 1 + spinners):
            self.task(self._spin, cpu)

    def _spin(self, k: Kernel) -> Proc[None]:
        self.mm.enter(k.task)
        while self.busy:
            yield from k.task.compute(1_000_000)

    def thread(self, body: Callable[[Kernel], Proc[Any]]) -> User:
        """Run `body` as the thread on CPU 0 and everything to its end."""

        def until_done(k: Kernel) -> Proc[None]:
            yield from body(k)
            yield from k.settle()
            self.busy = False

        self.task(until_done)
        self.run()
        self.mm.space.check()
        self.mm.tables.check()
        return self

    def publish(self, k: Kernel, *sizes: int) -> Proc[tuple[Region, ...]]:
        """Allocate, write, finalize and call one group."""
        regions: tuple[Region, ...]
        regions = yield from self.backend.alloc(k, self.heap, [Request(size, TextKind.USER) for size in sizes])
        for region in regions:
            yield from self.backend.write(k, self.heap, region, Image(region.id, region.size))
        yield from self.backend.finalize(k, self.heap, regions)
        for region in regions:
            yield from user_text.call_text(k, self.mm, region)
        yield from k.settle()
        return regions

    def free(self, k: Kernel, regions: tuple[Region, ...]) -> Proc[None]:
        """Free a group."""
        yield from self.backend.free(k, self.heap, regions)
        yield from k.settle()

    def facts_of(self, event: str) -> list[tuple[Any, ...]]:
        """The facts of one kind, without their times."""
        return [fact[2:] for fact in self.facts if fact[0] == event]


def once_and_again(user: User, *sizes: int) -> Callable[[Kernel], Proc[None]]:
    """Publish and free a group twice; only the second time is kept."""

    def body(k: Kernel) -> Proc[None]:
        yield from user.free(k, (yield from user.publish(k, *sizes)))
        user.forget()
        yield from user.free(k, (yield from user.publish(k, *sizes)))

    return body


# --- what everybody sees ----------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize(("arch", "release"), EVERYWHERE)
def test_text_is_writable_and_executable_only_where_the_backend_says_so(backend: Any, arch: str, release: str) -> None:
    bench = User(backend, arch, release)

    def body(k: Kernel) -> Proc[None]:
        for _ in range(2):
            yield from bench.free(k, (yield from bench.publish(k, 64, 5000)))

    bench.thread(body)
    perms = {perm for *_, perm in bench.facts_of("map")}
    assert ("rw-x" in perms) == getattr(backend, "wx", False)
    assert perms & {"ro-x", "rw-x"}
    assert (bench.mm.tables.wx_pages > 0) == (backend == BACKENDS["rwx-once"]), "what stays"
    assert bench.shared.text_map.wx_pages == 0, "that is the kernel's own"


@each_way
@pytest.mark.parametrize(("arch", "release"), EVERYWHERE)
def test_frames_and_addresses_return_behind_a_completed_flush(backend: Any, arch: str, release: str) -> None:
    bench = User(backend, arch, release, spinners=1)
    bench.thread(once_and_again(bench, 64, 5000))
    present: set[int] = set()
    since: dict[int, int] = {}
    for event, at, *fields in bench.facts:
        if event == "map" and fields[3] != "none":
            assert fields[0].va not in since, "mapped again before everybody has flushed"
            present.add(fields[0].va)
        elif event == "map" and fields[0].va in present:
            present.remove(fields[0].va)
            since[fields[0].va] = at
        elif event == "flush":
            begin, va, pages = fields[:3]
            assert begin <= at
            for start in [start for start, unmapped in since.items() if unmapped <= begin]:
                if va <= start and start + PAGE <= va + pages * PAGE:
                    del since[start]
        elif event == "freed":
            assert fields[0].va not in since, "freed while somebody may hold its translation"


def test_a_temporary_alias_is_a_window_and_a_persistent_one_stays_open() -> None:
    bench = User(BACKENDS["dual-temporary"])
    bench.thread(once_and_again(bench, 64))
    opened, closed = bench.facts_of("window")
    assert opened[:2] == closed[:2]
    assert (opened[0], opened[2], opened[3], closed[3]) == ("user", PAGE, True, False)
    (store,) = bench.facts_of("store")
    assert opened[1] <= store[0] < opened[1] + PAGE, "the text's own address"
    assert store[1:] == (64, "code", "user")
    order = [fact[0] for fact in bench.facts if fact[0] in ("window", "store", "flush", "fetch")]
    assert order == ["window", "store", "flush", "window", "fetch"]
    bench = User(BACKENDS["dual"])
    bench.thread(lambda k: bench.publish(k, 64))
    assert [fact[3] for fact in bench.facts_of("window")] == [True]


@pytest.mark.parametrize(("way", "through"), [
    ("rwx-once", "text"), ("flip-reused", "text"), ("dual", "user"), ("pwrite-map", "direct-map"),
])  # fmt: skip
def test_a_store_says_through_what(way: str, through: str) -> None:
    bench = User(BACKENDS[way])
    bench.thread(lambda k: bench.publish(k, 64, 100))
    assert [(size, how) for _, size, _, how in bench.facts_of("store")] == [(64, through), (100, through)]


# --- x86_64 -----------------------------------------------------------------------------------------------------------


def why(bench: User) -> list[str]:
    return [reason for reason, _ in bench.rounds]


@pytest.mark.parametrize(("way", "expected"), [
    ("rwx-once", []), ("dual", []), ("pwrite-mapped", []),
    ("rwx-fresh", ["flush_tlb_mm_range"]), ("dual-temporary", ["flush_tlb_mm_range"]),
    ("pwrite-map", ["flush_tlb_mm_range"]), ("dual-sync-core", ["membarrier"]),
    ("flip-fresh", ["flush_tlb_mm_range"] * 2), ("flip-reused", ["flush_tlb_mm_range"] * 2),
])  # fmt: skip
def test_rounds_on_x86_64_go_to_the_cpus_that_run_the_process(way: str, expected: list[str]) -> None:
    for spinners in (0, 1, 3):
        bench = User(BACKENDS[way], cpus=8, spinners=spinners)
        bench.thread(once_and_again(bench, 64, 64, 64))
        assert bench.rounds == ([(reason, spinners) for reason in expected] if spinners else [])


def test_a_thread_that_sleeps_is_not_interrupted() -> None:
    """Its CPU keeps the mm loaded lazily, and flushes when it switches back."""
    bench = User(BACKENDS["rwx-fresh"], hosts=(0, 1))

    def sleeper(k: Kernel) -> Proc[None]:
        bench.mm.enter(k.task)
        yield from k.sleep_until(100_000_000)

    bench.task(sleeper, 1)

    def body(k: Kernel) -> Proc[None]:
        yield from k.sleep_until(1_000_000)
        yield from once_and_again(bench, 64)(k)

    bench.thread(body)
    assert bench.facts_of("flush")
    assert not bench.rounds


def test_a_cpu_that_runs_something_else_is_not_interrupted() -> None:
    bench = User(BACKENDS["rwx-fresh"], hosts=(0, 1))

    def foreign(k: Kernel) -> Proc[None]:
        while bench.busy:
            yield from k.task.compute(1_000_000)

    bench.task(foreign, 1)
    bench.thread(once_and_again(bench, 64))
    assert bench.facts_of("flush")
    assert not bench.rounds


@pytest.mark.parametrize(("pages", "work"), [(1, "tlb_flush_page"), (33, "tlb_flush_page"), (34, "tlb_flush_all")])
def test_above_the_ceiling_a_flush_of_user_pages_is_full(pages: int, work: str) -> None:
    bench = User(BACKENDS["rwx-fresh"])
    bench.thread(once_and_again(bench, pages * PAGE))
    flushed = {cost: n for cost, n in bench.spent if cost.startswith("tlb_flush")}
    assert flushed == {work: pages if work == "tlb_flush_page" else 1}


@pytest.mark.parametrize(("spinners", "release", "rounds"), [(2, "6.18", 1), (3, "6.18", 0), (3, "6.12", 1)])
def test_broadcast_flushes_serve_processes_on_more_than_three_cpus(spinners: int, release: str, rounds: int) -> None:
    bench = User(BACKENDS["rwx-fresh"], "x86_64", release, {"invlpgb": True}, cpus=8, spinners=spinners)
    bench.thread(once_and_again(bench, 64))
    assert len(bench.rounds) == rounds
    assert bench.counts["tlbsync"] == 1 - rounds
    assert [how for *_, how, _ in bench.facts_of("flush")] == ["ipi" if rounds else "broadcast"]


def test_membarrier_serializes_this_cpu_and_those_that_run_the_process() -> None:
    bench = User(BACKENDS["dual-sync-core"], cpus=8, spinners=2)
    bench.thread(once_and_again(bench, 64))
    assert bench.rounds == [("membarrier", 2)]
    assert [fact[1:] for fact in bench.facts_of("serialize")] == [("all", "membarrier")]
    assert ("sync_core", 1) in bench.spent
    assert bench.counts["membarrier"] == 1


# --- arm64 ------------------------------------------------------------------------------------------------------------


def lines_by_hand(bench: User) -> tuple[int, int]:
    """Lines cleaned and invalidated."""
    return tuple(sum(n for cost, n in bench.spent if cost == name) for name in ("dc_cvau", "ic_ivau"))  # type: ignore[return-value]


@each_way
def test_arm64_interrupts_nobody_but_for_a_membarrier(backend: Any) -> None:
    bench = User(backend, "arm64", spinners=1)
    bench.thread(once_and_again(bench, 64, 5000))
    assert why(bench) == ["membarrier"] * (backend == BACKENDS["dual-sync-core"])
    assert {how for *_, how, _ in bench.facts_of("flush")} <= {"broadcast"}


def test_arm64_maintains_caches_of_new_folios_and_the_runtime_those_of_old_ones() -> None:
    bench = User(BACKENDS["flip-reused"], "arm64")

    def body(k: Kernel) -> Proc[None]:
        regions = yield from bench.publish(k, 64)
        assert lines_by_hand(bench) == (64 + 1, 64 + 1), "the folio by the kernel, the piece by the runtime"
        yield from bench.free(k, regions)
        bench.forget()
        yield from bench.publish(k, 64)
        assert lines_by_hand(bench) == (1, 1), "clean: only the runtime does something"

    bench.thread(body)


def test_arm64_a_write_by_the_kernel_makes_the_folio_unclean_but_nobody_maps_it_again() -> None:
    bench = User(UserMmap(mapping="once", arena=PAGE), "arm64")
    bench.thread(once_and_again(bench, 64))
    assert bench.counts["__sync_icache_dcache"] == 0
    assert lines_by_hand(bench) == (1, 1), "the runtime's __clear_cache alone"
    bench = User(UserMmap(arena=PAGE), "arm64")
    bench.thread(once_and_again(bench, 64))
    assert bench.counts["__sync_icache_dcache"] == 1
    assert lines_by_hand(bench) == (64, 64), "mapped afresh: the kernel cleans the whole folio, the runtime nothing"


@pytest.mark.parametrize(("idc", "dic"), [(False, False), (True, False), (True, True)])
def test_arm64_cores_that_keep_their_caches_coherent_need_less(idc: bool, dic: bool) -> None:
    bench = User(BACKENDS["dual"], "arm64", features={"idc": idc, "dic": dic})
    bench.thread(once_and_again(bench, 640))
    assert lines_by_hand(bench) == (0 if idc else 10, 0 if dic else 10)


def by_the_kernels_loop(pages: int) -> int:
    """__flush_tlb_range_op, as it walks."""
    n, scale = 0, 3
    while pages:
        if pages == 1:
            return n + 1
        units = pages >> 5 * scale + 1
        if units:
            n += 1
            pages -= units << 5 * scale + 1
        scale -= 1
    return n


@given(st.integers(1, 1 << 21))
def test_arm64_instructions_of_a_range_are_those_of_the_kernels_loop(pages: int) -> None:
    assert tlbi_instructions(pages, True, 512) == by_the_kernels_loop(pages)
    assert tlbi_instructions(pages, False, 512) == (pages if pages < 512 else 1)


# --- riscv64 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rfence", "call"), [("sbi", 1), ("ipi", 0)])
def test_riscv64_interrupts_for_a_folio_that_is_not_clean_while_another_hart_runs_the_process(
    rfence: str, call: int
) -> None:
    for spinners in (0, 1):
        bench = User(UserMmap(arena=PAGE), "riscv64", features={"rfence": rfence}, spinners=spinners)
        bench.thread(once_and_again(bench, 64))
        assert bench.counts["flush_icache_pte"] == 1, "written by the kernel, so not clean"
        assert bench.rounds == [("flush_icache_mm", 1), ("flush_tlb_mm_range", 1)] * spinners
        assert bench.counts["sbi_remote_fence_i"] == bench.counts["sbi_remote_sfence_vma_asid"] == call * spinners
        assert [fact[-1] for fact in bench.facts_of("icache")] == ["fence.i-all"]


def test_riscv64_a_clean_folio_needs_no_fence_from_the_kernel_but_the_runtime_asks_for_one() -> None:
    bench = User(BACKENDS["flip-reused"], "riscv64", spinners=1)
    bench.thread(once_and_again(bench, 64))
    assert bench.counts["flush_icache_pte"] == 0
    assert why(bench) == ["flush_tlb_mm_range", "flush_tlb_mm_range", "flush_icache_mm"]


def test_riscv64_maps_several_pages_with_a_fence_for_each_folio() -> None:
    bench = User(UserMmap(arena=4 * PAGE), "riscv64", spinners=1)
    bench.thread(once_and_again(bench, 3 * PAGE))
    assert why(bench).count("flush_icache_mm") == 3


@pytest.mark.parametrize(("release", "serialized"), [("6.1", 0), ("6.18", 1)])
def test_riscv64_has_no_membarrier_sync_core_on_6_1(release: str, serialized: int) -> None:
    bench = User(BACKENDS["dual-sync-core"], "riscv64", release, spinners=1)
    bench.thread(once_and_again(bench, 64))
    assert len(bench.facts_of("serialize")) == why(bench).count("membarrier") == serialized


# --- mappings ---------------------------------------------------------------------------------------------------------


def test_faults_come_once_per_page_and_by_sixteen_for_file_text() -> None:
    bench = User(UserMmap(arena=64 * PAGE))
    bench.thread(lambda k: bench.publish(k, 40 * PAGE))
    assert [n for name, n in bench.calls if name == "page_fault"] == [1], "one call, at its start: sixteen pages"
    bench = User(BACKENDS["rwx-fresh"])
    bench.thread(lambda k: bench.publish(k, 40 * PAGE))
    assert sum(n for name, n in bench.calls if name == "page_fault") == 40


@pytest.mark.parametrize(("release", "waits"), [("6.1", True), ("6.18", False)])
def test_a_fault_waits_for_the_mmap_lock_on_6_1_only(release: str, waits: bool) -> None:
    bench = User(BACKENDS["rwx-fresh"], "x86_64", release, hosts=(0, 1))
    mm = bench.mm
    done: list[int] = []

    def holder(k: Kernel) -> Proc[None]:
        with (yield from mm.mmap_lock.write(k.task)):
            k.task.cpu.spend(1_000_000)
            yield from k.settle()

    def faulter(k: Kernel) -> Proc[None]:
        vma = yield from user.mmap(k, mm, 1, "rw-nx")
        bench.task(holder, 1, start=k.now + 10)
        yield from k.sleep_until(k.now + 1_000)
        begin = k.now
        yield from user.fault_in(k, mm, vma, vma.text, 1)
        yield from k.settle()
        done.append(k.now - begin)

    bench.task(faulter)
    bench.run()
    assert (done[0] > 500_000) == waits


def test_mprotect_holds_the_mmap_lock_until_everybody_has_flushed() -> None:
    bench = User(BACKENDS["flip-reused"], hosts=(0, 1, 2))
    mm, waits = bench.mm, list[int]()

    def deaf(k: Kernel) -> Proc[None]:
        mm.enter(k.task)
        with k.irqs_off():
            k.task.cpu.spend(1_000_000)
        yield from k.settle()

    bench.task(deaf, 1)

    def flipper(k: Kernel) -> Proc[None]:
        vma = yield from user.mmap(k, mm, 1, "rw-nx")
        yield from user.fault_in(k, mm, vma, vma.text, 1)
        yield from user.mprotect(k, mm, vma, "ro-x")

    def other(k: Kernel) -> Proc[None]:
        while not any(name == "flush_tlb_mm_range" for name, _ in bench.calls):
            k.task.cpu.spend(1)
            yield from k.settle()
        begin = k.now
        with (yield from mm.mmap_lock.write(k.task)):
            waits.append(k.now - begin)

    bench.task(other, 2)
    bench.thread(flipper)
    assert waits[0] > 900_000


def test_addresses_that_run_out_are_a_named_outcome() -> None:
    bench = User()

    def body(k: Kernel) -> Proc[None]:
        with pytest.raises(AddressSpaceExhausted):
            yield from user.get_unmapped_area(k, bench.mm, 1 << 29)

    bench.thread(body)


def test_a_space_knows_which_pages_it_has_not_touched_for_a_lap() -> None:
    pieces = [(0, 64, 1), (64, 64, 0), (128, 4096, 1), (4224, 3968, 0), (8192, 1, 1), (8256, 12_224, 2), (0, 64, 1)]
    for next_fit in (True, False):
        space = Space(user.Folios((), True, bytearray(5)), PAGE, next_fit)
        assert [space.entered(at, size) for at, size, _ in pieces] == [n if next_fit else 0 for *_, n in pieces]


def test_next_fit_goes_round_and_lowest_comes_back() -> None:
    for next_fit, expected in ((True, [0, 1024, 2048, 3072, 0, None]), (False, [0, 0, 0, 0, 0, 1024])):
        space = Space(user.Folios((), True, bytearray(1)), PAGE, next_fit)
        found = list[int | None]()
        for _ in range(4):
            at = space.place(1024, 1)
            space.holes.give(at, at + 1024)
            found.append(at)
        found.append(space.place(1024, 1))
        found.append(space.place(3072 + next_fit, 1))
        assert found == expected


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(BACKENDS)), st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 3)), max_size=25))
def test_any_order_of_groups_keeps_the_books(way: str, steps: list[tuple[int, int]]) -> None:
    """No overlap, no leak, figures equal to a recount."""
    bench = User(BACKENDS[way])
    live: list[tuple[Region, ...]] = []

    def body(k: Kernel) -> Proc[None]:
        for size, what in steps:
            if what == 0 and live:
                yield from bench.free(k, live.pop(size % len(live)))
            else:
                live.append((yield from bench.publish(k, *[size] * what or [size])))
            regions = sorted((region for group in live for region in group), key=lambda region: region.va)
            assert all(low.va + low.reserved <= high.va for low, high in pairwise(regions))
            usage = bench.backend.usage(bench.heap)
            assert usage.asked == sum(region.size for region in regions)
            assert usage.reserved == usage.asked + usage.internal_waste
            assert usage.reserved >= sum(region.reserved for region in regions)
            assert usage.reserved == bench.shared.frames.in_use * PAGE
        while live:
            yield from bench.free(k, live.pop())
        kept = sum(space.size for space in bench.heap.spaces) + sum(vma.area.size for vma in bench.heap.idle)
        assert bench.backend.usage(bench.heap).reserved == kept
        assert all(space.holes.free == space.size for space in bench.heap.spaces)

    bench.thread(body)


# --- the client -------------------------------------------------------------------------------------------------------


class _Kept:
    """Keeps finished operations."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.counts: dict[str, int] = {}

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        return self.counts, {}

    def begun(self, operation: Operation, at: int) -> None: ...

    def finished(self, operation: Operation) -> None:
        self.operations.append(operation)


def run(client: Jit, backend: Any = None, run: Mapping[str, Any] | None = None, duration: int = 100_000) -> _Kept:
    """Run a client on the bench; return what it did."""
    bench = Bench(hosts=client.cpus(8), cpus=8, run=run)
    kept = bench.shared.recorder = _Kept()
    backend = backend or UserMprotect()
    client.start(Setting(bench.shared, backend, backend.start(bench.shared), duration, 0, 0, lambda _: []))
    bench.machine.engine.run(duration + 10_000_000)
    return kept


def test_phases_tile_each_operation_and_operations_follow_without_a_pause() -> None:
    kept = run(Jit())
    assert len(kept.operations) > 10
    for operation in kept.operations:
        assert operation.names == ["alloc", "write", "finalize", "call", "free"]
        assert operation.times == sorted(operation.times)
        assert set(operation.names) == Jit.api_phases
    begins, ends = ([getattr(op, at) for op in kept.operations] for at in ("begin", "end"))
    assert begins[1:] == ends[:-1]
    assert [op.number for op in kept.operations] == list(range(len(kept.operations)))


def test_pieces_are_freed_as_many_turns_later_as_asked() -> None:
    kept = run(Jit(keep=3))
    assert ["free" in op.names for op in kept.operations[:5]] == [False, False, False, True, True]


def test_a_batch_is_one_publication() -> None:
    kept = run(Jit(batch=8))
    assert kept.counts["mprotect"] == 2 * len(kept.operations) - 1, "the first mapping comes writable"
    assert kept.counts["expose:pointer"] == 8 * len(kept.operations)


def test_threads_think_between_their_operations() -> None:
    kept = run(Jit(think=Constant(20_000)))
    assert 2 <= len(kept.operations) <= 5
    gaps = [after.begin - before.end for before, after in pairwise(kept.operations)]
    assert min(gaps) >= 20_000


def test_spinners_do_nothing_but_run_the_process() -> None:
    for spinners in (0, 2):
        kept = run(Jit(spinners=spinners))
        assert kept.counts.get("round", 0) == (2 * len(kept.operations) - 1 if spinners else 0)


@pytest.mark.parametrize("way", BACKENDS)
def test_threads_contend_for_the_address_space_in_the_same_way_merged_or_not(way: str) -> None:
    stamps = []
    for merge in (True, False):
        kept = run(Jit(threads=3, spinners=1, batch=2), BACKENDS[way], {"merge": merge}, 200_000)
        stamps.append(sorted((op.number, *op.times) for op in kept.operations))
    assert len(stamps[0]) > 15
    assert stamps[0] == stamps[1]


def test_threads_and_spinners_have_cpus_of_their_own() -> None:
    client = Jit(threads=2, spinners=3)
    assert client.cpus(64) == (0, 1, 2, 3, 4)
    assert client.computing_threads() == 5


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"spinners": -1}, {"batch": 0}, {"keep": -1}])
def test_what_cannot_run_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Jit(**wrong)


@pytest.mark.parametrize("backend", [UserMmap, UserDualMap])
def test_an_empty_arena_is_refused(backend: Any) -> None:
    with pytest.raises(ValueError, match="arena"):
        backend(arena=0)


def test_a_backend_of_the_kernel_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="ModuleAlloc"):
        run(Jit(), ModuleAlloc())
