"""struct_ops: what a map of so many members takes, read off kernel/bpf/bpf_struct_ops.c of each release by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from execbench.contract import Image, Proc, Region, Request, Setting
from execbench.kernel.bpf_struct_ops import (
    MAP_LOCK,
    MEMBER,
    StructOps,
    map_alloc,
    map_free,
    most_members,
    unreg,
    update_elem,
)  # fmt: skip
from execbench.kernel.facade import Kernel
from tests.kernel.test_bpf_trampoline import Attach

SIZES = {
    "one": [MEMBER],
    "a full page": [MEMBER] * 23,
    "one more": [MEMBER] * 24,
    "to the byte": [1000, 3000, 96],
    "one byte too many": [1000, 3000, 97],
    "the rest is left": [2049, 2049, 100],
}
PAGES = {"one": 1, "a full page": 1, "one more": 2, "to the byte": 1, "one byte too many": 2, "the rest is left": 2}
"""`size > PAGE_SIZE - image_off` begins the next page; only the last page is filled further."""
each_map = pytest.mark.parametrize("sizes", SIZES)
COPY = {"x86_64": "text_poke_copy", "arm64": "aarch64_insn_copy", "riscv64": "patch_text_nosync"}
"""bpf_arch_text_copy on each architecture."""
LATER = [(arch, release) for arch in ("x86_64", "arm64", "riscv64") for release in ("6.12", "6.18", "7.3")]
each_later = pytest.mark.parametrize(("arch", "release"), LATER)


class Verb(NamedTuple):
    """A call of the API: its region, and bytes."""

    name: str
    region: int
    size: int


class Memory:
    """Passes the verbs on to a setting and notes them."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.done: list[Verb] = []

    def alloc(self, k: Kernel, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        regions = yield from self._setting.alloc(k, reqs)
        self.done += [Verb("alloc", region.id, region.size) for region in regions]
        return regions

    def write(self, k: Kernel, region: Region, image: Image) -> Proc[None]:
        self.done.append(Verb("write", region.id, image.size))
        return self._setting.write(k, region, image)

    def finalize(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        self.done += [Verb("finalize", region.id, region.size) for region in regions]
        return self._setting.finalize(k, regions)

    def free(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        self.done += [Verb("free", region.id, region.size) for region in regions]
        return self._setting.free(k, regions)

    def of(self, name: str) -> list[Verb]:
        return [verb for verb in self.done if verb.name == name]


class Maps(Attach):
    """One map: made and filled, then taken away; `held` says whether it was locked when it was registered."""

    def __init__(self, arch: str, release: str) -> None:
        super().__init__(arch, release)
        self.shared.declare(MAP_LOCK)
        self.memory = Memory(self.setting)
        self.trampolines.memory = self.memory
        self.emitted: list[int] = []
        self.trampolines.generate = lambda k, size: self.emitted.append(size)
        self.ops: StructOps
        self.held: list[bool] = []
        self.asked = 0

    def lives(self, sizes: Sequence[int]) -> list[dict[str, int]]:
        """What its life counts: making it, filling it, its end."""
        return self.does(self.make, self.fill(sizes), self.end)

    def make(self, k: Kernel) -> Proc[None]:
        self.ops = yield from map_alloc(k)

    def fill(self, sizes: Sequence[int]) -> Callable[[Kernel], Proc[None]]:
        def body(k: Kernel) -> Proc[None]:
            yield from update_elem(k, self.trampolines, self.ops, sizes, self._reg)
            self.asked = self.setting.backend.usage(self.setting.state).asked

        return body

    def _reg(self, k: Kernel) -> None:
        hold = self.shared.locks[MAP_LOCK.name].hold
        self.held.append(hold is not None and hold.released_at() < 0)  # a release may stand in the plan already

    def end(self, k: Kernel) -> Proc[None]:
        unreg(k, self.ops)
        yield from map_free(k, self.trampolines, self.ops)


@each_map
@each_later
def test_trampolines_fill_pages_of_the_allocator_each_finished_once(arch: str, release: str, sizes: str) -> None:
    """arch_alloc_bpf_trampoline for each page, arch_prepare_ for each member, then arch_protect_ for each page."""
    bench, page = Maps(arch, release), 4096
    made, filled, ended = bench.lives(SIZES[sizes])
    memory, members, pages = bench.memory, len(SIZES[sizes]), PAGES[sizes]
    assert [verb.size for verb in memory.of("alloc")] == [verb.size for verb in memory.of("finalize")] == [page] * pages
    assert [verb.size for verb in memory.of("write")] == SIZES[sizes]
    names = [verb.name for verb in memory.done]
    assert names[-2 * pages :] == ["finalize"] * pages + ["free"] * pages, "protected when all are written"
    assert bench.emitted == [size for size in SIZES[sizes] for _ in ("measured", "written")]
    assert bench.asked == page * pages and bench.setting.backend.usage(bench.setting.state).asked == 0
    assert set(made) == {"bpf_struct_ops_map_alloc"}
    assert filled["bpf_prog_pack_alloc"] == ended["bpf_prog_pack_free"] == pages
    assert filled["arch_bpf_trampoline_size"] == filled["bpf_ksym_add"] == ended["bpf_ksym_del"] == members
    assert filled[COPY[arch]] == members
    if arch == "arm64":  # aarch64_insn_copy flushes itself, arch_prepare_bpf_trampoline once more (6.12)
        assert filled["kick_all_cpus_sync"] == members * (1 if release == "7.3" else 2)


@each_map
def test_no_trampoline_leaves_its_page_and_each_page_is_filled_before_the_next(sizes: str) -> None:
    bench = Maps("x86_64", "6.12")
    bench.lives(SIZES[sizes])
    used: dict[int, int] = {}
    for verb in bench.memory.of("write"):
        assert verb.region == max([verb.region, *used])
        used[verb.region] = used.get(verb.region, 0) + verb.size
    assert max(used.values()) <= 4096 and len(used) == PAGES[sizes]


@pytest.mark.parametrize(("arch", "passes"), [("x86_64", 1), ("arm64", 2)])
@pytest.mark.parametrize("members", [1, 5, 22])
def test_6_1_has_one_page_that_comes_with_the_map_and_is_protected_once(arch: str, passes: int, members: int) -> None:
    """bpf_struct_ops_map_alloc: bpf_jit_alloc_exec(PAGE_SIZE); update_elem: set_memory_ro, set_memory_x; no symbols."""
    bench = Maps(arch, "6.1")
    sizes = [MEMBER] * members
    made, filled, ended = bench.lives(sizes)
    assert bench.memory.done == [] and bench.asked == 0
    assert made["vmalloc"] == 1 and "vmalloc" not in filled
    assert (filled["set_memory_ro"], filled["set_memory_x"]) == (1, 1)
    assert bench.emitted == [size for size in sizes for _ in range(passes)]
    assert filled.get("flush_icache_range", 0) == (members if arch == "arm64" else 0)
    assert ended["vfree"] == 1
    for counts in (made, filled, ended):
        assert not {"bpf_ksym_add", "bpf_ksym_del", "text_poke_copy", "bpf_prog_pack_alloc"} & set(counts)


def test_on_6_1_trampolines_lie_one_behind_the_other() -> None:
    bench = Maps("x86_64", "6.1")

    def body(k: Kernel) -> Proc[None]:
        yield from bench.make(k)
        yield from bench.fill([1000, 2000, 96])(k)

    bench.task(body)
    bench.run()
    (first, _), *others = [(va, size) for _, va, size, *_ in bench.told("store")]
    assert others == [(first + 1000, 2000), (first + 3000, 96)]


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
def test_a_map_is_registered_under_its_lock_and_freed_behind_both_flavours(release: str) -> None:
    bench = Maps("x86_64", release)
    *_, ended = bench.lives([MEMBER] * 5)
    assert bench.held == [True]
    assert (ended["call_rcu"], ended["call_rcu_tasks"], ended["synchronize_rcu_mult"]) == (1, 1, 1)


def test_symbols_are_added_behind_the_lock_and_go_before_the_grace_periods() -> None:
    """bpf_struct_ops_map_add_ksyms behind mutex_unlock, bpf_struct_ops_map_del_ksyms before synchronize_rcu_mult."""
    bench = Maps("x86_64", "6.12")
    steps: list[list[str]] = []

    def body(k: Kernel) -> Proc[None]:
        yield from bench.make(k)
        bench.forget()
        yield from bench.fill([MEMBER] * 2)(k)
        steps.append(bench.steps)
        bench.forget()
        yield from bench.end(k)
        steps.append(bench.steps)

    bench.task(body)
    bench.run()
    filled, ended = steps
    assert filled[-2:] == ["bpf_ksym_add"] * 2
    assert ended[:4] == ["bpf_struct_ops_map_delete_elem", "bpf_ksym_del", "bpf_ksym_del", "synchronize_rcu_mult"]


@pytest.mark.parametrize(
    ("arch", "release", "most"),
    [("x86_64", "6.1", 22), ("arm64", "6.1", 23), ("x86_64", "6.12", 184), ("riscv64", "7.3", 184)],
)
def test_a_map_holds_as_many_trampolines_as_its_pages(arch: str, release: str, most: int) -> None:
    """6.1: 4096 bytes, x86_64 keeps 64 free behind the last (BPF_INSN_SAFETY); later 8 pages of 4096 // 176."""
    assert most_members(Maps(arch, release).shared) == most
