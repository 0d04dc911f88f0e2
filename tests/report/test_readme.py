"""The README's sentences say what its table prints."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PROSE, _, _ = README.partition("<!-- begin: table -->")
TABLE = README.partition("<!-- begin: table -->")[2].partition("<!-- end: table -->")[0]
BROADCASTING = ("module_alloc", "execmem", "rw-inplace-finalize")


def figures(column: str) -> dict[str, str]:
    """First line of figures of each arm in the table whose first of all heads is this, by arm."""
    tables = [part for part in re.split(r"\n\n", TABLE) if re.search(rf"^arm .*\b{column}\b", part, re.MULTILINE)]
    (lines,) = (part.splitlines() for part in tables)
    head = next(line for line in lines if line.startswith("arm "))
    end = re.search(rf"\b{column}\b", head).end()  # type: ignore[union-attr]
    return {line.split()[0]: line[:end].split()[-1] for line in lines if re.match(r"[a-z]", line) and line != head}


def span(values: list[str]) -> str:
    return f"{min(values, key=float)} to {max(values, key=float)}"


def test_broadcasts_and_interrupts_are_those_of_the_table() -> None:
    words = " ".join(PROSE.split())
    rounds, interrupts = figures("rounds"), figures("interrupts")
    assert {arm for arm, value in rounds.items() if float(value)} == set(BROADCASTING)
    assert f"sends {span([rounds[arm] for arm in BROADCASTING])} broadcasts" in words
    others = [interrupts[arm] for arm in BROADCASTING]
    assert f"the other 63 CPUs take {span(others)} interrupts" in words
    each = sorted(float(value) / 63 for value in others)
    assert f"({each[0]:.1f} to {each[-1]:.1f} each)" in words


def test_the_ratio_at_the_median_is_that_of_the_answer() -> None:
    words, answer = " ".join(PROSE.split()), " ".join(TABLE.split())
    ratios = re.search(r"execmem takes ([\d.]+) .*? and the slowest, module_alloc, ([\d.]+) ", answer)
    assert ratios
    assert f"at the median designs that broadcast take {ratios[1]} to {ratios[2]} times as long" in words


def test_the_share_of_the_api_is_that_of_the_table() -> None:
    (largest,) = re.findall(r"to ([\d.]+) % \(\w+\) of\s+the time", TABLE)
    assert f"at most {float(largest):.1f} % of the time of all loads" in " ".join(PROSE.split())
