"""Transition matrices exp(Q d) for whole nanoseconds, with the same bits on every machine.

The digits of d select the factors from one table of powers per digit. Tables are built and multiplied with + - * / in
a fixed order only: no BLAS, no library exponential.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["HIGHER", "LOWEST", "Columns", "Powers", "Rates", "cumulative", "total"]

Rates = tuple[tuple[float, ...], ...]
Columns = list[list[tuple[float, ...]]]

LOWEST = 128
"""Values of the lowest digit of a duration in ns."""
HIGHER = 8192
"""Values of each higher digit."""
_KEPT = 8  # tables of a process, about 10 MB each for 7 states
_WIDE = 8  # numbers that one pass of a dot product takes


class Powers:
    """Rows of exp(Q d) for whole d >= 0 ns, Q given by its rates per ns beside the diagonal.

    The digits of d select one factor from each table: the lowest digit counts single ns up to 127 (few, so that they
    stay in the processor's cache), the next one multiples of 128 ns up to 1.05 ms, each further one 8192 times as much.
    Tables are built when first needed.
    """

    _known: ClassVar[dict[tuple[Rates, frozenset[int]], Powers]] = {}

    def __init__(self, rates: Rates, absorbing: frozenset[int]) -> None:
        """Leave states in `absorbing` never."""
        self.size = len(rates)
        self._q = tuple(
            tuple(0.0 if i in absorbing or i == j else rate for j, rate in enumerate(row))
            for i, row in enumerate(rates)
        )
        self._pad = [0.0] * (-self.size % _WIDE)
        self._base: NDArray[np.float64] | None = None
        self._tables: list[NDArray[np.float64]] = []
        self._laws: dict[int, NDArray[np.float64]] = {}
        self._columns: list[dict[int, Columns]] = []

    @classmethod
    def of(cls, rates: Rates, absorbing: frozenset[int]) -> Powers:
        """Return the tables of this content, the same object for the same content."""
        found = cls._known.get((rates, absorbing))
        if found is None:
            if len(cls._known) >= _KEPT:
                del cls._known[next(iter(cls._known))]  # the oldest: a sweep over machines must not fill the memory
            found = cls._known[rates, absorbing] = cls(rates, absorbing)
        return found

    def row(self, i: int, d: int) -> list[float]:
        """Return P(state j after d ns | state i) for all j, summing to 1 within rounding."""
        high, low = divmod(d, LOWEST)
        if not high:
            row: list[float] = self.factor(0, low)[i].tolist()
            return row
        return self.times(self.coarse(i, high), self.columns(0, low))

    def coarse(self, i: int, high: int) -> list[float]:
        """Return the row of state i after `high` > 0 times 128 ns, filled up for `times`."""
        if high < HIGHER and len(self._tables) > 1:
            short: list[float] = self._tables[1][high, i].tolist()
            return short + self._pad
        high, digit = divmod(high, HIGHER)
        row: list[float] = []
        if digit:
            row = self.factor(1, digit)[i].tolist() + self._pad
        level = 1
        while high:
            level += 1
            high, digit = divmod(high, HIGHER)
            if digit and row:
                row = self.times(row, self.columns(level, digit)) + self._pad
            elif digit:
                row = self.factor(level, digit)[i].tolist() + self._pad
        return row

    def law(self, i: int, level: int, digit: int) -> list[float]:
        """Return the cumulative row of state i in one factor, for bisection with a uniform."""
        laws = self._laws.get(level)
        if laws is None:
            while level >= len(self._tables):
                self._grow()
            laws = self._tables[level].copy()
            for j in range(1, self.size):
                laws[:, :, j] += laws[:, :, j - 1]
            laws[:, :, -1] = 1.0
            self._laws[level] = laws
        law: list[float] = laws[digit, i].tolist()
        return law

    def factor(self, level: int, digit: int) -> NDArray[np.float64]:
        """Return one factor as a matrix."""
        while level >= len(self._tables):
            self._grow()
        factor: NDArray[np.float64] = self._tables[level][digit]
        return factor

    def columns(self, level: int, digit: int) -> Columns:
        """Return the columns of one factor as `times` takes them."""
        while level >= len(self._tables):
            self._grow()
        columns = self._columns[level].get(digit)
        if columns is None:
            columns = self._columns[level][digit] = self.in_bands(self._tables[level][digit].T.tolist())
        return columns

    def in_bands(self, columns: list[list[float]]) -> Columns:
        """Cut columns into bands of eight numbers, filled up with zeros."""
        padded = [[*column, *self._pad] for column in columns]
        starts = range(0, self.size + len(self._pad), _WIDE)
        return [[tuple(column[start : start + _WIDE]) for column in padded] for start in starts]

    def times(self, row: list[float], columns: Columns) -> list[float]:
        """Return a row, filled up to whole bands, times a matrix; each entry is summed in the order of the states."""
        a, b, c, d, e, f, g, h = row if len(row) == _WIDE else row[:_WIDE]
        out = [a * p + b * q + c * r + d * s + e * t + f * u + g * v + h * w for p, q, r, s, t, u, v, w in columns[0]]
        if len(columns) == 1:
            return out
        for band in range(1, len(columns)):
            a, b, c, d, e, f, g, h = row[band * _WIDE : (band + 1) * _WIDE]
            out = [
                z + (a * p + b * q + c * r + d * s + e * t + f * u + g * v + h * w)
                for z, (p, q, r, s, t, u, v, w) in zip(out, columns[band], strict=True)
            ]
        return out

    def _grow(self) -> None:
        radix = HIGHER if self._tables else LOWEST
        table, self._base = _all_powers(_one_ns(self._q) if self._base is None else self._base, radix)
        self._tables.append(np.ascontiguousarray(table.transpose(1, 2, 0)))
        self._columns.append({})


def cumulative(row: Sequence[float]) -> list[float]:
    """Return the running sums of a law with the last one held at 1, so that bisecting a uniform below 1 ends inside."""
    sums = list(accumulate(row))
    sums[-1] = 1.0
    return sums


def total(values: Sequence[float]) -> float:
    """Return the sum in the order given; `sum` rounds differently from Python 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


# While they are built, tables are indexed [to, power, from]: a product is size^2 operations on long vectors.


def _product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return left[:, k, :] times right for every k, as stochastic matrices.

    All terms are positive, so that each entry beside the diagonal keeps its relative accuracy through any number of
    squarings; the diagonal is what is missing to 1 (Grassmann, Taksar & Heyman 1985).
    """
    size = len(left)
    out = np.empty_like(left)
    term = np.empty_like(left[0])
    for j in range(size):
        np.multiply(left[0], right[j, 0], out=out[j])
        for k in range(1, size):
            out[j] += np.multiply(left[k], right[j, k], out=term)
    for i in range(size):
        rest = np.zeros(left.shape[1])
        for j in range(size):
            if j != i:
                rest += out[j, :, i]
        out[i, :, i] = np.maximum(1.0 - rest, 0.0)
    return out


def _all_powers(base: NDArray[np.float64], radix: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return base^k for k below the radix, and base^radix; the radix is a power of two."""
    size = len(base)
    table = np.empty((size, radix, size))
    table[:, 0, :] = np.eye(size)
    power, filled = base, 1
    while filled < radix:
        table[:, filled : 2 * filled, :] = _product(table[:, :filled, :], power[:, 0, :])
        power = _product(power, power[:, 0, :])
        filled *= 2
    return table, power


def _one_ns(q: Rates) -> NDArray[np.float64]:
    """Return exp(Q 1 ns) by uniformisation: a sum of positive terms, after halving until it converges at once."""
    size = len(q)
    leave = [total(row) for row in q]
    fastest = max(leave)
    halvings, step = 0, fastest
    while step > 1 / 16:
        halvings, step = halvings + 1, step / 2
    u = np.zeros((size, 1, size))
    for i in range(size):
        for j in range(size):
            u[j, 0, i] = q[i][j] / fastest if fastest else 0.0
    for i in range(size):
        u[i, 0, i] = 1.0 - leave[i] / fastest if fastest else 1.0
    power = np.zeros((size, 1, size))
    power[:, 0, :] = np.eye(size)
    out, weight, weights = power.copy(), 1.0, 1.0
    for k in range(1, 14):
        power = _product(power, u[:, 0, :])
        weight = weight * step / k
        weights += weight
        out += power * weight
    out /= weights
    for _ in range(halvings):
        out = _product(out, out[:, 0, :])
    return out
