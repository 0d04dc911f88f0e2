"""Units at the border: text such as "3us", "2MiB" or "200/s" to integer nanoseconds, bytes and rates, and back.

Parsing is exact (rational arithmetic): a value that is no whole number of the target unit is refused, never rounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from execbench.errors import InputError

__all__ = ["rate_per_s", "show_rate", "show_size", "show_time", "size_bytes", "time_ns", "time_ps"]

_PS = {"ps": 1}
_TIME = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}  # in ns
_SIZE = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LIMIT = (1 << 63) - 1  # tables store int64
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_QUANTITY = re.compile(rf"({_DIGITS}(?:\.{_DIGITS})?(?:[eE][+-]?[0-9]{{1,2}})?) ?(/?[A-Za-z]*)")
_LONGEST = 64  # characters; longer text is a mistake, and its exact value could be huge


def time_ns(value: str | int, where: str = "time") -> int:
    """Return a duration in ns from text with a unit (ns, us, ms, s, min, h) or from an integer that is ns already.

    Raises InputError for anything else, for negative values and for fractions of a nanosecond.
    """
    allowed = 'a time such as "250ns", "3us", "1.5ms", "10s", "2min" or "1h", in whole nanoseconds'
    return _whole(value, _TIME, where, allowed)


def time_ps(value: str, where: str = "time") -> int:
    """Return a duration in ps from text with a unit (ps, ns, us, ms, s, min, h); a bare number is refused."""
    allowed = 'a time with its unit such as "0.1ns", "174ns" or "14.4us", in whole picoseconds'
    if not isinstance(value, str):
        raise InputError(where, value, allowed, "write it as text with its unit")
    return _whole(value, _PS | {unit: ns * 1000 for unit, ns in _TIME.items()}, where, allowed)


def size_bytes(value: str | int, where: str = "size") -> int:
    """Return a size in bytes from text with a unit (B, KiB, MiB, GiB) or from an integer that is bytes already."""
    return _whole(value, _SIZE, where, 'a size such as "64B", "4KiB", "2MiB" or "1GiB", in whole bytes')


def rate_per_s(value: str | float, where: str = "rate") -> float:
    """Return a rate per second from text such as "200/s", "3/ms" or "12/min", or from a number that is per second."""
    allowed = 'a rate such as "200/s", "0.5/ms" or "12/min", or a number per second; not negative, finite'
    if isinstance(value, str):
        number, unit = _parts(value, where, allowed)
        if unit == "" and number == 0:
            return 0.0
        if not unit.startswith("/") or unit[1:] not in _TIME:
            raise InputError(where, repr(value), allowed, "give the rate with its unit, for example '200/s'")
        return float(number * 10**9 / _TIME[unit[1:]])
    # A range test, not isfinite: an integer too large for a float would raise OverflowError.
    if type(value) not in (int, float) or not 0 <= value < 1e300:
        raise InputError(where, value, allowed, "give the rate with its unit, for example '200/s'")
    return float(value)


def show_time(ns: float) -> str:
    """Return a time in ns as readable text with three significant digits, `3200 -> "3.20 us"`."""
    return _show(ns, ((" ns", 1), (" us", 10**3), (" ms", 10**6), (" s", 10**9)), 1000)


def show_size(size: float) -> str:
    """Return a size in bytes as readable text with three significant digits, `1536 -> "1.50 KiB"`."""
    return _show(size, tuple((f" {unit}", factor) for unit, factor in _SIZE.items()), 1024)


def show_rate(per_s: float) -> str:
    """Return a rate per second as readable text with three significant digits, `12345 -> "12.3k/s"`."""
    return _show(per_s, (("/s", 1), ("k/s", 10**3), ("M/s", 10**6), ("G/s", 10**9)), 1000)


def _parts(text: str, where: str, allowed: str) -> tuple[Fraction, str]:
    """Split `"1_000.5us"` into its exact number and its unit."""
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise InputError(where, repr(text), allowed, "write a plain number and its unit, for example '3us'")
    return Fraction(match[1].replace("_", "")), match[2]


def _whole(value: object, units: Mapping[str, int], where: str, allowed: str) -> int:
    """Return a value in whole multiples of the unit whose factor is 1; integers count that unit already."""
    if isinstance(value, str):
        number, unit = _parts(value, where, allowed)
        if unit not in units and not (unit == "" and number == 0):  # zero needs no unit
            raise InputError(where, repr(value), allowed, f"use one of the units {', '.join(units)}")
        exact = number * units.get(unit, 1)
        if exact.denominator != 1:
            raise InputError(where, repr(value), allowed, f"round it to a whole number of {_base(units)}")
        whole = exact.numerator
    elif isinstance(value, int) and not isinstance(value, bool):
        whole = value
    else:
        raise InputError(where, value, allowed, f"write it as text with its unit ({', '.join(units)})")
    if not 0 <= whole <= _LIMIT:
        raise InputError(where, repr(value), allowed, f"stay between 0 and {_LIMIT} {_base(units)}")
    return whole


def _base(units: Mapping[str, int]) -> str:
    return next(unit for unit, factor in units.items() if factor == 1)


def _show(value: float, units: tuple[tuple[str, int], ...], step: int) -> str:
    """Return `value` in the largest unit that leaves at least 1 of it, with three significant digits."""
    if math.isnan(value):
        return "n/a"
    sign, size = ("-", -value) if value < 0 else ("", value)
    if math.isinf(size):
        return f"{sign}inf{units[-1][0]}"
    if size == int(size) and size < step:
        return f"{sign}{int(size)}{units[0][0]}"
    for name, factor in units:
        digits = _three_digits(size / factor)
        if float(digits) < step or name == units[-1][0]:
            break
    return f"{sign}{digits}{name}"


def _three_digits(size: float) -> str:
    """Return a number >= 0 with three significant digits and no exponent; whole numbers above 100 in full."""
    if size == 0 or size >= 99.95:
        return f"{size:.0f}"
    rounded = float(f"{size:.2e}")
    return f"{rounded:.{2 - math.floor(math.log10(rounded))}f}"
