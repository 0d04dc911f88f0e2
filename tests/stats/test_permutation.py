"""The permutation test: exact on small samples, deterministic, powerful enough."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from execbench.stats.laws import seed_of
from execbench.stats.permutation import permutation_test, split_bound


def distance(a: list[float], b: list[float]) -> float:
    points = sorted(set(a + b))
    return max(abs(sum(x <= t for x in a) / len(a) - sum(x <= t for x in b) / len(b)) for t in points)


@pytest.mark.parametrize(
    ("a", "b"), [([1, 2, 3, 9], [4, 5, 6, 7, 8]), ([1, 1, 2, 2], [2, 2, 3, 3, 3]), ([5, 5], [5, 5, 5])]
)
def test_the_p_value_is_the_share_of_all_splits(a: list[float], b: list[float]) -> None:
    pool, observed = a + b, distance(a, b)
    splits = list(combinations(range(len(pool)), len(a)))
    reached = 0
    for chosen in splits:
        x = [pool[i] for i in chosen]
        y = [pool[i] for i in range(len(pool)) if i not in chosen]
        reached += distance(x, y) >= observed - 1e-12
    got = permutation_test(a, b, "all splits", stop_after=4000)
    assert got.distance == pytest.approx(observed)
    # 4000 hits give the share to 1.6 % (one sigma); 4.5 of those.
    assert got.p_value == pytest.approx(reached / len(splits), rel=0.071)


def test_equal_laws_pass_early_and_repeatably() -> None:
    rng = np.random.Generator(np.random.Philox(seed_of("equal laws")))
    a, b = rng.exponential(1, 2000), rng.exponential(1, 2000)
    got = permutation_test(a, b, "equal")
    assert got and got.permutations < 10_000
    assert got == permutation_test(a, b, "equal")
    assert got.permutations != permutation_test(a, b, "another name").permutations


def test_different_laws_are_told_apart_at_one_in_a_hundred_thousand() -> None:
    rng = np.random.Generator(np.random.Philox(seed_of("different laws")))
    a, b = rng.exponential(1, 120), rng.exponential(4, 100)
    got = permutation_test(a, b, "different")
    assert not got and got.permutations == 100_000 and got.p_value <= 1e-5


def test_equal_sizes_need_no_draws_where_the_bound_decides() -> None:
    pool = range(10)
    distances = [round(5 * distance([*a], [i for i in pool if i not in a])) for a in combinations(pool, 5)]
    for steps in range(1, 6):
        share = sum(d >= steps for d in distances) / len(distances)
        assert share <= split_bound(steps, 5) + 1e-12
        # Above half the size no split can reach the distance on both sides.
        assert steps <= 2 or split_bound(steps, 5) == pytest.approx(share)
    got = permutation_test(range(50), range(40, 90), "bound")
    assert not got.passed
    assert (got.permutations, got.distance) == (0, 0.8)
    assert got.p_value == split_bound(40, 50)
    assert permutation_test(range(50), range(10, 60), "bound").permutations > 0


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        permutation_test([], [1.0], "empty")
    with pytest.raises(ValueError, match="finite"):
        permutation_test([float("nan")], [1.0], "nan")
