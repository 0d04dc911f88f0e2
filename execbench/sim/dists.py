"""Distributions as values: drawn by inversion with a fixed number of uniforms per variate and a known mean.

Parameters are in the unit of the variate (ns, bytes or a count). Every variate is built from portable functions and
correctly rounded operations in a fixed order, so it has the same bits everywhere; `sample` and `draw` agree.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from execbench.costs import Cost
from execbench.errors import InputError, did_you_mean
from execbench.sim import portable
from execbench.sim.rng import Stream
from execbench.units import size_bytes, time_ns

__all__ = [
    "Constant", "Dist", "Empirical", "Erlang", "Exponential", "Lognormal", "Mixture", "Uniform", "dist_from",
    "dist_of_cost", "resolve",
]  # fmt: skip

Unit: TypeAlias = Literal["time", "size", "count"]

_Z99 = portable.ndtri(0.99)
_LN2 = -portable.log(0.5)


class Dist(Protocol):
    """What all distributions of non-negative quantities have in common."""

    @property
    def uniforms(self) -> int:
        """Number of uniforms that one variate takes, whatever its value."""
        ...

    @property
    def mean(self) -> float:
        """The exact mean before rounding to whole units."""
        ...

    def sample(self, us: Sequence[float]) -> float:
        """Return the variate that belongs to the first `uniforms` of `us`, unrounded."""
        ...

    def draw(self, stream: Stream) -> int:
        """Return the next variate of a stream, rounded half up to a whole unit."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Always `value`; takes a uniform all the same, so that giving it a spread shifts no other draw."""

    value: float
    uniforms: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse what is no quantity."""
        _check(_finite(self.value), "a value of at least 0")

    @property
    def mean(self) -> float:
        """The value."""
        return float(self.value)

    def sample(self, us: Sequence[float]) -> float:
        """Return the value."""
        return float(self.value)

    def draw(self, stream: Stream) -> int:
        """Return the value, rounded half up; uses one uniform."""
        stream.u()
        return int(self.value + 0.5)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform on (low, high)."""

    low: float
    high: float
    uniforms: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse an empty interval."""
        _check(_finite(self.low, self.high) and self.low <= self.high, "0 <= low <= high")

    @property
    def mean(self) -> float:
        """(low + high) / 2."""
        return (self.low + self.high) / 2

    def sample(self, us: Sequence[float]) -> float:
        """Return the quantile of `us[0]`."""
        return self.low + (self.high - self.low) * us[0]

    def draw(self, stream: Stream) -> int:
        """Return the next variate, rounded half up."""
        return int(self.low + (self.high - self.low) * stream.u() + 0.5)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential with the given mean; large variates belong to small uniforms."""

    mean: float
    uniforms: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse a mean that is not positive."""
        _check(_finite(self.mean) and self.mean > 0, "a mean above 0")

    def sample(self, us: Sequence[float]) -> float:
        """Return -mean log(us[0])."""
        return self.mean * -portable.log(us[0])

    def draw(self, stream: Stream) -> int:
        """Return the next variate, rounded half up."""
        return int(self.mean * stream.e() + 0.5)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Mixture of exponentials: the first uniform chooses the component, the second its exponential."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    uniforms: ClassVar[int] = 2
    _steps: tuple[tuple[float, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse weights that are no probabilities and means that are not positive."""
        _check(
            len(self.weights) == len(self.means) > 0 and _finite(*self.weights, *self.means) and min(self.means) > 0
            and abs(math.fsum(self.weights) - 1.0) <= 1e-9,
            "as many weights as means, weights of at least 0 that sum to 1, means above 0",
        )  # fmt: skip
        total, steps = 0.0, []
        for weight, mean in zip(self.weights, self.means, strict=True):
            total += weight
            steps.append((total, mean))
        last = max(i for i, weight in enumerate(self.weights) if weight > 0)
        steps[last:] = [(1.0, self.means[last])]  # whatever rounding left of the sum belongs to the last component
        object.__setattr__(self, "_steps", tuple(steps))

    @property
    def mean(self) -> float:
        """Sum of weight times mean."""
        return math.fsum(weight * mean for weight, mean in zip(self.weights, self.means, strict=True))

    def sample(self, us: Sequence[float]) -> float:
        """Return the variate of `us[0]` (component) and `us[1]` (exponential)."""
        return self._chosen(us[0]) * -portable.log(us[1])

    def draw(self, stream: Stream) -> int:
        """Return the next variate, rounded half up; uses two uniforms."""
        return int(self._chosen(stream.u()) * stream.e() + 0.5)

    def _chosen(self, u: float) -> float:
        for total, mean in self._steps:
            if u < total:
                return mean
        raise AssertionError("a uniform is below 1, and the last step is 1")


