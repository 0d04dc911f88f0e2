"""bcachefs: one function for each cached node, made and freed under its lock, however text is allocated."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from execbench.clients.bcachefs import Bcachefs, Node, _Run
from execbench.contract import Region, Setting
from execbench.record.audit import FactLog
from execbench.registry.files import data_path, rows_of
from execbench.simulate import World, simulate
from execbench.store.digest import digest_of
from execbench.study.expand import Asked, expand
from tests.clients.worlds import entries

MACHINE = {"x86_64": "server-64", "arm64": "arm64-server-128", "riscv64": "riscv64-server-64"}
ARMS = ["jitalloc-slab", "jit_text_alloc", "bpf_prog_pack", "alloc-write-map", "execmem", "vmalloc-exec"]
SHORT = {
    "run.duration": "60ms", "run.warmup": "10ms", "run.drain": "20ms",
    "client.bcachefs.nodes": 48, "client.bcachefs.rate": "8000/s", "client.bcachefs.reformats": 0.3,
}  # fmt: skip
DATA = "bcachefs_unpack.csv"


def spec_of(arm: str, arch: str = "x86_64", **settings: Any) -> dict[str, Any]:
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    asked = Asked.of(workload="bcachefs", backends=[arm], machine=MACHINE[arch], cpus=16, set=SHORT | dotted)
    (cell,) = expand(asked).cells
    assert not cell.refused, cell.refused
    return json.loads(json.dumps(cell.spec))


def heard(spec: dict[str, Any]) -> tuple[World, FactLog]:
    world = World(spec, 0, {})
    story = FactLog()
    world.machine.probe.attach(story)
    record = world.run()
    assert record.outcome == "ok", record.detail
    assert record.operations > 300
    return world, story


@pytest.mark.parametrize("arch", list(MACHINE))
@pytest.mark.parametrize("arm", ARMS)
def test_every_cached_node_has_one_function(arm: str, arch: str) -> None:
    world, story = heard(spec_of(arm, arch))
    live: Counter[Region] = Counter()
    sizes = {int(row["code_bytes"]) for row in rows_of(data_path(DATA))}
    for fact in story:
        if fact.event == "reach":
            region, via, inside = fact.fields
            live[region] += 1
            assert (via, inside, str(region.kind)) == ("pointer", "none", "jit")
            assert region.size in sizes
        elif fact.event == "unreach":
            live[fact.fields[0]] -= 1
        assert fact.event not in ("reach", "unreach") or live[fact.fields[0]] in (0, 1)
    left = [region for region, n in live.items() if n]
    usage = world.backend.usage(world.state)
    assert len(left) == 48
    assert usage.asked == sum(region.size for region in left)
    if arm in ("alloc-write-map", "execmem", "vmalloc-exec"):  # a page for each
        assert (usage.reserved, usage.internal_waste) == (48 * 4096, 48 * 4096 - usage.asked)


@pytest.mark.parametrize("arm", ARMS)
def test_nobody_calls_a_function_that_is_being_written_or_was_freed(arm: str) -> None:
    _, story = heard(spec_of(arm))
    assert entries(story) > 4 * 300  # three visits and the node that was missing


@pytest.mark.parametrize("arm", ARMS)
def test_nobody_waits_for_a_grace_period(arm: str) -> None:
    spec = spec_of(arm)
    table = simulate(spec, 0, {}).tables["metrics"]
    rows = zip(table["metric"], table["kind"], table["value"], strict=True)
    waits = {kind: value for metric, kind, value in rows if metric == "gps_per_op"}
    assert waits == {"fill": 0, "reformat": 0}


def reformats(arm: str) -> tuple[Counter[str], World]:
    """What happened to functions of nodes whose format changed."""
    world = World(spec_of(arm, client__bcachefs__reformats=1.0, client__bcachefs__visits=0), 0, {})
    seen: Counter[str] = Counter()
    backend = world.backend

    class Watched:
        support = type(backend).support

        def __getattr__(self, name: str) -> Any:
            verb = getattr(backend, name)
            if name not in ("alloc", "free", "rewrite"):
                return verb

            def noted(k: Any, s: Any, *args: Any) -> Any:
                operation = k.task.op
                if operation is not None and operation.kind == "reformat":
                    seen[name] += 1
                    if name == "rewrite":
                        region, image = args
                        assert image.size <= region.size
                return verb(k, s, *args)

            return noted

    world.backend = Watched()
    record = world.run()
    assert record.outcome == "ok"
    seen["reformats"] = sum(kind == "reformat" for kind in _kinds(record.tables))
    return seen, world


def _kinds(tables: dict[str, dict[str, Any]]) -> list[str]:
    table = tables["metrics"]
    rows = zip(table["metric"], table["kind"], table["n"], strict=True)
    return [kind for metric, kind, n in rows if metric == "throughput" for _ in range(n)]


@pytest.mark.parametrize("arm", ["jitalloc-slab", "jit_text_alloc", "vmalloc-exec"])
def test_a_function_that_fits_is_rewritten_in_place_and_any_other_replaced(arm: str) -> None:
    seen, _ = reformats(arm)
    assert seen["rewrite"] > 50
    assert seen["alloc"] == seen["free"] > 20
    assert seen["rewrite"] + seen["alloc"] >= seen["reformats"]


@pytest.mark.parametrize("arm", ["bpf_prog_pack", "execmem"])
def test_without_rewrite_every_changed_format_takes_a_new_function(arm: str) -> None:
    seen, _ = reformats(arm)
    assert "rewrite" not in seen
    assert seen["alloc"] == seen["free"] >= seen["reformats"] > 100


def test_the_least_recently_used_node_that_nobody_has_goes_first() -> None:
    world = World(spec_of("jitalloc-slab"), 0, {})
    params = Bcachefs(nodes=6, threads=1)
    setting = Setting(world.shared, world.backend, world.state, 1, 0, 0, lambda name: rows_of(data_path(name)))
    run = _Run(params, setting)
    first, second, third, *_ = nodes = list(run.cached)
    taken: list[Node] = []

    def owner(k: Any) -> Any:
        with (yield from second.lock.write(k.task)):
            run.used.move_to_end(first)
            taken.append((yield from run._take(k)))
            taken.append((yield from run._take(k)))
            run._cache(third)
            yield from k.settle()

    setting.spawn("owner", 0, owner)
    world.machine.engine.run(10**9)
    assert taken == [nodes[2], nodes[3]]  # not the one just used, not the one that is locked
    assert list(run.used) == [second, nodes[4], nodes[5], first, third]
    assert {node.place: node for node in run.cached} == dict(enumerate(run.cached))


def test_a_function_lives_for_as_long_as_the_cache_takes_to_turn_over() -> None:
    """Little's law for functions: cached = rate of fills x mean life; without visits the oldest goes."""
    spec = spec_of("jitalloc-slab", client__bcachefs__reformats=0.0, client__bcachefs__visits=0,
                   run__duration="200ms")  # fmt: skip
    _, story = heard(spec)
    born: dict[Region, int] = {}
    lives: list[int] = []
    for fact in story:
        if fact.event == "reach":
            born[fact.fields[0]] = fact.t
        elif fact.event == "unreach":
            lives.append(fact.t - born[fact.fields[0]])
    lives = lives[200:]
    assert sum(lives) / len(lives) == pytest.approx(48 / 8000 * 1e9, rel=0.1)
    assert max(lives) < 2 * 48 / 8000 * 1e9


