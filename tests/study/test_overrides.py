from __future__ import annotations

from typing import Any

import pytest

from execbench.errors import InputError
from execbench.study.overrides import apply, merged, parse_set, parse_value


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [("machine.topology.cpus=8", "machine.topology.cpus", 8), ("run.duration = 5s", "run.duration", "5s"),
     ("kernel.release=6.10", "kernel.release", "6.10"), ("client.bpf.rate=none", "client.bpf.rate", "none"),
     ('client.bpf.think={dist = "erlang", k = 2}', "client.bpf.think", {"dist": "erlang", "k": 2}),
     ("run.merge=false", "run.merge", False), ("backend.execmem.x=a=b", "backend.execmem.x", "a=b")],
)  # fmt: skip
def test_a_setting_is_read_as_toml_or_as_text(text: str, key: str, value: Any) -> None:
    assert parse_set(text) == (key, value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("machine.topology.cpus", "KEY=VALUE"), ("=3", "KEY=VALUE"), ("run.seed=", "KEY=VALUE"),
     ("machin.hz=1", "did you mean 'machine'"), ("clients.bpf.threads=1", "did you mean 'client'"),
     ("hz=250", "begins with machine, kernel, run, client, backend"), ("run=1", "run.FIELD"),
     ("client.threads=1", "client.NAME.FIELD"), ("run..seed=1", "run.FIELD")],
)  # fmt: skip
def test_a_setting_outside_the_roots_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_set(text)


def test_text_that_is_no_toml_stays_text() -> None:
    assert parse_value("3us") == "3us"
    assert parse_value("[1, 2]") == [1, 2]
    assert parse_value("true") is True


def test_settings_leave_the_tables_they_change_alone() -> None:
    tree = {"run": {"seed": 1}, "machine": {"topology": {"cpus": 4}}}
    changed = apply(tree, [("machine.topology.cpus", 8), ("client.bpf.threads", 2)])
    assert changed == {"run": {"seed": 1}, "machine": {"topology": {"cpus": 8}}, "client": {"bpf": {"threads": 2}}}
    assert tree["machine"]["topology"]["cpus"] == 4


def test_a_bare_value_for_a_cost_is_an_assumption_known_exactly() -> None:
    row = {"value": "2us", "range": ["1us", "3us"], "evidence": "measured", "source": "x", "n": 9, "dist": "lognormal",
           "p99": "6us"}  # fmt: skip
    new = apply({"machine": {"costs": {"ipi_send": row}}}, [("machine.costs.ipi_send", "4us")])
    assert new["machine"]["costs"]["ipi_send"] == {
        "value": "4us", "range": ["4us", "4us"], "evidence": "assumed", "source": "set by the user",
        "dist": "lognormal", "p99": "12000000ps",
    }  # fmt: skip


def test_tables_merge_key_by_key_and_costs_whole() -> None:
    base = {"topology": {"cpus": 4, "nodes": 2}, "costs": {"a": {"value": 1, "dist": "x"}, "b": {"value": 2}}}
    over = {"topology": {"cpus": 8}, "costs": {"a": {"value": 3}}}
    assert merged(base, over) == {"topology": {"cpus": 8, "nodes": 2}, "costs": {"a": {"value": 3}, "b": {"value": 2}}}
