"""Modules: who loads what in which order, who waits, what is patched when, and how much memory it all takes."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import pytest

from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.backends.rw_inplace_finalize import RwInplaceFinalize
from execbench.clients.module import Modules, kernel_of
from execbench.clients.module_data import Module, closure, lines_of, modules_of
from execbench.clients.module_loader import COSTS, Loaded, Loader
from execbench.contract import Proc, Region, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.jump_label import jump_label_update
from execbench.kernel.operation import Operation
from execbench.kernel.releases import RELEASES
from execbench.kernel.static_call import static_call_update
from execbench.registry.files import data_path, rows_of
from execbench.simulate import World
from execbench.study.expand import Asked, expand
from tests.kernel.bench import Bench

PAGE, MIB2 = 4096, 2 << 20
FOREVER = 1 << 60
ROW = {
    "name": "one", "exec_core": "9000", "exec_init": "100", "ro_core": "3000", "ro_after_init": "64", "rw_core": "900",
    "static_call_sites": "5", "jump_table": "7", "mcount_loc": "30", "relocs_text": "40", "return_sites": "20",
}  # fmt: skip
"""A module of every type."""


def module(name: str = "one", **changed: str) -> Module:
    return Module.from_row({**ROW, "name": name, **changed})


class Loading:
    """Loaders on a toy machine of four CPUs; `ops` = finished operations."""

    def __init__(self, backend: Any = None, release: str = "6.12", arch: str = "x86_64", **loader: Any) -> None:
        self.bench = Bench(arch, release, hosts=(0, 1, 2, 3))
        for cost in COSTS:
            self.bench.shared.rates[f"client.module.{cost}"] = (1_000, None)
        self.ops: list[Operation] = []
        self.bench.shared.recorder = self
        api = backend or Execmem()
        self.state = api.start(self.bench.shared)
        self.setting = Setting(self.bench.shared, api, self.state, FOREVER, 0, 0, lambda _: [])
        self.loader = Loader(self.setting, **loader)
        self.loaded: list[Loaded | None] = []

    def load(self, of: Module, cpu: int = 0, unload: bool = False) -> None:
        """Ask for a module from a thread on a CPU."""

        def body(k: Kernel) -> Proc[None]:
            loaded = yield from self.loader.load(k, of)
            self.loaded.append(loaded)
            if unload and loaded is not None:
                yield from self.loader.unload(k, loaded, 1)

        self.bench.task(body, cpu)

    def run(self) -> Loading:
        self.bench.run()
        return self

    def of(self, kind: str) -> list[Operation]:
        return [operation for operation in self.ops if operation.kind == kind]

    def counted(self) -> Counter[str]:
        return Counter(name for name, _ in self.bench.calls)

    # --- a recorder ---------------------------------------------------------------------------------------------------

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        return {}, {}

    def begun(self, operation: Operation, at: int) -> None: ...

    def finished(self, operation: Operation) -> None:
        self.ops.append(operation)


# --- keys and calls ---------------------------------------------------------------------------------------------------


def rounds(arch: str, body: Any) -> int:
    bench = Bench(arch, "6.12")
    bench.task(body)
    bench.run()
    return len(bench.rounds)


@pytest.mark.parametrize(("sites", "expected"), [(0, 0), (1, 3), (256, 3), (257, 6)])
def test_a_key_patches_its_branches_as_one_batch(sites: int, expected: int) -> None:
    assert rounds("x86_64", lambda k: jump_label_update(k, sites)) == expected


def test_a_static_call_is_patched_site_by_site_where_code_is_patched_at_all() -> None:
    assert rounds("x86_64", lambda k: static_call_update(k, 5)) == 15
    assert rounds("arm64", lambda k: static_call_update(k, 5)) == 0
    assert rounds("riscv64", lambda k: static_call_update(k, 5)) == 0


# --- one load ---------------------------------------------------------------------------------------------------------


def test_the_phases_of_a_load_and_an_unload_come_in_the_kernels_order() -> None:
    loading = Loading()
    loading.load(module(), unload=True)
    loading.run()
    assert loading.of("load")[0].names == [
        "copy", "check", "alloc", "check", "write", "relocate", "alternatives", "flush_icache", "ftrace",
        "finalize", "ftrace", "notifiers", "jump_labels", "notifiers", "static_calls", "notifiers", "init", "notifiers",
        "seal",
    ]  # fmt: skip
    assert loading.of("unload")[0].names == ["exit", "notifiers", "ftrace_release_mod", "free_module", "free_mod_mem"]
    assert [operation.mode for operation in loading.of("free_init")] == ["deferred"]
    assert loading.loader.states == {}
    usage = loading.setting.backend.usage(loading.state)
    assert (usage.asked, usage.reserved) == (0, 0)


@pytest.mark.parametrize(("patching", "expected"), [("per-site", 15 + 6), ("batched", 3 + 6), ("before-rox", 0)])
def test_sites_are_patched_before_or_after_the_text_can_be_executed(patching: Any, expected: int) -> None:
    loading = Loading(patching=patching, differing_keys=2)
    loading.load(module())
    assert 3 * loading.run().counted()["smp_text_poke_batch_finish"] == expected


@pytest.mark.parametrize("release", RELEASES)
def test_what_the_backend_does_not_serve_is_the_releases_own(release: str) -> None:
    loading = Loading(RwInplaceFinalize(), release=release)
    loading.load(module())
    (loaded,) = loading.run().loaded
    assert {kind for kind, _ in loaded.regions} == {TextKind.MODULE_TEXT, TextKind.INIT_TEXT}
    assert set(loaded.parts) == {
        (TextKind.MODULE_DATA, False), (TextKind.RODATA, False), (TextKind.RO_AFTER_INIT, False),
        (TextKind.MODULE_DATA, True),
    }  # fmt: skip
    text_map = loading.bench.shared.text_map
    for key, part in loaded.parts.items():
        if not key[1]:
            expected = "rw-nx" if key[0] is TextKind.MODULE_DATA else "ro-nx"
            assert text_map.perm(part.area, part.piece.first) == expected, key
    assert loading.setting.backend.usage(loading.state).asked == 9000, "init's text is free again"


@pytest.mark.parametrize(("release", "areas"), [("6.1", 2), ("6.12", 6), ("6.18", 6)])
@pytest.mark.parametrize(
    "backend", [ModuleAlloc(), ModuleAlloc(order="merged"), Execmem()], ids=["module_alloc", "merged", "execmem"]
)
def test_a_modules_memory_ends_with_the_permissions_of_its_types(backend: Any, release: str, areas: int) -> None:
    loading = Loading(backend, release=release)
    loading.load(module())
    (loaded,) = loading.run().loaded
    shared = loading.bench.shared
    wanted = {
        TextKind.MODULE_TEXT: "ro-x", TextKind.RODATA: "ro-nx", TextKind.RO_AFTER_INIT: "ro-nx",
        TextKind.MODULE_DATA: "rw-nx",
    }  # fmt: skip
    for (kind, init), region in loaded.regions.items():
        if not init:
            assert _perm(shared, region) == wanted[kind], kind
    assert len({id(_area(region)) for region in loaded.regions.values()}) == areas or release == "6.18"


def test_merged_order_saves_a_flush_per_text_before_6_4_too() -> None:
    flushes = []
    for order in ("strict", "merged"):
        loading = Loading(ModuleAlloc(order=order), release="6.1")  # type: ignore[arg-type]
        loading.load(module())
        flushes.append(loading.run().counted()["cpa_flush"])
    assert flushes == [6, 4]


def _area(region: Region) -> Any:
    return getattr(region.own, "area", region.own)


def _perm(shared: Any, region: Region) -> str:
    area = _area(region)
    return str(shared.text_map.perm(area, (region.va - area.va) // PAGE))


# --- several at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_who_asks_for_a_module_that_is_being_loaded_waits_and_does_not_load_it(release: str) -> None:
    loading = Loading(ModuleAlloc() if release == "6.1" else Execmem(), release=release)
    for cpu in range(3):
        loading.load(module(), cpu)
    loading.run()
    assert [loaded is not None for loaded in loading.loaded].count(True) == 1
    (load,) = loading.of("load")
    assert all(operation.end >= load.end - 1_000 or release == "6.1" for operation in loading.of("duplicate"))
    allocations = loading.counted()["module_alloc" if release == "6.1" else "execmem_alloc"]
    assert allocations == (2 * 3 if release == "6.1" else 6), "before 6.4 everybody allocates, and frees again"


def test_init_memory_of_several_modules_goes_behind_one_grace_period() -> None:
    loading = Loading()

    def body(k: Kernel) -> Proc[None]:
        for name in "abcde":
            yield from loading.loader.load(k, module(name))

    loading.bench.task(body, 0)
    loading.run()
    counted = loading.counted()
    assert len(loading.of("load")) == 5
    assert counted["synchronize_rcu"] < 5
    assert counted["execmem_free"] == 2 * 5


def test_a_load_waits_while_an_unload_holds_module_mutex_across_a_grace_period() -> None:
    loading = Loading()

    def unload(k: Kernel) -> Proc[None]:
        loaded = yield from loading.loader.load(k, module("first"))
        yield from loading.loader.unload(k, loaded, 1)

    def loads(k: Kernel) -> Proc[None]:
        for i in range(40):
            yield from loading.loader.load(k, module(f"m{i}"))
            yield from k.sleep_until(k.now + 200_000)

    loading.bench.task(unload, 0)
    loading.bench.task(loads, 1)
    loading.run()
    lock = loading.bench.shared.locks["module_mutex"]
    assert lock.blame.get("delete_module", 0) > 0
    assert max(operation.end - operation.begin for operation in loading.of("load")) > 1_000_000


def test_a_kworker_that_waits_inside_an_item_is_not_woken_by_the_next_one() -> None:
    bench, done = Bench(), []

    def item(k: Kernel) -> Proc[None]:
        yield from k.synchronize_rcu()
        done.append(k.now)

    def body(k: Kernel) -> Proc[None]:
        for _ in range(3):
            k.queue_work("item", item)
            yield from k.sleep_until(k.now + 100_000)

    bench.task(body)
    bench.run()
    assert len(done) == 3
    assert done == sorted(done)


# --- boots and churn --------------------------------------------------------------------------------------------------


def world(workload: str, backend: str, kernel: str, **changed: Any) -> World:
    settings = {f"client.module.{key}": value for key, value in changed.items()}
    asked = Asked.of(workload=workload, backends=backend, kernel=kernel, cpus=8, replications=1, set=settings)
    return World(json.loads(json.dumps(expand(asked).cells[0].spec)), 0, {})


@cache
def booted(backend: str, kernel: str, boot_set: str, patching: str = "before-rox") -> World:
    ran = world("module-boot", backend, kernel, boot_set=boot_set, duplicates=0, patching=patching)
    replication = ran.run()
    assert replication.outcome == "ok", replication.detail
    return ran


def core_text(kernel: str, boot_set: str) -> list[int]:
    """Bytes of text of each module of a boot set, straight from the data files."""
    found = kernel_of("x86_64", kernel)
    name, _ = found
    rows = {row["name"]: row for row in rows_of(data_path(f"modules_{name}.csv.gz"))}
    lines = lines_of(rows_of(data_path("boot_sets.csv.gz")), name, boot_set)
    return [int(rows[line.module]["exec_core"] or 0) for line in lines]


@pytest.mark.parametrize(
    ("kernel", "boot_set", "modules", "megabytes", "added"),
    [
        ("6.12", "server", 267, 16.02, 3.5),
        ("6.12", "server_1vendor", 145, 8.05, 3.9),
        ("6.1", "server", 277, 13.78, 4.6),
    ],
)
def test_text_and_waste_of_a_boot_are_those_of_the_data(
    kernel: str, boot_set: str, modules: int, megabytes: float, added: float
) -> None:
    direct = core_text(kernel, boot_set)
    pages = sum(-(-size // PAGE) * PAGE for size in direct)
    assert (len(direct), round(sum(direct) / 1e6, 2)) == (modules, megabytes)
    assert round(100 * (pages / sum(direct) - 1), 1) == added
    ran = booted("rw-inplace-finalize", kernel, boot_set)
    usage = ran.backend.usage(ran.state)
    assert (usage.asked, usage.reserved) == (sum(direct), pages)
    assert usage.internal_waste == pages - sum(direct)


def test_waste_of_64_bytes_and_of_2m_pages() -> None:
    direct = core_text("6.12", "server_1vendor")
    chunks = sum(-(-size // 64) * 64 for size in direct)
    assert 1 < chunks / sum(direct) < 1.002
    pages = sum(-(-size // PAGE) for size in direct)
    ran = booted("execmem", "6.18", "server_1vendor")
    cache_bytes = ran.shared.execmem_cache.bytes
    least = -(-pages * PAGE // MIB2)
    assert least * MIB2 <= cache_bytes <= (least + 1) * MIB2, "first fit of whole pages into 2M pages"


@pytest.mark.parametrize(("arch", "kernel"), [("x86_64", "6.12"), ("x86_64", "6.18")])
def test_a_boot_loads_every_module_once_behind_what_it_depends_on(arch: str, kernel: str) -> None:
    ran = world("module-boot", "execmem", kernel, patching="before-rox")
    order: list[tuple[str, str]] = []

    class Seen(dict[str, str]):
        def __setitem__(self, name: str, state: str) -> None:
            order.append((name, state))
            super().__setitem__(name, state)

    client = ran.clients[0]
    assert isinstance(client, Modules)
    original = Loader.__init__

    def init(self: Loader, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        self.states = Seen()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "__init__", init)
        assert ran.run().outcome == "ok"
    live = [name for name, state in order if state == "live"]
    found = kernel_of(arch, kernel)
    lines = lines_of(rows_of(data_path("boot_sets.csv.gz")), found[0], "server_1vendor")
    known = modules_of(rows_of(data_path(f"modules_{found[0]}.csv.gz")), RELEASES[kernel])
    wanted = {name for line in lines if line.root for name in closure(line.module, known)}
    assert Counter(live) == Counter(wanted)
    for name in wanted:
        for below in known[name].depends:
            assert order.index((below, "live")) < order.index((name, "unformed"))


def test_a_boot_that_outlasts_its_window_stops_there() -> None:
    asked = Asked.of(workload="module-boot", backends="execmem", cpus=8, replications=1, duration="5ms")
    ran = World(json.loads(json.dumps(expand(asked).cells[0].spec)), 0, {})
    assert ran.run().outcome == "ok"
    assert 0 < ran.backend.usage(ran.state).asked < sum(core_text("6.18", "server_1vendor")) / 2


def test_churn_loads_what_it_unloads() -> None:
    ran = world("module-churn", "execmem", "6.18", patching="before-rox")
    assert ran.run().outcome == "ok"
    kinds = {kind: of.completed for _, kind, of in ran.recorder.classes()}
    assert kinds["load"] > 20
    assert abs(kinds["load"] - kinds["unload"]) <= 2


def test_no_figures_no_boot() -> None:
    assert "riscv64" in Modules().refusal("riscv64", "6.18")
    assert "6.1.0-56-arm64" in Modules().refusal("arm64", "6.1")
    assert Modules().refusal("arm64", "6.12") == Modules(data="mine.csv").refusal("riscv64", "6.18") == ""


@pytest.mark.parametrize(
    "bad",
    [{"threads": 0}, {"duplicates": -1}, {"differing_keys": -1}, {"rate": 0.0}, {"burst": 0}, {"patching": "never"}],
)
def test_what_cannot_run_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Modules(**bad)
