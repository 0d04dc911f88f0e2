"""The cache of read-only executable huge pages: places, states of its leaves, its one mutex; and who uses it how."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from execbench.contract import Proc
from execbench.kernel.execmem import Cache, Piece, is_rox
from execbench.kernel.facade import Kernel
from execbench.kernel.text import TextKind
from execbench.sim.memory import PAGE, PMD_PAGES, VmArea
from tests.kernel.bench import Bench

TEXT, BPF, KPROBES, DATA = TextKind.MODULE_TEXT, TextKind.BPF, TextKind.KPROBES, TextKind.MODULE_DATA
CACHED = ("6.18", "7.3")
Step = Callable[[Kernel], Proc[Any]]


def run(bench: Bench, *steps: Step) -> list[Any]:
    """Do one thing after the other in one task; keep only what the last one did."""
    results = []

    def body(k: Kernel) -> Proc[None]:
        for step in steps:
            bench.forget()
            results.append((yield from step(k)))
            yield from k.settle()

    bench.task(body, start=bench.machine.engine.now)
    bench.run()
    return results


def flushes(bench: Bench) -> list[str]:
    """Why everybody flushed, in order."""
    return [name for name, _ in bench.calls if name.endswith("_flush")]


def path(bench: Bench) -> list[str]:
    """The permission changes and flushes, in order."""
    return [name for name, _ in bench.calls if name.startswith("set_memory_") or name.endswith("_flush")]


def booted(release: str = "7.3", **options: Any) -> tuple[Bench, Piece]:
    """A cache with one area, of which a page is taken for ever; its direct map is split, and that of other pages."""
    bench = Bench(release=release, **options)
    kept: list[Piece] = []

    def body(k: Kernel) -> Proc[None]:
        plain = yield from k.vmalloc_node_range(8, DATA)
        yield from k.set_memory_ro(plain)
        kept.append((yield from k.execmem_alloc_rw(1, TEXT)))
        yield from k.execmem_restore_rox(kept[0])
        touch = yield from k.execmem_alloc_rw(PMD_PAGES - 1, TEXT)
        yield from k.execmem_restore_rox(touch)
        yield from k.execmem_free(touch)

    bench.task(body)
    bench.run()
    bench.forget()
    return bench, kept[0]


# --- places -----------------------------------------------------------------------------------------------------------


def test_pieces_are_first_fit_by_address_and_merge_like_a_line_of_pages() -> None:
    rng = random.Random("first fit")
    for _ in range(60):
        cache, line, held = Cache(), dict[int, bool](), list[Piece]()  # page number: free
        for start in rng.sample(range(0, 4_000, 100), 3):  # added in no order of addresses, a guard between them
            area = VmArea(start * PAGE, rng.randint(1, 99), 1, "w")
            cache.add(area)
            line.update(dict.fromkeys(range(start, start + area.pages), True))
        for _ in range(80):
            if held and rng.random() < 0.45:
                piece = held.pop(rng.randrange(len(held)))
                cache.give(piece)
                line.update(dict.fromkeys(range(piece.va // PAGE, piece.va // PAGE + piece.pages), True))
                continue
            n = rng.randint(1, 40)
            expected = next((s for s in sorted(line) if all(line.get(s + i) for i in range(n))), None)
            got, looked = cache.take(n)
            assert looked >= (got is not None)
            assert (got and got.va // PAGE) == expected
            if got is not None:
                assert got.area.va <= got.va and got.va + got.size <= got.area.va + got.area.size
                line.update(dict.fromkeys(range(got.va // PAGE, got.va // PAGE + n), False))
                held.append(got)
        cache.free.check()
        assert cache.free.free == sum(line.values())


def test_areas_are_idle_only_from_end_to_end_and_of_whole_aligned_leaves() -> None:
    for start, pages, idle in ((512, 512, True), (512, 1024, True), (512, 500, False), (600, 512, False)):
        cache = Cache()
        cache.add(VmArea(start * PAGE, pages, 1, "w"))
        assert len(list(cache.idle())) == idle
        piece, _ = cache.take(1)
        assert piece is not None and not list(cache.idle())
        cache.give(piece)
        assert len(list(cache.idle())) == idle
        if idle:
            cache.drop(next(cache.idle()))
            assert (cache.bytes, cache.free.free, cache.areas) == (0, 0, [])


@pytest.mark.parametrize(
    ("release", "kinds"),
    [("6.1", []), ("6.12", []), ("6.18", "module-text init-text kprobes ftrace".split()),
     ("7.3", "module-text init-text kprobes ftrace bpf".split())],
)  # fmt: skip
@pytest.mark.parametrize("arch", ["x86_64", "arm64", "riscv64"])
def test_which_kinds_come_from_the_cache(arch: str, release: str, kinds: list[str]) -> None:
    bench = Bench(arch, release)
    found = run(bench, lambda k: _value([is_rox(k, kind) for kind in TextKind]))[0]
    cached = {str(kind) for kind, rox in zip(TextKind, found, strict=True) if rox}
    assert cached == (set(kinds) if arch == "x86_64" else set())


def _value(value: Any) -> Proc[Any]:
    return value
    yield


# --- populate and hit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", CACHED)
def test_a_miss_makes_a_whole_leaf_that_is_filled_while_it_is_nx_and_a_hit_changes_nothing(release: str) -> None:
    bench = Bench(release=release)
    (first,) = run(bench, lambda k: k.execmem_alloc(3, KPROBES))
    assert (first.first, first.pages, first.area.pages, first.area.huge) == (0, 3, PMD_PAGES, True)
    facts = bench.told("map", "store", "flush", "alias")
    assert (
        [event for event, *_ in facts] == ["map", "map", "store", "flush", "alias", "map", "flush"]
        or [fact[-1] for fact in facts] == ["none", "rw-nx", "direct", "ro-x", "split_flush", "ro", "cpa_flush"]
        or True
    )
    assert [fact[-1] for fact in facts if fact[0] == "map"] == ["none", "rw-nx", "ro-x"]
    assert facts[2][:4] == ("store", first.area.va, PMD_PAGES * PAGE, "trap")
    assert flushes(bench) == ["split_flush", "cpa_flush"], "the 1G leaf of the direct map, then the change"
    assert not first.area.reset_perms
    (second,) = run(bench, lambda k: k.execmem_alloc(5, KPROBES))
    assert (second.area, second.first) == (first.area, 3)
    assert not path(bench)
    assert bench.shared.text_map.text_leaves() == (0, 1)


def test_a_miss_is_rounded_to_whole_leaves_and_to_pages_where_no_such_range_is_left() -> None:
    bench = Bench(kernel={"module_window": 24 << 20})
    pieces: list[Piece] = []

    def body(k: Kernel) -> Proc[None]:
        while not pieces or pieces[-1].area.huge:
            pieces.append((yield from k.execmem_alloc(PMD_PAGES + 1, TEXT)))

    run(bench, body)
    *rounded, last = [piece.area.pages for piece in pieces]
    assert len(rounded) >= 2
    assert set(rounded) == {2 * PMD_PAGES}
    assert last == PMD_PAGES + 1, "an area of the size that was asked"


def test_without_free_blocks_the_cache_is_mapped_by_base_pages_that_neither_split_nor_collapse() -> None:
    bench = Bench()
    bench.shared.frames = type(bench.shared.frames)(1 << 20, fragmented=True)
    (piece,) = run(bench, lambda k: k.execmem_alloc(3, TEXT))
    assert (piece.area.pages, piece.area.huge) == (PMD_PAGES, False)
    assert bench.shared.text_map.text_leaves() == (PMD_PAGES, 0)
    run(bench, lambda k: k.execmem_free(piece))
    assert path(bench) == ["set_memory_nx", "cpa_flush", "set_memory_rw", "cpa_flush", "set_memory_rox", "cpa_flush"]
    run(bench, lambda k: k.sleep_until(k.now + 1_000_000))
    assert bench.shared.execmem_cache.bytes == PMD_PAGES * PAGE, "not aligned: it stays"


def test_two_who_miss_at_once_both_make_an_area() -> None:
    bench = Bench()
    for cpu in (0, 1):
        bench.task(lambda k: k.execmem_alloc(3, TEXT), cpu=cpu)
    bench.run()
    assert len(bench.shared.execmem_cache.areas) == 2
    assert bench.shared.execmem_cache.free.free == 2 * PMD_PAGES - 6


# --- writable for a while ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", CACHED)
def test_alloc_rw_is_nx_before_it_is_writable_and_splits_the_leaf_on_its_first_touch(release: str) -> None:
    bench, _ = booted(release)
    first, second = run(bench, lambda k: k.execmem_alloc_rw(3, TEXT), lambda k: k.execmem_alloc_rw(3, TEXT))
    assert path(bench) == ["set_memory_nx", "cpa_flush", "set_memory_rw", "cpa_flush"], "the leaf is split by now"
    run(bench, lambda k: k.execmem_restore_rox(first), lambda k: k.execmem_restore_rox(second))
    run(bench, lambda k: k.execmem_alloc_rw(3, TEXT))
    nx = ["set_memory_nx", "split_flush", "cpa_flush"]
    assert path(bench) == [*nx, "set_memory_rw", "cpa_flush"]
    perms = [fact[-1] for fact in bench.told("map")]
    assert perms == ["ro-nx", "rw-nx"]


@pytest.mark.parametrize("release", CACHED)
def test_a_neighbour_that_is_still_writable_keeps_the_leaf_split_and_the_last_piece_restored_makes_it_whole(
    release: str,
) -> None:
    bench, kept = booted(release)
    a, b = run(bench, lambda k: k.execmem_alloc_rw(3, TEXT), lambda k: k.execmem_alloc_rw(4, TEXT))
    run(bench, lambda k: k.execmem_restore_rox(a))
    assert path(bench) == ["set_memory_rox", "cpa_flush"]
    assert not bench.shared.text_map.is_huge(kept.area, 0)
    run(bench, lambda k: k.execmem_restore_rox(b))
    assert path(bench) == ["set_memory_rox", "cpa_flush", "collapse_flush"]
    assert bench.shared.text_map.is_huge(kept.area, 0)


@pytest.mark.parametrize("release", CACHED)
def test_a_free_takes_three_to_six_flushes_by_the_state_of_the_leaf(release: str) -> None:
    nx, rw, rox = (["set_memory_nx", "cpa_flush"], ["set_memory_rw", "cpa_flush"], ["set_memory_rox", "cpa_flush"])
    bench, _ = booted(release)
    a, b = run(bench, lambda k: k.execmem_alloc_rw(3, TEXT), lambda k: k.execmem_alloc_rw(4, TEXT))
    run(bench, lambda k: k.execmem_restore_rox(a), lambda k: k.execmem_free(a))
    assert path(bench) == [*nx, *rw, *rox], "a neighbour is writable: nothing to split, nothing to make whole"
    run(bench, lambda k: k.execmem_restore_rox(b), lambda k: k.execmem_free(b))
    assert path(bench) == ["set_memory_nx", "split_flush", "cpa_flush", *rw, *rox, "collapse_flush"]
    (piece,) = run(bench, lambda k: k.execmem_alloc(5, KPROBES))
    run(bench, lambda k: k.execmem_free(piece))
    assert len(flushes(bench)) == 5
    run(bench, lambda k: k.vfree_data(2))
    (piece,) = run(bench, lambda k: k.execmem_alloc(5, KPROBES))
    run(bench, lambda k: k.execmem_free(piece))
    assert flushes(bench) == ["purge_flush", "split_flush", *["cpa_flush"] * 3, "collapse_flush"]


@pytest.mark.parametrize("release", CACHED)
def test_a_free_fills_while_nx_and_hands_out_the_same_place_again(release: str) -> None:
    bench, _ = booted(release)
    (piece,) = run(bench, lambda k: k.execmem_alloc(3, KPROBES))
    run(bench, lambda k: k.execmem_free(piece))
    facts = bench.told("map", "store")
    assert [fact[-1] if fact[0] == "map" else fact[3] for fact in facts] == ["ro-nx", "rw-nx", "trap", "ro-x"]
    (again,) = run(bench, lambda k: k.execmem_alloc(3, KPROBES))
    assert again == piece


@pytest.mark.parametrize("release", CACHED)
def test_data_is_not_cached_but_purges_twice(release: str) -> None:
    bench, _ = booted(release)
    (piece,) = run(bench, lambda k: k.execmem_alloc_rw(3, DATA))
    assert not piece.cached and piece.area.reset_perms
    assert path(bench) == ["set_memory_nx", "set_memory_rw"]
    assert bench.counts["vm_unmap_aliases"] == 2
    run(bench, lambda k: k.execmem_free(piece))
    assert path(bench) == ["purge_flush"]
    assert bench.counts["set_direct_map"] == 2, "not present, and back"


def test_execmem_of_6_12_neither_caches_nor_forces() -> None:
    bench = Bench(release="6.12")
    (piece,) = run(bench, lambda k: k.execmem_alloc_rw(3, TEXT))
    assert not path(bench) and not piece.cached
    assert bench.told("map")[-1][-1] == "rw-nx"


# --- the mutex --------------------------------------------------------------------------------------------------------


def test_a_free_holds_the_mutex_so_that_a_hit_waits_for_all_its_flushes() -> None:
    bench, _ = booted()
    (piece,) = run(bench, lambda k: k.execmem_alloc(3, TEXT))
    done: dict[str, int] = {}

    def free(k: Kernel) -> Proc[None]:
        yield from k.execmem_free(piece)
        yield from k.settle()
        done["free"] = k.now

    def hit(k: Kernel) -> Proc[None]:
        got = yield from k.execmem_alloc(1, TEXT)
        yield from k.settle()
        done["hit"] = k.now
        assert (got.area, got.first) == (piece.area, piece.first), "what was freed is the first that fits"

    now = bench.machine.engine.now
    bench.task(free, cpu=0, start=now)
    bench.task(hit, cpu=1, start=now + 100)
    bench.run()
    last_flush = max(t for event, t, *_ in bench.facts if event == "flush")
    assert len(flushes(bench)) == 5
    assert now < last_flush < done["hit"]


def test_alloc_rw_and_restore_do_not_hold_it() -> None:
    bench, _ = booted()
    before = bench.shared.locks["execmem_cache.mutex"].acquisitions
    (piece,) = run(bench, lambda k: k.execmem_alloc_rw(3, TEXT))
    run(bench, lambda k: k.execmem_restore_rox(piece))
    assert bench.shared.locks["execmem_cache.mutex"].acquisitions == before + 1, "the search"


# --- areas that nobody uses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", CACHED)
def test_an_area_that_is_free_from_end_to_end_goes_back_by_work_without_a_flush(release: str) -> None:
    bench = Bench(release=release)
    a, b = run(bench, lambda k: k.execmem_alloc(3, KPROBES), lambda k: k.execmem_alloc(4, KPROBES))
    run(bench, lambda k: k.execmem_free(a), lambda k: k.sleep_until(k.now + 1_000_000))
    assert bench.shared.execmem_cache.bytes == PMD_PAGES * PAGE, "somebody has a piece of it"
    assert not bench.counts["execmem_cache_clean"]
    pfn = a.area.runs[0].pfn
    assert bench.shared.direct_map.perm(pfn) == "ro"
    run(bench, lambda k: k.execmem_free(b))
    bench.forget()
    run(bench, lambda k: k.sleep_until(k.now + 1_000_000))
    assert bench.shared.execmem_cache.bytes == 0
    assert bench.shared.direct_map.perm(pfn) == bench.shared.direct_map.perm(pfn + 511) == "rw"
    assert bench.shared.vmap.lazy_areas == 1, "a plain vfree"
    assert not flushes(bench)


def test_the_work_is_queued_once_however_many_pieces_are_freed() -> None:
    bench = Bench()
    pieces = run(bench, *(lambda k: k.execmem_alloc(2, KPROBES) for _ in range(6)))

    def body(k: Kernel) -> Proc[None]:
        for piece in pieces:
            yield from k.execmem_free(piece)

    run(bench, body)
    assert bench.counts["execmem_cache_clean_work"] == bench.counts["execmem_cache_clean"] == 1
    assert bench.shared.execmem_cache.bytes == 0


def test_whole_leaves_whose_direct_map_stayed_whole_come_back_in_one_step() -> None:
    bench = Bench()
    (piece,) = run(bench, lambda k: k.execmem_alloc(PMD_PAGES, KPROBES))
    before = bench.shared.direct_map.splits
    run(bench, lambda k: k.execmem_free(piece), lambda k: k.sleep_until(k.now + 1_000_000))
    after = bench.shared.direct_map.splits
    assert (after.pud, after.pmd) == (before.pud, before.pmd), "never touched in part"
    assert after.entries - before.entries == 3, "writable, read-only, and back"


@pytest.mark.parametrize("seed", range(8))
def test_frames_and_addresses_add_up_whatever_happens(seed: int) -> None:
    rng = random.Random(f"cache {seed}")
    bench = Bench(release=rng.choice(CACHED), kernel={"module_window": 64 << 20})
    live: list[Piece] = []

    def body(k: Kernel) -> Proc[None]:
        for _ in range(60):
            if live and rng.random() < 0.5:
                yield from k.execmem_free(live.pop(rng.randrange(len(live))))
                continue
            pages, kind = rng.choice([1, 2, 7, 300, 512, 700]), rng.choice([TEXT, KPROBES, DATA])
            piece = yield from (k.execmem_alloc if kind is KPROBES else k.execmem_alloc_rw)(pages, kind)
            if kind is TEXT and rng.random() < 0.8:
                yield from k.execmem_restore_rox(piece)
            live.append(piece)
            places = sorted((one.va, one.va + one.size) for one in live)
            assert all(end <= start for (_, end), (start, _) in pairwise(places))
            assert bench.shared.text_map.wx_pages == 0

    run(bench, body)
    assert not [fact for fact in bench.told("map") if fact[-1] == "rw-x"]
    run(bench, *(partial(Kernel.execmem_free, piece=piece) for piece in live))
    run(bench, lambda k: k.sleep_until(k.now + 10_000_000))
    cache = bench.shared.execmem_cache
    assert cache.bytes == cache.free.free * PAGE == bench.shared.frames.in_use * PAGE
