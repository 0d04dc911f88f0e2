"""What protects a module, in which order: three passes on 6.1, data before text since; one step where there is one."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.contract import Proc, Request, TextKind
from execbench.kernel.facade import Kernel
from tests.kernel.bench import Bench
from tests.kernel.test_execmem import run

KINDS = {
    TextKind.MODULE_DATA: 1, TextKind.INIT_TEXT: 2, TextKind.RO_AFTER_INIT: 3, TextKind.MODULE_TEXT: 4,
    TextKind.RODATA: 5, TextKind.BPF: 6,
}  # fmt: skip
"""A group in no order of its own; pages tell the regions apart."""
PASSES = [
    ("set_memory_ro", 4), ("set_memory_ro", 5), ("set_memory_ro", 2),
    ("set_memory_nx", 5), ("set_memory_nx", 3), ("set_memory_nx", 1),
    ("set_memory_x", 4), ("set_memory_x", 2),
    ("set_memory_ro", 6), ("set_memory_x", 6),
]  # fmt: skip
"""module_enable_ro, module_enable_nx, module_enable_x as 6.1 writes them; then a program by itself."""
DATA_FIRST = [("set_memory_ro", 5), ("set_memory_nx", 1), ("set_memory_nx", 5), ("set_memory_nx", 3)]


def permissions(backend: Any, arch: str, release: str) -> list[tuple[str, int]]:
    """The permission changes of one finalize, with the pages of each."""
    bench = Bench(arch, release)
    s = backend.start(bench.shared)
    requests = [Request(4096 * pages, kind) for kind, pages in KINDS.items()]
    held: list[Any] = []

    def alloc(k: Kernel) -> Proc[None]:
        held.extend((yield from backend.alloc(k, s, requests)))

    run(bench, alloc, lambda k: backend.finalize(k, s, held))
    wanted = ("set_memory_ro", "set_memory_x", "set_memory_nx", "set_memory_rox")
    return [(name, units) for name, units in bench.calls if name in wanted]


@pytest.mark.parametrize("arch", ["x86_64", "arm64", "riscv64"])
@pytest.mark.parametrize("backend", [Execmem(), ModuleAlloc()], ids=["execmem", "module_alloc"])
def test_6_1_protects_a_module_in_three_passes(backend: Any, arch: str) -> None:
    assert permissions(backend, arch, "6.1") == PASSES


def test_later_releases_protect_data_then_text_piece_by_piece() -> None:
    rox = [("set_memory_rox", pages) for pages in (2, 4, 6)]
    assert permissions(Execmem(), "x86_64", "6.12") == DATA_FIRST + rox
    assert permissions(ModuleAlloc(), "x86_64", "6.12") == PASSES, "strict means the order of 6.1 on every release"


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
def test_merged_is_one_step_for_each_text_on_x86_and_refused_elsewhere(release: str) -> None:
    rox = [("set_memory_rox", pages) for pages in (2, 4, 6)]
    assert permissions(ModuleAlloc(order="merged"), "x86_64", release) == DATA_FIRST + rox
    for arch in ("arm64", "riscv64"):
        assert "set_memory_rox is set_memory_ro, then set_memory_x" in ModuleAlloc(order="merged").refusal(arch)
        assert not ModuleAlloc().refusal(arch)
