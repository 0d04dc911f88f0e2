"""Level-1 digests: the same record in any process and executor, with costs merged or not, with SIMD on or off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from execbench.sim.task import Task
from execbench.simulate import World, simulate
from execbench.store.digest import digest_of
from execbench.study.expand import expand
from execbench.study.point import Asked

PLUGIN = Path(__file__).parent / "contract" / "bump_allocator.py"
ARMS = ["module_alloc", "bpf_prog_pack", "execmem", "alloc-write-map", "rw-inplace-finalize[sync=rcu]"]
COMMITTED = json.loads((Path(__file__).parent / "digests.json").read_text())
"""Digests of replication 0 of each arm: a change of the model changes them, and that is a reviewed change."""


def spec_of(arm: str, **changes: Any) -> dict[str, Any]:
    """Return the spec of a short run on a server of 16 CPUs."""
    asked = Asked.of(
        workload="bpf", backends=[arm], cpus=16, duration="400ms", warmup="100ms", set=changes.pop("set", ())
    )
    cell = expand(asked).cells[0]
    assert not cell.refused, cell.refused
    spec: dict[str, Any] = json.loads(json.dumps(cell.spec))
    spec["run"].update(changes)
    return spec


def digest(spec: dict[str, Any], replication: int = 0, plugins: dict[str, str] | None = None) -> str:
    """Simulate and hash."""
    record = simulate(spec, replication, plugins)
    assert record.outcome == "ok", record.detail
    return digest_of(record.outcome, record.operations, record.tables)


_CHILD = """
import json, sys
sys.path[:0] = json.loads(sys.argv[2])
from execbench.simulate import simulate
from execbench.store.digest import digest_of
found = []
for spec in json.loads(sys.argv[1]):
    record = simulate(spec, 0, {})
    found.append(digest_of(record.outcome, record.operations, record.tables))
print(json.dumps(found))
"""


def in_child(specs: list[dict[str, Any]], **environment: str) -> list[str]:
    """Compute digests in a fresh interpreter with other environment variables."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(specs), json.dumps(sys.path)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    return {arm: digest(spec_of(arm)) for arm in ARMS}


def test_digests_are_the_committed_ones(digests: dict[str, str]) -> None:
    assert digests == COMMITTED


def test_replications_and_arms_differ(digests: dict[str, str]) -> None:
    assert len(set(digests.values())) == len(ARMS)
    assert digest(spec_of(ARMS[1]), 1) != digests[ARMS[1]]


@pytest.mark.parametrize("arm", ARMS)
def test_digest_with_every_cost_its_own_event(arm: str, digests: dict[str, str]) -> None:
    assert digest(spec_of(arm, merge=False)) == digests[arm]


def test_digest_without_simd_and_with_another_hash_seed(digests: dict[str, str]) -> None:
    try:
        from numpy._core._multiarray_umath import __cpu_dispatch__  # type: ignore[attr-defined]
    except ImportError:  # numpy 1
        from numpy.core._multiarray_umath import __cpu_dispatch__
    specs = [spec_of(arm) for arm in ARMS]
    off = in_child(specs, NPY_DISABLE_CPU_FEATURES=" ".join(__cpu_dispatch__), PYTHONHASHSEED="1")
    assert off == list(digests.values())


def test_digest_with_a_listener_on_every_event(digests: dict[str, str]) -> None:
    from execbench.sim.probe import EVENTS

    heard: set[str] = set()

    class Ears:
        def __getattr__(self, name: str) -> Any:
            if name not in EVENTS:
                raise AttributeError(name)
            return lambda *fields: heard.add(name)

    for arm in ARMS:
        world = World(spec_of(arm), 0, {})
        world.machine.probe.attach(Ears())
        record = world.run()
        assert digest_of(record.outcome, record.operations, record.tables) == digests[arm]
    assert {"call", "spend", "ipi", "gp", "wait"} <= heard


def test_recording_operations_changes_no_digest(digests: dict[str, str]) -> None:
    spec = spec_of(ARMS[0], record=["operations"])
    assert digest(spec) == digests[ARMS[0]]
    rows = simulate(spec, 0).tables["operations"]
    assert len(rows["begin"]) > 20
    assert all(due <= begin <= end for due, begin, end in zip(rows["due"], rows["begin"], rows["end"], strict=True))


def test_a_plugin_and_shipped_arms_are_the_same_serially_and_in_spawned_processes(tmp_path: Path) -> None:
    import execbench

    found = []
    for workers in (None, 2):
        done = execbench.run(
            "bpf", backends=[ARMS[1], f"{PLUGIN}:BumpAllocator"], cpus=8, duration="200ms", warmup="50ms",
            replications=3, workers=workers, out=tmp_path / f"{workers}",
        )  # fmt: skip
        frame = done.replications.sort_values(["cell", "replication"])
        found.append(list(frame["digest"]))
        assert len(found[-1]) == 6 and all(found[-1])
        assert execbench.verify(tmp_path / f"{workers}").ok
    assert found[0] == found[1]


def test_little_and_conservation_hold_in_every_run(digests: dict[str, str]) -> None:
    for arm in ARMS:
        world = World(spec_of(arm), 0, {})
        record = world.run()
        metrics = dict(zip(record.tables["metrics"]["metric"], record.tables["metrics"]["value"], strict=True))
        assert metrics["littles_law_residual"] == 0
        assert sum(record.tables["totals"]["unfinished"]) == 0
        for part in (world.shared.vmap, world.shared.frames, world.shared.direct_map, world.shared.text_map):
            part.check()


class _Neighbour:
    """A second client: it draws, computes and broadcasts on a CPU of its own."""

    name = "neighbour"
    api_phases: frozenset[str] = frozenset()

    def cpus(self, machine_cpus: int) -> tuple[int, ...]:
        return (5,)

    def start(self, setting: Any) -> None:
        machine = setting.shared.machine
        task = Task("neighbour", machine.active_cpu(setting.cpu(0)), machine.engine, 100)
        machine.engine.spawn(task.run(self._live(setting, setting.shared.view(task))), 0, task.cpu.key)

    def _live(self, setting: Any, k: Any) -> Any:
        stream = setting.stream("client.neighbour/0")
        while k.now < setting.duration:
            yield from k.sleep_until(k.now + int(1e6 * stream.e()) + 1)
            yield from k.flush_tlb_all("neighbour")


def _programs(world: World) -> dict[str, list[int]]:
    """Run, and return the verifier work of each thread's loads in order: which programs it drew."""
    drawn: dict[str, list[int]] = {}

    class Ear:
        def spend(self, t: int, task: Task, cost: str, n: int, ns: int) -> None:
            if cost == "client.bpf.verify_insn":
                drawn.setdefault(task.name, []).append(n)

    world.machine.probe.attach(Ear())
    assert world.run().outcome == "ok"
    return drawn


def test_another_client_shifts_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    import execbench.simulate as simulation

    alone = _programs(World(spec_of("module_alloc"), 0, {}))
    both = simulation._clients
    monkeypatch.setattr(simulation, "_clients", lambda spec, plugins: [*both(spec, plugins), _Neighbour()])
    together = _programs(World(spec_of("module_alloc"), 0, {}))
    for thread, programs in alone.items():
        n = min(len(programs), len(together[thread]))
        assert n > 10
        assert programs[:n] == together[thread][:n]
