"""The client of kprobes: slots from any interface, phases, batches; and who waits behind the optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import pytest

from execbench import api
from execbench.api import Results
from execbench.backends.alloc_write_map import AllocWriteMap
from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.backends.execmem import Execmem
from execbench.backends.jit_text_alloc import JitTextAlloc
from execbench.backends.jitalloc_slab import JitallocSlab
from execbench.backends.module_alloc import ModuleAlloc
from execbench.clients.arrivals import Turn
from execbench.clients.kprobes import COSTS, DRAWS, BackendSlots, KprobesClient, _Run
from execbench.contract import Image, Proc, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.kprobe_slots import InsnCache, Slot, free_insn_slot, get_insn_slot
from execbench.kernel.kprobes import Kprobe
from execbench.kernel.phases import together
from tests.kernel.bench import Bench

BACKENDS = [
    ModuleAlloc(),
    Execmem(),
    JitTextAlloc(),
    JitTextAlloc(sync="int3-protocol"),
    AllocWriteMap(),
    JitallocSlab(),
]
MS = 1_000_000


@pytest.fixture(autouse=True, scope="module")
def somewhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Results go, and are looked for, in a directory of these tests."""
    with contextlib.chdir(tmp_path_factory.mktemp("results")):
        yield


def setting_of(bench: Bench, backend: object) -> Setting:
    """A setting with a backend and without a client."""
    state = backend.start(bench.shared)  # type: ignore[attr-defined]
    return Setting(bench.shared, backend, state, 1 << 60, 0, 0, lambda _: [])


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: type(backend).__name__)
@pytest.mark.parametrize("release", ["6.1", "6.12", "6.18", "7.3"])
def test_slots_come_and_go_through_any_interface(backend: object, release: str) -> None:
    """Pages are shared where live text can be written; everything that was taken comes back but the last page."""
    bench = Bench(release=release)
    setting = setting_of(bench, backend)
    memory = BackendSlots(setting)
    cache = InsnCache("kprobe_insn_slots.mutex", 1024, memory)
    slots: list[Slot] = []

    def body(k: Kernel) -> Proc[None]:
        for i in range(9):
            slot = yield from get_insn_slot(k, cache)
            yield from memory.write(k, slot.region, Image(i, 1024))
            slots.append(slot)
        for slot in slots:
            yield from free_insn_slot(k, cache, slot, dirty=False)

    bench.task(body)
    bench.run()
    assert memory.whole == isinstance(backend, ModuleAlloc | Execmem | JitTextAlloc)
    assert len({slot.region.va for slot in slots}) == 9
    assert len({slot.page.region.va for slot in slots}) == (3 if memory.whole else 9)
    assert backend.usage(setting.state).asked == (4096 if memory.whole else 0)  # type: ignore[attr-defined]


def test_an_interface_that_serves_no_kprobes_leaves_them_to_the_release() -> None:
    assert TextKind.KPROBES not in BpfProgPack.support.kinds
    assert KprobesClient.kinds == ()


@pytest.fixture(scope="module")
def convoy() -> Results:
    """Kprobes beside eBPF on 6.12: once with the optimizer, once without."""
    return api.run("kprobes", backends=["bpf_prog_pack"], duration="5s", warmup="500ms", replications=1)


def test_loads_wait_for_text_mutex_as_long_as_a_grace_period_of_tasks_rcu_and_the_optimizer_holds_it(
    convoy: Results,
) -> None:
    """Such a grace period has two of plain RCU and, with a hold-out, a tenth of a second: at least 8 ms at 250 Hz."""
    locks = convoy.table("locks").set_index("lock")
    text, packs = locks.loc["text_mutex"], locks.loc["pack_mutex"]
    assert text["holder"] == "kprobe_optimizer"
    passes = convoy.table("totals").set_index("kind").loc["optimize", "operations"]
    assert passes >= 5
    assert text["hold_ns"] / passes > 8 * MS
    assert text["wait_max_ns"] > 100 * MS
    # who waits for text_mutex inside pack_mutex makes others wait for that one
    assert (packs["holder"], packs["wait_max_ns"] > 50 * MS) == ("bpf_prog_free_deferred", True)


def test_without_the_optimizer_nobody_waits(convoy: Results) -> None:
    quiet = api.run("kprobes", backends=["bpf_prog_pack"], duration="5s", warmup="500ms", replications=1,
                    set=["client.kprobes.optimize=false"])  # fmt: skip
    text = quiet.table("locks").set_index("lock").loc["text_mutex"]
    assert text["wait_max_ns"] < 1 * MS
    assert "optimize" not in set(quiet.table("totals")["kind"])
    before, after = (results.table("totals").set_index("kind").loc["load"] for results in (quiet, convoy))
    assert after["api_ns"] / after["operations"] > 20 * before["api_ns"] / before["operations"]


def test_text_that_is_not_poked_is_not_in_the_convoy() -> None:
    mapped = api.run("kprobes", backends=["alloc-write-map"], duration="5s", warmup="500ms", replications=1)
    locks = mapped.table("locks").set_index("lock")
    assert locks.loc["text_mutex", "contended"] == 0
    assert locks.loc["kprobe_mutex", "holder"] == "kprobe_optimizer"  # but other probes are


@pytest.mark.parametrize(("through", "grace_periods"), [("perf", 2 * 3), ("kernel", 1)])
def test_a_batch_waits_once_through_the_kernel_and_twice_a_probe_through_perf(through: str, grace_periods: int) -> None:
    results = api.run("kprobes", backends=["execmem"], duration="4s", warmup="0s", replications=1, set=[
        f"client.kprobes.through={through}", "client.kprobes.probes=3", "client.kprobes.attached=1",
        "client.kprobes.optimize=false", "client.kprobes.boostable=0.0"])  # fmt: skip
    counters = results.table("counters")
    mine = counters[(counters["kind"] == "detach") & (counters["primitive"] == "synchronize_rcu")]
    operations = results.table("totals").set_index("kind").loc["detach", "operations"]
    assert operations >= 3
    assert mine["count"].sum() == grace_periods * operations


