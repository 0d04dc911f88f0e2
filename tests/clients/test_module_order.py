"""Modules beside ftrace: who patches call sites, when caches are flushed, what goes first, who draws what."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.clients.module import _Churn
from execbench.clients.module_data import Module
from execbench.clients.module_loader import Loaded
from execbench.contract import Proc, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.ftrace import FtraceOps
from execbench.sim.slices import FOREVER
from tests.clients.test_module import Loading, module, world

SITES = {
    ("arm64", "6.1"): {"aarch64_insn_patch_text_nosync": 30},
    ("arm64", "6.12"): {"aarch64_insn_patch_text_nosync": 30, "aarch64_insn_write_literal_u64": 30},
    ("riscv64", "6.1"): {"patch_text_nosync": 30, "patch_insn_write": 30},
    ("riscv64", "6.12"): {"patch_insn_write": 30},
    ("riscv64", "7.3"): {"patch_text_nosync": 30, "patch_insn_write": 60},
    ("x86_64", "6.12"): {},
}  # fmt: skip
"""What ftrace_init_nop calls for 30 sites."""
SITE_CALLS = {name for counts in SITES.values() for name in counts}


@pytest.mark.parametrize(("arch", "release"), SITES)
def test_call_sites_of_ftrace_become_nops_as_the_architecture_writes_text(arch: str, release: str) -> None:
    loading = Loading(ModuleAlloc(), release=release, arch=arch)
    loading.load(module(static_call_sites="0", jump_table="0"))
    counted = loading.run().counted()
    assert {name: counted[name] for name in SITE_CALLS if counted[name]} == SITES[arch, release]


@pytest.mark.parametrize(("sites", "batches"), [(100, 0), (60_000, 1)])
def test_a_module_is_traced_from_its_load_on_if_all_functions_are(sites: int, batches: int) -> None:
    loading = Loading()
    loading.bench.shared.ftrace.ops.append(FtraceOps("tracer", sites))
    loading.load(module(static_call_sites="0", jump_table="0"))
    counted = loading.run().counted()
    assert counted["smp_text_poke_batch_finish"] == batches
    assert counted["ftrace_module_enable"] == counted["ftrace_free_mem"] == 1


@pytest.mark.parametrize("backend", [ModuleAlloc(), Execmem()])
def test_caches_are_flushed_once_and_without_module_mutex(backend: Any) -> None:
    loading = Loading(backend, release="6.12", arch="arm64")
    of = module()
    loading.load(of)
    counted = [name for name, _ in loading.run().bench.calls]
    assert counted.count("flush_icache_range") == len(of.requests())
    last = len(counted) - 1 - counted[::-1].index("flush_icache_range")
    assert last < counted.index("ftrace_module_init") < counted.index("set_memory_ro")


def test_init_memory_goes_the_last_module_first_and_text_before_data() -> None:
    loading, freed = Loading(), list[tuple[str, TextKind]]()
    original = loading.loader._free

    def free(k: Kernel, loaded: Loaded, init: bool) -> Proc[None]:
        freed.extend((loaded.module.name, region.kind) for region in loaded.init(init)[0])
        return original(k, loaded, init)

    loading.loader._free = free  # type: ignore[method-assign]

    def body(k: Kernel) -> Proc[None]:
        for name in "abc":
            yield from loading.loader.load(k, module(name, init_ro="50"))

    loading.bench.machine.active_cpu(0).slice.ns = FOREVER  # the worker gets its turn when all are loaded
    loading.bench.task(body, 0)
    loading.run()
    kinds = [TextKind.INIT_TEXT, TextKind.MODULE_DATA, TextKind.RODATA]
    assert freed == [(name, kind) for name in "cba" for kind in kinds]


def test_a_threads_loads_are_the_same_under_every_api() -> None:
    drawn = []
    for backend, kernel in (("execmem", "6.12"), ("module_alloc", "6.12")):
        ran = world("module-churn", backend, kernel)
        seen: dict[int, list[str]] = {}
        original = _Churn._draw

        def draw(self: _Churn, thread: int, *args: Any, of: Any = original, into: Any = seen) -> Module:
            found: Module = of(self, thread, *args)
            into.setdefault(thread, []).append(found.name)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Churn, "_draw", draw)
            assert ran.run().outcome == "ok"
        drawn.append(seen)
    assert drawn[0].keys() == drawn[1].keys() == {0, 1}
    for thread, names in drawn[0].items():
        n = min(len(names), len(drawn[1][thread]))
        assert n > 10
        assert names[:n] == drawn[1][thread][:n]
        assert all(one != other for one, other in pairwise(names))
    assert not set(drawn[0][0]) & set(drawn[0][1])
