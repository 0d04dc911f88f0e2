"""What backends do on x86_64 release by release: execmem, the ROX copy, packs, and predictors that packs flush."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.backends.execmem import Execmem
from execbench.backends.execmem_rox_copy import ExecmemRoxCopy
from execbench.backends.module_alloc import ModuleAlloc
from execbench.contract import Image, Proc, Region, Request
from execbench.kernel.facade import Kernel
from execbench.kernel.text import TextKind
from execbench.sim.memory import PAGE, PMD_PAGES
from tests.kernel.bench import Bench
from tests.kernel.test_execmem import BPF, CACHED, DATA, KPROBES, TEXT, path, run

# --- backends ---------------------------------------------------------------------------------------------------------


def pokes(bench: Bench) -> list[str]:
    """Which function poked: text_poke() itself where no other stands before it."""
    names = [name for name, _ in bench.calls]
    named = [name for name in names if name.startswith("text_poke_")]
    return named or [name for name in names if name == "text_poke"]


def life(bench: Bench, backend: Any, kind: TextKind, size: int = 9_000) -> dict[str, list[str]]:
    """What each verb of one region does, once another region has been through."""
    s = backend.start(bench.shared)
    found: dict[str, list[str]] = {}

    def one(k: Kernel) -> Proc[Region]:
        bench.forget()
        regions = yield from backend.alloc(k, s, [Request(size, kind)])
        yield from k.settle()
        found["alloc"] = path(bench)
        bench.forget()
        yield from backend.write(k, s, regions[0], Image(1, size))
        yield from backend.finalize(k, s, regions)
        yield from k.settle()
        found["finalize"] = path(bench) + pokes(bench)
        return regions[0]  # type: ignore[no-any-return]

    def body(k: Kernel) -> Proc[None]:
        plain = yield from k.vmalloc_node_range(8, DATA)
        yield from k.set_memory_ro(plain)
        yield from one(k)
        region = yield from one(k)
        bench.forget()
        yield from backend.free(k, s, [region])
        yield from k.settle()
        found["free"] = path(bench) + pokes(bench)

    bench.task(body)
    bench.run()
    return found


FLIP = ["set_memory_nx", "split_flush", "cpa_flush", "set_memory_rw", "cpa_flush"]
BACK = ["set_memory_rox", "cpa_flush", "collapse_flush"]
ROX = ["set_memory_rox", "cpa_flush"]
FIRST = ["set_memory_nx", "split_flush", "cpa_flush", "set_memory_rw", "split_flush", "cpa_flush"]
"""The first time that a part of a leaf becomes writable: the direct map's is split too, for ever."""


@pytest.mark.parametrize(
    ("release", "kind", "alloc", "finalize", "free"),
    [
        ("6.1", TEXT, [], ["set_memory_ro", "cpa_flush", "set_memory_x", "cpa_flush"], ["purge_flush"]),
        ("6.12", TEXT, [], ROX, ["purge_flush"]),
        (
            "6.1",
            KPROBES,
            ["set_memory_ro", "cpa_flush", "set_memory_x", "cpa_flush"],
            ["text_poke"] * 2,
            ["purge_flush"],
        ),
        ("6.12", KPROBES, ROX, ["text_poke"] * 2, ["purge_flush"]),
        ("6.18", TEXT, FLIP, BACK, FLIP + BACK),
        ("6.18", TextKind.FTRACE, FLIP, BACK, FLIP + BACK),
        ("6.18", KPROBES, [], ["text_poke"] * 2, FIRST + BACK),
        ("6.18", BPF, [], ROX, ["purge_flush"]),
        ("7.3", BPF, [], ["text_poke_copy"], FIRST + BACK),
        ("7.3", TEXT, FLIP, BACK, FLIP + BACK),
        ("7.3", DATA, ["set_memory_nx", "set_memory_rw"], ["set_memory_nx"], ["purge_flush"]),
        ("6.12", TextKind.RODATA, [], ["set_memory_ro", "cpa_flush", "set_memory_nx"], ["purge_flush"]),
    ],
)
def test_execmem_does_for_each_kind_what_the_release_does(
    release: str, kind: TextKind, alloc: list[str], finalize: list[str], free: list[str]
) -> None:
    assert life(Bench(release=release), Execmem(), kind) == {"alloc": alloc, "finalize": finalize, "free": free}


