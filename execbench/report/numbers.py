"""Numbers for people: one unit per column, three significant digits, intervals that agree with their value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "-"
LARGE = 10_000.0
"""From here on thousands are set apart, and digits that an estimate does not know are rounded away."""


@dataclass(frozen=True)
class Unit:
    """A display unit: a value in base units (ns, bytes, 1) divided by `factor` reads in `name`."""

    name: str
    factor: float


TIME = (Unit("ns", 1.0), Unit("us", 1e3), Unit("ms", 1e6), Unit("s", 1e9))
SIZE = (Unit("B", 1.0), Unit("KiB", 2.0**10), Unit("MiB", 2.0**20), Unit("GiB", 2.0**30))
SHARE = (Unit("%", 0.01),)
COUNT = (Unit("", 1.0),)
SCALES = {"time": TIME, "size": SIZE, "share": SHARE, "count": COUNT, "rate": COUNT}


def unit_for(values: Iterable[float], scale: str) -> Unit:
    """The unit of one column: the largest in which the median of the values that are not zero is at least 1."""
    known = sorted(abs(v) for v in values if math.isfinite(v) and v != 0)
    units = SCALES[scale]
    if not known:
        return units[0]
    middle = known[len(known) // 2]
    fitting = [unit for unit in units if middle >= unit.factor]
    return fitting[-1] if fitting else units[0]


def decimals_for(value: float, half_width: float = 0.0) -> int:
    """Decimals that show three significant digits, or a fourth where the half-width is below a unit of the third.

    Below 0, from LARGE on, they say how many digits before the point are rounded away.
    """
    if not math.isfinite(value) or value == 0:
        return 0
    magnitude = math.floor(math.log10(abs(value)))
    decimals = 2 - magnitude
    if 0 < half_width < 10.0**-decimals:
        decimals += 1
    return min(decimals if abs(value) >= LARGE else max(decimals, 0), 6)


def number(value: float, half_width: float = 0.0) -> str:
    """`value` with three significant digits; whole numbers exact and without decimals; '-' for NaN."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if half_width == 0 and value == round(value):
        return _fixed(value, 0)
    return _fixed(value, decimals_for(value, half_width))


def _fixed(value: float, decimals: int) -> str:
    """`value` with so many decimals, or digits rounded away; thousands are set apart from LARGE on."""
    rounded = round(value, decimals) if decimals < 0 else value
    return f"{rounded:{',' if abs(rounded) >= LARGE else ''}.{max(decimals, 0)}f}"


def bounds(value: float, low: float, high: float) -> str:
    """`[low, high]` with the decimals of the value it belongs to, or '' without an interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    half = (high - low) / 2
    decimals = decimals_for(max(abs(value), half), half)
    return f"[{_fixed(low, decimals)}, {_fixed(high, decimals)}]"


def interval(value: float, low: float, high: float) -> str:
    """`12.3 [11.9, 12.8]`: the estimate and its 95 % interval; the value alone when there is no interval."""
    if math.isfinite(low) and math.isfinite(high):
        return f"{number(value, (high - low) / 2)} {bounds(value, low, high)}"
    return number(value)


def with_unit(value: float, scale: str) -> str:
    """A single figure with its own unit, for sentences: `312 us`, `4.10 MiB`, `12.3 %`."""
    if not math.isfinite(value):
        return number(value)
    unit = unit_for([value], scale)
    return f"{number(value / unit.factor)} {unit.name}".rstrip()
