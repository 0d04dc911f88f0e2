"""Backlogs that grow, against scipy's one-sided t test."""

from __future__ import annotations

import numpy as np
from scipy.stats import ttest_1samp

from execbench.stats.drift import ALPHA, grows
from execbench.stats.laws import seed_of


def test_agrees_with_the_t_test_of_scipy() -> None:
    rng = np.random.Generator(np.random.Philox(seed_of("test_agrees_with_the_t_test_of_scipy")))
    said = []
    for _ in range(400):
        differences = np.round(rng.normal(rng.uniform(1.5, 12), 10, int(rng.integers(2, 15)))).tolist()
        if np.mean(differences) >= 1:
            expected = bool(ttest_1samp(differences, 0, alternative="greater").pvalue < ALPHA)
            assert grows(differences) == expected, differences
            said.append(expected)
    assert 20 < sum(said) < len(said) - 20


def test_what_is_bounded_or_shrinks_or_stands_alone_does_not_grow() -> None:
    assert not grows([1, 1, 0, 1, 1, 1, 1, 1, 1, 1])
    assert not grows([-50, -60, -55, -40])
    assert not grows([1000])
    assert not grows([])
    assert grows([40, 40, 40])
