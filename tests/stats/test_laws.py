"""Acceptance by laws: sizes, error rates, seeds, the cheap path."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from execbench.stats.laws import (
    ALPHA,
    POWER,
    error_rates,
    judge,
    judge_distribution,
    ks_distance,
    ks_threshold,
    sample_size,
    seed_of,
    two_stage,
)


def test_the_size_for_an_mm1_queue() -> None:
    rho = 0.5
    variance = rho * (2 + 5 * rho - 4 * rho**2 + rho**3) / (1 - rho) ** 4
    assert sample_size(variance, 0.02) == pytest.approx(3.3e6, rel=0.005)


@pytest.mark.parametrize(("share", "alpha"), [(1.0, ALPHA), (0.25, 1e-3), (4.0, 1e-3)])
def test_both_errors_are_rarer_than_declared_in_every_stage(share: float, alpha: float) -> None:
    false_alarm, overlooked = error_rates(7.0, 0.1, math.ceil(share * sample_size(7.0, 0.1)))
    assert false_alarm < alpha and overlooked < 1 - POWER
    halved, _ = error_rates(7.0, 0.1, math.ceil(share * sample_size(7.0, 0.1) / 8))
    assert share > 1 or halved > alpha


def test_error_rates_are_those_of_the_normal_law() -> None:
    assert error_rates(4.0, 1.0, 4) == pytest.approx((0.317311, 0.157305), abs=1e-6)


def test_the_threshold_is_delta() -> None:
    assert judge(1.02, 1.0, 0.021, 9).passed and not judge(1.02, 1.0, 0.019, 9)
    assert not judge(math.nan, 1.0, 0.5, 9)
    assert "off by 0.02 > delta 0.019 (n = 9, stage 1)" in str(judge(1.02, 1.0, 0.019, 9))


def test_the_seed_is_the_hash_of_the_name() -> None:
    assert seed_of("mm1") == int.from_bytes(hashlib.blake2b(b"mm1", digest_size=8).digest(), "big")
    assert seed_of("mm1") != seed_of("mm1/second")


def exponential_mean(seed: int, n: int, mean: float = 1.0) -> float:
    return float(np.random.Generator(np.random.Philox(seed)).exponential(mean, n).mean())


def test_the_cheap_path() -> None:
    n = sample_size(1.0, 0.02)
    name = "exponential mean"
    assert two_stage(name, 1.0, 0.02, n, exponential_mean).stage == 1
    calls: list[tuple[int, int]] = []

    def unlucky(seed: int, size: int) -> float:
        calls.append((seed, size))
        return 2.0 if len(calls) == 1 else exponential_mean(seed, size)

    second = two_stage(name, 1.0, 0.02, n, unlucky)
    assert second.passed and second.stage == 2
    assert calls == [(seed_of(name), math.ceil(n / 4)), (seed_of(f"{name}/second"), 4 * n)]
    wrong = two_stage(name, 1.0, 0.02, n, lambda seed, size: exponential_mean(seed, size, 1.04))
    assert not wrong and wrong.stage == 2


def test_impossible_declarations_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        sample_size(1.0, 0.0)


def test_the_kolmogorov_threshold() -> None:
    assert ks_threshold(20_000) == pytest.approx(0.0175, abs=5e-5)
    assert ks_distance([0.1, 0.4, 0.7], lambda x: x) == pytest.approx(0.3)
    assert ks_distance([0.9, 0.6, 0.3], lambda x: x) == pytest.approx(0.3)
    u = np.random.Generator(np.random.Philox(seed_of("kolmogorov"))).random(20_000)
    assert judge_distribution(u, lambda x: x)
    assert not judge_distribution(u, lambda x: x**1.1)
