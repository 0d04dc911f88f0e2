"""The chain of a machine file: what the rule fills in, phases, and which machines are refused."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.errors import InputError
from execbench.sim.chain import Chain

COSTS = {"idle_exit_shallow": 1_000, "idle_exit_deep": 30_000}
EXIT = pytest.approx


def background(**changes: dict[str, Any] | None) -> dict[str, Any]:
    states: dict[str, Any] = {
        "user": {"fraction": 0.5, "mean": "200us", "qs": True},
        "kernel": {"fraction": 0.1, "mean": "30us"},
        "irqs-off": {"fraction": 0.01, "mean": 2_000, "masked": True},
        "idle": {"fraction": 0.2, "mean": "40us", "qs": True, "wake": "idle_exit_shallow"},
        "deep": {
            "fraction": 0.19, "mean": "1ms", "qs": True, "wake": "idle_exit_deep", "after_interrupt": "idle",
        },
    }  # fmt: skip
    for name, change in changes.items():
        name = name.replace("_", "-")
        if change is None:
            del states[name]
        else:
            states[name] = states.get(name, {}) | change
    return {"rule": "symmetric-flux", "restart": "idle", "states": states}


def chain(given: dict[str, Any], **options: bool) -> Chain:
    return Chain.from_machine(given, COSTS.__getitem__, **options)


def flux(c: Chain) -> list[list[float]]:
    return [[c.pi[i] * rate for rate in row] for i, row in enumerate(c.rates)]


def test_the_rule_keeps_fractions_and_means_and_balances_every_pair() -> None:
    c = chain(background())
    assert c.pi == EXIT((0.5, 0.1, 0.01, 0.2, 0.19), rel=1e-12)
    assert [1 / rate for rate in c.leave] == EXIT([200e3, 30e3, 2e3, 40e3, 1e6], rel=1e-12)
    f = flux(c)
    for i in range(5):
        assert c.rates[i][i] == 0.0
        for j in range(i):
            assert f[i][j] == EXIT(f[j][i], rel=1e-12)
    # Product form: F_01 F_23 = F_02 F_13, which fixes the c_i up to sign.
    assert f[0][1] * f[2][3] == EXIT(f[0][2] * f[1][3], rel=1e-10)
    assert f[1][4] * f[2][3] == EXIT(f[1][2] * f[3][4], rel=1e-10)


def test_states_keep_their_properties() -> None:
    c = chain(background())
    deep, idle = c.states[c.index("deep")], c.states[c.index("idle")]
    assert (deep.wake, deep.qs, deep.masked, deep.after_interrupt) == (30_000, True, False, c.index("idle"))
    assert (idle.wake, idle.after_interrupt) == (1_000, c.index("idle"))
    assert c.states[c.index("irqs-off")].masked
    with pytest.raises(KeyError):
        c.index("nobody")


def test_the_largest_flux_may_need_the_larger_root() -> None:
    # One state has 49 % of all visits: the smaller roots alone cannot balance it.
    given = background(irqs_off={"fraction": 0.01, "mean": 1_200}, user={"fraction": 0.5})
    c = chain(given)
    visits = [p * rate for p, rate in zip(c.pi, c.leave, strict=True)]
    assert 0.40 < max(visits) / sum(visits) < 0.5
    assert c.pi == EXIT((0.5, 0.1, 0.01, 0.2, 0.19), rel=1e-9)
    assert 1 / c.leave[2] == EXIT(1_200, rel=1e-9)
    assert min(rate for i, row in enumerate(c.rates) for j, rate in enumerate(row) if i != j) > 0


def test_two_states_alternate() -> None:
    given = {"states": {"busy": {"fraction": 0.25, "mean": 1_000}, "idle": {"fraction": 0.75, "mean": 3_000}}}
    c = chain(given)
    assert (c.rates[0][1], c.rates[1][0]) == EXIT((1e-3, 1 / 3e3))
    assert c.pi == EXIT((0.25, 0.75))


def test_one_state_never_moves() -> None:
    c = chain({"states": {"idle": {"fraction": 1.0, "mean": "1ms"}}})
    assert c.pi == (1.0,)
    assert c.leave == (0.0,)
    assert c.powers.row(0, 10**7) == [1.0]


def test_given_jumps_determine_the_fractions() -> None:
    states = {"a": {"mean": 100}, "b": {"mean": 300}, "c": {"mean": 50}}
    jumps = {"a": {"b": 0.5, "c": 0.5}, "b": {"a": 1.0}, "c": {"b": 1.0}}
    c = chain({"states": states, "jumps": jumps})
    # Visits a : b : c = 2 : 2 : 1.
    assert c.pi == EXIT((200 / 850, 600 / 850, 50 / 850))
    agreeing = {name: state | {"fraction": p} for (name, state), p in zip(states.items(), c.pi, strict=True)}
    assert chain({"states": agreeing, "jumps": jumps}).rates == c.rates
    agreeing["a"]["fraction"] += 0.05
    agreeing["b"]["fraction"] -= 0.05
    with pytest.raises(InputError, match=r"states\.a\.fraction"):
        chain({"states": agreeing, "jumps": jumps})


def test_erlang_visits_are_phases_in_series() -> None:
    c = chain(background(irqs_off={"dist": {"erlang": 3}}))
    first = c.index("irqs-off")
    assert [state.name for state in c.states[first : first + 3]] == [f"irqs-off/{k}" for k in (1, 2, 3)]
    assert all(state.masked for state in c.states[first : first + 3])
    assert sum(c.pi[first : first + 3]) == EXIT(0.01, rel=1e-12)
    assert c.rates[first][first + 1] == EXIT(3 / 2_000)
    assert c.rates[first][:first] == (0.0,) * first
    entered = [row[first + 1] for i, row in enumerate(c.rates) if i != first]
    assert entered == [0.0] * 6
    assert c.pi == EXIT((0.5, 0.1, 0.01 / 3, 0.01 / 3, 0.01 / 3, 0.2, 0.19), rel=1e-12)


def test_mixed_visits_are_phases_side_by_side() -> None:
    mixture = {"mixture": {"weights": [0.9, 0.1], "means": [100, "10us"]}}
    c = chain(background(irqs_off={"mean": 1_090, "dist": mixture}))
    first = c.index("irqs-off")
    assert c.rates[first][first + 1] == 0.0
    assert [1 / c.leave[first], 1 / c.leave[first + 1]] == EXIT([100, 10_000])
    assert c.pi[first] / c.pi[first + 1] == EXIT(90 / 1_000)
    assert sum(c.pi[first : first + 2]) == EXIT(0.01, rel=1e-9)


def test_an_interrupted_phase_goes_on() -> None:
    c = chain(background(kernel={"dist": {"erlang": 2}}))
    assert [c.states[i].after_interrupt for i in (1, 2)] == [1, 2]


def test_lognormal_visits_are_for_the_explicit_model() -> None:
    given = background(irqs_off={"dist": {"lognormal": {"sigma": 1.2}}})
    with pytest.raises(InputError, match="fit a mixture of exponentials, or cpu_model = explicit"):
        chain(given)
    assert chain(given, explicit=True).states[2].sigma == 1.2
    with pytest.raises(InputError, match="give its sigma"):
        chain(background(irqs_off={"dist": "lognormal"}), explicit=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "at least one state"),
        ({"states": {"a": 1}}, r"states\.a"),
        (background(user={"fraction": 1.5}), r"user\.fraction: got 1.5"),
        (background(user={"fraction": 0}), r"user\.fraction"),
        (background(user={"fraction": 0.6}), "sum to 1.1"),
        (background(user={"mean": "0ns"}), r"user\.mean"),
        (background(user={"mean": "soon"}), r"user\.mean"),
        (background(user={"mean": None}), r"user\.mean"),
        (background(user={"qs": "yes"}), r"user\.qs"),
        (background(user={"masks": True}), "did you mean 'masked'"),
        (background(user={"after_interrupt": "deeep"}), "did you mean 'deep'"),
        (background(user={"after_interrupt": "irqs-off"}), "takes interrupts"),
        (background(user={"dist": "normal"}), r"user\.dist"),
        (background(user={"dist": {"erlang": 0}}), r"user\.dist"),
        (background(user={"dist": {"mixture": {"weights": [1.0], "means": [1, 2]}}}), "as many weights"),
        (background(user={"dist": {"mixture": {"weights": [0.5, 0.4], "means": [1, 2]}}}), "sum to 1"),
        (background(user={"dist": {"mixture": {"weights": [0.5, 0.5], "means": [1, 2]}}}), r"user\.mean"),
        (background(irqs_off={"wake": "idle_exit_deep"}), r"irqs-off\.wake"),
        (background(irqs_off={"mean": 200}), "half of all visits"),
        (background() | {"rule": "symetric-flux"}, "symmetric-flux"),
        (background() | {"restart": "idl"}, "did you mean 'idle'"),
        (background() | {"restart": "irqs-off"}, "takes interrupts"),
        (background() | {"jumps": {"user": {"kernel": 1.0}}}, "one table for each"),
    ],
)
def test_impossible_backgrounds_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        chain(given)


def test_jumps_that_leave_parts_unreached_are_refused() -> None:
    states = {name: {"mean": 10} for name in "abcd"}
    jumps = {"a": {"b": 1.0}, "b": {"a": 1.0}, "c": {"d": 1.0}, "d": {"c": 1.0}}
    with pytest.raises(InputError, match="reached from every other"):
        chain({"states": states, "jumps": jumps})
    with pytest.raises(InputError, match="did you mean"):
        chain({"states": states, "jumps": jumps | {"a": {"bb": 1.0}}})


def test_a_mixture_cannot_be_where_an_interrupt_or_a_task_leaves_the_cpu() -> None:
    mixture = {"mean": 40_000, "dist": {"mixture": {"weights": [0.5, 0.5], "means": [10_000, 70_000]}}}
    with pytest.raises(InputError, match="begin in one phase"):
        chain(background(idle=mixture))
    with pytest.raises(InputError, match="begin in one phase"):
        chain(background(idle=mixture, deep={"after_interrupt": "deep"}))
    assert len(chain(background(idle=mixture, deep={"after_interrupt": "deep"}) | {"restart": "deep"}).states) == 6


def test_a_machine_whose_cpus_are_always_masked_is_refused() -> None:
    with pytest.raises(InputError, match="masked"):
        chain({"states": {"off": {"fraction": 1.0, "mean": 5, "masked": True}}})
