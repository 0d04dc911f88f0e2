"""The golden paths agree with step tables that somebody else derived from the kernel sources (appendix_a.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from execbench.record.steps.fold import Item, Row
from tests.golden.paths import Path as Steps
from tests.golden.paths import all_paths

ROWS = tomllib.loads((Path(__file__).parent / "appendix_a.toml").read_text(encoding="utf-8"))["row"]
KEYS = {"table", "row", "says", "path", "on", "steps", "never", "then_never", "counts", "differs"}


class Line(NamedTuple):
    """A line of a path as it is printed, what came of it, and how often it happens."""

    verb: str
    effects: str
    times: int


def lines(path: tuple[Item, ...], level: int = 0, times: int = 1) -> Iterator[Line]:
    for item in path:
        indent = "  " * (level + item.depth)
        if isinstance(item, Row):
            again = f" x{item.times}" if item.times > 1 else ""
            yield Line(f"{indent}{item.verb}{again}", item.effects, times * item.times)
        else:
            yield Line(f"{indent}{item.times} times:", "", 0)
            yield from lines(item.rows, level + 1, times * item.times)


def matches(line: Line, step: str) -> bool:
    """Whether a step of the table stands in a line; leading blanks are how many locks it needs at least."""
    verb, _, effect = step.partition(" => ")
    return verb in line.verb and effect in line.effects


@cache
def paths() -> dict[tuple[str, ...], Steps]:
    """Every path by who takes it: backend, verb, turn, architecture, variant, release, kind."""
    return {
        (one.backend, one.verb, one.turn, one.arch, one.variant, one.release, one.kind): path
        for path, users in all_paths().items()
        for one in users
    }


def named(row: dict[str, Any]) -> str:
    return f"{row['table']} {row['row']}"


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_the_steps_of_a_row_occur_in_this_order(row: dict[str, Any]) -> None:
    assert set(row) <= KEYS
    path = list(lines(paths()[(*row["path"], *row["on"])]))
    at = 0
    for step in row["steps"]:
        found = next((i for i in range(at, len(path)) if matches(path[i], step)), None)
        assert found is not None, f"{step!r} is not behind line {at}"
        at = found + 1
    for part in row.get("never", ()):
        assert not [line for line in path if part in line.verb or part in line.effects], part
    for part in row.get("then_never", ()):
        assert not [line for line in path[at:] if part in line.verb or part in line.effects], part
    for part, times in row.get("counts", {}).items():
        assert sum(line.times for line in path if part in line.verb) == times, part


def test_every_table_of_steps_is_there_and_every_deviation_has_a_reason() -> None:
    assert {row["table"] for row in ROWS} == {f"A{n}" for n in range(1, 9)}
    assert len({named(row) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert len(row.get("differs", "a reason")) > 5, named(row)
        assert row["steps"] or row["never"], named(row)
