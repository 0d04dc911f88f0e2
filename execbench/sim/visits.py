"""Visits to the states of a background, one after another: what the explicit model of passive CPUs walks along."""

from __future__ import annotations

import math
from bisect import bisect
from typing import TYPE_CHECKING, Protocol

from execbench.sim import portable
from execbench.sim.powers import cumulative

if TYPE_CHECKING:
    from execbench.sim.chain import Chain
    from execbench.sim.rng import Stream

__all__ = ["Drawn", "Visits"]


class Visits(Protocol):
    """Where the background comes from; times are ns."""

    def initial(self, cpu: int) -> tuple[int, float, int]:
        """Return the state at time 0, how much of its visit is left, and the state that follows."""

    def visit(self, cpu: int, x: int) -> tuple[float, int]:
        """Return the length of a new visit to `x` and the state that follows."""


class Drawn:
    """Visits drawn from the law of a chain; lognormal ones too."""

    def __init__(self, chain: Chain, stream: Stream) -> None:
        """Draw from `stream`."""
        self._chain = chain
        self._stream = stream
        self._pi = cumulative(chain.pi)

    def initial(self, cpu: int) -> tuple[int, float, int]:
        """Return a state from pi; what is left of its visit has the law of the residual life."""
        x = bisect(self._pi, self._stream.u())
        left, then = self.visit(cpu, x)
        sigma = self._chain.states[x].sigma
        if sigma:  # the visit that covers a given instant is longer by exp(sigma^2), and the instant is uniform in it
            left *= portable.exp(sigma * sigma) * self._stream.u()
        return x, left, then

    def visit(self, cpu: int, x: int) -> tuple[float, int]:
        """Return length and successor of a new visit to `x`."""
        rate = self._chain.leave[x]
        if not rate:
            return math.inf, x
        sigma, u = self._chain.states[x].sigma, self._stream.u()
        if sigma:
            left = portable.exp(sigma * (portable.ndtri(u) - sigma / 2.0)) / rate
        else:
            left = -portable.log(u) / rate
        return left, bisect(self._chain.jump[x], self._stream.u())