@pytest.mark.parametrize("arm", ["jitalloc-slab", "execmem"])
def test_the_record_does_not_depend_on_how_plans_are_split(arm: str) -> None:
    spec = spec_of(arm)
    found = []
    for merge in (True, False):
        spec["run"]["merge"] = merge
        record = simulate(spec, 0, {})
        found.append(digest_of(record.outcome, record.operations, record.tables))
    assert found[0] == found[1]


def test_functions_of_the_emitter_stand_in_for_those_of_other_architectures() -> None:
    world, _ = heard(spec_of("jitalloc-slab", client__bcachefs__code_factor=1.5))
    plain, _ = heard(spec_of("jitalloc-slab"))
    ratio = world.backend.usage(world.state).asked / plain.backend.usage(plain.state).asked
    assert ratio == pytest.approx(1.5, rel=0.03)  # rounded up, and of other nodes


def test_the_data_are_the_emitters() -> None:
    """Bytes of kinds whose format leaves no choice, and what the file system asserts: a length fits in a byte."""
    with Path(data_path(DATA)).open(newline="") as file:
        rows = [(row["btree_kind"], int(row["code_bytes"])) for row in csv.DictReader(file)]
    assert len(rows) == 4000
    assert set(Counter(kind for kind, _ in rows).values()) == {250}
    assert all(38 <= size <= 255 for _, size in rows)
    for kind, low, high in (("subvolumes", 49, 49), ("quotas", 46, 46), ("full_range_root", 61, 61),
                            ("accounting", 67, 82), ("extents", 58, 95)):  # fmt: skip
        sizes = [size for of, size in rows if of == kind]
        assert (min(sizes), max(sizes)) == (low, high), kind


@pytest.mark.parametrize(
    "wrong",
    [{"threads": 0}, {"burst": 0}, {"nodes": 4}, {"visits": -1}, {"reformats": 1.5}, {"rate": 0.0}, {"code_factor": 0}],
)
def test_impossible_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Bcachefs(**wrong)
