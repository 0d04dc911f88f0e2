"""Free ranges against a bytearray."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from execbench.sim.memory import Holes

FAST = settings(max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])


class HolesMachine(RuleBasedStateMachine):
    """Holes against a bytearray, with enough holes for several buckets."""

    SIZE = 4000

    def __init__(self) -> None:
        super().__init__()
        self.holes = Holes()
        self.free = bytearray(self.SIZE)

    @initialize(every=st.sampled_from([3, 5, 4000]))
    def comb(self, every: int) -> None:
        for start in range(0, self.SIZE, every):
            end = min(self.SIZE, start + max(1, every // 2))
            self.holes.give(start, end)
            self.free[start:end] = b"\1" * (end - start)

    @rule(start=st.integers(0, SIZE - 1), n=st.integers(1, 40))
    def give_or_take(self, start: int, n: int) -> None:
        end = min(self.SIZE, start + n)
        part = self.free[start:end]
        if all(part):
            with pytest.raises(ValueError):
                self.holes.give(start, end)
            self.holes.take(start, end)
            self.free[start:end] = bytes(end - start)
        elif not any(part):
            with pytest.raises(ValueError):
                self.holes.take(start, end)
            self.holes.give(start, end)
            self.free[start:end] = b"\1" * (end - start)
        else:
            with pytest.raises(ValueError):
                self.holes.give(start, end)
            with pytest.raises(ValueError):
                self.holes.take(start, end)

    @rule(
        low=st.integers(0, SIZE), width=st.integers(1, SIZE), size=st.integers(1, 30), align=st.sampled_from([1, 8, 64])
    )
    def search(self, low: int, width: int, size: int, align: int) -> None:
        high = min(self.SIZE, low + width)
        starts = range(-(-low // align) * align, high - size + 1, align)
        want = next((s for s in starts if all(self.free[s : s + size])), None)
        fit = self.holes.first_fit(low, high, size, align)
        assert (fit.start if fit else None) == want
        assert self.holes.total(low, high) == sum(self.free[low:high])
        assert self.holes.largest(low, high) == max(map(len, bytes(self.free[low:high]).split(b"\0")))

    @invariant()
    def conserved(self) -> None:
        self.holes.check()
        assert self.holes.free == sum(self.free)
        assert len(self.holes) == len(bytes(self.free).translate(None).replace(b"\0", b" ").split())


HolesMachine.TestCase.settings = FAST
TestHoles = HolesMachine.TestCase


def test_holes_of_neighbouring_buckets_merge() -> None:
    holes = Holes()
    for start in range(0, 3000, 3):
        holes.give(start, start + 2)
    gaps = [(500 * i) % 999 * 3 + 2 for i in range(999)]
    for done, gap in enumerate(gaps):
        holes.give(gap, gap + 1)
        if done % 37 == 0:
            holes.check()
    holes.check()
    assert list(holes) == [(0, 2999)]
