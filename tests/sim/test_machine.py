"""What topology, features and configuration make of CPUs: isolated, preemptible ones, calls that nothing masks."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.conformance import toy_costs
from execbench.errors import MachineError
from execbench.sim.chain import Chain
from execbench.sim.classes import TwoClasses
from execbench.sim.engine import Engine
from execbench.sim.explicit import ExplicitCpus
from execbench.sim.lazy import LazyCpus
from execbench.sim.machine import Machine
from execbench.sim.rng import Streams
from execbench.stats.laws import seed_of

MODELS = ("lazy", "explicit")
STATES = {
    "user": {"fraction": 0.5, "mean": 50_000, "masked": False, "qs": True},
    "kernel": {"fraction": 0.2, "mean": 20_000, "masked": False, "qs": False},
    "idle-shallow": {"fraction": 0.3, "mean": 50_000, "masked": False, "qs": True, "wake": "idle_exit_shallow"},
}
ALONE = {
    "user-nohz_full": {"fraction": 0.9, "mean": 900_000, "masked": False, "qs": True},
    "kernel": {"fraction": 0.1, "mean": 100_000, "masked": False, "qs": False},
}
BACKGROUND = {"rule": "symmetric-flux", "restart": "idle-shallow", "states": STATES}


def machine(model: str = "lazy", isolated: int = 0, named: tuple[int, ...] = (0,), **more: Any) -> Machine:
    spec = {
        "topology": {"cpus": 8, "isolated": isolated},
        "kernel": {"hz": 1000, "preempt": "full"},
        "background": {**BACKGROUND, "isolated": {"restart": "user-nohz_full", "states": ALONE}},
    }
    return Machine(spec | more, toy_costs(), Streams(seed_of("machine"), 0), named, {"cpu_model": model})


class Acked:
    """The last acknowledgement of a round, and of how many."""

    def __init__(self) -> None:
        self.targets = self.n = 0
        self.last = -1

    def expect(self, n: int) -> None:
        self.targets += n

    def acked(self, at: int, n: int = 1) -> None:
        self.n += n
        self.last = max(self.last, at)

    def all_arrived(self, t: int) -> bool:
        return self.n == self.targets and self.last <= t


def test_idle_states_and_user_mode_of_isolated_cpus_are_extended_quiescent() -> None:
    def eqs(states: dict[str, Any], **options: bool) -> list[str]:
        chain = Chain.from_machine({"states": states}, lambda name: 1_000, **options)
        return [state.name for state in chain.states if state.eqs]

    assert eqs(STATES) == ["idle-shallow"]
    assert eqs(ALONE) == []
    assert eqs(ALONE, nohz_full=True) == ["user-nohz_full"]
    away = {"fraction": 0.5, "mean": 50_000, "masked": True, "qs": True}
    assert eqs({"user": STATES["user"], "away": away}, nohz_full=True) == ["user"]


@pytest.mark.parametrize("model", MODELS)
def test_isolated_cpus_have_a_chain_of_their_own(model: str) -> None:
    """Busy calls reach those outside user mode: a tenth of 400, and half of as many others are not idle: 0.7."""
    test = f"test_isolated_cpus_have_a_chain_of_their_own/{model}"
    spec = {"topology": {"cpus": 8_000, "isolated": 4_000}, "kernel": {"hz": 1000, "preempt": "full"},
            "background": {**BACKGROUND, "isolated": {"restart": "user-nohz_full", "states": ALONE}}}  # fmt: skip
    both = Machine(spec, toy_costs(), Streams(seed_of(test), 0), (), {"cpu_model": model})
    assert both.isolated_cpus is not None
    round_ = Acked()
    both.background.send(0, 500, 100, round_, None, "busy")
    apart = both.isolated_cpus.interruptions()
    assert abs(apart - 400) < 4.5 * (4_000 * 0.1 * 0.9) ** 0.5
    assert abs(round_.targets - apart - 2_800) < 4.5 * (4_000 * 0.7 * 0.3) ** 0.5
    assert both.background.interruptions() == round_.targets
    assert both.background.stolen_ns() == 500 * round_.targets


@pytest.mark.parametrize("model", MODELS)
def test_two_classes_do_what_each_does_alone(model: str) -> None:
    chain = Chain.from_machine(BACKGROUND, lambda name: 1_000)
    alone = Chain.from_machine({"states": ALONE}, lambda name: 0, nohz_full=True)
    make = LazyCpus if model == "lazy" else ExplicitCpus

    def parts(engine: Engine) -> list[Any]:
        streams = Streams(seed_of("test_two_classes_do_what_each_does_alone"), 0)
        first = make(engine, chain, 5, (0,), 2, streams.stream("first"))
        return [first, make(engine, alone, 7, (), 0, streams.stream("second"), watch=True)]

    def play(engine: Engine, cpus: list[Any]) -> list[Any]:
        told: list[Any] = []
        rounds = [Acked() for _ in range(4)]

        def all_of(act: Any) -> list[Any]:
            return [act(part) for part in cpus]

        steps: list[Any] = [
            lambda t: all_of(lambda c: c.gp_start(t)),
            lambda t: all_of(lambda c: c.send(t, 900, 200, rounds[0])),
            lambda t: all_of(lambda c: c.send(t, 900, 200, rounds[1], None, "busy", "preemptible")),
            lambda t: told.append(sum(all_of(lambda c: c.scan(t)))),
            lambda t: all_of(lambda c: c.stop(t, 300, 200, rounds[2])),
            lambda t: all_of(lambda c: c.send(t, 70, 200, rounds[3])),
            lambda t: all_of(lambda c: c.release(t, 50)),
            lambda t: told.append(sum(all_of(lambda c: c.interruptions() + c.stolen_ns()))),
        ]
        for i, step in enumerate(steps):
            at = 1_000 + 1_500 * i + (2_000_000 if i > 5 else 0)
            engine.call_at(at, 1 << 42, lambda step=step, at=at: step(at))
        engine.run(4_000_000)
        return told + [(round_.targets, round_.n, round_.last) for round_ in rounds]

    one, other = Engine(), Engine()
    together = play(one, [TwoClasses(*parts(one))])
    assert together == play(other, parts(other))
    assert together[2][0] == 12 and all(targets == n for targets, n, _ in together[2:])


def test_hosts_are_never_isolated() -> None:
    assert machine(isolated=3, named=(4,)).active_cpu(4).id == 4
    with pytest.raises(MachineError, match="the last 3 are isolated"):
        machine(isolated=3, named=(0, 5))
    assert machine().isolated_cpus is None


@pytest.mark.parametrize("features", [{"rfence": "sbi"}, {"rfence": "ipi"}, {"apic": "x2apic"}])
def test_whether_a_call_can_be_masked_is_the_calls_not_the_machines(features: dict[str, str]) -> None:
    """Passive CPUs that are always masked but for an instant: only calls that nothing masks come at once."""
    states = {"off": {"fraction": 0.999, "mean": "9.99ms", "masked": True, "qs": False},
              "on": {"fraction": 0.001, "mean": "10us", "masked": False, "qs": True}}  # fmt: skip
    for model in MODELS:
        built = machine(model, features=features, background={"restart": "on", "states": states})
        interrupts, threads, forced = Acked(), Acked(), Acked()
        built.background.send(0, 500, 100, forced, until="at-once")
        built.background.send(0, 500, 100, interrupts)
        built.background.send(0, 500, 100, threads, None, "all", "preemptible")
        built.engine.run(10**9)
        assert (interrupts.targets, interrupts.n, threads.n, forced.n) == (8, 8, 8, 8)
        assert forced.last == 600
        assert min(interrupts.last, threads.last) > 100_000


@pytest.mark.parametrize(
    ("preempt", "preempts"), [("none", False), ("voluntary", False), ("full", True), ("lazy", True), ("rt", True)]
)
def test_the_preemption_model_decides_when_threads_run(preempt: str, preempts: bool) -> None:
    assert machine(kernel={"hz": 1000, "preempt": preempt}).active_cpu(0).stopper.preempts == preempts


@pytest.mark.parametrize("model", MODELS)
def test_the_longest_interruption_is_one_handler_with_its_wake_up(model: str) -> None:
    states = {"idle": {"fraction": 1.0, "mean": "1ms", "qs": True, "wake": "w"}}
    chain = Chain.from_machine({"states": states}, lambda name: 4_000, nohz_full=True)
    engine = Engine()
    make = LazyCpus if model == "lazy" else ExplicitCpus
    cpus = make(engine, chain, 3, (), 0, Streams(1, 0).stream("x"), watch=True)
    longest: list[int] = []

    def send(t: int, ns: int) -> None:
        cpus.send(t, ns, 100, Acked())

    for at, ns in ((1_000, 700), (2_000, 300), (10_000, 500), (14_300, 900)):
        engine.call_at(at, 1, lambda at=at, ns=ns: send(at, ns))
    for at in (500, 5_099, 5_100, 20_000, 30_000):
        engine.call_at(at, 1 << 43, lambda at=at: longest.append(cpus.take_longest(at)))
    engine.run(40_000)
    # The second call joins the first. The fourth comes while the third's handler runs, and follows it at 14,600.
    assert longest == [0, 0, 4_000 + 1_000, 4_000 + 500, 0]
    assert cpus.interruptions() == 3 * 3
