"""Distributions: known means against integration of the sampling function, fixed numbers of uniforms, refusals."""

from __future__ import annotations

import gzip
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from execbench.costs import CostTable
from execbench.errors import InputError
from execbench.sim.dists import (
    Constant,
    Dist,
    Empirical,
    Erlang,
    Exponential,
    Lognormal,
    Mixture,
    Uniform,
    dist_from,
    dist_of_cost,
    resolve,
)
from execbench.sim.rng import Streams

WHERE = "bpf.toml: client.bpf.think"
DISTS: list[Dist] = [
    Constant(3000),
    Uniform(100, 900),
    Exponential(3_000_000),
    Mixture((0.9, 0.08, 0.02), (1_000, 30_000, 300_000)),
    Erlang(1, 500),
    Erlang(3, 9_000),
    Lognormal(14_400, 0.5),
    Lognormal.from_p99(1_000, 4_000),
    Empirical((5, 1, 9, 9, 2000)),
]


def nodes(breaks: list[float], n: int = 40) -> tuple[list[float], list[float]]:
    """Quadrature on (0, 1), Gauss-Legendre between breaks in a variable that flattens end-point singularities."""
    t, w = np.polynomial.legendre.leggauss(n)
    t, w = (t + 1) / 2, w / 2
    smooth = t**5 * (126 - 420 * t + 540 * t**2 - 315 * t**3 + 70 * t**4)
    slope = 630 * t**4 * (1 - t) ** 4
    us: list[float] = []
    weights: list[float] = []
    for low, high in itertools.pairwise([0.0, *breaks, 1.0]):
        us += (low + (high - low) * smooth).tolist()
        weights += ((high - low) * slope * w).tolist()
    return us, weights


def integrated(dist: Dist) -> float:
    """The integral of `sample` over the unit cube of its uniforms; jumps are only in the first coordinate."""
    breaks: list[float] = []
    if isinstance(dist, Mixture):
        breaks = list(itertools.accumulate(dist.weights))[:-1]
    if isinstance(dist, Empirical):
        breaks = [i / len(dist.values) for i in range(1, len(dist.values))]
    axes = [list(zip(*nodes(breaks if axis == 0 else []), strict=True)) for axis in range(dist.uniforms)]
    return math.fsum(
        math.prod(weight for _, weight in point) * dist.sample([u for u, _ in point])
        for point in itertools.product(*axes)
    )


@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_the_mean_is_the_integral_of_the_quantile_function(dist: Dist) -> None:
    assert integrated(dist) == pytest.approx(dist.mean, rel=1e-6)


def test_the_integration_would_see_a_wrong_mean() -> None:
    lognormal = Lognormal(14_400, 0.5)
    assert integrated(lognormal) != pytest.approx(lognormal.median, rel=1e-2)
    assert integrated(Erlang(2, 9_000)) != pytest.approx(9_000 * 2, rel=1e-2)


@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_draws_are_samples_rounded_half_up_and_take_a_fixed_number_of_uniforms(dist: Dist) -> None:
    one, two = Streams(1, 0).stream("x"), Streams(1, 0).stream("x")
    for i in range(1, 3001):
        drawn = dist.draw(one)
        assert drawn == math.floor(dist.sample(two.us(dist.uniforms)) + 0.5)
        assert type(drawn) is int
        assert one.draws == i * dist.uniforms
    assert dist.draw(one) == math.floor(dist.sample([two.u() for _ in range(dist.uniforms)]) + 0.5)


def test_numbers_of_uniforms() -> None:
    assert [dist.uniforms for dist in DISTS] == [1, 1, 1, 2, 1, 3, 1, 1, 1]


def test_quantiles_agree_with_scipy() -> None:
    for u in (2.0**-54, 1e-6, 0.1, 0.5, 0.9, 1 - 2.0**-53):
        assert Exponential(3.0).sample([u]) == pytest.approx(stats.expon(scale=3.0).isf(u), rel=1e-14)
        assert Lognormal(5.0, 0.7).sample([u]) == pytest.approx(stats.lognorm(0.7, scale=5.0).ppf(u), rel=1e-13)
        assert Uniform(2, 6).sample([u]) == pytest.approx(2 + 4 * u)
    assert Lognormal.from_p99(1_000, 4_000).sample([0.99]) == pytest.approx(4_000, rel=1e-12)
    assert Lognormal.from_p99(1_000, 1_000).sample([0.99]) == 1_000


