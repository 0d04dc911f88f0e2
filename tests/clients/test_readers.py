"""Readers: which text they enter, what the policy asks of them, and that nobody pays where there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from execbench.audit import replay
from execbench.clients.readers import Readers
from execbench.contract import Proc, Region, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.published import Published
from execbench.record.audit import FactLog
from execbench.simulate import Replication, World, simulate
from execbench.store.digest import digest_of
from execbench.study.expand import Asked, expand
from tests.clients.worlds import entries
from tests.kernel.bench import Bench

WORKLOAD = """\
[workload]
question = "Who enters?"
horizon = "steady-state"
machine = "server-64"
kernel = "6.18"
backends = ["jit_text_alloc"]

[run]
duration = "400ms"
warmup = "20ms"
drain = "60ms"
replications = 1

[client.bpf]
threads = 1
loaded = 6
think = "2ms"
data = "bpf_loaded.csv"

[client.readers]
threads = 3
think = "200us"
calls = 2
"""
MACHINE = {"x86_64": "server-64", "arm64": "arm64-server-128", "riscv64": "riscv64-server-64"}
LAZY = "jit_text_alloc[sync=lazy-generation]"


@pytest.fixture
def workload(tmp_path: Path) -> str:
    path = tmp_path / "readers.toml"
    path.write_text(WORKLOAD)
    return str(path)


def spec_of(workload: str, arm: str = LAZY, arch: str = "x86_64", **settings: Any) -> dict[str, Any]:
    asked = Asked.of(workload=workload, backends=[arm], machine=MACHINE[arch], cpus=16, set=settings)
    return json.loads(json.dumps(expand(asked).cells[0].spec))


class Ears(FactLog):
    """The facts and what readers counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[tuple[str, str], int] = {}

    def call(self, t: int, task: Any, primitive: str, units: int) -> None:
        super().call(t, task, primitive, units)
        self.counts[task.name, primitive] = self.counts.get((task.name, primitive), 0) + 1


def heard(spec: dict[str, Any]) -> tuple[Ears, Replication]:
    world = World(spec, 0, {})
    ears = Ears()
    world.machine.probe.attach(ears)
    record = world.run()
    assert record.outcome == "ok", record.detail
    return ears, record


def figure(record: Replication, metric: str) -> float:
    table = record.tables["metrics"]
    rows = zip(table["metric"], table["client"], table["value"], strict=True)
    (value,) = [value for name, client, value in rows if (name, client) == (metric, "readers")]
    return value


@pytest.mark.parametrize("arch", list(MACHINE))
def test_under_lazy_generation_each_reader_checks_every_time_and_serializes_at_most_once_a_write(
    workload: str, arch: str
) -> None:
    ears, record = heard(spec_of(workload, arch=arch))
    entered = [fact for fact in ears if fact.event == "fetch"]
    writes = sum(fact.event == "entry" for fact in ears)
    assert writes >= 8
    for i in range(3):
        name = f"readers/{i}"
        own = sum(fact.task.name == name for fact in entered)
        assert own == ears.counts[name, "text_generation_check"] > 500
        syncs = ears.counts[name, "text_generation_sync"]
        assert writes // 2 < syncs <= writes
    assert figure(record, "api_sum") > 0


def test_the_policy_costs_each_reader_what_the_machine_says(workload: str) -> None:
    spec = spec_of(workload)
    ears, record = heard(spec)
    costs = {name: cost["ps"] / 1000 for name, cost in spec["machine"]["costs"].items()}
    plain = costs["client.readers.event"] + 2 * costs["client.readers.call"]
    checks = 2 * costs["list_walk"]
    n = sum(value for (name, what), value in ears.counts.items() if what == "text_generation_check") / 2
    syncs = sum(value for (name, what), value in ears.counts.items() if what == "text_generation_sync")
    mean = figure(record, "service_mean")
    expected = plain + checks + syncs / n * costs["sync_core"]
    assert mean == pytest.approx(expected, rel=0.02)  # interrupts and the warm-up's share of writes are the rest
    bare = figure(heard(spec_of(workload, "jit_text_alloc"))[1], "service_mean")
    assert bare == pytest.approx(plain, rel=0.01)
    assert figure(heard(spec_of(workload, "jit_text_alloc"))[1], "api_sum") == 0


