"""The Markov chain that a CPU without a task of ours follows: its states, its generator, its stationary law.

Fractions of time and mean visits do not determine a chain; which state follows which is given (`jumps`) or filled in
by a rule. Visits are exponential, Erlang or mixtures of exponentials; the phase of a visit is part of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from execbench.errors import InputError, did_you_mean
from execbench.sim.powers import Powers, Rates, cumulative, total
from execbench.units import time_ns

__all__ = ["Chain", "State"]

_WHERE = "machine.background"
_NO_LOGNORMAL = "fit a mixture of exponentials, or cpu_model = explicit"
_STATE_KEYS = ("fraction", "mean", "masked", "qs", "wake", "after_interrupt", "dist", "evidence", "source")
_CLOSE = 1e-6  # how far shares that are written by hand may be off


@dataclass(frozen=True, slots=True)
class State:
    """One state of the background, or one phase of it.

    masked: interrupts wait until it ends. qs: a CPU in it is in, or just passes, an RCU quiescent state. wake: ns from
    the arrival of an interrupt to its handler. after_interrupt: index of the state after a handler that interrupted
    this one. sigma: above 0, visits are lognormal with this deviation of their logarithm (explicit model only). eqs: an
    extended quiescent state of RCU (idle, user mode of a nohz_full CPU), in which a CPU counts as not busy. user: of
    these, user mode of a nohz_full CPU.
    """

    name: str
    masked: bool
    qs: bool
    wake: int
    after_interrupt: int
    sigma: float = 0.0
    eqs: bool = False
    user: bool = False


@dataclass(frozen=True)
class Chain:
    """States, rates[i][j] of the jumps from i to j != i (per ns; the diagonal is not read), stationary law pi."""

    states: tuple[State, ...]
    rates: Rates
    pi: tuple[float, ...]

    def __post_init__(self) -> None:
        """ValueError if an interrupt, which a masked state does not let in, would leave the CPU in one."""
        for state in self.states:
            if not state.masked and self.states[state.after_interrupt].masked:
                raise ValueError(f"an interrupt of {state.name} cannot lead into a masked state")

    @staticmethod
    def from_machine(
        background: Mapping[str, Any], cost_ns: Callable[[str], int], *, explicit: bool = False, nohz_full: bool = False
    ) -> Chain:
        """Build the chain of a machine's `[background]`; `cost_ns` gives a named cost (ns). InputError if impossible.

        explicit=True admits lognormal visits, which only the explicit model can walk. Quiescent states with a wake-up
        are idle; with nohz_full=True the others that take interrupts are user mode, an extended quiescent state too.
        """
        visits = _visits(background, explicit)
        following = _jumps(background, visits)
        _check_restart(background.get("restart"), visits)
        chain = _expand(visits, following, cost_ns, nohz_full)
        _check_fractions(chain, visits)
        return chain

    def index(self, name: str) -> int:
        """Return the index of the state `name`, of its first phase if it has several; KeyError if there is none."""
        for i, state in enumerate(self.states):
            if state.name in (name, f"{name}/1"):
                return i
        raise KeyError(name)

    @cached_property
    def leave(self) -> tuple[float, ...]:
        """Rate at which each state is left, per ns."""
        return tuple(total(row[:i] + row[i + 1 :]) for i, row in enumerate(self.rates))

    @cached_property
    def jump(self) -> tuple[tuple[float, ...], ...]:
        """Cumulative law of the state after each state, for bisection with a uniform."""
        laws = []
        for i, row in enumerate(self.rates):
            out = self.leave[i]
            laws.append(tuple(cumulative([0.0 if j == i or not out else rate / out for j, rate in enumerate(row)])))
        return tuple(laws)

    @cached_property
    def powers(self) -> Powers:
        """exp(Q d): where a CPU is after d ns of background."""
        return Powers.of(self.rates, frozenset())

    @cached_property
    def taboo(self) -> Powers:
        """The chain stopped in quiescent states: its entries between the other states are the taboo probabilities."""
        return Powers.of(self.rates, frozenset(i for i, state in enumerate(self.states) if state.qs))


# --- from a machine file ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Visit:
    """One state as the machine file gives it.

    A visit begins in phase k with probability start[k] and lasts means[k] (ns) in it; serial phases follow each other,
    others are alternatives.
    """

    name: str
    fraction: float | None
    mean: float
    masked: bool
    qs: bool
    wake: str | None
    after: str
    start: tuple[float, ...]
    means: tuple[float, ...]
    serial: bool
    sigma: float


def _visits(background: Mapping[str, Any], explicit: bool) -> list[_Visit]:
    states = background.get("states")
    if not isinstance(states, Mapping) or not states:
        raise InputError(f"{_WHERE}.states", states, "at least one state", "add [background.states.NAME] tables")
    visits = []
    for name, given in states.items():
        where = f"{_WHERE}.states.{name}"
        if not isinstance(given, Mapping):
            raise InputError(where, given, "a table", f"write [background.states.{name}] with fraction and mean")
        for key in given:
            if key not in _STATE_KEYS:
                raise InputError(f"{where}.{key}", key, ", ".join(_STATE_KEYS), did_you_mean(key, _STATE_KEYS))
        after = str(given.get("after_interrupt", name))
        if after not in states:
            raise InputError(f"{where}.after_interrupt", after, ", ".join(states), did_you_mean(after, states))
        visits.append(_visit(name, given, after, where, explicit))
    if all(visit.masked for visit in visits):
        raise InputError(f"{_WHERE}.states", "masked states only", "a state that takes interrupts", "add one")
    for visit in visits:
        target = next(v for v in visits if v.name == visit.after)
        if target.masked and not visit.masked:
            where = f"{_WHERE}.states.{visit.name}.after_interrupt"
            raise InputError(where, visit.after, "a state that takes interrupts", "name the state behind the handler")
        if target is not visit and len(target.start) > 1 and not target.serial:
            raise InputError(
                f"{_WHERE}.states.{visit.name}.after_interrupt", visit.after, "a state whose visits begin in one phase",
                "make that state exponential or Erlang: a mixture has no single phase to begin in",
            )  # fmt: skip
    return visits


def _visit(name: str, given: Mapping[str, Any], after: str, where: str, explicit: bool) -> _Visit:
    fraction = given.get("fraction")
    if fraction is not None:
        fraction = _share(fraction, f"{where}.fraction")
    mean = float(time_ns(given["mean"], f"{where}.mean")) if "mean" in given else 0.0
    start, means, serial, sigma = _phases(given.get("dist", "exponential"), mean, f"{where}.dist", explicit)
    if not serial:
        mixed = total([w * m for w, m in zip(start, means, strict=True)])
        if "mean" in given and abs(mixed - mean) > _CLOSE * mean:
            allowed = f"the mean of its mixture, {mixed:.6g} ns"
            raise InputError(f"{where}.mean", given["mean"], allowed, "leave the mean of a mixture out")
        mean = mixed
    if mean <= 0:
        raise InputError(f"{where}.mean", given.get("mean"), "a time above 0", "give the mean length of one visit")
    flags = {}
    for key in ("masked", "qs"):
        flags[key] = given.get(key, False)
        if not isinstance(flags[key], bool):
            raise InputError(f"{where}.{key}", flags[key], "true or false", "say it without quotes")
    wake = given.get("wake")
    if wake is not None and flags["masked"]:
        raise InputError(f"{where}.wake", wake, "no wake-up in a masked state", "remove it: the interrupt waits anyway")
    return _Visit(name, fraction, mean, flags["masked"], flags["qs"], wake, after, start, means, serial, sigma)


def _phases(
    dist: object, mean: float, where: str, explicit: bool
) -> tuple[tuple[float, ...], tuple[float, ...], bool, float]:
    """Return the probabilities of the first phase, the phases' means (ns), whether serial, the lognormal sigma."""
    allowed = '"exponential", {erlang = k}, {mixture = {weights = [..], means = [..]}}, {lognormal = {sigma = s}}'
    if dist == "exponential":
        return (1.0,), (mean,), True, 0.0
    if isinstance(dist, Mapping) and len(dist) == 1:
        kind, value = next(iter(dist.items()))
        if kind == "erlang" and isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64:
            return (1.0,) + (0.0,) * (value - 1), (mean / value,) * value, True, 0.0
        if kind == "mixture" and isinstance(value, Mapping) and set(value) == {"weights", "means"}:
            return *_mixture(value["weights"], value["means"], where), False, 0.0
        if kind == "lognormal" and isinstance(value, Mapping) and set(value) == {"sigma"}:
            if not explicit:
                raise InputError(where, "lognormal", allowed, _NO_LOGNORMAL)
            sigma = value["sigma"]
            if isinstance(sigma, int | float) and 0.0 < sigma <= 5.0:
                return (1.0,), (mean,), True, float(sigma)
    if dist == "lognormal":
        raise InputError(where, "lognormal", allowed, _NO_LOGNORMAL if not explicit else "give its sigma")
    raise InputError(where, dist, allowed, "use one of these forms")


