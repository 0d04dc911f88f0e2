"""What things cost: every cost has a name, a value, a range, a spread, an evidence and a source.

Values are integer picoseconds per unit; times inside the simulation are integer nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal, TypeAlias, cast, get_args

from execbench.catalogue import CATALOGUE, Entry, catalogue
from execbench.errors import MachineError, did_you_mean
from execbench.units import time_ps

__all__ = ["Cost", "CostTable", "Evidence"]

Spread: TypeAlias = Literal["constant", "lognormal", "exponential"]
Use: TypeAlias = Literal["input", "predicted"]


class Evidence(StrEnum):
    """How a number is known, strongest first; the order of definition is the order of strength."""

    MEASURED = "measured"
    PUBLISHED = "published"
    DERIVED = "derived"
    ASSUMED = "assumed"

    @property
    def rank(self) -> int:
        """0 for the strongest evidence, 3 for the weakest."""
        return list(Evidence).index(self)


@dataclass(frozen=True)
class Cost:
    """One cost: `ps` is the median of one occurrence in picoseconds, known to lie from `low_ps` to `high_ps`.

    `dist` with `p99_ps` (lognormal only) is the spread from occurrence to occurrence; `use` says whether the value is
    an input of the model or a figure that it must reproduce. ValueError if the fields contradict each other.
    """

    name: str
    ps: int
    low_ps: int
    high_ps: int
    per: str
    dist: Spread
    p99_ps: int | None
    evidence: Evidence
    source: str
    use: Use

    def __post_init__(self) -> None:
        """Refuse contradictions; the messages complete "allowed: ..."."""
        if not 0 <= self.low_ps <= self.ps <= self.high_ps:
            raise ValueError("a range [low, high] with 0 <= low <= value <= high")
        if self.dist not in get_args(Spread):
            raise ValueError(f"dist = {', '.join(get_args(Spread))}")
        if (self.p99_ps is not None) != (self.dist == "lognormal"):
            raise ValueError('p99 with dist = "lognormal" and only there')
        if self.p99_ps is not None and not 0 < self.ps <= self.p99_ps:
            raise ValueError("a positive value and p99 >= value for a lognormal spread")
        if self.use not in get_args(Use):
            raise ValueError(f"use = {', '.join(get_args(Use))}")
        if not self.source.strip():
            raise ValueError("a source: the file and row, the paper, or why it is assumed")


class CostTable:
    """The costs of one machine by full name; client costs are called `client.<client>.<cost>`."""

    def __init__(self, costs: Mapping[str, Cost], where: str = "machine.costs") -> None:
        """Hold `costs` in the order of their names; `where` is the place that errors name."""
        self._costs = {name: costs[name] for name in sorted(costs)}
        self._ps = {name: cost.ps for name, cost in self._costs.items()}
        self._where = where

    def __getitem__(self, name: str) -> Cost:
        """Return the cost called `name`; MachineError if the machine has none."""
        try:
            return self._costs[name]
        except KeyError:
            raise self._unknown(name) from None

    def __contains__(self, name: str) -> bool:
        return name in self._costs

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in alphabetical order."""
        return iter(self._costs)

    def __len__(self) -> int:
        return len(self._costs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CostTable) and self._costs == other._costs

    __hash__ = None  # type: ignore[assignment]

    def ns(self, name: str, n: int = 1) -> int:
        """Return the median cost of `n` units in ns, rounded half up once for all of them; MachineError if unknown."""
        try:
            return (self._ps[name] * n + 500) // 1000
        except KeyError:
            raise self._unknown(name) from None

    def weakest(self, names: Iterable[str]) -> Evidence:
        """Return the weakest evidence behind the named costs; ValueError if none is named."""
        return max((self[name].evidence for name in names), key=lambda evidence: evidence.rank)

    def with_estimates(self, needed: Mapping[str, Entry], factor: float) -> CostTable:
        """Return a table in which like costs, or clients' estimates times `factor`, stand in for what is missing."""
        own: dict[str, Cost] = {}
        for name, entry in needed.items():
            if name in self._costs:
                continue
            if entry.like in self._costs:
                as_there = self._costs[entry.like]
                own[name] = replace(as_there, name=name, per=entry.per, source=f"as {entry.like}: {as_there.source}")
                continue
            if entry.estimate is None:
                continue
            value, low, high, source = entry.estimate
            ps, low_ps, high_ps = (_times(time_ps(given, name), factor) for given in (value, low, high))
            source += "" if factor == 1 else f"; for server-64, times {factor:g} (machine.code_factor)"
            own[name] = Cost(name, ps, low_ps, high_ps, entry.per, "constant", None, Evidence.ASSUMED, source, "input")
        return CostTable({**self._costs, **own}, self._where)

    def require(self, needed: Mapping[str, Entry]) -> None:
        """Raise MachineError with the whole list if any of the needed costs is missing."""
        missing = sorted(set(needed) - set(self._costs))
        if missing:
            listed = ", ".join(f"{name} (per {needed[name].per})" for name in missing)
            raise MachineError(
                self._where,
                f"no value for {len(missing)} of the costs that this run needs: {listed}",
                "a value, range, evidence and source for each cost",
                "add them to the machine file or let it extend a complete one",
            )

    def scaled(self, factors: Mapping[str, float]) -> CostTable:
        """Return a table in which value, range and p99 of each named cost are multiplied by its factor (> 0)."""
        changed = dict(self._costs)
        for name, factor in factors.items():
            if not 0.0 < factor < math.inf:
                raise MachineError(f"{self._where}.{name}", factor, "a finite factor above 0", "leave it out for 1")
            cost = self[name]
            p99 = None if cost.p99_ps is None else _times(cost.p99_ps, factor)
            changed[name] = replace(cost, ps=_times(cost.ps, factor), low_ps=_times(cost.low_ps, factor),
                                    high_ps=_times(cost.high_ps, factor), p99_ps=p99)  # fmt: skip
        return CostTable(changed, self._where)

    def to_spec(self) -> dict[str, dict[str, Any]]:
        """Return the table as plain data for a resolved spec: `{name: {"ps", "low_ps", ...}}` without `name` inside."""
        return {
            name: {key: str(value) if isinstance(value, Evidence) else value for key, value in asdict(cost).items()
                   if key != "name"}
            for name, cost in self._costs.items()
        }  # fmt: skip

    @classmethod
    def from_spec(cls, spec: Mapping[str, Mapping[str, Any]], where: str = "machine.costs") -> CostTable:
        """Return the table that `to_spec` wrote down; MachineError if the data is not of that form."""
        keys = {field.name for field in fields(Cost)} - {"name"}
        costs: dict[str, Cost] = {}
        for name, row in spec.items():
            try:
                if set(row) != keys:
                    raise ValueError(f"exactly the keys {', '.join(sorted(keys))}")
                numbers = [row["ps"], row["low_ps"], row["high_ps"], row["p99_ps"] or 0]
                if not all(type(number) is int for number in numbers):
                    raise ValueError("whole picoseconds")
                costs[name] = Cost(name, **{**row, "evidence": Evidence(row["evidence"])})
            except (TypeError, ValueError, AttributeError) as error:
                raise MachineError(f"{where}.{name}", row, str(error), "resolve the machine file again") from error
        return cls(costs, where)

    @classmethod
    def from_toml(
        cls,
        table: Mapping[str, Any],
        where: str,
        arch: str = "",
        clients: Mapping[str, Mapping[str, Entry]] | None = None,
    ) -> CostTable:
        """Return the costs of a machine file's `[costs]` table; MachineError names the place of what cannot be used.

        Each cost is `{value, range, evidence, source}` with optional `dist`, `p99`, `n`, `use` and `per`; tables under
        `client.<client>` hold client costs. `clients` are the known ones with their costs: rows of any other client
        must state `per`. Without `arch` the costs of all architectures may stand together.
        """
        rows = _flat(table, where)
        known = catalogue(clients or {})
        unknown = [name for name in rows if name not in known and not _foreign(name, clients or {})]
        if unknown:
            hints = [f"{name!r}" + (f" ({hint})" if (hint := did_you_mean(name, known)) else "") for name in unknown]
            raise MachineError(where, f"unknown costs: {', '.join(hints)}", "the names of `execbench list costs`",
                               "correct or remove them")  # fmt: skip
        others = [name for name in rows if arch and name in known and arch not in known[name].arch]
        if others:
            listed = ", ".join(f"{name} ({', '.join(known[name].arch)})" for name in others)
            raise MachineError(where, f"costs of another architecture: {listed}", f"the costs of {arch}",
                               "remove them, or correct arch")  # fmt: skip
        return cls({name: _cost(name, row, f"{where}.{name}", known.get(name)) for name, row in rows.items()}, where)

    def _unknown(self, name: str) -> MachineError:
        if name in CATALOGUE:
            return MachineError(self._where, f"no value for the cost {name!r}", f"a cost per {CATALOGUE[name].per}",
                                "add it to the machine file or let it extend a complete one")  # fmt: skip
        hint = did_you_mean(name, set(CATALOGUE) | set(self._costs))
        return MachineError(self._where, f"unknown cost {name!r}", "the names of `execbench list costs`",
                            hint or "correct the name")  # fmt: skip