@pytest.mark.parametrize(
    ("release", "order", "finalize"),
    [
        ("6.1", "strict", ["set_memory_ro", "cpa_flush", "set_memory_x", "cpa_flush"]),
        ("6.1", "merged", ROX),
        ("6.12", "strict", ["set_memory_ro", "cpa_flush", "set_memory_x", "cpa_flush"]),
        ("6.12", "merged", ROX),
        ("7.3", "merged", ROX),
    ],
)
def test_module_alloc_takes_two_steps_or_one_where_there_is_one(
    release: str, order: Literal["strict", "merged"], finalize: list[str]
) -> None:
    expected = {"alloc": [], "finalize": finalize, "free": ["purge_flush"]}
    assert life(Bench(release=release), ModuleAlloc(order=order), TEXT) == expected


def test_rox_copy_changes_no_permission_once_its_pages_are_out_of_the_direct_map() -> None:
    bench = Bench(release="6.12")
    assert life(bench, ExecmemRoxCopy(), TEXT) == {
        "alloc": [], "finalize": ["text_poke_copy"], "free": ["text_poke_set"],
    }  # fmt: skip
    backend = ExecmemRoxCopy()
    fresh = Bench(release="6.12")
    s = backend.start(fresh.shared)
    run(fresh, lambda k: backend.alloc(k, s, [Request(9_000, TEXT)]))
    facts = [fact for fact in fresh.told("map", "store", "flush", "alias") if fact[-1] != "split_flush"]
    assert [fact[-1] if fact[0] != "store" else fact[3] for fact in facts] == [
        "none", "rw-nx", "trap", "none", "vunmap_flush", "np", "ro-x",
    ], "filled while RW, unmapped and flushed, out of the direct map, mapped executable"  # fmt: skip
    assert fresh.shared.direct_map.perm(s.cache.areas[0][1].runs[0].pfn) == "np"


def test_rox_copy_fills_freed_text_without_the_mutex() -> None:
    bench = Bench(release="6.12")
    backend = ExecmemRoxCopy()
    s = backend.start(bench.shared)
    (regions,) = run(bench, lambda k: backend.alloc(k, s, [Request(9_000, TEXT)]))
    held: list[tuple[int, int]] = []

    class Holds:
        def hold(self, begin: int, end: int, task: Any, lock: str, site: str) -> None:
            if lock == "execmem_cache.mutex":
                held.append((begin, end))

    bench.machine.probe.attach(Holds())
    run(bench, lambda k: backend.free(k, s, regions))
    stores = [t for event, t, *fields in bench.facts if event == "store"]
    assert stores and not any(begin < at < end for at in stores for begin, end in held)


@pytest.mark.parametrize(("release", "cached"), [("6.1", False), ("6.12", False), ("6.18", False), ("7.3", True)])
def test_a_new_pack_is_filled_and_made_executable_or_comes_ready_from_the_cache(release: str, cached: bool) -> None:
    bench = Bench(release=release, nodes=2)
    backend = BpfProgPack()
    s = backend.start(bench.shared)
    (_, second) = run(
        bench,
        lambda k: k.execmem_alloc(PMD_PAGES - 1, KPROBES),
        lambda k: backend.alloc(k, s, [Request(300, BPF)]),
    )
    assert s.packs[0].memory.cached == cached
    assert bench.counts["execmem_fill_trapping_insns"] == cached
    assert sum(fact[3] == "trap" for fact in bench.told("store")) == 1
    leaves = bench.shared.text_map.text_leaves()
    assert leaves[0] + PMD_PAGES * leaves[1] >= 2 * PMD_PAGES
    assert (leaves[1] >= 2) == cached
    run(bench, lambda k: backend.free(k, s, second), lambda k: k.sleep_until(k.now + 1_000_000))
    assert not s.packs
    assert bench.shared.execmem_cache.bytes == (PMD_PAGES * PAGE if release in CACHED else 0)


