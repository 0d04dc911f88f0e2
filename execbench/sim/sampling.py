"""Draws from the law of a chain for groups of CPUs that nothing distinguishes.

Counts are split over states by inversion: CPU by CPU when few, by conditional binomials when many. Only + - * / sqrt
and the portable logarithm are used, so that a draw has the same bits on every machine.
"""

from __future__ import annotations

import math
from bisect import bisect
from itertools import accumulate
from typing import TYPE_CHECKING

from execbench.sim import portable
from execbench.sim.powers import HIGHER, LOWEST, Columns, Powers

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.rng import Stream

__all__ = ["Draws", "binomial"]

_FEW = 12  # CPUs up to which a state is drawn digit by digit, without multiplying the factors
_MANY = 120  # CPUs from which counts are drawn as binomials
_SMALL = 16.0  # expected count below which a binomial is inverted from zero


class _Arrivals:
    """Laws of (state at t, no jump during the flight that follows) over the lowest digit of a gap, for one flight."""

    def __init__(self, chain: Chain, flight: int) -> None:
        self.powers = chain.powers
        self.size = len(chain.states)
        self.stay = [portable.exp(-min(rate * flight, 700.0)) for rate in chain.leave]
        self._laws: dict[int, list[list[float]]] = {}
        self._columns: dict[int, Columns] = {}

    def laws(self, low: int) -> list[list[float]]:
        """Return, by state before, the running sums of P(state, no jump); what is missing to 1 jumps."""
        laws = self._laws.get(low)
        if laws is None:
            stay = self.stay
            rows = self.powers.factor(0, low).tolist()
            laws = self._laws[low] = [self.closed(list(accumulate(map(_product, row, stay)))) for row in rows]
        return laws

    def columns(self, low: int) -> Columns:
        """Return the same factor as columns, for a row that is known up to the lowest digit."""
        columns = self._columns.get(low)
        if columns is None:
            factor = self.powers.factor(0, low).T.tolist()
            folded = [[p * stay for p in column] for column, stay in zip(factor, self.stay, strict=True)]
            columns = self._columns[low] = self.powers.in_bands(folded)
        return columns

    def closed(self, law: list[float]) -> list[float]:
        """Let a law without any jump end at 1, so that every uniform falls inside."""
        if min(self.stay) == 1.0:
            law[-1] = 1.0
        return law


def _product(a: float, b: float) -> float:
    return a * b


class Draws:
    """The background of passive CPUs as its law gives it; see execbench.sim.lazy.Source."""

    def __init__(self, chain: Chain, stream: Stream) -> None:
        """Draw from `stream`; the tables are the chain's and shared."""
        self._chain = chain
        self._stream = stream
        self._u = stream.u
        self._powers: Powers = chain.powers
        self._size = len(chain.states)
        self._unseen = [not state.qs for state in chain.states]
        self._arrivals: dict[int, _Arrivals] = {}

    def initial(self, cpu: int, n: int) -> list[int]:
        """Return how many of `n` CPUs start in each state."""
        tally = [0] * self._size
        self._share(_Arrivals(self._chain, 0).closed(list(accumulate(self._chain.pi))), n, tally)
        return tally

    def enter(self, cpu: int, x: int) -> None:
        """Begin a visit; nothing is remembered of visits."""

    def split(self, cpu: int, x: int, n: int, t0: int, t1: int, d: int, watch: bool, tally: list[int]) -> None:
        """Count the states at t1 of `n` CPUs that are in `x` at t0; see Source.split."""
        arrivals = self._arrivals.get(d - t1)
        if arrivals is None:
            arrivals = self._arrivals[d - t1] = _Arrivals(self._chain, d - t1)
        if watch:
            self._split_watching(x, n, t1 - t0, arrivals, tally)
            return
        high, low = divmod(t1 - t0, LOWEST)
        size = self._size
        if n <= _FEW:
            laws, u, start = arrivals.laws(low), self._u, x
            for _ in range(n):
                if high:
                    start = self._after(x, high)
                j = bisect(laws[start], u())
                if j < size:
                    tally[j] += 1
                else:
                    self._leave(self._powers.factor(0, low)[start].tolist(), 1, arrivals, tally)
            return
        if high:
            law = list(accumulate(self._powers.times(self._powers.coarse(x, high), arrivals.columns(low))))
            arrivals.closed(law)
        else:
            law = arrivals.laws(low)[x]
        moved = self._share(law, n, tally)
        if moved:
            self._leave(self._powers.row(x, t1 - t0), moved, arrivals, tally)

    def first_jump(self, cpu: int, x: int, t1: int, d: int) -> tuple[float, int]:
        """Return time and target of the first jump after t1 of a CPU in `x` that is known to jump before d."""
        rate = self._chain.leave[x]
        jumps = 1.0 - portable.exp(-min(rate * (d - t1), 700.0))
        at = t1 - portable.log(1.0 - self._u() * jumps) / rate
        return min(at, float(d)), bisect(self._chain.jump[x], self._u())

    def jump(self, cpu: int, x: int, at: float, until: float) -> tuple[float, int] | None:
        """Return time and target of the next jump of a CPU in `x` at `at`, or None if it is still there at `until`."""
        rate = self._chain.leave[x]
        if not rate:
            return None
        at += self._stream.e() / rate
        return None if at > until else (at, bisect(self._chain.jump[x], self._u()))

    def _after(self, x: int, high: int) -> int:
        """Draw the state `high` times 1024 ns after `x`, digit by digit."""
        level = 0
        while high:
            level += 1
            high, digit = divmod(high, HIGHER)
            if digit:
                x = bisect(self._powers.law(x, level, digit), self._u())
        return x

    def _split_watching(self, x: int, n: int, gap: int, arrivals: _Arrivals, tally: list[int]) -> None:
        """Split by state and by whether a quiescent state was seen: seen = all paths less those that avoid the set."""
        every = self._powers.row(x, gap)
        avoiding = self._chain.taboo.row(x, gap)
        unseen = [q if free else 0.0 for q, free in zip(avoiding, self._unseen, strict=True)]
        joint = [max(p - q, 0.0) for p, q in zip(every, unseen, strict=True)] + unseen
        law = arrivals.closed(list(accumulate(map(_product, joint, arrivals.stay * 2))))
        moved = self._share(law, n, tally)
        if moved:
            self._leave(joint, moved, arrivals, tally)

    def _leave(self, row: list[float], n: int, arrivals: _Arrivals, tally: list[int]) -> None:
        """Add to the tally `n` CPUs that jump during the flight, by their state before it."""
        stay = arrivals.stay * (len(row) // self._size)
        law = list(accumulate(p * (1.0 - s) for p, s in zip(row, stay, strict=True)))
        for _ in range(n):
            tally[2 * self._size + bisect(law, self._u() * law[-1])] += 1

    def _share(self, law: list[float], n: int, tally: list[int]) -> int:
        """Add to the first cells of the tally `n` CPUs by the running sums of their law; return how many fall behind."""
        u, cells = self._u, len(law)
        first, done = 0, 0.0
        while n >= _MANY and first < cells:
            upto = law[first]
            if upto > done:
                k = binomial(n, min((upto - done) / (1.0 - done), 1.0), u())
                tally[first] += k
                n -= k
                done = upto
            first += 1
        rest = 1.0 - done
        behind = 0
        for _ in range(n):
            j = bisect(law, done + u() * rest, first)
            if j < cells:
                tally[j] += 1
            else:
                behind += 1
        return behind


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
        if above + below < 1e-25:  # what rounding leaves of u is less than any probability
            return high if high <= n else n
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
