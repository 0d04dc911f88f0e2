"""The committed step tables are what the model does now; `GOLDEN=write pytest tests/golden` writes them anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from execbench.record.steps.fold import Item, Row
from execbench.record.steps.vocabulary import covers, vocabulary
from tests.golden.paths import all_paths, documents

HERE = Path(__file__).parent


def _committed() -> dict[str, Path]:
    return {str(file.relative_to(HERE)): file for file in sorted(HERE.glob("*/*/*.txt"))}


def test_every_path_is_the_one_that_was_reviewed() -> None:
    made = documents()
    if os.environ.get("GOLDEN") == "write":
        for file in _committed().values():
            file.unlink()
        for name, text in made.items():
            (HERE / name).parent.mkdir(parents=True, exist_ok=True)
            (HERE / name).write_text(text, encoding="utf-8")
        pytest.skip(f"{len(made)} step tables written: read the diff")
    committed = {name: file.read_text(encoding="utf-8") for name, file in _committed().items()}
    assert sorted(made) == sorted(committed)
    for name, text in made.items():
        assert text == committed[name], name


def _rows(path: tuple[Item, ...]) -> Iterator[Row]:
    for item in path:
        if isinstance(item, Row):
            yield item
        else:
            yield from _rows(item.rows)


def test_evidence_of_every_step_bears_on_every_release_that_takes_it() -> None:
    """A step of a release that ships the backend rests on that release; of a design it is enough that there is any."""
    missing = set()
    for path, users in all_paths().items():
        for row in _rows(path):
            for one in users:
                evidence = vocabulary()[row.key].on(one.arch)
                if not evidence or (one.standing == "shipped" and not covers(evidence, one.release)):
                    missing.add((row.key, one.backend, one.verb, one.arch, one.release))
    assert not missing


def test_every_fact_that_has_words_is_told_on_some_path() -> None:
    told = {row.key for path in all_paths() for row in _rows(path)}
    assert sorted(name for name in vocabulary() if name.startswith("fact:") and name not in told) == []


def test_every_step_stands_under_the_locks_that_the_path_has_taken() -> None:
    """The first step is under no lock, and no step is deeper than one lock more than the step before."""
    for path in all_paths():
        depth = -1
        for row in _rows(path):
            assert row.depth <= depth + 1, (row, path)
            depth = row.depth