def test_nobody_enters_text_before_it_is_published_or_after_it_was_retired(workload: str) -> None:
    for arm in (LAZY, "bpf_prog_pack", "module_alloc"):
        ears, _ = heard(spec_of(workload, arm))
        assert entries(ears) > 1500


def test_the_audit_sees_readers_and_judges_as_without_them(workload: str) -> None:
    for arm in (LAZY, "bpf_prog_pack"):
        with_readers, record = replay(spec_of(workload, arm), 0)
        assert record.outcome == "ok"
        alone = spec_of(workload, arm)
        del alone["workload"]["clients"]["readers"]
        without, _ = replay(alone, 0)
        for hazard in (1, 2, 3, 4, 5):
            assert with_readers.conditions(hazard) == without.conditions(hazard), (arm, hazard)


def test_the_record_does_not_depend_on_how_plans_are_split(workload: str) -> None:
    spec = spec_of(workload)
    spec["run"]["merge"] = False
    slow = simulate(spec, 0, {})
    fast = simulate(spec_of(workload), 0, {})
    assert digest_of(slow.outcome, slow.operations, slow.tables) == digest_of(
        fast.outcome, fast.operations, fast.tables
    )


def test_an_event_without_published_text_enters_nothing(workload: str) -> None:
    spec = spec_of(workload)
    del spec["workload"]["clients"]["bpf"]
    ears, record = heard(spec)
    assert not [fact for fact in ears if fact.event == "fetch"]
    assert {what for _, what in ears.counts if what.startswith("reader")} == {"reader_without_text"}
    assert record.operations > 500


# --- what is published ------------------------------------------------------------------------------------------------


def region(number: int, kind: TextKind = TextKind.BPF) -> Region:
    return Region(number, number * 4096, 100, 128, kind)


def test_what_is_published_can_be_entered_until_it_is_retired() -> None:
    published = Published()
    regions = [region(i) for i in range(4)]
    for one in regions:
        assert published.expect(one)
        assert one not in published.regions  # its point of the plan has not come
        published.add(one, "rcu")
    published.discard(regions[1])
    assert published.enterable == [regions[0], regions[3], regions[2]]
    published.discard(regions[2])
    published.discard(regions[2])
    assert published.enterable == [regions[0], regions[3]]
    assert list(published.regions) == [regions[0], regions[3]]


def test_others_see_text_when_its_publication_has_come_and_not_when_it_is_planned() -> None:
    bench = Bench()
    one = region(1)
    seen: list[tuple[int, int]] = []
    at = 0

    def publisher(k: Kernel) -> Proc[None]:
        nonlocal at
        k.spend("copy_byte", 3_000)
        k.expose(one, "pointer")
        yield from k.settle()
        at = k.now

    def onlooker(k: Kernel) -> Proc[None]:
        for now in range(0, 400_000, 500):
            yield from k.sleep_until(now)
            yield from k.settle()
            seen.append((k.now, len(k.shared.published.enterable)))

    bench.task(publisher, 0)
    bench.task(onlooker, 1)
    bench.run()
    assert 0 < at < 300_000
    assert {n for now, n in seen if now < at} == {0}
    assert {n for now, n in seen if now > at} == {1}


def test_text_that_only_its_owner_may_enter_is_hot_but_not_enterable() -> None:
    published = Published()
    own, data = region(1, TextKind.JIT), region(2, TextKind.RODATA)
    assert published.expect(own)
    published.add(own, "none")
    assert (list(published.regions), published.enterable) == ([own], [])
    assert not published.expect(data)
    assert not published.expect(region(3, TextKind.USER))


def test_what_is_retired_in_the_same_breath_is_never_seen() -> None:
    published = Published()
    one = region(1)
    published.expect(one)
    published.discard(one)
    published.add(one, "rcu")
    assert not published.regions
    assert not published.enterable


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"calls": 0}, {"burst": 0}, {"rate": 0.0}])
def test_impossible_readers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Readers(**wrong)
