"""The matrices that the lazy model skips gaps with, as algebra: no statistics, and errors of 1e-12 are found."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from scipy.linalg import expm
from scipy.stats import binom

from execbench.sim.chain import Chain
from execbench.sim.powers import HIGHER, LOWEST, Powers
from execbench.sim.rng import Streams
from execbench.sim.sampling import Draws, binomial
from execbench.stats.chisquare import chi_square
from execbench.stats.laws import seed_of

Matrix = npt.NDArray[np.float64]


def chain(states: dict[str, dict[str, object]], **more: object) -> Chain:
    return Chain.from_machine({"states": states, **more}, lambda name: 1_000)


SERVER = {
    "user": {"fraction": 0.45, "mean": "200us", "qs": True},
    "kernel": {"fraction": 0.1, "mean": "30us"},
    "reader": {"fraction": 0.03, "mean": "5us"},
    "irqs-off-short": {"fraction": 0.01, "mean": "1us", "masked": True},
    "irqs-off-long": {"fraction": 0.001, "mean": "30us", "masked": True},
    "idle-shallow": {"fraction": 0.1, "mean": "20us", "qs": True, "wake": "w"},
    "idle-deep": {"fraction": 0.309, "mean": "500us", "qs": True, "wake": "w", "after_interrupt": "idle-shallow"},
}
RING = {"a": {"b": 1.0}, "b": {"c": 0.9, "a": 0.1}, "c": {"d": 1.0}, "d": {"a": 1.0}}
CHAINS = {
    "server": chain(SERVER),
    "erlang": chain({**SERVER, "reader": {**SERVER["reader"], "dist": {"erlang": 4}}}),
    "mixture": chain(
        {
            **SERVER,
            "irqs-off-long": {
                "fraction": 0.001, "masked": True, "dist": {"mixture": {"weights": [0.9, 0.1], "means": [900, "90us"]}},
            },
        }
    ),
    "ring": chain(
        {
            "a": {"mean": "3us", "qs": True},
            "b": {"mean": "400ns"},
            "c": {"mean": "20us", "masked": True},
            "d": {"mean": "2us"},
        },
        jumps=RING,
    ),
    "two": chain({"a": {"fraction": 0.5, "mean": "7us", "qs": True}, "b": {"fraction": 0.5, "mean": "7us"}}),
    "still": chain({"idle": {"fraction": 1.0, "mean": "1ms", "qs": True}}),
}  # fmt: skip
GAPS = (
    0, 1, 2, 3, 17, LOWEST - 1, LOWEST, LOWEST + 1, 999, 54_321, LOWEST * (HIGHER - 1) - 1, LOWEST * HIGHER - 1,
    LOWEST * HIGHER, LOWEST * HIGHER + 77, 3_000_000, 7_654_321,
)  # fmt: skip

every_chain = pytest.mark.parametrize("name", CHAINS)
with_taboo = pytest.mark.parametrize("name", [name for name in CHAINS if name != "still"])


def generator(c: Chain) -> Matrix:
    q = np.array(c.rates)
    np.fill_diagonal(q, 0.0)
    np.fill_diagonal(q, -q.sum(axis=1))
    return q


def matrix(powers: Powers, d: int) -> Matrix:
    return np.array([powers.row(i, d) for i in range(powers.size)])


@every_chain
def test_transition_matrix_equals_expm(name: str) -> None:
    c = CHAINS[name]
    for d in GAPS:
        assert matrix(c.powers, d) == pytest.approx(expm(generator(c) * d), abs=1e-12), d


def test_accuracy_does_not_wear_off() -> None:
    """Visits of 7 ns over 16 s: 35 squarings, after which expm itself is wrong in the eighth digit."""
    fast = chain({"a": {"fraction": 0.5, "mean": 7, "qs": True}, "b": {"fraction": 0.5, "mean": 7}})
    for d in (*GAPS, 16 * 10**9):
        same = 0.5 + 0.5 * math.exp(-2 * d / 7)
        assert matrix(fast.powers, d) == pytest.approx(np.array([[same, 1 - same], [1 - same, same]]), abs=1e-15), d


@with_taboo
def test_taboo_matrix_equals_expm_and_completes(name: str) -> None:
    c = CHAINS[name]
    others = [i for i, state in enumerate(c.states) if not state.qs]
    q = generator(c)[np.ix_(others, others)]
    for d in GAPS:
        avoiding = matrix(c.taboo, d)[np.ix_(others, others)]
        assert avoiding == pytest.approx(expm(q * d), abs=1e-12), d
        # Paths that pass a quiescent state and end in j: what is left of P, never negative.
        passing = matrix(c.powers, d)[np.ix_(others, others)] - avoiding
        assert passing.min() > -1e-15
        # Stopped in the quiescent states, nothing is lost.
        assert matrix(c.taboo, d).sum(axis=1) == pytest.approx(np.ones(len(c.states)), abs=1e-14)


@every_chain
def test_semigroup(name: str) -> None:
    c = CHAINS[name]
    assert (matrix(c.powers, 0) == np.eye(len(c.states))).all()
    pi = np.array(c.pi)
    for s in GAPS:
        p = matrix(c.powers, s)
        assert p.min() >= 0.0
        assert p.sum(axis=1) == pytest.approx(np.ones(len(pi)), abs=1e-14)
        assert pi @ p == pytest.approx(pi, abs=1e-13)
        for t in GAPS[::3]:
            assert p @ matrix(c.powers, t) == pytest.approx(matrix(c.powers, s + t), abs=1e-12), (s, t)


@every_chain
def test_four_digits_reach_for_days(name: str) -> None:
    c = CHAINS[name]
    assert matrix(c.powers, 3 * LOWEST * HIGHER**2 + 5) == pytest.approx(np.tile(c.pi, (len(c.pi), 1)), abs=1e-12)


@pytest.mark.parametrize("flight", [0, 300, 2_500])
@every_chain
def test_laws_that_are_drawn_from(name: str, flight: int) -> None:
    """Running sums of P(state after the gap, no jump in the flight), to 1e-12, whatever the gap was."""
    c = CHAINS[name]
    arrivals = Draws(c, Streams(1, 0).stream("x"))._arriving(flight)
    stay = np.exp(-np.array(c.leave) * flight)
    for d in GAPS:
        exact = np.cumsum(expm(generator(c) * d) * stay, axis=1)
        laws = [arrivals.law(d * len(stay) + x) for x in range(len(stay))]
        assert np.array(laws) == pytest.approx(exact, abs=1e-12), d
        assert flight or {law[-1] for law in laws} == {1.0}


class Grid:
    """A stream whose blocks are read off a grid; single draws are 0.5."""

    def __init__(self, us: list[float]) -> None:
        self._us = iter(us)

    def u(self) -> float:
        return 0.5

    def us(self, n: int) -> list[float]:
        return [next(self._us) for _ in range(n)]


@pytest.mark.parametrize("gap", [40, 5_000, 2_345_678])
@with_taboo
def test_watching_splits_by_the_joint_law(name: str, gap: int) -> None:
    """Inverting an even grid of uniforms gives each cell of (state, seen) its probability, to one point of the grid."""
    c = CHAINS[name]
    start = next(i for i, state in enumerate(c.states) if not state.qs)
    size, n, flight = len(c.states), 4_000, 200
    draws = Draws(c, Grid([(k + 0.5) / n for k in range(n)]))  # type: ignore[arg-type]
    cells = [[0] * size for _ in range(4)]
    for _ in range(n // 100):
        draws.split_watching(-1, {(0, start): 100}, gap, gap + flight, *cells)
    kept, moved, kept_unseen, moved_unseen = (np.array(cell) for cell in cells)
    q, others = generator(c), [i for i, state in enumerate(c.states) if not state.qs]
    every, unseen = expm(q * gap)[start], np.zeros(size)
    unseen[others] = expm(q[np.ix_(others, others)] * gap)[others.index(start)]
    stay = np.exp(-np.array(c.leave) * flight)
    assert kept_unseen / n == pytest.approx(unseen * stay, abs=2.1 / n)
    assert kept / n == pytest.approx((every - unseen) * stay, abs=2.1 / n)
    assert (moved.sum() + moved_unseen.sum()) / n == pytest.approx(1 - (every * stay).sum(), abs=2.1 / n)


@with_taboo
def test_visits_and_flights_have_their_laws(name: str) -> None:
    """Jumps inside a flight: number and end state against the matrix, conditional on one jump at least."""
    c = CHAINS[name]
    x, n, t, flight = 0, 20_000, 1_000, 3_000
    test = f"test_visits_and_flights_have_their_laws/{name}"
    draws = Draws(c, Streams(seed_of(test), 0).stream("flights"))
    ends: Counter[int] = Counter()
    for path in draws.flights(-1, x, n, t, t + flight):
        assert path, "each of them jumps"
        assert all(t <= at <= t + flight for at, _ in path)
        ends[path[-1][1]] += 1
    none = math.exp(-c.leave[x] * flight)
    law = expm(generator(c) * flight)[x]
    law[x] -= none
    law = np.maximum(law, 0.0) / law.sum()
    # What floating point leaves of impossible ends is no cell.
    law[law < 1e-15] = 0.0
    assert chi_square([ends[j] for j in range(len(law))], law / law.sum())


@pytest.mark.parametrize(
    ("n", "p"), [(1, 0.3), (7, 0.5), (40, 0.9), (150, 0.04), (600, 0.37), (4095, 0.45), (4095, 0.99)]
)
def test_binomial_inverts_its_law(n: int, p: float) -> None:
    """Each outcome owns uniforms of a total length that is its probability, so an even grid counts it out."""
    points = 20_000
    counts = Counter(binomial(n, p, (k + 0.5) / points) for k in range(points))
    # An outcome owns at most two intervals, and each may round up or down to the grid.
    for k in range(n + 1):
        assert counts[k] / points == pytest.approx(float(binom.pmf(k, n, p)), abs=2.1 / points)
    # Rounding leaves nothing over at the very ends.
    assert 0 <= binomial(n, p, 2.0**-54) <= n
    assert 0 <= binomial(n, p, 1.0 - 2.0**-53) <= n


@with_taboo
def test_large_groups_split_like_single_cpus(name: str) -> None:
    """Conditional binomials give each CPU the law of its row: total counts of many groups by chi-square."""
    c = CHAINS[name]
    test = f"test_large_groups_split_like_single_cpus/{name}"
    draws = Draws(c, Streams(seed_of(test), 0).stream("groups"))
    gap, size = 3_333, len(c.states)
    for n in (1, 50, 700):
        kept, moved = [0] * size, [0] * size
        for _ in range(70_000 // n if n > 1 else 20_000):
            draws.split(-1, {(0, 1): n}, gap, gap + 250, kept, moved)
        row = expm(generator(c) * gap)[1]
        stay = np.exp(-np.array(c.leave) * 250)
        assert chi_square(kept + moved, np.concatenate([row * stay, row * (1 - stay)])), n
