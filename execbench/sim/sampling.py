"""Draws from the law of a chain for groups of CPUs that nothing distinguishes.

Counts are split over states by inversion: CPU by CPU when few, by conditional binomials when many. Only + - * / sqrt
and the portable logarithm are used, so that a draw has the same bits on every machine.
"""

from __future__ import annotations

import math
from bisect import bisect, bisect_left
from itertools import accumulate
from operator import add, mul, sub
from typing import TYPE_CHECKING

from execbench.sim import portable
from execbench.sim.powers import HIGHER, LOWEST, Columns, Powers, cumulative

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.rng import Stream

__all__ = ["Draws", "Groups", "binomial"]

Groups = dict[tuple[int, int], int]
"""How many CPUs went on from (time, state)."""

_LOW_BITS = LOWEST.bit_length() - 1
_KEPT = 1 << 12  # laws that are remembered
_MANY = 160  # CPUs from which counts are drawn as binomials
_SMALL = 16.0  # expected count below which a binomial is inverted from zero


class _Arrivals:
    """Laws of (state after a gap, no jump during the flight that follows), for one length of the flight."""

    def __init__(self, chain: Chain, flight: int) -> None:
        self._powers = chain.powers
        self._size = len(chain.states)
        self._columns: dict[int, Columns] = {}
        self._closed = not flight
        self.stay = [portable.exp(-min(rate * flight, 700.0)) for rate in chain.leave]
        self.odds = [(1.0 - stay) / stay for stay in self.stay]
        self.laws: dict[int, list[float]] = {}
        """What `law` was asked for lately: rounds of one operation follow each other after equal gaps."""

    def law(self, key: int) -> list[float]:
        """Return the running sums of P(state, no jump), key = gap * size + state before; what is missing to 1 jumps."""
        gap, x = divmod(key, self._size)
        low = gap & (LOWEST - 1)
        if gap >= LOWEST:
            columns = self._columns.get(low) or self.columns(low)
            row = self._powers.times(self._powers.coarse(x, gap >> _LOW_BITS), columns)
        else:
            row = list(map(mul, self._powers.factor(0, low)[x].tolist(), self.stay))
        if len(self.laws) >= _KEPT:
            self.laws.clear()
        law = self.laws[key] = self.closed(row)
        return law

    def columns(self, low: int) -> Columns:
        """Return the factor of the lowest digit as columns, times what does not jump."""
        factor = self._powers.factor(0, low).T.tolist()
        folded = [[p * stay for p in column] for column, stay in zip(factor, self.stay, strict=True)]
        columns = self._columns[low] = self._powers.in_bands(folded)
        return columns

    def closed(self, row: list[float]) -> list[float]:
        """Return running sums that end at 1 if nothing can jump, so that every uniform falls inside."""
        law = list(accumulate(row))
        if self._closed:
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
        self._unseen = [0.0 if state.qs else 1.0 for state in chain.states]
        self._order = sorted(range(self._size), key=lambda j: -chain.pi[j])
        self._order_watching = self._order + [self._size + j for j in self._order]
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
        size, u, known = self._size, self._stream.u, arrivals.laws
        for (t0, x), n in groups.items():
            gap = t - t0
            law = known.get(gap * size + x)
            if n > 1:
                law = law or arrivals.law(gap * size + x)
                left = self._share(law, n, kept)
            else:
                if law is None and gap >= LOWEST:
                    x, gap = self._after(x, gap >> _LOW_BITS), gap & (LOWEST - 1)
                    law = known.get(gap * size + x)
                law = law or arrivals.law(gap * size + x)
                j = bisect(law, u())
                if j < size:
                    kept[j] += 1
                    continue
                left = 1
            if left:
                self._leave(list(map(mul, _steps(law), arrivals.odds)), left, moved)

    def split_watching(
        self, cpu: int, groups: Groups, t: int, d: int,
        kept: list[int], moved: list[int], kept_unseen: list[int], moved_unseen: list[int],
    ) -> None:  # fmt: skip
        """Count the states at t by whether a quiescent state was seen: all paths less those that avoid the set."""
        arrivals, size = self._arriving(d - t), self._size
        for (t0, x), n in groups.items():
            every = self._powers.row(x, t - t0)
            unseen = list(map(mul, self._chain.taboo.row(x, t - t0), self._unseen))
            joint = [seen if seen > 0.0 else 0.0 for seen in map(sub, every, unseen)] + unseen
            kept_law = list(map(mul, joint, arrivals.stay * 2)) if d > t else joint
            cells = [0] * (2 * size)
            left = self._share(arrivals.closed(kept_law), n, cells)
            kept[:] = map(add, kept, cells)
            kept_unseen[:] = map(add, kept_unseen, cells[size:])
            if left:
                cells = [0] * (2 * size)
                self._leave(list(map(mul, kept_law, arrivals.odds * 2)), left, cells)
                for j in range(size):
                    moved[j] += cells[j]
                    moved_unseen[j] += cells[size + j]

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

    def flights(self, cpu: int, x: int, n: int, t: int, d: int) -> list[list[tuple[float, int]]]:
        """Return all jumps in (t, d] of each of `n` CPUs in `x` at t that jump at least once.

        The remainder of an exponential variate by the length of the flight has the law of one that is shorter.
        """
        e, u, leave, jump = self._stream.e, self._stream.u, self._chain.leave, self._chain.jump
        flight = d - t
        paths = []
        for _ in range(n):
            at = t + e() / leave[x] % flight
            y = bisect(jump[x], u())
            path = [(at, y)]
            at += e() / leave[y]
            while at <= d:
                y = bisect(jump[y], u())
                path.append((at, y))
                at += e() / leave[y]
            paths.append(path)
        return paths

    def _arriving(self, flight: int) -> _Arrivals:
        arrivals = self._arrivals.get(flight)
        if arrivals is None:
            arrivals = self._arrivals[flight] = _Arrivals(self._chain, flight)
        return arrivals

    def _after(self, x: int, high: int) -> int:
        """Draw the state `high` times 128 ns after `x`, digit by digit."""
        if high < HIGHER:
            return bisect(self._powers.law(x, 1, high), self._stream.u())
        level = 0
        while high:
            level += 1
            high, digit = divmod(high, HIGHER)
            if digit:
                x = bisect(self._powers.law(x, level, digit), self._stream.u())
        return x

    def _leave(self, weights: list[float], n: int, moved: list[int]) -> None:
        """Count `n` CPUs that jump during the flight by their state before it."""
        law, u = list(accumulate(weights)), self._stream.u
        for _ in range(n):
            moved[bisect(law, u() * law[-1])] += 1

    def _share(self, law: list[float], n: int, cells: list[int]) -> int:
        """Count `n` CPUs by the running sums of their law; return how many fall behind its end."""
        if n >= _MANY:
            return self._share_many(law, n, cells)
        if n < len(law):
            return self._share_few(law, n, cells)
        us = self._stream.us(n)
        us.sort()
        below = 0
        for j, upto in enumerate(law):
            end = bisect_left(us, upto, below)
            cells[j] += end - below
            if end == n:
                return 0
            below = end
        return n - below

    def _share_few(self, law: list[float], n: int, cells: list[int]) -> int:
        left, cut = 0, len(law)
        for u in self._stream.us(n):
            j = bisect(law, u)
            if j < cut:
                cells[j] += 1
            else:
                left += 1
        return left

    def _share_many(self, law: list[float], n: int, cells: list[int]) -> int:
        """Take the cells that are large in equilibrium off as binomials, until few CPUs are left."""
        weights = _steps(law)
        order = self._order if len(law) == self._size else self._order_watching
        closed, mass, taken = law[-1] == 1.0, 1.0, 0
        while n >= _MANY and taken < len(order):
            j = order[taken]
            taken += 1
            if weights[j] >= mass or (closed and taken == len(order)):
                k = n
            else:
                k = binomial(n, weights[j] / mass, self._stream.u())
            cells[j] += k
            n -= k
            mass -= weights[j]
        rest = order[taken:]
        if not n or not rest:
            return n
        rest_law = list(accumulate([weights[j] / mass for j in rest]))
        if closed:
            rest_law[-1] = 1.0
        counts = [0] * len(rest)
        behind = self._share(rest_law, n, counts)
        for j, count in zip(rest, counts, strict=True):
            cells[j] += count
        return behind


def _steps(law: list[float]) -> list[float]:
    """Return the steps of running sums."""
    return [law[0], *map(sub, law[1:], law)]


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
