"""Who waits for whom on x86_64: cpa_lock across splits, init_mm's mmap lock, and locks that sleep with PREEMPT_RT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from execbench.contract import LockKind, Proc
from execbench.kernel.facade import Kernel
from execbench.kernel.vmalloc import purge_vmap_area_lazy
from execbench.sim.memory import PMD_PAGES, VmArea
from tests.kernel.bench import Bench
from tests.kernel.test_x86_64 import TEXT, area_of, did, flushes

# --- locks ------------------------------------------------------------------------------------------------------------


class Waits:
    """Who waited for which lock: (begin, end, object)."""

    def __init__(self, bench: Bench) -> None:
        self.all: list[tuple[int, int, str]] = []
        bench.machine.probe.attach(self)

    def wait(self, begin: int, end: int, task: Any, kind: str, name: str, site: str, in_verb: bool) -> None:
        if kind == "lock":
            self.all.append((begin, end, name))

    def names(self) -> set[str]:
        """The locks."""
        return {name for _, _, name in self.all}


def race(release: str, first: Callable[[Kernel, VmArea], Proc[Any]], second: Callable[[Kernel, VmArea], Proc[Any]],
         until: str, **options: Any) -> tuple[Bench, Waits]:  # fmt: skip
    """Let CPU 1 do the second thing as soon as CPU 0, doing the first, counts the primitive `until`."""
    bench = Bench(release=release, **options)
    _, area = area_of(bench, PMD_PAGES, huge=True)
    started: list[int] = []

    class Starter:
        def call(self, at: int, task: Any, primitive: str, units: int) -> None:
            if primitive == until and not started:
                started.append(at)
                bench.task(lambda k: second(k, area), cpu=1, start=bench.machine.engine.now + 1)

    def body(k: Kernel) -> Proc[None]:
        yield from k.set_memory_rox(area)
        bench.machine.probe.attach(Starter())
        yield from first(k, area)

    waits = Waits(bench)
    bench.forget()
    bench.task(body, start=bench.machine.engine.now)
    bench.run()
    assert started
    return bench, waits


def reopen(k: Kernel, area: VmArea) -> Proc[None]:
    """Split the leaf, then make it whole."""
    yield from k.set_memory_rw(area, 0, 3)
    yield from k.set_memory_rox(area, first=0, pages=3)


@pytest.mark.parametrize(("release", "waited"), [("6.12", False), ("7.3", True)])
def test_a_poke_waits_while_leaves_are_collapsed_on_7_x(release: str, waited: bool) -> None:
    options = {"kernel": {"rox_collapse": True}}
    _, waits = race(release, reopen, lambda k, area: k.bpf_arch_text_copy(area.at(100), 64), "cpa_collapse", **options)
    assert ("init_mm.mmap_lock" in waits.names()) == waited


def test_a_walk_waits_while_another_splits_with_cpa_lock_held() -> None:
    bench = Bench(release="6.12", hosts=(0, 1, 2, 3))
    other, area = area_of(bench, PMD_PAGES, huge=True)
    waits = Waits(bench)

    def deaf(k: Kernel) -> Proc[None]:
        with k.irqs_off():
            k.task.cpu.spend(100_000)
        yield from k.settle()

    now = bench.machine.engine.now
    bench.task(deaf, cpu=3, start=now)
    bench.task(lambda k: k.set_memory_ro(area, 0, 3), cpu=0, start=now + 1)
    bench.task(lambda k: k.set_direct_map(other, "np"), cpu=1, start=now + 10_000)
    bench.task(lambda k: k.set_memory_nx(other), cpu=2, start=now + 20_000)
    bench.run()
    assert [name for _, _, name in waits.all] == ["cpa_lock", "cpa_lock"]
    assert all(end > now + 100_000 for _, end, _ in waits.all)


def test_walks_share_the_mmap_lock_a_collapse_waits_for_both() -> None:
    bench = Bench(release="7.3", hosts=(0, 1, 2))
    sem = bench.shared.init_mm
    log: list[str] = []

    def reader(name: str, ns: int) -> Callable[[Kernel], Proc[None]]:
        def inside(k: Kernel) -> Proc[None]:
            log.append(f"{name} in")
            k.task.cpu.spend(ns)
            yield from k.settle()
            log.append(f"{name} out")

        return lambda k: sem.read(k.task, inside(k))

    def writer(k: Kernel) -> Proc[None]:
        with (yield from sem.write(k.task)):
            log.append("writer in")
            k.task.cpu.spend(100)
            yield from k.settle()
            log.append("writer out")

    waits = Waits(bench)
    bench.task(reader("a", 1_000), cpu=0, start=10)
    bench.task(reader("b", 3_000), cpu=1, start=20)
    bench.task(writer, cpu=2, start=30)
    bench.task(reader("c", 10), cpu=0, start=40)  # behind a on its CPU, and behind the writer that waits
    bench.run()
    assert log == ["a in", "b in", "a out", "b out", "writer in", "writer out", "c in", "c out"]
    assert waits.names() == {"init_mm.mmap_lock"}
    assert sem.readers == 0


def test_merged_and_unmerged_costs_agree_when_many_share_the_mmap_lock() -> None:
    def run(merge: bool) -> list[tuple[int, ...]]:
        bench = Bench(release="7.3", hosts=(0, 1, 2, 3), run={"merge": merge})
        backend_area: dict[int, VmArea] = {}

        def body(number: int) -> Callable[[Kernel], Proc[None]]:
            def loop(k: Kernel) -> Proc[None]:
                backend_area[number] = area = yield from k.vmalloc_node_range(PMD_PAGES, TEXT, huge=True)
                for i in range(4):
                    yield from k.set_memory_rox(area)
                    yield from k.set_memory_nx(area, i, 3)
                    yield from k.bpf_arch_text_copy(area.va, 9_000)

            return loop

        for number in range(4):
            bench.task(body(number), cpu=number, start=number * 37)
        bench.run()
        locks = bench.shared.locks
        assert locks["init_mm.mmap_lock"].contended
        return [(lock.acquisitions, lock.contended, lock.wait_ns, lock.hold_ns) for lock in locks.values()]

    assert run(True) == run(False)


@pytest.mark.parametrize(("preempt", "kind"), [("full", "spinlock"), ("rt", "rt_mutex")])
def test_spinlocks_sleep_with_preempt_rt_raw_ones_and_mutexes_are_what_they_are(preempt: str, kind: str) -> None:
    bench = Bench(config={"preempt": preempt})
    kinds = {name: lock.kind.kind for name, lock in bench.shared.locks.items()}
    assert (kinds["cpa_lock"], kinds["free_vmap_area_lock"], kinds["text_mutex"]) == (kind, kind, "mutex")
    assert bench.shared.declare(LockKind("raw", "raw_spinlock", "test")).kind.kind == "spinlock"


@pytest.mark.parametrize(("preempt", "first"), [("full", "waiter"), ("rt", "other")])
def test_who_waits_for_cpa_lock_gives_way_with_preempt_rt_only(preempt: str, first: str) -> None:
    bench = Bench(release="6.12", config={"preempt": preempt})
    lock = bench.shared.locks["cpa_lock"]
    done: list[str] = []

    def holder(k: Kernel) -> Proc[None]:
        with (yield from lock.acquire(k.task)):
            yield from k.on_each_cpu("why")
            k.task.cpu.spend(50_000)
            yield from k.settle()

    def waiter(k: Kernel) -> Proc[None]:
        with (yield from lock.acquire(k.task)):
            done.append("waiter")

    def other(k: Kernel) -> Proc[None]:
        k.task.cpu.spend(100)
        yield from k.settle()
        done.append("other")

    bench.task(holder, cpu=0)
    bench.task(waiter, cpu=1, start=100)
    bench.task(other, cpu=1, start=200)
    bench.run()
    assert done[0] == first


def test_a_purge_gives_code_areas_back_under_the_lock_that_allocations_take() -> None:
    bench = Bench(release="6.12")
    other, area = area_of(bench, 3)
    before = bench.shared.locks["free_vmap_area_lock"].acquisitions
    did(bench, lambda k: k.vfree(area))
    assert bench.shared.locks["free_vmap_area_lock"].acquisitions == before + 1
    did(bench, lambda k: k.vfree_data(3))
    did(bench, lambda k: k.set_memory_nx(other))
    assert flushes(bench) == ["purge_flush"]
    assert bench.shared.locks["free_vmap_area_lock"].acquisitions == before + 1, "data goes to the pool of its node"


def test_readers_and_the_writer_of_an_rwsem_are_heard_in_the_order_of_the_program() -> None:
    bench = Bench()
    heard: list[tuple[str, str, bool]] = []

    class Ears:
        def lock(self, at: int, task: Any, name: str, kind: str, taken: bool) -> None:
            heard.append((name, kind, taken))

    bench.machine.probe.attach(Ears())
    sem, name = bench.shared.init_mm, "init_mm.mmap_lock"

    def inside(k: Kernel) -> Proc[None]:
        with (yield from k.lock("cpa_lock")):
            k.spend("cpa_page")

    def body(k: Kernel) -> Proc[None]:
        yield from sem.read(k.task, inside(k))
        yield from sem.pass_by(k.task)
        with (yield from sem.write(k.task)):
            yield from inside(k)

    bench.task(body)
    bench.run()
    cpa = [("cpa_lock", "spinlock", True), ("cpa_lock", "spinlock", False)]
    read, write = ([(name, kind, taken) for taken in (True, False)] for kind in ("rwsem read", "rwsem"))
    assert heard == [read[0], *cpa, read[1], *read, write[0], *cpa, write[1]]


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_data_takes_the_lock_of_the_one_tree_where_there_are_no_nodes(release: str) -> None:
    bench = Bench(release=release)
    lock = bench.shared.locks["free_vmap_area_lock"]

    def body(k: Kernel) -> Proc[None]:
        yield from k.vfree_data((yield from k.vmalloc_data(9_000)))
        yield from k.settle()
        assert lock.acquisitions == (release == "6.1")
        yield from purge_vmap_area_lazy(k)

    bench.task(body)
    bench.run()
    assert lock.acquisitions == 2 * (release == "6.1"), "and where it goes back"
    assert bench.cost("vmap_purge_area") == 1
