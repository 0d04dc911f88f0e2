from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from execbench.store.parts import Part
from execbench.study.plan import batch_size, finished, plan

CELLS = st.lists(st.sampled_from(["a" * 12, "b" * 12, "c" * 12]), unique=True, min_size=1)


@given(CELLS, st.integers(1, 60), st.dictionaries(st.sampled_from(["a" * 12, "b" * 12]), st.sets(st.integers(0, 70))))
def test_every_missing_replication_is_planned_exactly_once(
    cells: list[str], replications: int, done: dict[str, set[int]]
) -> None:
    planned = [
        (item.cell, number) for item in plan(cells, replications, done) for number in range(item.first, item.last + 1)
    ]
    wanted = [(cell, number) for cell in cells for number in range(replications) if number not in done.get(cell, set())]
    assert sorted(planned) == sorted(wanted)


@given(CELLS, st.integers(1, 200))
def test_items_are_small_enough_to_balance_and_large_enough_to_be_few(cells: list[str], replications: int) -> None:
    items = plan(cells, replications)
    size = batch_size(len(cells) * replications)
    assert all(item.size <= size <= 5 for item in items)
    assert len(items) == len(cells) * -(-replications // size) >= min(16, len(cells) * replications)


def test_cells_take_turns() -> None:
    items = plan(["a", "b"], 2)
    assert [item.name for item in items] == ["a-r0-0", "b-r0-0", "a-r1-1", "b-r1-1"]


def test_more_replications_keep_what_is_there() -> None:
    first = plan(["a"] * 1, 10)
    done = finished([Part(item.cell, item.first, item.last, Path()) for item in first])
    assert done == {"a": set(range(10))}
    assert {number for item in plan(["a"], 30, done) for number in range(item.first, item.last + 1)} == set(
        range(10, 30)
    )