def test_the_law_of_an_erlang_and_of_a_mixture() -> None:
    # Declared: n = 20,000, alpha 1e-5 (Kolmogorov distance 0.0175); the seed is that of the test.
    for dist, law in (
        (Erlang(3, 900.0), stats.gamma(3, scale=300.0).cdf),
        (Mixture((0.7, 0.3), (10.0, 1000.0)), lambda x: 1 - 0.7 * np.exp(-x / 10) - 0.3 * np.exp(-x / 1000)),
    ):
        s = Streams(1, 0).stream("test_the_law_of_an_erlang_and_of_a_mixture")
        values = [dist.sample(s.us(dist.uniforms)) for _ in range(20_000)]
        assert stats.kstest(values, law).statistic < 0.0175
        assert stats.kstest(values, stats.expon(scale=dist.mean).cdf).statistic > 0.0175  # its power


def test_mixture_steps_cover_the_whole_interval() -> None:
    tenths = Mixture((0.1,) * 10, tuple(float(i) for i in range(1, 11)))  # 0.1 summed ten times is below 1
    assert tenths.sample([1 - 2.0**-53, 0.5]) == 10 * Exponential(1).sample([0.5])
    never = Mixture((1.0, 0.0), (1.0, 1e9))
    assert never.sample([1 - 2.0**-53, 0.5]) == Exponential(1).sample([0.5])


def test_empirical_is_the_inverse_distribution_function() -> None:
    dist = Empirical((30, 10, 20, 20))
    assert dist.values == (10, 20, 20, 30)
    assert [dist.sample([u]) for u in (0.01, 0.24, 0.26, 0.74, 0.76, 1 - 2.0**-53)] == [10, 10, 20, 20, 30, 30]
    for n in [*range(1, 5000), 2**20 - 1, 2**20, 10**6]:
        assert int((1 - 2.0**-53) * n) == n - 1  # the largest uniform stays inside the table


def test_dists_are_values() -> None:
    assert Mixture((0.5, 0.5), (1, 2)) == Mixture((0.5, 0.5), (1, 2))
    assert len(set(DISTS)) == len(DISTS)


@pytest.mark.parametrize(
    ("value", "unit", "dist"),
    [
        ("3ms", "time", Constant(3_000_000)),
        (17, "time", Constant(17)),
        ("2KiB", "size", Constant(2048)),
        (2.5, "count", Constant(2.5)),
        ({"dist": "constant", "value": "3us"}, "time", Constant(3000)),
        ({"dist": "exponential", "mean": "3ms"}, "time", Exponential(3_000_000)),
        ({"dist": "uniform", "low": "1us", "high": "2us"}, "time", Uniform(1000, 2000)),
        ({"dist": "mixture", "weights": [0.9, 0.1], "means": ["1us", "30us"]}, "time",
         Mixture((0.9, 0.1), (1000, 30_000))),
        ({"dist": "erlang", "k": 3, "mean": "9us"}, "time", Erlang(3, 9000)),
        ({"dist": "lognormal", "median": "1us", "p99": "4us"}, "time", Lognormal.from_p99(1000, 4000)),
        ({"dist": "exponential", "mean": "4KiB"}, "size", Exponential(4096)),
    ],
)  # fmt: skip
def test_parsing_and_resolving(value: Any, unit: Any, dist: Dist) -> None:
    assert dist_from(value, unit, WHERE) == dist
    plain = resolve(value, unit, WHERE)
    assert resolve(plain, unit, WHERE) == plain
    assert dist_from(plain, unit, WHERE) == dist


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_an_empirical_distribution_comes_from_a_column(tmp_path: Path, suffix: str) -> None:
    text = b"id,jited,time\n1,300,3us\n2,100,500\n3,200,1.5ms\n"
    (tmp_path / f"x{suffix}").write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    value = {"dist": "empirical", "file": f"data/x{suffix}", "column": "jited"}

    def find(name: str) -> Path:
        return tmp_path / name.removeprefix("data/")

    assert dist_from(value, "size", WHERE, find) == Empirical((100, 200, 300))
    assert dist_from(value | {"column": "time"}, "time", WHERE, find) == Empirical((500, 3000, 1_500_000))
    for bad, unit, place, said in (
        ({"column": "jitted"}, "size", f"{WHERE}.column", "did you mean 'jited'"),
        ({"column": "time"}, "size", f"{tmp_path / f'x{suffix}'}:2: time", "3us"),
        ({"column": "time"}, "count", f"{tmp_path / f'x{suffix}'}:2: time", "a finite number"),
        ({"file": "data/none.csv"}, "size", f"{WHERE}.file", "none.csv"),
    ):
        with pytest.raises(InputError) as caught:
            dist_from(value | bad, unit, WHERE, find)  # type: ignore[arg-type]
        assert caught.value.where == place
        assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "a\n", "a\n1\nnan\n", "a\n-1\n", 'a,b\n1,2\n"\n'])