_REQUIRED = ("value", "range", "evidence", "source")
_OPTIONAL = ("dist", "p99", "n", "use", "per")


def _times(ps: int, factor: float) -> int:
    return math.floor(ps * factor + 0.5)


def _foreign(name: str, clients: Collection[str]) -> bool:
    """Whether a cost belongs to a client that is not known here (one of a package that is not installed)."""
    root, _, rest = name.partition(".")
    return root == "client" and rest.partition(".")[0] not in clients


def _flat(table: Mapping[str, Any], where: str) -> dict[str, object]:
    """Return the rows by full name: top-level costs, and `client.<client>.<cost>` from the nested tables."""
    rows: dict[str, object] = {name: row for name, row in table.items() if name != "client"}
    clients = table.get("client", {})
    for client, costs in clients.items() if isinstance(clients, Mapping) else [("", clients)]:
        if not isinstance(costs, Mapping):
            raise MachineError(f"{where}.client.{client}".rstrip("."), costs, "a table of costs for each client",
                               "write them under [costs.client.NAME]")  # fmt: skip
        rows |= {f"client.{client}.{name}": row for name, row in costs.items()}
    return rows


def _cost(name: str, row: object, where: str, entry: Entry | None) -> Cost:
    """Return one cost from its inline table."""
    example = 'write { value = "174ns", range = ["150ns", "400ns"], evidence = "measured", source = "..." }'
    if not isinstance(row, Mapping):
        raise MachineError(where, repr(row), "a table with " + ", ".join(_REQUIRED), example)
    missing = [key for key in _REQUIRED if key not in row]
    if missing:
        raise MachineError(where, f"no {', '.join(missing)}", "a table with " + ", ".join(_REQUIRED), example)
    for key in row:
        if key not in _REQUIRED + _OPTIONAL:
            hint = did_you_mean(str(key), _REQUIRED + _OPTIONAL)
            raise MachineError(
                f"{where}.{key}", "an unknown key", ", ".join(_REQUIRED + _OPTIONAL), hint or "remove it"
            )
    low, high = _range(row["range"], f"{where}.range")
    p99 = time_ps(row["p99"], f"{where}.p99") if "p99" in row else None
    try:
        return Cost(
            name, time_ps(row["value"], f"{where}.value"), low, high, _per(entry, row, where),
            cast(Spread, row.get("dist", "constant")), p99, _evidence(row["evidence"], where), _source(row, where),
            cast(Use, row.get("use", "input")),
        )  # fmt: skip
    except ValueError as error:
        raise MachineError(where, dict(row), str(error), "correct the cost") from error