@dataclass(frozen=True, slots=True)
class Erlang:
    """Erlang: sum of `k` exponentials; `mean` is that of the sum."""

    k: int
    mean: float

    def __post_init__(self) -> None:
        """Refuse an impossible shape."""
        whole = type(self.k) is int and 1 <= self.k <= 1000
        _check(whole and _finite(self.mean) and self.mean > 0, "a whole k from 1 to 1000 and a mean above 0")

    @property
    def uniforms(self) -> int:
        """One for each phase."""
        return self.k

    def sample(self, us: Sequence[float]) -> float:
        """Return the variate of the first `k` uniforms, summed in their order."""
        total = 0.0
        for i in range(self.k):
            total += -portable.log(us[i])
        return self.mean / self.k * total

    def draw(self, stream: Stream) -> int:
        """Return the next variate, rounded half up; uses `k` uniforms."""
        total = 0.0
        for _ in range(self.k):
            total += stream.e()
        return int(self.mean / self.k * total + 0.5)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Lognormal with the given median; `sigma` is the standard deviation of its logarithm."""

    median: float
    sigma: float
    uniforms: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse what has no finite mean in double precision."""
        _check(
            _finite(self.median, self.sigma) and self.median > 0 and self.sigma <= 30,
            "a median above 0 and 0 <= sigma <= 30",
        )

    @classmethod
    def from_p99(cls, median: float, p99: float) -> Lognormal:
        """Return the lognormal with this median and 99 % quantile; ValueError unless 0 < median <= p99."""
        _check(_finite(median, p99) and 0 < median <= p99, "0 < median <= p99")
        return cls(median, portable.log(p99 / median) / _Z99)

    @property
    def mean(self) -> float:
        """Median times exp(sigma^2 / 2)."""
        return self.median * portable.exp(self.sigma * self.sigma / 2)

    def sample(self, us: Sequence[float]) -> float:
        """Return the quantile of `us[0]`."""
        return self.median * portable.exp(self.sigma * portable.ndtri(us[0]))

    def draw(self, stream: Stream) -> int:
        """Return the next variate, rounded half up."""
        return int(self.median * stream.lognormal(self.sigma) + 0.5)


@dataclass(frozen=True, slots=True)
class Empirical:
    """The inverse of the empirical distribution function of `values`, which are kept in ascending order."""

    values: tuple[float, ...]
    uniforms: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse an empty sample; sort it, so that inversion is monotone."""
        _check(len(self.values) > 0 and _finite(*self.values), "at least one value, none below 0")
        object.__setattr__(self, "values", tuple(sorted(self.values)))

    @property
    def mean(self) -> float:
        """The sample mean (exact sum)."""
        return math.fsum(self.values) / len(self.values)

    def sample(self, us: Sequence[float]) -> float:
        """Return the value at place floor(n u); u n rounds to at most the double below n, since u <= 1 - 2^-53."""
        return float(self.values[int(us[0] * len(self.values))])

    def draw(self, stream: Stream) -> int:
        """Return the next variate, rounded half up."""
        return int(self.values[int(stream.u() * len(self.values))] + 0.5)


def dist_of_cost(cost: Cost) -> Dist:
    """Return how one occurrence of a cost spreads, in ns; the median of each law is the cost's value."""
    if cost.dist == "lognormal" and cost.p99_ps is not None:
        return Lognormal.from_p99(cost.ps / 1000, cost.p99_ps / 1000)
    if cost.dist == "exponential" and cost.ps > 0:
        return Exponential(cost.ps / 1000 / _LN2)
    return Constant(cost.ps / 1000)


# The keys of each kind in a workload or machine file: how each is read.
_KINDS: dict[str, dict[str, str]] = {
    "constant": {"value": "quantity"},
    "uniform": {"low": "quantity", "high": "quantity"},
    "exponential": {"mean": "quantity"},
    "mixture": {"weights": "numbers", "means": "quantities"},
    "erlang": {"k": "integer", "mean": "quantity"},
    "lognormal": {"median": "quantity", "p99": "quantity"},
    "empirical": {"file": "text", "column": "text"},
}
_PARSE: dict[str, Callable[[Any, str], float]] = {"time": time_ns, "size": size_bytes}


