"""The interval map against a plain dictionary of points."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from execbench.record.audit.spans import Spans

RANGE = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "drop", "change"]), RANGE, st.integers(0, 3)), max_size=25)


@given(STEPS)
def test_spans_are_a_dictionary_of_points(steps):
    spans, points = Spans(), {}
    for what, (start, end), value in steps:
        inside = range(start, end)
        if what == "put":
            spans.put(start, end, value)
            points |= dict.fromkeys(inside, value)
        elif what == "drop":
            spans.drop(start, end)
            points = {at: old for at, old in points.items() if at not in inside}
        else:
            spans.change(start, end, lambda low, high, old, value=value: old + value)
            points = {at: old + value if at in inside else old for at, old in points.items()}
        seen = {}
        for low, high, old in spans:
            assert low < high
            assert not seen.keys() & set(range(low, high))
            seen |= dict.fromkeys(range(low, high), old)
        assert seen == points
        assert [spans.at(at) for at in range(32)] == [points.get(at) for at in range(32)]
        over = {at: old for low, high, old in spans.over(start, end) for at in range(low, high)}
        assert over == {at: old for at, old in points.items() if at in inside}
        tiles = [at for low, high, _ in spans.tiled(start, end) for at in range(low, high)]
        assert tiles == list(inside)


def test_stretches_come_in_order():
    spans = Spans()
    spans.put(4, 6, "b")
    spans.put(0, 2, "a")
    assert list(spans) == [(0, 2, "a"), (4, 6, "b")]
    assert len(spans) == 2
    assert spans.tiled(1, 5) == [(1, 2, "a"), (2, 4, None), (4, 5, "b")]
