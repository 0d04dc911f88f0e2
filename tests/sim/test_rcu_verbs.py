"""RCU's flavours as verbs of the kernel: what release, architecture and preemption model make of each, on real CPUs."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.contract import Proc
from execbench.costs import CostTable
from execbench.kernel.facade import Kernel
from execbench.kernel.rcu import flavour_rules
from execbench.kernel.releases import RELEASES, release_from
from execbench.simulate import rcu_rules
from tests.kernel.bench import Bench, bench_costs

WAITS = ("synchronize_rcu_expedited", "synchronize_rcu_tasks", "synchronize_rcu_tasks_rude",
         "synchronize_rcu_tasks_trace")  # fmt: skip
CALLS = ("call_rcu_tasks", "call_rcu_tasks_trace")
FLAVOUR = dict(zip((*WAITS, *CALLS), ("expedited", "tasks", "rude", "trace", "tasks", "trace"), strict=True))


class Periods:
    """Hears grace periods."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str, int, str, int]] = []

    def gp(self, *fields: Any) -> None:
        self.heard.append(fields)  # type: ignore[arg-type]

    def complete(self, flavour: str) -> list[tuple[int, int]]:
        """Starts and ends of a flavour's grace periods."""
        starts = [t for t, of, _, what, _ in self.heard if of == flavour and what == "start"]
        ends = [t for t, of, _, what, _ in self.heard if of == flavour and what == "end"]
        return list(zip(starts, ends, strict=False))


def played(verb: str, release: str = "6.18", arch: str = "x86_64", **how: Any) -> tuple[Bench, Periods, int, int]:
    """One task that uses a verb; return when it asked and when it was served."""
    bench, periods, config = Bench(arch, release, **how), Periods(), how.get("config", {})
    settings = {"hz": 1000, "preempt": "full", **config}
    bench.machine.start_rcu(rcu_rules(settings, bench.shared.release, bench.shared.costs, bench.machine.cpus, arch))
    bench.machine.probe.attach(periods)
    at: list[int] = []

    def body(k: Kernel) -> Proc[None]:
        yield from k.settle()
        at.append(k.now)
        if verb in CALLS:
            yield from getattr(k, verb)(lambda: at.append(k.now))
        else:
            yield from getattr(k, verb)()
            at.append(k.now)

    bench.task(body)
    bench.run()
    asked, served = at
    return bench, periods, asked, served


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("verb", [*WAITS, *CALLS])
def test_a_complete_grace_period_of_the_flavour_lies_inside_the_wait(verb: str, release: str) -> None:
    bench, periods, asked, served = played(verb, release)
    assert bench.counts[verb] == 1
    inside = [span for span in periods.complete(FLAVOUR[verb]) if asked <= span[0] and span[1] <= served]
    if verb == "synchronize_rcu_tasks_rude" and release in ("6.18", "7.3"):
        assert not periods.heard and served == asked, "since 6.13 there is nothing to wait for"
    else:
        assert len(inside) == 1
    normal = [span for span in periods.complete("rcu") if asked <= span[0] and span[1] <= served]
    if FLAVOUR[verb] == "tasks":
        assert len(normal) == 2
    elif verb == "call_rcu_tasks_trace":
        assert len(normal) == (2 if release == "7.3" else 1)
    elif verb == "synchronize_rcu_tasks_trace" and release == "7.3":
        assert not normal and len(periods.complete("expedited")) == 2, "the domain was idle"


@pytest.mark.parametrize("verb", ["synchronize_rcu_tasks", "call_rcu_tasks"])
def test_without_tasks_rcu_it_is_plain_rcu(verb: str) -> None:
    bench, periods, *_ = played(verb, arch="arm64", config={"preempt": "none"})
    assert {flavour for _, flavour, *_ in periods.heard} == {"rcu"}
    assert bench.counts[verb.removesuffix("_tasks")] == 1 and not bench.counts[verb]


def test_preempt_rt_forbids_expediting() -> None:
    bench, periods, *_ = played("synchronize_rcu_expedited", config={"preempt": "rt"})
    assert {flavour for _, flavour, *_ in periods.heard} == {"rcu"}
    assert bench.counts["synchronize_rcu_expedited"] == 1 and not bench.counts["synchronize_rcu"]


RULES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("6.1", "x86_64", "voluntary", {"tasks": True, "lazy": False, "rude": True, "trace": "holdouts"}),
    ("6.12", "x86_64", "none", {"tasks": True, "lazy": True, "rude": True, "exp_at_once": True}),
    ("6.18", "x86_64", "none", {"tasks": True, "lazy": True, "rude": False, "trace": "holdouts", "expedited": True}),
    ("7.3", "x86_64", "lazy", {"exp_at_once": False, "tasks": True, "lazy": True, "rude": False, "trace": "srcu"}),
    ("6.18", "x86_64", "rt", {"tasks": True, "expedited": False}),
    ("6.1", "arm64", "none", {"tasks": False, "rude": True, "exp_at_once": False}),
    ("6.12", "arm64", "voluntary", {"tasks": False, "rude": True}),
    ("7.3", "riscv64", "none", {"tasks": False, "rude": False}),
    ("6.18", "riscv64", "full", {"tasks": True, "rude": False}),
]


