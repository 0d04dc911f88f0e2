"""Chunks of a bpf_prog_pack."""

from __future__ import annotations

from execbench.sim.memory.holes import Holes
from execbench.sim.memory.pages import equal


class ChunkBitmap:
    """The chunk bitmap of one pack: first fit as `bitmap_find_next_zero_area` finds it, without alignment.

    Source: kernel/bpf/core.c (`bpf_prog_pack_alloc`), lib/bitmap.c. Zero runs are kept as sorted holes; only the
    words that the kernel would read are counted.
    """

    __slots__ = ("_holes", "chunk", "chunks", "words_scanned")

    def __init__(self, size: int, chunk: int = 64) -> None:
        """Start empty with size // chunk chunks; both in bytes, ValueError unless size is a multiple of chunk."""
        if chunk <= 0 or size <= 0 or size % chunk:
            raise ValueError(f"size {size} is not a positive multiple of chunk {chunk}")
        self.chunk = chunk
        self.chunks = size // chunk
        self.words_scanned = 0
        self._holes = Holes()
        self._holes.give(0, self.chunks)

    @property
    def used_chunks(self) -> int:
        """Chunks allocated now."""
        return self.chunks - self._holes.free

    @property
    def empty(self) -> bool:
        """Whether no chunk is allocated."""
        return self._holes.free == self.chunks

    def alloc(self, nbytes: int) -> int | None:
        """Return the byte offset of the lowest free run that holds nbytes, rounded up to chunks; None if none does.

        Sets `words_scanned`, the 64-bit words read by the search: every word up to the place found, one more per hole
        met (the end of a hole is searched from the word of its start) and one more per hole refused (the search goes
        on in the word where the hole ended). A refused hole that ends with the last bit of a word is counted one high.
        """
        n = self._count(nbytes)
        fit = self._holes.first_fit(0, self.chunks, n)
        if fit is None:
            self.words_scanned = (self.chunks - 1) // 64 + 1 + 2 * len(self._holes)
            return None
        self.words_scanned = (fit.start + n - 1) // 64 + 1 + 2 * fit.passed + 1
        self._holes.take(fit.start, fit.start + n)
        return fit.start * self.chunk

    def free(self, offset: int, nbytes: int) -> None:
        """Clear the chunks of a former `alloc(nbytes)` at byte offset; ValueError if one of them is not allocated."""
        first, rest = divmod(offset, self.chunk)
        n = self._count(nbytes)
        if rest or first < 0 or first + n > self.chunks:
            raise ValueError(f"offset {offset} with {nbytes} bytes is not a place in {self.chunks} chunks")
        self._holes.give(first, first + n)

    def check(self) -> None:
        """Raise AssertionError unless free and used chunks add up inside the pack."""
        self._holes.check()
        equal("free chunks", self._holes.free, sum(min(e, self.chunks) - s for s, e in self._holes))

    def _count(self, nbytes: int) -> int:
        if nbytes <= 0:
            raise ValueError(f"cannot place {nbytes} bytes")
        return -(-nbytes // self.chunk)