# --- cBPF and branch predictors ---------------------------------------------------------------------------------------


class Packs:
    """bpf_prog_pack_alloc and _free read literally: packs of so many chunks, a list of bits each."""

    def __init__(self, chunks: int, flushing: bool) -> None:
        self.chunks = chunks
        self.flushing = flushing
        self.packs: list[tuple[list[bool], list[bool]]] = []  # (bits, [arch_flush_needed])
        self.flushes = 0

    def alloc(self, n: int, was_classic: bool) -> tuple[Any, int]:
        fallback = found = None
        for pack in self.packs:
            bits, dirty = pack
            at = next((i for i in range(self.chunks - n + 1) if not any(bits[i : i + n])), None)
            if at is None:
                continue
            if not self.flushing or was_classic ^ dirty[0]:
                found = (pack, at)
                break
            fallback = fallback or (pack, at)
        found = found or fallback
        if found is None:
            self.packs.append(([False] * self.chunks, [self.flushing]))
            found = self.packs[-1], 0
        pack, at = found
        if self.flushing and pack[1][0] and was_classic:
            self.flushes += 1
            for _, dirty in self.packs:
                dirty[0] = False
        pack[0][at : at + n] = [True] * n
        return pack, at

    def free(self, pack: Any, at: int, n: int) -> None:
        pack[0][at : at + n] = [False] * n
        if self.flushing:
            pack[1][0] = True
        if not any(pack[0]):
            self.packs = [other for other in self.packs if other is not pack]


@pytest.mark.parametrize("flushing", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_packs_are_chosen_and_predictors_flushed_as_the_kernel_reads(seed: int, flushing: bool) -> None:
    rng = random.Random(f"packs {seed}")
    bench = Bench(features={"ibpb_on_cbpf": flushing}, kernel={"pack_bytes": 8 * PAGE})
    backend, oracle = BpfProgPack(), Packs(8 * 64, flushing)
    s = backend.start(bench.shared)
    live: list[tuple[Region, Any, int, int]] = []

    def body(k: Kernel) -> Proc[None]:
        for _ in range(80):
            if live and rng.random() < 0.45:
                region, pack, at, n = live.pop(rng.randrange(len(live)))
                yield from backend.free(k, s, [region])
                oracle.free(pack, at, n)
                continue
            size, classic = rng.choice([30, 900, 9_000, 20_000]), rng.random() < 0.4
            (region,) = yield from backend.alloc(k, s, [Request(size, BPF, classic=classic)])
            n = -(-(size + 24) // 64)
            pack, at = oracle.alloc(n, classic)
            assert region.va - region.own.memory.va == at * 64
            assert s.packs.index(region.own) == [id(one) for one in oracle.packs].index(id(pack))
            assert [one.arch_flush_needed for one in s.packs] == [dirty[0] for _, dirty in oracle.packs]
            live.append((region, pack, at, n))

    run(bench, body)
    assert bench.counts["bpf_arch_ibpb"] == oracle.flushes
    assert len([why for why, _ in bench.rounds if why == "bpf_arch_ibpb"]) == oracle.flushes
    assert bool(oracle.flushes) == flushing


def test_predictors_are_flushed_with_pack_mutex_held() -> None:
    bench = Bench(features={"ibpb_on_cbpf": True})
    backend = BpfProgPack()
    s = backend.start(bench.shared)
    run(bench, lambda k: backend.alloc(k, s, [Request(300, BPF)]))
    held: list[bool] = []

    class Ears:
        def ipi(self, begin: int, end: int, task: Any, why: str, targets: int) -> None:
            if why == "bpf_arch_ibpb":
                held.append(bench.shared.locks["pack_mutex"].hold is not None)

    bench.machine.probe.attach(Ears())
    run(bench, lambda k: backend.alloc(k, s, [Request(300, BPF, classic=True)]))
    assert held == [True]
    assert bench.cost("ibpb") == 1, "the sender's own"
