"""Named, keyed random streams whose bits are the same on every machine and every numpy.

Only raw words of Philox are used (their definition is fixed): u = (k + 1/2) 2^-53, k the upper 53 bits of a word. A
stream's key is BLAKE2b of seed, replication and name, never of a backend or a cell, so that all backends of one
replication meet the same draws and a new stream shifts nobody's.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from execbench.sim import portable

__all__ = ["Stream", "Streams", "unit_interval"]

_BLOCK = 4096  # uniforms per block, a multiple of the 4 words of one Philox counter
_FIRST = 64  # size of a sequential stream's first block: many streams draw only a few numbers
_NEVER = 1 << 100  # a place before which every row lies
_KEPT = 4  # blocks an indexed stream keeps, so that callers in slightly different places do not evict each other


def unit_interval(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return (k + 1/2) 2^-53 with k = raw >> 11, strictly inside (0, 1).

    From k = 2^52 on the sum is rounded to even, and the very last k would give 1.0, whose normal quantile is infinite:
    it is held at the largest double below 1.
    """
    u = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.minimum(u, 1.0 - 2.0**-53)


class Stream:
    """One named sequence of uniforms, read in order (`u`, `us`, `e`, `lognormal`) or by row number (`row`), not both.

    `e` and `lognormal` read the next uniform like `u` and transform it by inversion; whole blocks are transformed at
    once, with the bits of the scalar functions in `portable`.
    """

    __slots__ = (
        "_before", "_block", "_exponentials", "_i", "_key", "_lognormals", "_n", "_near", "_philox", "_rows", "_width",
        "name",
    )  # fmt: skip

    def __init__(self, name: str, key: bytes) -> None:
        """Make the stream `name` from a key of 16 bytes (two little-endian 64-bit words)."""
        self.name = name
        self._key = np.frombuffer(key, dtype="<u8").astype(np.uint64)
        self._philox: np.random.Philox | None = None
        self._block: list[float] = []
        self._exponentials: list[float] | None = None
        self._lognormals: dict[float, list[float]] = {}
        self._i = 0  # next place in the block
        self._n = 0  # length of the block
        self._before = 0  # uniforms used before this block; in an indexed stream, all that were used
        self._near = _NEVER  # in an indexed stream, the number of the first uniform in the block
        self._rows: dict[int, list[float]] = {}
        self._width = -1  # not an indexed stream

    @property
    def draws(self) -> int:
        """Number of uniforms used so far."""
        return self._before + self._i

    def u(self) -> float:
        """Return the next uniform, strictly inside (0, 1)."""
        i = self._i
        if i == self._n:
            i = self._refill()
        self._i = i + 1
        return self._block[i]

    def us(self, n: int) -> list[float]:
        """Return the next `n` uniforms."""
        i = self._i
        if i + n <= self._n:
            self._i = i + n
            return self._block[i : i + n]
        u = self.u
        return [u() for _ in range(n)]

    def e(self) -> float:
        """Return -log of the next uniform: an exponential variate of mean 1."""
        i = self._i
        if i == self._n:
            i = self._refill()
        block = self._exponentials
        if block is None:
            block = self._exponentials = (-portable.log(np.array(self._block))).tolist()
        self._i = i + 1
        return block[i]

    def lognormal(self, sigma: float) -> float:
        """Return exp(sigma z), z the normal quantile of the next uniform: a lognormal variate of median 1."""
        i = self._i
        if i == self._n:
            i = self._refill()
        block = self._lognormals.get(sigma)
        if block is None:
            block = portable.exp(sigma * portable.ndtri(np.array(self._block))).tolist()
            self._lognormals[sigma] = block
        self._i = i + 1
        return block[i]

    def row(self, i: int, width: int) -> list[float]:
        """Return the uniforms i * width to (i + 1) * width - 1 of the sequence: the draws of operation number `i`.

        Any order of `i`, also repeated; cheap when consecutive calls are near each other. `width` is fixed by the
        first call; ValueError for another one, for a negative `i`, or if the stream was read in order before.
        """
        if width != self._width:
            self._index_by(width)
        start = i * width
        offset = start - self._near
        if 0 <= offset <= _BLOCK - width:
            self._before += width
            return self._block[offset : offset + width]
        if i < 0:
            raise ValueError(f"stream {self.name!r}: row {i} does not exist")
        self._before += width
        values: list[float] = []
        while len(values) < width:
            number, offset = divmod(start + len(values), _BLOCK)
            self._block = self._numbered(number)
            self._near = number * _BLOCK
            values += self._block[offset : offset + width - len(values)]
        return values

    def _refill(self) -> int:
        if self._width > 0:
            raise ValueError(f"stream {self.name!r} is read by row number; use another stream to read in order")
        if self._philox is None:
            self._philox = np.random.Philox(key=self._key)
        self._before += self._n
        self._n = min(max(_FIRST, 4 * self._n), _BLOCK)
        self._block = unit_interval(self._philox.random_raw(self._n)).tolist()
        self._exponentials = None
        self._lognormals.clear()
        self._i = 0
        return 0

    def _index_by(self, width: int) -> None:
        indexed, ordered = self._width > 0, self._n > 0
        if indexed or ordered or width < 1:
            state = f"read by rows of {self._width}" if indexed else "read in order" if ordered else "new"
            raise ValueError(f"stream {self.name!r} is {state} and cannot be read by rows of {width}")
        self._width = width

    def _numbered(self, number: int) -> list[float]:
        """Return uniforms number * 4096 .. of the sequence, from the few blocks that are kept or from the counter."""
        block = self._rows.get(number)
        if block is None:
            if len(self._rows) == _KEPT:
                del self._rows[next(iter(self._rows))]  # the oldest
            counter = number * (_BLOCK // 4)  # four words per counter value
            philox = np.random.Philox(key=self._key, counter=counter)
            block = self._rows[number] = unit_interval(philox.random_raw(_BLOCK)).tolist()
        return block


class Streams:
    """The random streams of one replication."""

    def __init__(self, seed: int, replication: int) -> None:
        """Make the streams of replication number `replication` under `seed`; none is created before it is asked for."""
        self.seed, self.replication = seed, replication
        self._streams: dict[str, Stream] = {}

    def stream(self, name: str) -> Stream:
        """Return the stream called `name`; the same name gives the same object."""
        found = self._streams.get(name)
        if found is None:
            text = f"{self.seed}/{self.replication}/{name}"
            key = hashlib.blake2b(text.encode(), digest_size=16).digest()
            found = self._streams[name] = Stream(name, key)
        return found

    @property
    def draws(self) -> int:
        """Number of uniforms used so far in all streams."""
        return sum(stream.draws for stream in self._streams.values())
