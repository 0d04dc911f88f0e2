"""stop_machine as tasks call it: one at a time, what is counted and told, how long everybody is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from execbench.kernel.facade import Kernel
from execbench.sim.engine import Proc
from tests.kernel import bench as kernel_bench
from tests.kernel.bench import Bench

MODELS = [{"cpu_model": "lazy"}, {"cpu_model": "explicit"}, {"cpu_model": "lazy", "merge": False}]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Explicit CPUs go on walking until the very end."""
    monkeypatch.setattr(kernel_bench, "_END", 200_000_000)


def stops(log: list[tuple[str, int]], ns: int = 40_000) -> Callable[[Kernel], Proc[None]]:
    """Stop the machine and work for `ns` while all are held."""

    def body(k: Kernel) -> Proc[None]:
        def work() -> Proc[None]:
            log.append(("held", k.now))
            k.task.cpu.spend(ns)
            yield from k.settle()
            log.append(("let go", k.now))

        begin = yield from k.stop_machine("isb", 2, work())
        yield from k.settle()
        log.append(("asked", begin))
        log.append(("back", k.now))

    return body


@pytest.mark.parametrize("run", MODELS, ids=["lazy", "explicit", "every event"])
@pytest.mark.parametrize("preempt", ["none", "full", "rt"])
def test_two_stops_come_one_after_the_other_and_cost_every_cpu_the_whole_hold(run: Any, preempt: str) -> None:
    bench, one, two = Bench("arm64", cpus=6, config={"preempt": preempt}, run=run), [], []
    bench.task(stops(one), 0)
    bench.task(stops(two), 1)
    bench.run()
    held = sorted([dict(one)["held"], dict(two)["held"]])
    gone = sorted([dict(one)["let go"], dict(two)["let go"]])
    assert gone[0] == held[0] + 40_000 and gone[1] == held[1] + 40_000
    assert held[1] > gone[0], "the mutex"
    assert [call for call, _ in bench.calls].count("stop_machine") == 2
    assert [fact for fact in bench.facts if fact[0] == "serialize"] == [
        ("serialize", dict(log)["back"], dict(log)["asked"], "all", "stop_machine") for log in (one, two)
    ]
    assert bench.rounds == [("stop_machine", 5), ("stop_machine", 5)]
    assert bench.spent.count(("isb", 2)) == 2, "the callers' own; the others' is in their hold"
    machine = bench.machine
    cpus = machine.background.stolen_ns() + sum(cpu.stolen for cpu in machine.active_cpus)
    switch, isb = bench.shared.costs.ns("stopper_switch"), bench.shared.costs.ns("isb", 2)
    assert cpus >= 2 * 5 * (switch + 40_000 + isb)


def test_nothing_to_do_and_nobody_else() -> None:
    def body(k: Kernel) -> Proc[None]:
        yield from k.stop_machine("sync_core")

    bench = Bench(cpus=1, hosts=(0,))
    bench.task(body)
    bench.run()
    assert ("stop_machine", 1) in bench.calls and bench.machine.background.stolen_ns() == 0


@pytest.mark.parametrize("run", MODELS[:2], ids=["lazy", "explicit"])
def test_a_stop_among_rounds_and_locks_comes_to_its_end(run: Any) -> None:
    """Rounds of others, under mutexes, spinlocks taken with interrupts off, and grace periods, while CPU 0 stops."""
    bench, log = Bench(cpus=8, hosts=(0, 1, 2, 3), run=run), []

    def rounds(k: Kernel) -> Proc[None]:
        for i in range(30):
            if i % 3:
                with (yield from k.lock("text_mutex")):
                    yield from k.sync_each_cpu()
            with k.irqs_off(), (yield from k.lock("cpa_lock")):
                k.spend("cpa_page", 5)
            if i % 7 == 3:
                yield from k.synchronize_rcu()

    def stopping(k: Kernel) -> Proc[None]:
        for _ in range(10):
            yield from stops(log, 1_000)(k)

    for cpu in (1, 2, 3):
        bench.task(rounds, cpu, start=cpu * 500)
    bench.task(stopping, 0)
    bench.run()
    assert len([what for what, _ in log if what == "back"]) == 10