class Watched(Bench):
    """Batches of kprobes, none of which becomes a jump; `log` has what was counted, and event_mutex in brackets."""

    def __init__(self, release: str, through: Literal["perf", "kernel"], probes: int) -> None:
        super().__init__(release=release)
        self.shared.rates.update({f"client.kprobes.{name}": (0, None) for name in COSTS})
        self.setting = setting_of(self, Execmem())
        self.client = _Run(KprobesClient(through=through, probes=probes, entry=0.0, optimizable=0.0), self.setting)
        self.row = [0.5] * DRAWS * probes
        self.log: list[str] = []

    def lock(self, t: int, task: object, name: str, kind: str, taken: bool) -> None:
        if name == "event_mutex":
            self.log.append("[" if taken else "]")

    def call(self, at: int, task: object, primitive: str, units: int) -> None:
        ours = ("register_kprobe", "arch_arm_kprobe", "arch_disarm_kprobe", "unregister_kprobes")
        if primitive in ours or primitive.startswith("synchronize_"):
            self.log.append(primitive)

    def attach(self, k: Kernel) -> Proc[list[Kprobe]]:
        return self.client.attach(k, Turn(self.setting.operation("kprobes", "attach", 0, k.now), 0, k.now, self.row))

    def detach(self, k: Kernel, batch: list[Kprobe]) -> Proc[None]:
        return self.client.detach(k, batch, 0)


WAITS = {
    "6.1": ["synchronize_srcu", "synchronize_rcu"],
    "6.12": ["synchronize_srcu", "synchronize_rcu"],
    "6.18": ["synchronize_rcu_tasks_trace", "synchronize_rcu"],
    "7.3": ["synchronize_rcu_tasks_trace", "synchronize_srcu"],
}
"""tracepoint_synchronize_unregister."""


@pytest.mark.parametrize("release", WAITS)
def test_perf_holds_event_mutex_over_arming_and_over_disarming_with_its_waits(release: str) -> None:
    """Registering comes before it, unregistering with a grace period of its own behind it."""
    bench = Watched(release, "perf", probes=2)

    def body(k: Kernel) -> Proc[None]:
        yield from bench.detach(k, (yield from bench.attach(k)))

    bench.task(body)
    bench.run()
    attach = ["register_kprobe", "[", "arch_arm_kprobe", "]"]
    detach = ["[", "arch_disarm_kprobe", *WAITS[release], "]", "unregister_kprobes", "synchronize_rcu"]
    assert bench.log == 2 * attach + 2 * detach


def test_the_kernels_own_interface_takes_no_event_mutex() -> None:
    bench = Watched("6.12", "kernel", probes=2)

    def body(k: Kernel) -> Proc[None]:
        yield from bench.detach(k, (yield from bench.attach(k)))

    bench.task(body)
    bench.run()
    attach = ["register_kprobe", "arch_arm_kprobe"]
    assert bench.log == [*2 * attach, "unregister_kprobes", *["arch_disarm_kprobe"] * 2, "synchronize_rcu"]


@pytest.mark.parametrize("release", WAITS)
def test_who_attaches_is_armed_when_the_waits_of_who_closes_are_over(release: str) -> None:
    bench = Watched(release, "perf", probes=1)
    batch: list[Kprobe] = []

    def first(k: Kernel) -> Proc[None]:
        batch.extend((yield from bench.attach(k)))

    bench.task(first)
    bench.run()
    bench.log.clear()
    began = bench.machine.engine.now
    bench.task(lambda k: bench.detach(k, batch), start=began)
    bench.task(bench.attach, cpu=1, start=began + 1_000)
    bench.run()
    until = bench.log[: bench.log.index("arch_arm_kprobe")]
    assert until.index("register_kprobe") < until.index("]")
    assert [name for name in until if name != "register_kprobe"][:5] == [
        "[",
        "arch_disarm_kprobe",
        *WAITS[release],
        "]",
    ]
    assert bench.shared.locks["event_mutex"].contended == 1


def test_phases_that_come_back_are_laid_together_and_tile_the_operation() -> None:
    names, stamps = together(["a", "b", "a", "c", "b"], [10, 11, 13, 17, 25, 41])
    assert (names, stamps) == (["a", "b", "c"], [10, 15, 33, 41])
    assert together(["a"], [3, 7]) == (["a"], [3, 7])


def test_every_phase_is_booked_once_an_operation(convoy: Results) -> None:
    mapped = api.run("kprobes", backends=["jit_text_alloc"], duration="3s", warmup="0s", replications=1,
                     set=["client.kprobes.probes=4", "client.kprobes.entry=0.0"])  # fmt: skip
    for results in (convoy, mapped):
        totals = results.table("totals").set_index(["client", "kind"])["operations"]
        booked = results.table("histograms").groupby(["client", "kind", "phase"])["count"].sum()
        mine = booked.loc["kprobes"]
        assert {"register", "arm"} <= set(mine.loc["attach"].index)
        assert (mine.loc["attach"] <= totals["kprobes", "attach"]).all()
        assert mine["attach", "total"] == mine["attach", "arm"] == totals["kprobes", "attach"]


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"probes": 0}, {"attached": 0}, {"entry": 1.5}, {"rate": 0.0}])
def test_what_cannot_run_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KprobesClient(**wrong)  # type: ignore[arg-type]