def _mixture(weights: object, means: object, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not isinstance(weights, list | tuple) or not isinstance(means, list | tuple) or len(weights) != len(means):
        raise InputError(where, (weights, means), "as many weights as means", "give one mean for each weight")
    shares = tuple(_share(w, f"{where}.mixture.weights") for w in weights)
    lengths = tuple(float(time_ns(m, f"{where}.mixture.means")) for m in means)
    if not shares or abs(total(shares) - 1.0) > _CLOSE:
        raise InputError(f"{where}.mixture.weights", weights, "weights that sum to 1", "correct the weights")
    if min(lengths) <= 0 or min(shares) <= 0:
        raise InputError(f"{where}.mixture", means, "weights and means above 0", "leave out what never happens")
    return tuple(w / total(shares) for w in shares), lengths


def _share(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= 1.0:
        raise InputError(where, value, "a share above 0 and at most 1", "leave a state that never occurs out")
    return float(value)


def _jumps(background: Mapping[str, Any], visits: list[_Visit]) -> list[list[float]]:
    """Return the probability that state j follows state i, from `jumps` or by the rule."""
    jumps = background.get("jumps")
    if jumps is not None:
        return _given_jumps(jumps, [visit.name for visit in visits])
    rule = background.get("rule", "symmetric-flux")
    if rule != "symmetric-flux":
        raise InputError(f"{_WHERE}.rule", rule, "symmetric-flux", "use that rule, or give background.jumps")
    flux = []
    for visit in visits:
        if visit.fraction is None:
            where = f"{_WHERE}.states.{visit.name}.fraction"
            raise InputError(where, None, "a share above 0", "the rule needs it; or give background.jumps")
        flux.append(visit.fraction / visit.mean)
    return _symmetric(flux, [visit.name for visit in visits])


def _given_jumps(jumps: object, names: list[str]) -> list[list[float]]:
    where = f"{_WHERE}.jumps"
    if not isinstance(jumps, Mapping) or set(jumps) != set(names):
        given = sorted(jumps) if isinstance(jumps, Mapping) else jumps
        raise InputError(where, given, f"one table for each of {', '.join(names)}", "say what follows each state")
    table = []
    for name in names:
        row = jumps[name]
        for target in row:
            if target not in names or target == name:
                others = [other for other in names if other != name]
                raise InputError(f"{where}.{name}.{target}", target, ", ".join(others), did_you_mean(target, others))
        shares = [_share(row[target], f"{where}.{name}.{target}") if target in row else 0.0 for target in names]
        if abs(total(shares) - 1.0) > _CLOSE:
            raise InputError(f"{where}.{name}", dict(row), "probabilities that sum to 1", "correct them")
        table.append([share / total(shares) for share in shares])
    return table


def _symmetric(flux: list[float], names: list[str]) -> list[list[float]]:
    """Fill in jumps whose flux from i to j is c_i c_j, the least committed law with no flux from a state to itself.

    Each c_i solves c_i (C - c_i) = flux_i with C their sum: the smaller root, but the larger one for the largest flux
    when the smaller roots alone cannot sum to C.
    """
    n, top = len(flux), max(range(len(flux)), key=flux.__getitem__)
    if n == 1:
        return [[0.0]]
    half = total(flux) / 2.0
    if flux[top] > half * (1.0 + _CLOSE if n == 2 else 1.0 - _CLOSE):
        raise InputError(
            f"{_WHERE}.states.{names[top]}", f"{flux[top] * 1e9:.6g} visits per s",
            f"fewer than {half * 1e9:.6g}, half of all visits (fraction / mean of all states)",
            "no chain leaves it that often without returning to itself: lengthen its mean or lower its fraction",
        )  # fmt: skip
    if n == 2:
        return [[0.0, 1.0], [1.0, 0.0]]

    def small(f: float, c: float) -> float:
        return 2.0 * f / (c + math.sqrt(max(c * c - 4.0 * f, 0.0)))

    def others(c: float) -> float:
        return total([small(f, c) for i, f in enumerate(flux) if i != top])

    low = 2.0 * math.sqrt(flux[top])
    large = others(low) < low / 2.0  # the largest flux takes its larger root

    def excess(c: float) -> float:
        mine = small(flux[top], c)
        return mine - others(c) if large else others(c) + mine - c

    high = 2.0 * low
    while excess(high) > 0.0:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if excess(middle) > 0.0:
            low = middle
        else:
            high = middle
    c = [small(f, high) for f in flux]
    if large:
        c[top] = high - c[top]
    return [[0.0 if i == j else c[i] * c[j] / flux[i] for j in range(n)] for i in range(n)]


def _check_restart(restart: object, visits: list[_Visit]) -> None:
    if restart is None:
        return
    names = [visit.name for visit in visits]
    if restart not in names:
        raise InputError(f"{_WHERE}.restart", restart, ", ".join(names), did_you_mean(str(restart), names))
    visit = visits[names.index(str(restart))]
    if visit.masked or (len(visit.start) > 1 and not visit.serial):
        raise InputError(
            f"{_WHERE}.restart", restart, "a state that takes interrupts and whose visits begin in one phase",
            "a CPU that its last task leaves goes idle: name an idle state",
        )  # fmt: skip


def _expand(
    visits: list[_Visit], following: list[list[float]], cost_ns: Callable[[str], int], nohz_full: bool
) -> Chain:
    """Make the phases the states of the chain and solve for its stationary law."""
    first: list[int] = []
    size = 0
    for visit in visits:
        first.append(size)
        size += len(visit.means)
    names = [visit.name for visit in visits]
    states: list[State] = []
    rates = [[0.0] * size for _ in range(size)]
    for number, visit in enumerate(visits):
        wake = cost_ns(visit.wake) if visit.wake is not None else 0
        after = names.index(visit.after)
        eqs = visit.qs and not visit.masked and (nohz_full or visit.wake is not None)
        phases = len(visit.means)
        for k in range(phases):
            here = first[number] + k
            name = visit.name if phases == 1 else f"{visit.name}/{k + 1}"
            kept = here if after == number else first[after]
            states.append(State(name, visit.masked, visit.qs, wake, kept, visit.sigma, eqs, eqs and visit.wake is None))
            if visit.serial and k + 1 < phases:
                rates[here][here + 1] = 1.0 / visit.means[k]
                continue
            for other, target in enumerate(visits):
                for j, start in enumerate(target.start):
                    rates[here][first[other] + j] += following[number][other] * start / visit.means[k]
    fixed = tuple(tuple(row) for row in rates)
    return Chain(tuple(states), fixed, _stationary(fixed))


def _stationary(rates: Rates) -> tuple[float, ...]:
    """Solve pi Q = 0 by elimination without subtractions (Grassmann, Taksar & Heyman 1985)."""
    q = [list(row) for row in rates]
    size = len(q)
    for n in range(size - 1, 0, -1):
        out = total(q[n][:n])
        if not out > 0.0:
            raise InputError(f"{_WHERE}.jumps", "a chain in parts", "every state reached from every other", "add jumps")
        for i in range(n):
            q[i][n] /= out
            for j in range(n):
                if i != j:
                    q[i][j] += q[i][n] * q[n][j]
    pi = [1.0]
    for n in range(1, size):
        pi.append(total([pi[i] * q[i][n] for i in range(n)]))
    if min(pi) <= 0.0:
        raise InputError(f"{_WHERE}.jumps", "a chain in parts", "every state reached from every other", "add jumps")
    weight = total(pi)
    return tuple(p / weight for p in pi)


def _check_fractions(chain: Chain, visits: list[_Visit]) -> None:
    """Fractions are shares of all time, and those that follow from jumps and means."""
    given = [visit.fraction for visit in visits]
    if None not in given:
        whole = total([fraction for fraction in given if fraction is not None])
        if abs(whole - 1.0) > _CLOSE:
            raise InputError(f"{_WHERE}.states", f"fractions that sum to {whole:.9g}", "a sum of 1", "correct them")
    start = 0
    for visit in visits:
        solved = total(chain.pi[start : start + len(visit.means)])
        start += len(visit.means)
        if visit.fraction is not None and abs(visit.fraction - solved) > 0.01 * solved:
            raise InputError(
                f"{_WHERE}.states.{visit.name}.fraction", visit.fraction, f"{solved:.4g}, within 1 %",
                "means and jumps determine the fractions: leave them out, or correct the means",
            )  # fmt: skip
