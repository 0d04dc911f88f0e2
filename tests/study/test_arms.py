from __future__ import annotations

import pytest

from execbench.errors import InputError
from execbench.study.arms import label, parse_arm, split_arms


def test_an_arm_is_a_name_with_parameters() -> None:
    arm = parse_arm("rw-inplace-finalize[sync=rcu,max-wait=3us, n = 2]")
    assert (arm.name, arm.file) == ("rw-inplace-finalize", None)
    assert arm.params == {"sync": "rcu", "max_wait": "3us", "n": 2}
    assert parse_arm("execmem").params == {}
    assert parse_arm("execmem[]").params == {}


def test_an_arm_may_be_a_file_and_a_class() -> None:
    assert (parse_arm("./a/mine.py").file, parse_arm("./a/mine.py").cls) == ("./a/mine.py", None)
    arm = parse_arm("mine.py:Other[x=1]")
    assert (arm.file, arm.cls, dict(arm.params)) == ("mine.py", "Other", {"x": 1})


@pytest.mark.parametrize("text", ["", "[a=1]", "x[a]", "x[a=]", "x[=1]", "x[a=1]b", "x[a=1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--backend"):
        parse_arm(text)


def test_commas_outside_brackets_separate_arms() -> None:
    assert split_arms("a,b[x=1,y=2], c") == ["a", "b[x=1,y=2]", "c"]
    assert split_arms(["a,b", "c[x=[1,2]]"]) == ["a", "b", "c[x=[1,2]]"]


def test_the_label_reads_like_the_arm() -> None:
    assert label("execmem", {}) == "execmem"
    assert label("execmem", {"b": True, "a": None}) == "execmem[a=none,b=true]"
