"""Pages for kprobes: executable when they are allocated, poked slot by slot, as each release and architecture does."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.contract import Image, Proc, Region, Request, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.insn_page import alloc_insn_page, write_insn_slot
from tests.kernel.bench import Bench
from tests.kernel.test_execmem import run

SLOT = 8
ROX = ["set_memory_ro", "set_memory_x"]
BY_ALLOC: dict[tuple[str, str], tuple[str, list[str]]] = {
    ("x86_64", "6.1"): ("module_alloc", ROX),
    ("x86_64", "6.12"): ("execmem_alloc", ["set_memory_rox"]),
    ("arm64", "6.1"): ("", []),
    ("arm64", "6.12"): ("execmem_alloc", ["set_memory_rox", *ROX]),
    ("arm64", "7.3"): ("execmem_alloc", ["set_memory_rox", *ROX]),
    ("riscv64", "6.1"): ("", []),
    ("riscv64", "6.12"): ("execmem_alloc", []),
    ("riscv64", "7.3"): ("execmem_alloc", []),
}
"""Who gives the page, and the permission changes behind it (alloc_insn_page)."""
BY_WRITE = {
    ("x86_64", "6.1"): {"text_poke": 1},
    ("x86_64", "7.3"): {"text_poke": 1},
    ("arm64", "6.1"): {"aarch64_insn_patch_text_nosync": 2, "caches_clean_inval_pou": 2},
    ("arm64", "7.3"): {"aarch64_insn_patch_text_nosync": 2, "caches_clean_inval_pou": 2},
    ("riscv64", "6.1"): {"patch_text": 2, "stop_machine": 2, "patch_insn_write": 2},
    ("riscv64", "7.3"): {"patch_text_nosync": 2, "patch_insn_write": 2, "flush_icache_all": 2},
}
"""How an instruction and the one behind it come into a slot (arch_copy_kprobe, arch_prepare_ss_slot)."""


@pytest.mark.parametrize(("arch", "release"), BY_ALLOC)
def test_a_page_is_read_only_and_executable_before_anything_is_written(arch: str, release: str) -> None:
    bench = Bench(arch, release)
    (piece,) = run(bench, alloc_insn_page)
    given, changes = BY_ALLOC[arch, release]
    names = [name for name, _ in bench.calls]
    assert [name for name in names if name in ("set_memory_rox", *ROX)] == changes
    assert [name for name in names if name in ("execmem_alloc", "module_alloc")] == [given] * bool(given)
    assert bench.shared.text_map.perm(piece.area, 0) == "ro-x"
    first = next(fact for fact in bench.told("map") if fact[-1] != "none")
    assert first[-1] == ("rw-nx" if arch == "x86_64" else "ro-x"), "from birth where x86 is not"
    assert not bench.told("store")


@pytest.mark.parametrize(("arch", "release"), BY_WRITE)
def test_a_slot_is_poked_while_its_page_stays_executable(arch: str, release: str) -> None:
    bench = Bench(arch, release)
    pages: list[Any] = []

    def page(k: Kernel) -> Proc[None]:
        pages.append((yield from alloc_insn_page(k)))

    run(bench, page, lambda k: write_insn_slot(k, pages[0].va + 64, SLOT))
    assert bench.counts | BY_WRITE[arch, release] == bench.counts
    assert not bench.told("map"), "no permission changes"
    stores = bench.told("store")
    assert sum(fact[2] for fact in stores) == SLOT
    assert stores[0][1] == pages[0].va + 64
    assert {(fact[3], fact[4]) for fact in stores} == {("code", "mm" if arch == "x86_64" else "fixmap")}
    assert bench.shared.locks["text_mutex"].acquisitions == 1


@pytest.mark.parametrize("release", ["6.1", "6.12", "6.18", "7.3"])
@pytest.mark.parametrize("arch", ["x86_64", "arm64", "riscv64"])
@pytest.mark.parametrize("backend", [Execmem(), ModuleAlloc()], ids=["execmem", "module_alloc"])
def test_backends_hand_out_pages_that_execute_and_have_nothing_left_to_finalize(
    backend: Any, arch: str, release: str
) -> None:
    bench = Bench(arch, release)
    s = backend.start(bench.shared)
    found: list[list[str]] = []

    def body(k: Kernel) -> Proc[None]:
        regions: tuple[Region, ...] = yield from backend.alloc(k, s, [Request(SLOT, TextKind.KPROBES)])
        yield from k.settle()
        own = regions[0].own
        area, page = (own, 0) if isinstance(backend, ModuleAlloc) else (own.area, own.first)
        assert bench.shared.text_map.perm(area, page) == "ro-x"
        yield from backend.write(k, s, regions[0], Image(1, SLOT))
        yield from k.settle()
        bench.forget()
        yield from backend.finalize(k, s, regions)
        found.append(bench.steps)
        yield from backend.free(k, s, regions)

    run(bench, body)
    assert found == [[]]
    given_back = ["execmem_free" if bench.shared.release.execmem else "module_memfree"]
    assert [name for name, _ in bench.calls if name in ("execmem_free", "module_memfree")] == (
        given_back if isinstance(backend, Execmem) else []
    )