@pytest.mark.parametrize(("release", "arch", "preempt", "expected"), RULES)
def test_what_release_architecture_and_preemption_make_of_the_flavours(
    release: str, arch: str, preempt: str, expected: dict[str, Any]
) -> None:
    costs: CostTable = bench_costs()
    made = flavour_rules({"hz": 250, "preempt": preempt}, release_from({"release": release}), costs, arch)
    assert {name: getattr(made, name) for name in expected} == expected


def test_costs_and_chances_come_from_the_machine() -> None:
    costs = bench_costs()
    config = {"hz": 250, "preempt": "full", "rcu_tasks_holdout": {"value": 0.3, "range": [0.1, 0.5]}}
    made = flavour_rules(config, release_from({"release": "6.18"}), costs, "x86_64")
    assert made.holdout == 0.3 and made.exp_gp_ns == costs.ns("exp_gp_fixed") and made.scan_ns == costs.ns("tasks_scan")
    assert made.exp_handler_ns == costs.ns("ipi_handler") + costs.ns("exp_handler")


# --- on the machine's own CPUs ----------------------------------------------------------------------------------------


def state(fraction: float, mean: int, **other: Any) -> dict[str, Any]:
    return {"fraction": fraction, "mean": mean, "masked": False, "qs": True, **other}


HALF_IDLE = {"user": state(0.5, 100_000), "idle-shallow": state(0.5, 100_000, wake="idle_exit_shallow")}
READING = {
    "reader": state(0.9, 9_000_000, qs=False),
    "idle-shallow": state(0.1, 1_000_000, wake="idle_exit_shallow"),
}


def interrupted(
    verb: str, release: str, model: str, states: dict[str, Any], monkeypatch: pytest.MonkeyPatch, preempt: str = "full"
) -> tuple[Bench, list[int], int]:
    """A machine of 64 CPUs; return it, how many CPUs each grace period interrupted, and how long the wait was."""
    background = {"rule": "symmetric-flux", "restart": "idle-shallow", "states": states}
    monkeypatch.setattr("tests.kernel.bench.toy_background", lambda: background)
    monkeypatch.setattr("tests.kernel.bench._END", 200_000_000)
    bench, periods, asked, served = played(
        verb, release, cpus=64, run={"cpu_model": model}, config={"preempt": preempt}
    )
    scans = [n for _, of, _, what, n in periods.heard if of == FLAVOUR[verb] and what == "scan"]
    return bench, scans, served - asked


@pytest.mark.parametrize("preempt", ["full", "none"])
@pytest.mark.parametrize("model", ["lazy", "explicit"])
def test_expedited_grace_periods_spare_idle_cpus(model: str, preempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, (scan,), _ = interrupted("synchronize_rcu_expedited", "6.18", model, HALF_IDLE, monkeypatch, preempt)
    assert 15 < scan < 50, "of 64 with 32 busy on average: 4.5 standard deviations"
    assert bench.machine.background.interruptions() == scan


@pytest.mark.parametrize("model", ["lazy", "explicit"])
def test_rude_grace_periods_spare_nobody(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, (scan,), _ = interrupted("synchronize_rcu_tasks_rude", "6.12", model, HALF_IDLE, monkeypatch)
    assert scan == 64, "the caller's own CPU too: it sleeps"
    assert bench.machine.background.interruptions() == scan


@pytest.mark.parametrize("model", ["lazy", "explicit"])
@pytest.mark.parametrize("preempt", ["full", "none"])
@pytest.mark.parametrize(
    ("verb", "release"), [("synchronize_rcu_expedited", "6.18"), ("synchronize_rcu_tasks_rude", "6.12")]
)
def test_states_that_are_not_quiescent_hold_them_up(
    verb: str, release: str, model: str, preempt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, wait = interrupted(verb, release, model, READING, monkeypatch, preempt)
    assert wait > 9_000_000, "the longest of about 58 residual times of 9 ms"


@pytest.mark.parametrize(
    ("arch", "preempt", "waits"),
    [("x86_64", "none", False), ("x86_64", "full", False), ("arm64", "none", True), ("arm64", "full", False)],
)
def test_a_task_in_the_kernel_holds_an_expedited_grace_period_up_without_preemption(
    arch: str, preempt: str, waits: bool
) -> None:
    bench = Bench(arch, "6.18", config={"preempt": preempt})
    settings = {"hz": 1000, "preempt": preempt}
    bench.machine.start_rcu(rcu_rules(settings, bench.shared.release, bench.shared.costs, 4, arch))
    took: list[int] = []

    def worker(k: Kernel) -> Proc[None]:
        k.task.cpu.spend(10_000_000)
        yield from k.settle()

    def waiter(k: Kernel) -> Proc[None]:
        begin = k.now
        yield from k.synchronize_rcu_expedited()
        took.append(k.now - begin)

    bench.task(worker, cpu=1)
    bench.task(waiter, start=1_000_000)
    bench.run()
    assert (took[0] > 8_000_000) is waits
