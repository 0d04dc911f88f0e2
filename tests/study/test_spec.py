from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execbench.errors import InputError, MachineError
from execbench.study.spec import RunTable, StudyFile, TopologyTable, WorkloadFile, canonical, cell_id, checked

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5) | st.floats(-1e6, 1e6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_canonical_text_is_a_fixed_point(value: Any) -> None:
    import json

    text = canonical({"value": value})
    assert canonical(json.loads(text)) == text


def test_key_order_and_whole_floats_do_not_change_the_identity() -> None:
    assert canonical({"b": 1.0, "a": [2.0, 0.5]}) == '{"a":[2,0.5],"b":1}'
    assert cell_id({"b": 1, "a": 2}) == cell_id({"a": 2.0, "b": 1})
    assert cell_id({"a": 1}) != cell_id({"a": 2})
    assert len(cell_id({})) == 12


def test_an_infinite_number_is_no_spec() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("inf")})


RUN = {"duration": "1s", "warmup": 0, "drain": "1s"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": -1}, "run.seed: got -1; allowed: greater than or equal to 0"),
        ({"seed": "1"}, "run.seed: got '1'; allowed: integer"),
        ({"merge": 1}, "run.merge: got 1; allowed: boolean"),
        ({"cpu_model": "lasy"}, "run.cpu_model: got 'lasy'; allowed: 'lazy' or 'explicit'; did you mean 'lazy'?"),
        ({"sed": 1}, "run.sed: got the unknown key .*; allowed: duration, warmup, .*; did you mean 'seed'"),
        ({"duration": 1.5}, "run.duration: got 1.5"),
        ({"record": ["operation"]}, r"run.record\[0\]: got 'operation'; allowed: 'operations'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", "")):
        checked(RunTable, RUN | change, "run")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="run.drain: got no drain; allowed: the keys duration, .*; add drain"):
        checked(RunTable, {"duration": "1s", "warmup": 0}, "run")


def test_a_misspelt_key_is_said_before_the_missing_one_it_explains() -> None:
    with pytest.raises(InputError, match=r"drian: got the unknown key .*; .* did you mean 'drain'"):
        checked(RunTable, {"duration": "1s", "warmup": 0, "drian": "1s"}, "run")


def test_errors_of_a_machine_are_machine_errors() -> None:
    with pytest.raises(MachineError, match="machine.cpus: got 0; allowed: greater than or equal to 1"):
        checked(TopologyTable, {"cpus": 0}, "machine")


def test_nested_tables_are_followed_to_the_key() -> None:
    with pytest.raises(InputError, match="study.workloads: got the unknown key .*; .*; did you mean 'workload'"):
        checked(StudyFile, {"study": {"workloads": "bpf"}})
    with pytest.raises(InputError, match="workload.horizon: got 'steady'; allowed: 'steady-state' or 'terminating'"):
        checked(WorkloadFile, {
            "workload": {"question": "", "horizon": "steady", "machine": "m", "kernel": "6.18", "backends": ["a"]},
            "run": {}, "client": {"bpf": {}},
        })  # fmt: skip