def resolve(value: object, unit: Unit, where: str) -> float | dict[str, Any]:
    """Return a distribution as it stands in a file with its units resolved (ns, bytes, counts): plain data, idempotent.

    `value` is a quantity (a constant) or a table such as `{dist = "exponential", mean = "3ms"}`. InputError names the
    place of anything else.
    """
    if not isinstance(value, Mapping):
        quantity: float = _read("quantity", value, unit, where)
        return quantity
    kind = value.get("dist")
    if not isinstance(kind, str) or kind not in _KINDS:
        hint = did_you_mean(str(kind), _KINDS)
        raise InputError(
            f"{where}.dist", repr(kind), ", ".join(_KINDS), hint or 'write for example dist = "exponential"'
        )
    keys = _KINDS[kind]
    for key in value:
        if key != "dist" and key not in keys:
            hint = did_you_mean(str(key), keys)
            raise InputError(f"{where}.{key}", "an unknown key", f"dist, {', '.join(keys)}", hint or "remove it")
    missing = [key for key in keys if key not in value]
    if missing:
        raise InputError(where, f"no {', '.join(missing)}", f"dist, {', '.join(keys)}", f"add {', '.join(missing)}")
    return {"dist": kind} | {key: _read(how, value[key], unit, f"{where}.{key}") for key, how in keys.items()}


def dist_from(value: object, unit: Unit, where: str, find: Callable[[str], Path] = Path) -> Dist:
    """Return the distribution that `value` (as in a file, or resolved) describes; InputError if it is none.

    `find` maps the file name of an empirical distribution to the path of its CSV (plain or .gz).
    """
    plain = resolve(value, unit, where)
    try:
        return _built(plain, unit, where, find)
    except ValueError as error:  # the rules of the classes above; their messages say what is allowed
        raise InputError(where, repr(value), str(error), "correct the parameters") from error


def _built(plain: float | dict[str, Any], unit: Unit, where: str, find: Callable[[str], Path]) -> Dist:
    if not isinstance(plain, dict):
        return Constant(plain)
    match plain["dist"]:
        case "constant":
            return Constant(plain["value"])
        case "uniform":
            return Uniform(plain["low"], plain["high"])
        case "exponential":
            return Exponential(plain["mean"])
        case "mixture":
            return Mixture(tuple(plain["weights"]), tuple(plain["means"]))
        case "erlang":
            return Erlang(plain["k"], plain["mean"])
        case "lognormal":
            return Lognormal.from_p99(plain["median"], plain["p99"])
        case _:
            return Empirical(_column(find(plain["file"]), plain["column"], unit, where))


def _read(how: str, value: object, unit: Unit, where: str) -> Any:
    """Return one parameter, checked and in base units."""
    if how == "quantity":
        return _PARSE.get(unit, _count)(value, where)
    if how == "text":
        if not isinstance(value, str) or not value:
            raise InputError(where, repr(value), "text", "give the name in quotes")
        return value
    if how == "integer":
        if type(value) is not int:
            raise InputError(where, repr(value), "a whole number", "write it without quotes and without a point")
        return value
    if not isinstance(value, list | tuple):
        raise InputError(where, repr(value), "a list", "write it in square brackets")
    item = _count if how == "numbers" else _PARSE.get(unit, _count)
    return [item(entry, f"{where}[{i}]") for i, entry in enumerate(value)]


def _count(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise InputError(where, repr(value), "a finite number of at least 0", "write it without quotes")
    return value


def _column(path: Path, column: str, unit: Unit, where: str) -> tuple[float, ...]:
    """Return one column of a CSV file with a header: plain numbers in base units, or text with units."""
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            cells = [row[column] for row in reader] if column in names else None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where}.file", str(path), "a readable CSV file with a header", str(error)) from error
    if cells is None:
        hint = did_you_mean(column, names) or f"choose one of the columns of {path.name}"
        raise InputError(f"{where}.column", repr(column), ", ".join(names) or "a column of the file", hint)
    return tuple(_cell(cell, unit, f"{path}:{line}: {column}") for line, cell in enumerate(cells, start=2))


def _cell(cell: str | None, unit: Unit, where: str) -> float:
    try:
        number = float(cell or "")
    except ValueError:
        return float(_PARSE.get(unit, _count)(cell, where))
    return _count(int(number) if number.is_integer() else number, where)


def _finite(*values: float) -> bool:
    """Whether all values are numbers from 0 to the largest that still leaves room for products."""
    return all(0 <= value < 1e100 for value in values)


def _check(good: bool, rule: str) -> None:
    if not good:
        raise ValueError(rule)
