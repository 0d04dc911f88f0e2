"""Chunks of a pack against the kernel's search written out."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from execbench.sim.memory import ChunkBitmap

FAST = settings(max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])


class BitmapMachine(RuleBasedStateMachine):
    """A pack of 512 chunks against the kernel's search written out."""

    CHUNKS = 512

    def __init__(self) -> None:
        super().__init__()
        self.bitmap = ChunkBitmap(self.CHUNKS * 64)
        self.used = bytearray(self.CHUNKS)
        self.held: list[tuple[int, int]] = []

    def search(self, n: int) -> tuple[int | None, int, int]:
        """bitmap_find_next_zero_area: place, words read, refused holes that end a word."""
        start = words = even = 0
        while True:
            index = self.used.find(0, start)
            words += (
                (min(index % (1 << 32), self.CHUNKS - 1) if index >= 0 else self.CHUNKS - 1) // 64 - start // 64 + 1
            )
            if index < 0 or index + n > self.CHUNKS:
                return None, words, even
            stop = self.used.find(1, index, index + n)
            words += ((stop if stop >= 0 else index + n - 1) // 64) - index // 64 + 1
            if stop < 0:
                return index, words, even
            even += stop % 64 == 63
            start = stop + 1

    @rule(nbytes=st.one_of(st.integers(1, 700), st.integers(1, 20000)))
    def alloc(self, nbytes: int) -> None:
        n = -(-nbytes // 64)
        index, words, even = self.search(n)
        offset = self.bitmap.alloc(nbytes)
        assert offset == (None if index is None else index * 64)
        if index is None:
            assert self.bitmap.words_scanned >= words
        else:
            assert self.bitmap.words_scanned == words + even
            self.used[index : index + n] = b"\1" * n
            self.held.append((index * 64, nbytes))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset, nbytes = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.bitmap.free(offset, nbytes)
        n = -(-nbytes // 64)
        self.used[offset // 64 : offset // 64 + n] = bytes(n)
        with pytest.raises(ValueError):
            self.bitmap.free(offset, nbytes)

    @invariant()
    def conserved(self) -> None:
        self.bitmap.check()
        assert self.bitmap.used_chunks == sum(self.used)
        assert self.bitmap.empty == (not self.held)


BitmapMachine.TestCase.settings = FAST
TestBitmap = BitmapMachine.TestCase
