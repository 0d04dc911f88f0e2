"""What isolated CPUs suffer: a group of its own in every table, and two figures that only such machines have."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.simulate import World
from execbench.study.expand import Asked, expand


def _world(machine: str, backend: str, **settings: Any) -> World:
    asked = Asked.of(workload="bpf", backends=backend, machine=machine, duration="200ms", warmup="20ms",
                     set={"client.bpf.loaded": 6, **settings})  # fmt: skip
    return World(expand(asked).cells[0].spec, 0, {})


def _metrics(world: World) -> dict[str, float]:
    table = world.run().tables["metrics"]
    return {name: value for name, client, value in zip(table["metric"], table["client"], table["value"], strict=True)
            if not client}  # fmt: skip


@pytest.mark.parametrize("model", ["lazy", "explicit"])
def test_every_round_of_the_window_reaches_every_isolated_cpu_once(model: str) -> None:
    settings = {"run.cpu_model": model}
    if model == "explicit":
        settings |= {"machine.topology.cpus": 6, "machine.topology.isolated": 2}
    world = _world("x86-rt-isolated", "module_alloc", **settings)
    found = _metrics(world)
    isolated, window = world.machine.isolated, world.duration - world.warmup
    total = found["interruptions_isolated"]
    assert total > 0
    assert total % isolated == 0  # a call that joins another's batch does so on all of them or is rare
    assert found["isolated_interruptions_per_hour"] == pytest.approx(total / isolated * 3.6e12 / window, rel=0.01)
    handler = world.shared.handler_ns((("tlb_flush_all", 1),))
    assert found["isolated_longest_ns"] >= handler
    others = found["interruptions_passive"] + found["interruptions_loader"] + total
    assert others <= world.machine.interrupts.rounds * (world.machine.cpus - 1)


def test_a_backend_that_sends_nothing_leaves_them_alone() -> None:
    found = _metrics(_world("x86-rt-isolated", "bpf_prog_pack"))
    assert found["isolated_interruptions_per_hour"] == found["isolated_longest_ns"] == 0


def test_a_machine_without_isolated_cpus_has_no_such_figure() -> None:
    assert not [name for name in _metrics(_world("server-64", "module_alloc")) if "isolated" in name]
