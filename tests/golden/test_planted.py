"""An error in one primitive of an architecture changes the step tables in the line where it acts, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.conformance import Place
from execbench.contract import Proc, TextKind
from execbench.kernel.arm64 import arch as arm64
from execbench.kernel.arm64 import icache
from execbench.kernel.arm64 import set_memory as arm64_set_memory
from execbench.kernel.riscv64 import arch as riscv64
from execbench.kernel.riscv64 import patch
from execbench.kernel.riscv64 import set_memory as riscv64_set_memory
from execbench.kernel.x86_64 import arch as x86_64
from execbench.kernel.x86_64 import poke, tlb
from execbench.record.steps.table import path_of
from tests.golden.backend_paths import life
from tests.golden.kernel_paths import kernel_runs
from tests.golden.paths import VARIANTS, Path, all_paths, digest, documents
from tests.golden.test_appendix_a import lines

Plant = Callable[[pytest.MonkeyPatch], None]


class Planted(NamedTuple):
    """An error, the place and verb where it shows, and the lines that go and come."""

    name: str
    plant: Plant
    where: tuple[Any, Place, str]
    gone: list[str]
    come: list[str]


def _nothing(*_: Any, **__: Any) -> Proc[None]:
    return
    yield


def _lost(module: Any, function: str) -> Plant:
    """A function does nothing any more."""
    return lambda patched: patched.setattr(module, function, _nothing)


def _lost_flush_of(caller: str) -> Plant:
    """flush_tlb_all does nothing for one caller."""

    def plant(patched: pytest.MonkeyPatch) -> None:
        real = tlb.flush_tlb_all
        patched.setattr(
            tlb, "flush_tlb_all", lambda k, why, *also: _nothing() if why == caller else real(k, why, *also)
        )

    return plant


def _swapped(module: Any) -> Plant:
    """set_memory_ro does what set_memory_x does, and the other way round."""

    def plant(patched: pytest.MonkeyPatch) -> None:
        ro, x = module.Arch.set_memory_ro, module.Arch.set_memory_x
        patched.setattr(module.Arch, "set_memory_ro", x)
        patched.setattr(module.Arch, "set_memory_x", ro)

    return plant


X86_61 = (ModuleAlloc(), Place("x86_64", "6.1", TextKind.MODULE_TEXT), "finalize")
ARM = (Execmem(), Place("arm64", "7.3", TextKind.MODULE_TEXT), "finalize")
RISCV = (Execmem(), Place("riscv64", "7.3", TextKind.MODULE_TEXT), "finalize")

PLANTED = (
    Planted(
        "x86_64: no flush behind a change of permissions", _lost_flush_of("cpa_flush"),
        (Execmem(), Place("x86_64", "6.12", TextKind.MODULE_TEXT), "finalize"),
        ["flush_ipi_all: flush_tlb_all [cpa_flush]"], [],
    ),
    Planted(
        "x86_64: no flush behind a split", _lost_flush_of("split_flush"),
        (Execmem(), Place("x86_64", "7.3", TextKind.MODULE_TEXT), "alloc"),
        ["    flush_ipi_all: flush_tlb_all [under cpa_lock]"] * 3, [],
    ),
    Planted(
        "x86_64: x before ro", _swapped(x86_64), X86_61,
        ["pages(2): RW NX -> RO NX", "pages(2): RO NX -> RO X"], ["pages(2): RW NX -> RW X", "pages(2): RW X -> RO X"],
    ),
    Planted(
        "x86_64: no sync_core behind the int3", _lost(poke, "sync_core_each_cpu"),
        (None, Place("x86_64", "7.3", TextKind.BPF), "patch_text(1)"),
        ["  sync_core_ipi: sync_core on each CPU"] * 3, [],
    ),
    Planted(
        "arm64: no kick", _lost(icache, "kick_all_cpus_sync"),
        (BpfProgPack(), Place("arm64", "7.3", TextKind.BPF), "finalize"),
        ["kick_ipi: kick_all_cpus_sync"], [],
    ),
    Planted(
        "arm64: no flush of the linear alias", _lost(arm64_set_memory, "flush_page_by_page"), ARM,
        ["tlbi_bcast(1): flush_tlb_kernel_range(1) [linear alias] x2"], [],
    ),
    Planted(
        "arm64: x before ro", _swapped(arm64), ARM,
        ["pages(2): RW NX -> RO NX", "pages(2): RO NX -> RO X"], ["pages(2): RW NX -> RW X", "pages(2): RW X -> RO X"],
    ),
    Planted(
        "riscv64: no fence.i", _lost(patch, "flush_icache_all"),
        (BpfProgPack(), Place("riscv64", "7.3", TextKind.BPF), "finalize"),
        ["  fencei_all, IPI: flush_icache_all"], [],
    ),
    Planted(
        "riscv64: no flush behind a change of permissions", _lost(riscv64_set_memory, "flush_tlb_all"), RISCV,
        ["flush_ipi_all: flush_tlb_all [set_memory]"] * 2, [],
    ),
    Planted(
        "riscv64: x before ro", lambda patched: _crossed(patched), RISCV,
        ["  direct map(2): RW -> RO", "  pages(2): RW NX -> RO NX",
         "  direct map(2): RO -> RO X", "  pages(2): RO NX -> RO X"],
        ["  direct map(2): RW -> RW X", "  pages(2): RW NX -> RW X",
         "  direct map(2): RW X -> RO X", "  pages(2): RW X -> RO X"],
    ),
)  # fmt: skip


def _crossed(patched: pytest.MonkeyPatch) -> None:
    """riscv64's set_memory_rox asks for x under the name of ro, and the other way round."""
    real = riscv64_set_memory.set_memory

    def crossed(k: Any, name: str, *args: Any, **bits: Any) -> Proc[None]:
        swapped = {"write": {"execute": True}, "execute": {"write": False}}
        return real(k, name, *args, **(swapped[next(iter(bits))] if k.task.name == "check/0" else bits))

    patched.setattr(riscv64.set_memory, "set_memory", crossed)


def _path(where: tuple[Any, Place, str]) -> Path:
    """What the verb does the first time on the first machine of the architecture."""
    backend, place, verb = where
    features = next(iter(VARIANTS[place.arch].values()))
    if backend is None:
        runs = kernel_runs(place.arch, features)
        return path_of(next(run.steps for run in runs if (run.verb, run.release) == (verb, place.release)))
    return path_of(next(one.steps for one in life(backend, place, features) if one.verb == verb))


def _printed(path: Path) -> list[str]:
    return [line.verb for line in lines(path)]


def test_a_path_that_is_not_committed_is_a_file_of_another_name() -> None:
    """So that the comparison of names finds it before that of texts."""
    names = {name.rpartition("-")[2] for name in documents()}
    for planted in PLANTED:
        with pytest.MonkeyPatch.context() as patched:
            planted.plant(patched)
            assert f"{digest(_path(planted.where))}.txt" not in names, planted.name


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_an_error_shows_in_its_line(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    right = _path(planted.where)
    assert right in all_paths()
    planted.plant(monkeypatch)
    wrong = _path(planted.where)
    assert wrong not in all_paths()
    before, after = Counter(_printed(right)), Counter(_printed(wrong))
    assert before - after == Counter(planted.gone)
    assert after - before == Counter(planted.come)


def test_all_architectures_have_errors_of_their_own() -> None:
    assert {planted.where[1].arch for planted in PLANTED} == set(VARIANTS)
