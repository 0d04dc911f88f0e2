"""Units: exact parsing at the border, refusals that name what is allowed, readable output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execbench.errors import InputError
from execbench.units import rate_per_s, show_rate, show_size, show_time, size_bytes, time_ns, time_ps


@pytest.mark.parametrize(
    ("text", "ns"),
    [("3us", 3000), ("250ns", 250), ("1.5ms", 1_500_000), ("10s", 10**10), ("2min", 12 * 10**10), ("1h", 36 * 10**11),
     ("1_000.5us", 1_000_500), ("2e3 ns", 2000), (" 3 us ", 3000), ("0", 0), ("0.1s", 10**8), (17, 17), (0, 0),
     ("9_223_372_036_854_775_807ns", 2**63 - 1), ("4.35us", 4350)],
)  # fmt: skip
def test_time_ns(text: str | int, ns: int) -> None:
    assert time_ns(text) == ns


def test_decimal_fractions_are_exact() -> None:
    # With floats 1.001 s would be 1000999999.9999999 ns and 0.3 us 299.99999999999994.
    assert time_ns("1.001s") == 1_001_000_000
    assert [time_ns(f"{n / 10}us") for n in range(1000)] == [100 * n for n in range(1000)]


@pytest.mark.parametrize(("text", "ps"), [("0.1ns", 100), ("174ns", 174_000), ("14.4us", 14_400_000), ("7ps", 7)])
def test_time_ps(text: str, ps: int) -> None:
    assert time_ps(text) == ps


@pytest.mark.parametrize(
    ("text", "size"),
    [("64B", 64), ("4KiB", 4096), ("2MiB", 1 << 21), ("1.5GiB", 3 << 29), (4096, 4096), ("0.5KiB", 512)],
)
def test_size_bytes(text: str | int, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [("200/s", 200.0), ("0.5/ms", 500.0), ("12/min", 0.2), ("36/h", 0.01), (3, 3.0), (0.25, 0.25), ("0", 0.0)],
)
def test_rate_per_s(text: str | float, rate: float) -> None:
    assert rate_per_s(text) == rate


BAD_VALUES: dict[Callable[..., Any], list[object]] = {
    time_ns: ["3", "3 parsec", "us", "", "-3us", "0.5ns", "3.us", ".5us", "1__0us", "3us3us", "nan", "\u0663us",
              "1e99h", "1e999999999s", "9" * 100 + "s", "3B", "3/s", "3ps", "3 0us", -1, 2**63, 1.5, 3.0, True, None,
              ["3us"], {}],
    time_ps: ["0.0001ns", "3", 3, 0.1, None, "-1ns", True],
    size_bytes: ["3KB", "3kib", "0.3B", "3us", "12", -1, 1.0, False, None, "1e30GiB"],
    rate_per_s: ["3", "3/B", "3s", "/s", "-1/s", -1, -0.5, float("nan"), float("inf"), 10**400, True, None, "3//s"],
}  # fmt: skip
REFUSED = [(parse, bad) for parse, values in BAD_VALUES.items() for bad in values]


@pytest.mark.parametrize(("parse", "bad"), REFUSED)
def test_bad_values_are_refused_with_place_value_choice_and_remedy(parse: Callable[..., Any], bad: object) -> None:
    with pytest.raises(InputError) as caught:
        parse(bad, "bpf.toml: run.duration")
    error = caught.value
    assert error.where == "bpf.toml: run.duration"
    assert error.given == repr(bad)
    assert "such as" in error.allowed
    assert error.remedy


@given(st.integers(0, 2**63 - 1))
def test_integers_and_their_texts_agree(n: int) -> None:
    assert time_ns(n) == time_ns(f"{n}ns") == time_ns(f"{n:_}ns") == n
    assert size_bytes(f"{n}B") == n


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (5, "5 ns"), (999, "999 ns"), (1000, "1.00 us"), (3200, "3.20 us"), (14_400, "14.4 us"),
     (999_499, "999 us"), (999_600, "1.00 ms"), (9.999, "10.0 ns"), (0.35, "0.350 ns"), (99.96, "100 ns"),
     (7_200 * 10**9, "7200 s"), (-3200, "-3.20 us"), (float("nan"), "n/a"), (float("inf"), "inf s")],
)  # fmt: skip
def test_show_time(ns: float, text: str) -> None:
    assert show_time(ns) == text


@given(st.floats(1e-3, 1e18))
def test_shown_times_keep_three_digits_and_a_fitting_unit(ns: float) -> None:
    number, unit = show_time(ns).split()
    factor = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}[unit]
    assert abs(float(number) * factor / ns - 1) <= 0.00501
    assert unit == "s" or float(number) < 1000
    assert unit == "ns" or float(number) >= 1


def test_show_size_and_rate() -> None:
    assert [show_size(n) for n in (12, 1023, 1024, 1536, 2 << 20, (1 << 20) - 1)] == [
        "12 B", "1023 B", "1.00 KiB", "1.50 KiB", "2.00 MiB", "1.00 MiB"]  # fmt: skip
    assert [show_rate(r) for r in (200, 12_345, 0.25, 5.5e6)] == ["200/s", "12.3k/s", "0.250/s", "5.50M/s"]