def _range(given: object, where: str) -> tuple[int, int]:
    if not isinstance(given, list) or len(given) != 2:
        raise MachineError(where, repr(given), "a list of two times, the lowest and the highest believable value",
                           'write range = ["150ns", "400ns"]')  # fmt: skip
    return time_ps(given[0], f"{where}[0]"), time_ps(given[1], f"{where}[1]")


def _per(entry: Entry | None, row: Mapping[str, Any], where: str) -> str:
    per = row.get("per", entry.per if entry else None)
    if not isinstance(per, str) or not per or (entry is not None and per != entry.per):
        allowed = f'"{entry.per}"' if entry else "text: what one unit of this cost is"
        raise MachineError(f"{where}.per", repr(per), allowed, "leave it out" if entry else 'write per = "..."')
    return per


def _evidence(given: object, where: str) -> Evidence:
    try:
        return Evidence(cast(str, given))
    except ValueError:
        hint = did_you_mean(str(given), list(Evidence))
        raise MachineError(
            f"{where}.evidence", repr(given), ", ".join(Evidence), hint or "state how it is known"
        ) from None


def _source(row: Mapping[str, Any], where: str) -> str:
    """Return the source; the size of the sample, if it is given, becomes part of it."""
    source, n = row["source"], row.get("n")
    if not isinstance(source, str):
        raise MachineError(f"{where}.source", source, "text", "name the file and row, the paper, or why it is assumed")
    if n is None:
        return source
    if type(n) is not int or n < 1:
        raise MachineError(f"{where}.n", n, "the number of measured samples, at least 1", "correct or remove it")
    return f"{source} (n = {n})"
