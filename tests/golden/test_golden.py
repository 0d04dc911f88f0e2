"""The committed step tables are what the model does now; `GOLDEN=write pytest tests/golden` writes them anew."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from execbench.record.steps.table import vocabulary

HERE = Path(__file__).parent


@cache
def _made() -> dict[str, str]:
    import sys

    sys.path.insert(0, str(HERE))
    try:
        from paths import documents  # a neighbour of this file, which is no package
    finally:
        sys.path.remove(str(HERE))
    return documents()


def _committed() -> dict[str, Path]:
    return {str(file.relative_to(HERE)): file for file in sorted(HERE.glob("*/*/*.txt"))}


def test_every_path_is_the_one_that_was_reviewed() -> None:
    made = _made()
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


def test_every_line_carries_its_evidence() -> None:
    for name, text in _made().items():
        for line in text.split("\n\n", 1)[1].splitlines():
            assert line.startswith("(") or line.rsplit("  ", 1)[-1].strip(), f"{name}: {line}"


def test_evidence_is_of_a_known_form() -> None:
    for name, words in vocabulary().items():
        for text in words.evidence.values():
            for part in filter(None, (part.strip() for part in text.split(";"))):
                known = part in ("trace", "INFER", "DESIGN") or "@" in part
                assert known, f"{name}: {part!r}"
