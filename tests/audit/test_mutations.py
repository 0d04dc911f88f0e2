"""Break one step of a real path and see the hazard named; and why some hazards cannot be opened.

Each mutation leaves one step out (or does it too late) in the model itself, on the arm whose baseline excludes the
hazard; the table at the end has every hazard on every architecture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from execbench.backends.module_alloc import ModuleAlloc
from execbench.contract import Setting
from execbench.kernel.arm64.patching import bpf_arch_text_poke
from execbench.kernel.facade import Kernel
from execbench.kernel.listened import ListenedKernel
from execbench.simulate import World
from tests.audit.runs import ARCHITECTURES, audited, judged

Patch = Callable[[pytest.MonkeyPatch], None]


def without(place: str, *callers: str) -> Patch:
    """Leave out a step, everywhere or for these callers: `place` is the function where its user finds it."""
    module, _, name = place.rpartition(".")

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        where = import_module(f"execbench.kernel.{module}")
        real = getattr(where, name)

        def nothing(k: Kernel, *args: Any, **how: Any) -> Iterator[Any]:
            if callers and not set(callers) & {arg for arg in args if isinstance(arg, str)}:
                return (yield from real(k, *args, **how))
            return False

        monkeypatch.setattr(where, name, nothing)

    return patch


def all_of(*patches: Patch) -> Patch:
    """Several at once."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in patches:
            one(monkeypatch)

    return patch


def no_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """call_rcu calls back at once."""

    def call_rcu(k: Kernel, then: Callable[[], None]) -> Iterator[Any]:
        yield from k.task.settle()
        then()

    monkeypatch.setattr(Kernel, "call_rcu", call_rcu)


