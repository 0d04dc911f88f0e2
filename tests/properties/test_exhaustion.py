"""What runs short ends a run with a name: a window without a hole, memory without a page; nothing is a traceback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any
from unittest.mock import patch

import pytest

from execbench.backends.alloc_write_map import AllocWriteMap
from execbench.backends.module_alloc import ModuleAlloc
from execbench.conformance import Bench, Place
from execbench.contract import Proc, Request, TextKind
from execbench.errors import AddressSpaceExhausted, SimulatedFailure
from execbench.kernel.facade import Kernel
from execbench.registry.plugins import class_for
from tests.properties.runs import cells, digest, run

MACHINES = {"x86_64": "server-64", "arm64": "arm64-server-128", "riscv64": "riscv64-board-8"}
each_arch = pytest.mark.parametrize("arch", MACHINES)
EACH = ("module_alloc", "execmem", "alloc-write-map", "jitalloc-slab", "jit_text_alloc", "temporary-mm")
CROWD = "client.bpf.loaded=6000"
"""Programs that are there at boot; each has a page of its own, or they share packs."""


def windows_of(arch: str, pages: int) -> AbstractContextManager[Any]:
    """Let every window of an architecture end after so many pages."""
    cls = import_module(f"execbench.kernel.{arch}.arch").Arch
    real: Callable[..., dict[str, tuple[int, int]]] = cls.windows

    def small(self: Any, stream: Any) -> dict[str, tuple[int, int]]:
        return {name: (va, min(size, pages)) for name, (va, size) in real(self, stream).items()}

    return patch.object(cls, "windows", small)


@each_arch
def test_a_tiny_window_is_exhausted_on_every_backend(arch: str) -> None:
    """x86_64 has a release field for it; elsewhere the windows are the architecture's."""
    setting, around = ("kernel.module_window=16MiB", nullcontext()) if arch == "x86_64" else ("run.seed=1", None)
    with around or windows_of(arch, 3000):
        for cell in cells(MACHINES[arch], CROWD, setting):
            if not cell.refused:
                record = run(cell)
                assert record.outcome == "window-exhausted", cell.arm
                assert "no hole of" in record.detail, cell.arm
                assert digest(run(cell)) == digest(record)


@each_arch
def test_a_tiny_memory_is_exhausted_on_every_backend(arch: str) -> None:
    for cell in cells(MACHINES[arch], CROWD, "machine.topology.memory=4MiB"):
        if not cell.refused:
            record = run(cell)
            assert record.outcome == "out-of-memory", cell.arm
            assert "pages asked" in record.detail, cell.arm
            assert digest(run(cell)) == digest(record)


@each_arch
@pytest.mark.parametrize("name", ["module_alloc", "alloc-write-map"])
def test_a_window_may_run_short_in_the_middle_of_a_run(arch: str, name: str) -> None:
    """From a window in which the steady set finds no room to one in which everything does; the free are reused."""
    (cell,) = cells(MACHINES[arch], "client.bpf.loaded=20", arms=[name])
    outcomes = []
    for pages in range(10, 250, 10):
        with windows_of(arch, pages):
            record = run(cell)
        outcomes.append((record.outcome, record.operations > 0))
    assert {outcome for outcome, _ in outcomes} == {"window-exhausted", "ok"}
    assert outcomes[0] == ("window-exhausted", False)
    assert ("window-exhausted", True) in outcomes
    assert outcomes[-1] == ("ok", True)


def asks_until_it_fails(arch: str, name: str, kind: TextKind, size: int, **bench: Any) -> SimulatedFailure:
    """Take regions of `size` bytes until there is nothing left to take; return what the last one met."""
    backend = class_for("backends", name, "test")()
    toy = Bench(backend, Place(arch, "6.18", kind), **bench)
    met: list[SimulatedFailure] = []

    def body(k: Kernel) -> Proc[None]:
        live = []
        try:
            while True:
                live += yield from toy.alloc(k, [Request(size, kind)])
        except SimulatedFailure as failure:
            met.append(failure)
        toy.account(live)  # what failed took nothing
        yield from toy.free(k, live)

    toy.task(0, body)
    assert toy.run() == []
    toy.account([])
    assert toy.findings == []
    return met[0]


@each_arch
@pytest.mark.parametrize("name", EACH)
def test_the_windows_of_a_kind_are_used_up_and_what_was_taken_can_be_freed(arch: str, name: str) -> None:
    with windows_of(arch, 2000):
        failure = asks_until_it_fails(arch, name, TextKind.MODULE_TEXT, 100_000)
        tried = Bench(ModuleAlloc(), Place(arch, "6.18", TextKind.MODULE_TEXT)).shared.arch.windows_for(
            TextKind.MODULE_TEXT
        )
    assert isinstance(failure, AddressSpaceExhausted)
    assert failure.outcome == "window-exhausted"
    assert tuple(failure.payload["windows"]) == tried
    assert all(hole <= failure.payload["pages"] for hole in failure.payload["windows"].values())


@each_arch
@pytest.mark.parametrize("name", EACH)
def test_memory_is_used_up_and_what_was_taken_can_be_freed(arch: str, name: str) -> None:
    failure = asks_until_it_fails(arch, name, TextKind.MODULE_TEXT, 100_000, memory=24 << 20)
    assert failure.outcome == "out-of-memory"
    assert failure.payload["pages"] >= 25


@each_arch
def test_what_was_freed_lazily_is_purged_before_a_window_counts_as_full(arch: str) -> None:
    with windows_of(arch, 100):
        toy = Bench(AllocWriteMap(), Place(arch, "6.18", TextKind.BPF), watched=True)

    def body(k: Kernel) -> Proc[None]:
        for _ in range(5):
            regions = yield from toy.install(k, [Request(60 * 4096, TextKind.BPF)])
            yield from toy.free(k, regions)

    toy.task(0, body)
    assert toy.run() == []
    assert toy.shared.cycles["lazy_purge"] == 4
