from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from execbench.store.digest import DIGESTED, digest_of, table_digest

TABLES: dict[str, Any] = {
    "histograms": {"client": ["bpf", "bpf"], "bucket": [3, 4], "count": [1, 2**40]},
    "locks": {"lock": ["text_mutex"], "wait_ns": [5]},
    "metrics": {"metric": ["throughput"], "value": [0.1]},
}


def changed(table: str, column: str, value: Any) -> dict[str, Any]:
    return TABLES | {table: TABLES[table] | {column: [value, *TABLES[table][column][1:]]}}


def test_the_digest_is_what_it_was() -> None:
    """A changed value here means that every stored digest of the world is void: that takes a new schema version."""
    assert digest_of("ok", 2, TABLES) == "3fdfd6933b9e54b8fa1075d2bea07261"


@pytest.mark.parametrize(("table", "column", "value"), [("histograms", "client", "ftrace"), ("histograms", "count", 3),
                                                        ("locks", "wait_ns", -5)])  # fmt: skip
def test_any_integer_or_name_changes_it(table: str, column: str, value: Any) -> None:
    assert digest_of("ok", 2, changed(table, column, value)) != digest_of("ok", 2, TABLES)


def test_outcome_and_operations_change_it() -> None:
    assert len({digest_of("ok", 2, TABLES), digest_of("ok", 3, TABLES), digest_of("deadlock", 2, TABLES)}) == 3


def test_figures_and_tables_on_request_do_not() -> None:
    assert digest_of("ok", 2, changed("metrics", "value", 0.2)) == digest_of("ok", 2, TABLES)
    assert digest_of("ok", 2, TABLES | {"operations": {"op": [1]}}) == digest_of("ok", 2, TABLES)


def test_containers_types_and_key_order_do_not() -> None:
    arrays = {
        "locks": {"wait_ns": np.array([5], np.int32), "lock": ["text_mutex"]},
        "histograms": {"bucket": np.array([3, 4], np.uint16), "count": np.array([1, 2**40]), "client": ["bpf"] * 2},
    }
    assert digest_of("ok", 2, arrays) == digest_of("ok", 2, TABLES)
    assert table_digest({"a": [], "b": []}) == table_digest({})
    assert table_digest({"a": np.array([1], ">i8")}) == table_digest({"a": [1]})


def test_names_cannot_run_into_each_other() -> None:
    assert table_digest({"a": ["bc", "d"]}) != table_digest({"a": ["b", "cd"]})
    assert table_digest({"a": ["b"]}) != table_digest({"ab": [""]})
    assert table_digest({"a": [1, 2]}) != table_digest({"a": [2, 1]})


def test_a_float_is_refused() -> None:
    with pytest.raises(TypeError, match="column 'wait_ns' of a digested table holds float64"):
        digest_of("ok", 2, changed("locks", "wait_ns", 5.5))


def test_it_does_not_depend_on_the_hash_seed() -> None:
    code = "from execbench.store.digest import *; print(digest_of('ok', 2, {'locks': {'b': ['x', 'y'], 'a': [1, 2]}}))"
    path = ":".join(filter(None, sys.path))
    outputs = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": path}, text=True,
                       capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert len(DIGESTED) == len(set(DIGESTED))