def test_a_bad_data_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError):
        dist_from({"dist": "empirical", "file": str(tmp_path / "x.csv"), "column": "a"}, "count", WHERE)


@pytest.mark.parametrize(
    ("value", "place", "said"),
    [
        ("3 parsec", "", "parsec"),
        (None, "", "None"),
        (1.5, "", "1.5"),
        ({"mean": "3ms"}, ".dist", "constant, uniform, exponential"),
        ({"dist": "expnential", "mean": "3ms"}, ".dist", "did you mean 'exponential'"),
        ({"dist": ["erlang"]}, ".dist", "erlang"),
        ({"dist": "exponential"}, "", "no mean"),
        ({"dist": "exponential", "mean": "3ms", "men": 1}, ".men", "did you mean 'mean'"),
        ({"dist": "exponential", "mean": "0"}, "", "above 0"),
        ({"dist": "exponential", "mean": "-3ms"}, ".mean", "-3ms"),
        ({"dist": "uniform", "low": "2us", "high": "1us"}, "", "low <= high"),
        ({"dist": "erlang", "k": 0, "mean": "1us"}, "", "whole k"),
        ({"dist": "erlang", "k": 2.0, "mean": "1us"}, ".k", "whole number"),
        ({"dist": "erlang", "k": True, "mean": "1us"}, ".k", "whole number"),
        ({"dist": "lognormal", "median": "4us", "p99": "1us"}, "", "median <= p99"),
        ({"dist": "mixture", "weights": [0.5, 0.4], "means": ["1us", "2us"]}, "", "sum to 1"),
        ({"dist": "mixture", "weights": [1.0], "means": ["1us", "2us"]}, "", "as many weights"),
        ({"dist": "mixture", "weights": [], "means": []}, "", "as many weights"),
        ({"dist": "mixture", "weights": [0.5, "x"], "means": ["1us", "2us"]}, ".weights[1]", "'x'"),
        ({"dist": "mixture", "weights": [1.5, -0.5], "means": ["1us", "2us"]}, ".weights[1]", "-0.5"),
        ({"dist": "mixture", "weights": [0.5, 0.5], "means": ["1us", "2"]}, ".means[1]", "'2'"),
        ({"dist": "mixture", "weights": 1, "means": ["1us"]}, ".weights", "a list"),
        ({"dist": "empirical", "file": 3, "column": "a"}, ".file", "text"),
    ],
)
def test_what_is_no_distribution_is_refused_at_its_place(value: Any, place: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        dist_from(value, "time", WHERE)
    error = caught.value
    assert error.where == WHERE + place
    assert said in str(error)
    assert error.allowed
    assert error.remedy


@pytest.mark.parametrize(
    "make",
    [lambda: Constant(-1), lambda: Constant(math.nan), lambda: Uniform(3, 2), lambda: Exponential(math.inf),
     lambda: Lognormal(1, 31), lambda: Empirical(())],
)  # fmt: skip
def test_classes_refuse_impossible_parameters(make: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


def test_the_spread_of_a_cost_has_the_cost_as_its_median() -> None:
    row = {"value": "100ns", "range": ["90ns", "200ns"], "evidence": "assumed", "source": "test"}
    spread = row | {"dist": "lognormal", "p99": "300ns"}
    rows = {"kmalloc": row, "kfree": row | {"dist": "exponential"}, "ipi_flight": spread}
    costs = CostTable.from_toml(rows, "m.toml: costs")
    assert dist_of_cost(costs["kmalloc"]) == Constant(100.0)
    for name in costs:
        assert dist_of_cost(costs[name]).sample([0.5]) == pytest.approx(100.0, rel=1e-15)
    assert dist_of_cost(costs["ipi_flight"]).sample([0.99]) == pytest.approx(300.0, rel=1e-12)
    assert isinstance(dist_of_cost(costs["kfree"]), Exponential)
