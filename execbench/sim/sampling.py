"""Draws from the law of a chain for groups of CPUs that nothing distinguishes.

Counts are split over states by inversion: CPU by CPU when few, by conditional binomials when many. Only + - * / sqrt
and the portable logarithm are used, so that a draw has the same bits on every machine.
"""

from __future__ import annotations

import math
from bisect import bisect, bisect_left
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING

from execbench.sim import portable
from execbench.sim.powers import HIGHER, LOWEST, Columns, Powers, cumulative

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.rng import Stream

__all__ = ["Draws", "Groups", "binomial"]

Groups = dict[tuple[int, int], int]
"""How many CPUs went on from (time, state)."""

_FEW = 5  # CPUs up to which a state is drawn digit by digit, without multiplying the factors
_MANY = 160  # CPUs from which counts are drawn as binomials
_SMALL = 16.0  # expected count below which a binomial is inverted from zero


class _Arrivals:
    """Laws of (state at t, no jump during the flight that follows) over the lowest digit of a gap, for one flight."""

    def __init__(self, chain: Chain, flight: int) -> None:
        self._powers = chain.powers
        self._size = len(chain.states)
        self.stay = [portable.exp(-min(rate * flight, 700.0)) for rate in chain.leave]
        self.laws: dict[int, list[float]] = {}  # by low * size + state
        self._columns: dict[int, Columns] = {}

    def law(self, key: int) -> list[float]:
        """Return the running sums of P(state, no jump) by low * size + state before; what is missing to 1 jumps."""
        low, x = divmod(key, self._size)
        law = list(accumulate(map(mul, self._powers.factor(0, low)[x].tolist(), self.stay)))
        self.laws[key] = self.closed(law)
        return law

    def columns(self, low: int) -> Columns:
        """Return the same factor as columns, for a row that is known up to the lowest digit."""
        columns = self._columns.get(low)
        if columns is None:
            factor = self._powers.factor(0, low).T.tolist()
            folded = [[p * stay for p in column] for column, stay in zip(factor, self.stay, strict=True)]
            columns = self._columns[low] = self._powers.in_bands(folded)
        return columns

    def closed(self, law: list[float]) -> list[float]:
        """Let a law without any jump end at 1, so that every uniform falls inside."""
        if min(self.stay) == 1.0:
            law[-1] = 1.0
        return law


