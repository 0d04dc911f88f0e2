"""Change a release and only what that release changed changes: what it is stands in release_changes.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from execbench.kernel import releases as facts
from execbench.kernel.releases import RELEASES
from tests.properties.releases import MACHINES, PAIRS, RULES, Cause, Paths, causes_between, changed, counts

TABLE: list[dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("release_changes.toml").read_text(encoding="utf-8")
)["changes"]
each_step = pytest.mark.parametrize(
    ("arch", "older", "newer"), [(arch, *pair) for arch in MACHINES for pair in PAIRS],
    ids=lambda value: value,
)  # fmt: skip


def listed(arch: str, older: str, newer: str) -> dict[Cause, Paths]:
    """What the table says: cause -> the verbs that it changes."""
    return {
        row["cause"]: frozenset((name, verb) for name, verbs in row["verbs"].items() for verb in verbs)
        for row in TABLE
        if (row["architecture"], row["from"], row["to"]) == (arch, older, newer)
    }


@each_step
def test_what_changes_is_what_the_table_says(arch: str, older: str, newer: str) -> None:
    expected = {path for paths in listed(arch, older, newer).values() for path in paths}
    assert changed(counts(arch, older), counts(arch, newer)) == expected


@each_step
def test_each_cause_alone_takes_back_what_it_changed(arch: str, older: str, newer: str) -> None:
    for cause, paths in listed(arch, older, newer).items():
        assert changed(counts(arch, newer, older, (cause,)), counts(arch, newer)) == paths, cause


@each_step
def test_facts_that_are_not_in_the_table_change_no_count_and_all_together_are_the_older_release(
    arch: str, older: str, newer: str
) -> None:
    named = listed(arch, older, newer)
    facts_that_differ = causes_between(arch, older, newer)
    assert set(named) <= set(facts_that_differ)
    others = tuple(fact for fact in facts_that_differ if fact not in named)
    assert changed(counts(arch, newer, older, others), counts(arch, newer)) == frozenset()
    assert changed(counts(arch, newer, older, tuple(facts_that_differ)), counts(arch, older)) == frozenset()


def test_every_row_names_a_fact_that_says_where_it_comes_from_and_a_file_of_the_kernel() -> None:
    sources = {"Release": Path(facts.__file__).read_text(encoding="utf-8")}
    for row in TABLE:
        kind, _, name = row["cause"].partition(".")
        source = sources.get(kind) or Path(RULES[row["architecture"]].__file__).read_text(encoding="utf-8")
        assert re.search(rf'^    {name}: .*\n    """', source, re.M), row["cause"]
        assert re.search(r"\b(?:arch|mm|include|kernel)/[\w/]+\.[ch]\b", row["why"]), row["why"]
        assert row["from"] in RELEASES
        assert row["to"] in RELEASES
    keys = [(row["architecture"], row["from"], row["to"], row["cause"]) for row in TABLE]
    assert len(keys) == len(set(keys))
