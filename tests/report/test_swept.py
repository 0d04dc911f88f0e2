"""The tables of a study with axes: a row for each point and arm, nothing said twice, nothing without support."""

from __future__ import annotations

import numpy as np
import pytest

from execbench.report.arms import axes_of, point_words
from execbench.report.swept import figures_of
from execbench.report.text import render


def rows_below(text: str, heading: str) -> list[str]:
    """The lines of the first table below a heading."""
    block = text[text.index(heading) :].split("\n\n")[0].splitlines()
    rule = next(n for n, line in enumerate(block) if set(line) == {"-"})
    return block[rule + 1 :]


def test_a_row_for_each_point_and_arm(swept):
    _, frame, _ = swept
    text = render(*swept[1:])
    load = frame[(frame["client"] == "bpf") & (frame["kind"] == "load")]
    rows = rows_below(text, "bpf load (closed loop)\n")
    assert len([row for row in rows if not row.strip().startswith("[")]) == len(load)  # parameters: a line of their own
    assert max(map(len, text.splitlines())) <= 78
    assert "(x86_64, 2, 64, 256 CPUs)" in " ".join(text.split())


def test_a_point_is_named_once(swept):
    rows = rows_below(render(*swept[1:]), "bpf load (closed loop)\n")
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == ["2", "64", "256"]


def test_the_only_arm_is_named_in_the_heading(swept):
    _, frame, setting = swept
    arm = str(frame["arm"].iloc[0])
    text = render(frame[frame["arm"] == arm], setting)
    assert f"bpf load (closed loop), {arm}" in text
    assert "arm" not in rows_below(text, "bpf load")[0]


def test_what_no_point_has_support_for_is_said_not_shown(swept):
    _, frame, setting = swept
    without = frame.assign(p99=np.nan)
    assert figures_of(without, inside=True)[1] == ("p99",)
    assert "without enough support at any point: p99" in render(without, setting)


@pytest.mark.parametrize("axes", [{"machine.cpus": 64}, {"kernel": "6.12", "client.module.boot_set": "a, b"},
                                  {"a.b": 1, "c": "x = y, z"}])  # fmt: skip
def test_the_words_of_a_point_can_be_taken_apart(axes):
    assert axes_of(point_words(axes)) == {key.rpartition(".")[2]: str(value) for key, value in axes.items()}
