"""Every parameter of every client: what it cannot be is refused with its name, what was given and what is allowed."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execbench.errors import InputError
from execbench.registry.files import data_path
from execbench.registry.instances import client
from execbench.registry.params import constructed, fields_of, resolved
from execbench.registry.plugins import registered
from execbench.study import load, resolve

SHARES = {
    "bpf": ("sleepable", "linked"), "bcachefs": ("reformats",), "bpf-attach": ("exits", "deletes"),
    "kprobes": ("entry", "boostable", "optimizable"), "livepatch": ("busy",), "test-vmalloc": ("layout",),
}  # fmt: skip
"""Parameters that are shares of a whole."""
NO_NUMBER = st.sampled_from(
    [float("nan"), float("inf"), -float("inf"), True, "many", "-1", [1], {"a": 1}, "1 parsec", ""]
)
NEGATIVE = st.integers(max_value=-1) | st.floats(max_value=-1e-9, allow_nan=False)
HUGE = st.integers(min_value=1 << 63) | st.sampled_from([10**400, -(10**400)])
NO_DIST = NO_NUMBER | st.integers(max_value=-1) | HUGE | st.sampled_from([
    {"dist": "gamma"}, {"dist": "exponential"}, {"dist": "exponential", "mean": -1}, {"dist": "constant", "value": "?"},
    {"dist": "exponential", "mean": float("nan")}, {"dist": "uniform", "low": 9, "high": 1}, {"dist": ["constant"]},
    {"dist": "mixture", "weights": [1.0], "means": [1, 2]}, {"dist": "erlang", "k": 0, "mean": 5}, "99999h99", None,
    {"dist": "empirical", "file": "no-such-file.csv", "column": "x"}, "1e40s",
])  # fmt: skip


def base(name: str) -> Mapping[str, Any]:
    """What the first workload with this client says of it."""
    tables = (load.read("workload", workload).table["client"] for workload in load.names("workload"))
    return next(dict(table[name]) for table in tables if name in table)


def bad(cls: type, name: str) -> st.SearchStrategy[Any]:
    """Values that a parameter cannot have, by its annotation."""
    field, hint = fields_of(cls)[name], typing.get_type_hints(cls)[name]
    arms = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if field.metadata.get("kind") == "data":
        return st.sampled_from([5, 1.5, True, [], "no-such-file.csv", "", ".", "/"])
    if bool in arms:
        return st.sampled_from([0, 1, "yes", 0.5, [], None])
    if int in arms:
        return NO_NUMBER | NEGATIVE | HUGE | st.sampled_from([1.5, 0.5, 1 << 32])
    if float in arms:
        above = st.floats(min_value=1.001) if name in SHARES.get(cls.name, ()) else st.nothing()
        return NO_NUMBER | NEGATIVE | above | st.sampled_from([10**400, -(10**400)])
    if any(typing.get_origin(arm) is typing.Literal for arm in arms):
        return st.sampled_from(["nonsense", "", 5, None, [], True])
    if any(typing.get_origin(arm) is tuple for arm in arms):
        return st.sampled_from([5, "docker", [None], [float("nan")], [[1]], {"a": 1}, [True], [-1]])
    if str in arms:
        return st.sampled_from([5, 1.5, None, [], True])
    return NO_DIST


def built(name: str, given: Mapping[str, Any], files: bool = True) -> Any:
    """The client as a run makes it; without `files` its data files are not looked at, which takes time."""
    if files:
        return client(name, resolve.clients({name: given}, Path("workloads"))[0][name])
    cls, root = CLIENTS[name], f"client.{name}"
    return constructed(cls, resolved(cls, given, root), root, data_path)


CLIENTS = {cls.name: cls for cls in registered("clients").values()}  # type: ignore[attr-defined]
FIELDS = [(name, field) for name, cls in CLIENTS.items() for field in fields_of(cls)]


@pytest.mark.parametrize("name", CLIENTS)
def test_what_the_workloads_say_is_allowed(name: str) -> None:
    assert built(name, base(name)).name == name


@pytest.mark.parametrize(("name", "field"), FIELDS)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_what_a_parameter_cannot_be_is_refused_by_its_name(name: str, field: str, data: st.DataObject) -> None:
    value = data.draw(bad(CLIENTS[name], field))
    files = fields_of(CLIENTS[name])[field].metadata.get("kind") == "data" or (type(value) is dict and "file" in value)
    with pytest.raises(InputError) as caught:
        built(name, {**base(name), field: value}, files)
    error = caught.value
    assert error.where.startswith(f"client.{name}"), error
    assert field in f"{error.where} {error.allowed}".replace("]", " ").replace("[", " "), error
    assert error.given and error.allowed and error.remedy