def never_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The direct map never becomes read-only."""
    plain = ListenedKernel.tell

    def tell(k: Kernel, event: str, *fields: Any) -> None:
        if event != "alias" or not str(fields[3]).startswith("ro"):
            plain(k, event, *fields)

    monkeypatch.setattr(ListenedKernel, "tell", tell)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenLate(ModuleAlloc):
    """Modules whose text is written when it is executable already, then maintained as ever."""

    def write(self, k: Kernel, s: Any, region: Any, image: Any) -> Iterator[Any]:
        return
        yield

    def finalize(self, k: Kernel, s: Any, regions: Any) -> Iterator[Any]:
        for region in regions:
            yield from k.set_memory_rox(region.own)
            k.store_text(region.va, region.size)
            yield from k.flush_icache_range(region.va, region.size)
            yield from k.sync_each_cpu()


def written_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModuleAlloc, "write", WrittenLate.write)
    monkeypatch.setattr(ModuleAlloc, "finalize", WrittenLate.finalize)


NO_DIC = {"machine__features__dic": False, "machine__features__idc": False}
CPA = without("x86_64.tlb.flush_tlb_all", "cpa_flush")
PURGES = ("purge_flush", "flush_reset_perms")

MUTATIONS: dict[tuple[int, str], list[tuple[str, dict[str, Any], Patch, str]]] = {
    (1, "x86_64"): [
        ("bpf_prog_pack", {"via": "text-poke"}, without("x86_64.poke.sync_core_each_cpu"), "stale-trap"),
        ("jit_text_alloc[sync=sync-core-ipi]", {}, without("x86_64.tlb.sync_core_each_cpu"), "stale-trap"),
    ],
    (1, "arm64"): [
        ("bpf_prog_pack", {}, without("arm64.icache.kick_all_cpus_sync"), "stale-trap"),
        ("module_alloc", NO_DIC, without("arm64.icache.caches_clean_inval_pou"), "icache"),
    ],
    (1, "riscv64"): [
        ("bpf_prog_pack", {}, without("riscv64.patch.flush_icache_all"), "icache"),
        ("alloc-write-map", {}, without("riscv64.icache.flush_icache_all"), "icache"),
    ],
    **{(2, arch): [("module_alloc", {}, written_late, "torn-then-synchronized")] for arch in ARCHITECTURES},
    (3, "arm64"): [
        ("bpf_prog_pack", {}, without("arm64.icache.kick_all_cpus_sync"), "nx-fault"),
        ("rw-inplace-finalize", {}, without("arm64.icache.kick_all_cpus_sync"), "nx-fault"),
        ("rw-inplace-finalize", {}, without("arm64.set_memory.flush_tlb_kernel_range"), "nx-not-flushed"),
    ],
    (3, "riscv64"): [("module_alloc", {}, without("riscv64.set_memory.flush_tlb_all", "set_memory_flush"),
                      "nx-not-flushed")],
    (4, "x86_64"): [
        ("module_alloc", {}, CPA, "downgrade"),
        ("module_alloc", {}, all_of(without("x86_64.tlb.flush_tlb_all"), without("x86_64.tlb.flush_tlb_kernel_range")),
         "reused"),
    ],
    (4, "arm64"): [
        ("module_alloc", {}, without("arm64.set_memory.flush_tlb_kernel_range"), "downgrade"),
        ("module_alloc", {}, all_of(without("arm64.tlb.flush_tlb_kernel_range", *PURGES),
                                    without("arm64.tlb.flush_tlb_all", *PURGES)), "reused"),
    ],
    (4, "riscv64"): [
        ("module_alloc", {}, without("riscv64.set_memory.flush_tlb_all", "set_memory_flush"), "downgrade"),
        ("module_alloc", {}, all_of(without("riscv64.tlb.flush_tlb_all"), without("riscv64.tlb.flush_tlb_kernel_range"),
                                    without("riscv64.set_memory.flush_tlb_all")), "reused"),
    ],
    **{(5, arch): [("bpf_prog_pack", {}, no_grace_period, "no-grace-period"),
                   ("module_alloc", {}, no_grace_period, "no-grace-period")] for arch in ARCHITECTURES},
    **{(6, arch): [("module_alloc", {}, never_read_only, "direct-permanent")] for arch in ARCHITECTURES},
}  # fmt: skip
CANNOT = {
    (3, "x86_64"): "absent entries are never cached, and the handler repairs what a lifted NX leaves behind",
}
"""Hazards that no mutation opens, and why."""


@pytest.mark.parametrize(
    ("hazard", "arch", "case"),
    [(hazard, arch, case) for (hazard, arch), cases in MUTATIONS.items() for case in range(len(cases))],
)
def test_a_missing_step_is_named(hazard, arch, case, monkeypatch):
    arm, how, patch, condition = MUTATIONS[hazard, arch][case]
    assert judged(arm, arch, **how)[hazard].verdict.excluded
    patch(monkeypatch)
    broken = judged(arm, arch, **how)[hazard]
    assert not broken.verdict.excluded
    assert condition in (broken.rule.condition, *broken.also)
    assert broken.rule.missing


def test_every_hazard_on_every_architecture_is_in_the_table():
    every = {(hazard, arch) for hazard in range(1, 7) for arch in ARCHITECTURES}
    assert MUTATIONS.keys() | CANNOT.keys() == every
    assert not MUTATIONS.keys() & CANNOT.keys()


def test_lifting_nx_without_a_flush_is_repaired_on_x86_64(monkeypatch):
    CPA(monkeypatch)
    found = judged("module_alloc", "x86_64")[3]
    assert found.rule.condition == "nx-not-flushed"
    assert found.verdict.excluded


def test_a_grace_period_of_another_flavour_is_named(monkeypatch):
    """Text that Tasks RCU protects, freed behind normal grace periods."""
    real = Setting.publish
    monkeypatch.setattr(
        Setting, "publish", lambda self, k, region, via, inside="rcu": real(self, k, region, via, "tasks")
    )
    found = judged("bpf_prog_pack", "x86_64")[5]
    assert found.rule.condition == "wrong-flavour"
    assert found.detail == "a grace period of Tasks RCU would have sufficed"


def test_the_long_jump_of_arm64_opens_a_window_of_its_own_mapping():
    """bpf_arch_text_poke with a PLT makes a live page writable and executable for a while."""

    def poke(world: World) -> None:
        free = world.backend.free

        def freeing(k: Kernel, s: Any, regions: Any) -> Iterator[Any]:
            area = regions[0].own.memory.area
            yield from bpf_arch_text_poke(k, area, (regions[0].va - area.va) // k.page_size, plt=True)
            yield from free(k, s, regions)

        object.__setattr__(world.backend, "free", freeing)

    plain, poked = audited("bpf_prog_pack", "arm64"), audited("bpf_prog_pack", "arm64", client=poke)
    assert plain.exposures["text"].status == "never"
    assert poked.exposures["text"].status == "windows"
    assert poked.exposures["text"].longest > 0