class Draws:
    """The background of passive CPUs as its law gives it; see execbench.sim.lazy.Source."""

    def __init__(self, chain: Chain, stream: Stream) -> None:
        """Draw from `stream`; the tables are the chain's and shared."""
        self._chain = chain
        self._stream = stream
        self._powers: Powers = chain.powers
        self._size = len(chain.states)
        self._unseen = [not state.qs for state in chain.states]
        self._arrivals: dict[int, _Arrivals] = {}

    def initial(self, cpu: int, n: int) -> list[int]:
        """Return how many of `n` CPUs start in each state."""
        states = [0] * self._size
        self._share(cumulative(self._chain.pi), n, states)
        return states

    def enter(self, cpu: int, x: int) -> None:
        """Begin a visit; nothing is remembered of visits."""

    def split(self, cpu: int, groups: Groups, t: int, d: int, kept: list[int], moved: list[int]) -> None:
        """Count the states at t; see Source.split."""
        arrivals = self._arriving(d - t)
        powers, size, u = self._powers, self._size, self._stream.u
        near, far = arrivals.laws, powers.second
        for (t0, x), n in groups.items():
            high, low = divmod(t - t0, LOWEST)
            if n > _FEW:
                self._split_many(x, n, high, low, arrivals, kept, moved)
                continue
            for _ in range(n):
                if not high:
                    start = x
                elif high < HIGHER:
                    start = bisect(far.get(high * size + x) or powers.law(x, 1, high), u())
                else:
                    start = self._after(x, high)
                key = low * size + start
                j = bisect(near.get(key) or arrivals.law(key), u())
                if j < size:
                    kept[j] += 1
                else:
                    self._leave(powers.row(start, low), 1, arrivals, moved)

    def split_watching(
        self, cpu: int, groups: Groups, t: int, d: int,
        kept: list[int], moved: list[int], kept_unseen: list[int], moved_unseen: list[int],
    ) -> None:  # fmt: skip
        """Count the states at t by whether a quiescent state was seen: all paths less those that avoid the set."""
        arrivals, size = self._arriving(d - t), self._size
        for (t0, x), n in groups.items():
            every = self._powers.row(x, t - t0)
            avoiding = self._chain.taboo.row(x, t - t0)
            unseen = [q if free else 0.0 for q, free in zip(avoiding, self._unseen, strict=True)]
            joint = [max(p - q, 0.0) for p, q in zip(every, unseen, strict=True)] + unseen
            law = arrivals.closed(list(accumulate(map(mul, joint, arrivals.stay * 2))))
            cells = [0] * (2 * size)
            left = self._share(law, n, cells)
            for j in range(size):
                kept[j] += cells[j]
                kept_unseen[j] += cells[size + j]
            if left:
                cells = [0] * (2 * size)
                self._leave(joint, left, arrivals, cells)
                for j in range(size):
                    moved[j] += cells[j]
                    moved_unseen[j] += cells[size + j]

    def first_jump(self, cpu: int, x: int, t: int, d: int) -> tuple[float, int]:
        """Return time and target of the first jump after t of a CPU in `x` that is known to jump before d."""
        jumps = 1.0 - self._arriving(d - t).stay[x]
        at = t - portable.log(1.0 - self._stream.u() * jumps) / self._chain.leave[x]
        return min(at, float(d)), bisect(self._chain.jump[x], self._stream.u())

    def jump(self, cpu: int, x: int, at: float, until: float) -> tuple[float, int] | None:
        """Return time and target of the next jump of a CPU in `x` at `at`, or None if it is still there at `until`."""
        rate = self._chain.leave[x]
        if not rate:
            return None
        at += self._stream.e() / rate
        return None if at > until else (at, bisect(self._chain.jump[x], self._stream.u()))

    def jumps(self, cpu: int, x: int, n: int, at: int) -> list[tuple[float, int]]:
        """Return time and target of the next jump of each of `n` CPUs in `x` at `at`."""
        e, u, rate, law = self._stream.e, self._stream.u, self._chain.leave[x], self._chain.jump[x]
        return [(at + e() / rate, bisect(law, u())) for _ in range(n)]

    def _arriving(self, flight: int) -> _Arrivals:
        arrivals = self._arrivals.get(flight)
        if arrivals is None:
            arrivals = self._arrivals[flight] = _Arrivals(self._chain, flight)
        return arrivals

    def _after(self, x: int, high: int) -> int:
        """Draw the state `high` times 1024 ns after `x`, digit by digit."""
        level = 0
        while high:
            level += 1
            high, digit = divmod(high, HIGHER)
            if digit:
                x = bisect(self._powers.law(x, level, digit), self._stream.u())
        return x

    def _split_many(
        self, x: int, n: int, high: int, low: int, arrivals: _Arrivals, kept: list[int], moved: list[int]
    ) -> None:
        if high:
            law = list(accumulate(self._powers.times(self._powers.coarse(x, high), arrivals.columns(low))))
            arrivals.closed(law)
        else:
            key = low * self._size + x
            law = arrivals.laws.get(key) or arrivals.law(key)
        left = self._share(law, n, kept)
        if left:
            self._leave(self._powers.row(x, high * LOWEST + low), left, arrivals, moved)

    def _leave(self, row: list[float], n: int, arrivals: _Arrivals, moved: list[int]) -> None:
        """Count `n` CPUs that jump during the flight by their state before it."""
        stay = arrivals.stay * (len(row) // self._size)
        law = list(accumulate(p * (1.0 - s) for p, s in zip(row, stay, strict=True)))
        for _ in range(n):
            moved[bisect(law, self._stream.u() * law[-1])] += 1

    def _share(self, law: list[float], n: int, cells: list[int]) -> int:
        """Count `n` CPUs by the running sums of their law; return how many fall behind its end."""
        size = len(law)
        first, done = 0, 0.0
        while n >= _MANY and first < size:
            upto = law[first]
            if upto > done:
                k = binomial(n, min((upto - done) / (1.0 - done), 1.0), self._stream.u())
                cells[first] += k
                n -= k
                done = upto
            first += 1
        if not n:
            return 0
        us = self._stream.us(n)
        if first:
            rest = 1.0 - done
            us = [done + u * rest for u in us]
            law = law[first:]
        us.sort()
        below = 0
        for j, upto in enumerate(law, first):
            upto_here = bisect_left(us, upto, below)
            cells[j] += upto_here - below
            if upto_here == n:
                return 0
            below = upto_here
        return n - below


def binomial(n: int, p: float, u: float) -> int:
    """Return a binomial variate by inversion of the uniform `u`: from zero, or outward from the mode."""
    if p > 0.5:
        return n - binomial(n, 1.0 - p, u)
    if n * p < _SMALL:
        return _from_zero(n, p, u)
    q = 1.0 - p
    odds = p / q
    low = high = int((n + 1) * p)
    below = above = _at_mode(n, p, q, low)
    u -= above
    while u >= 0.0:
        above *= (n - high) / (high + 1) * odds
        high += 1
        u -= above
        if u < 0.0:
            return high
        below *= low / ((n - low + 1) * odds)
        low -= 1
        u -= below
        if below + above < 1e-25:  # rounding has left more of u than all that is to come
            break
    return low


def _from_zero(n: int, p: float, u: float) -> int:
    q = 1.0 - p
    term, base, power = 1.0, q, n
    while power:
        if power & 1:
            term *= base
        base *= base
        power >>= 1
    odds = p / q
    k = 0
    while u >= term and k < n:
        u -= term
        k += 1
        term *= (n - k + 1) / k * odds
    return k


def _at_mode(n: int, p: float, q: float, k: int) -> float:
    """Return the probability of the mode k by the saddle-point form of Loader (2000), whose exponent is small here."""
    x = _stirling(n) - _stirling(k) - _stirling(n - k) - _deviance(k, n * p) - _deviance(n - k, n * q)
    series = 1.0 + x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (
        1.0 + x / 7.0 * (1.0 + x / 8.0)))))))  # fmt: skip
    return series * math.sqrt(n / (2.0 * math.pi * k * (n - k)))


def _stirling(n: int) -> float:
    """Return log(n!) less Stirling's formula, for n >= 16."""
    s = 1.0 / (n * n)
    return (1.0 / 12.0 - s * (1.0 / 360.0 - s * (1.0 / 1260.0 - s * (1.0 / 1680.0 - s / 1188.0)))) / n


def _deviance(x: int, mean: float) -> float:
    """Return x log(x / mean) + mean - x for x close to its mean."""
    v = (x - mean) / (x + mean)
    s = v * v
    return (x - mean) * v + 2.0 * x * v * s * (1 / 3 + s * (1 / 5 + s * (1 / 7 + s * (1 / 9 + s / 11))))
