from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execbench.catalogue import ARCHITECTURES
from execbench.errors import InputError, MachineError
from execbench.study import resolve
from execbench.study.spec import (
    FEATURES,
    PAGE_SIZES,
    RunTable,
    StudyFile,
    TopologyTable,
    WorkloadFile,
    canonical,
    cell_id,
    checked,
)

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


# --- machines ---------------------------------------------------------------------------------------------------------


def resolved(name: str, **change: Any) -> dict[str, Any]:
    """A shipped machine resolved with some of its tables changed: `kernel__hz=100` is kernel.hz."""
    tables: dict[str, Any] = copy.deepcopy(resolve.machine_tables(name)[0])
    for key, value in change.items():
        *path, last = key.split("__")
        here = tables
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return resolve.machine(name, tables, {"bpf": {}})


def test_every_architecture_has_its_features_and_page_sizes() -> None:
    assert set(FEATURES) == set(PAGE_SIZES) == set(ARCHITECTURES)
    assert set(resolved("server-64")["features"]) == {
        "apic", "ipi", "invlpgb", "invlpgb_count_max", "fred", "its", "fineibt", "ibpb_on_cbpf",
    }  # fmt: skip
    assert set(resolved("arm64-server-128")["features"]) == {"idc", "dic", "rodata_full", "bbml", "tlbi_range"}
    assert resolved("riscv64-board-8")["features"] == {"rfence": "sbi"}
    assert resolved("server-64", features__invlpgb=True, features__apic="xapic")["features"] == {
        "apic": "xapic", "ipi": "shorthand", "invlpgb": True, "invlpgb_count_max": 1,
        "fred": False, "its": False, "fineibt": False, "ibpb_on_cbpf": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "change", "said"),
    [
        ("server-64", {"arch": "s390x"}, "machine.arch: got 's390x'; allowed: 'x86_64', 'arm64' or 'riscv64'"),
        ("server-64", {"features__idc": True}, "machine.features.idc: got the unknown key 'idc'; allowed: apic, ipi"),
        ("server-64", {"features__invlpbg": True}, r"features.invlpbg: got the unknown key .* mean 'invlpgb'"),
        ("server-64", {"features__invlpgb": 1}, "machine.features.invlpgb: got 1; allowed: boolean"),
        ("server-64", {"features__ipi": "short"}, "features.ipi: got 'short'; allowed: 'shorthand', 'mask' or"),
        ("server-64", {"features": {}}, "machine.features.apic: got no apic; allowed: the keys apic, ipi, invlpgb"),
        ("arm64-server-128", {"features": {"idc": True, "dic": True}}, "machine.features.rodata_full: got no rodata_f"),
        ("riscv64-board-8", {"features__rfence": "IPI"}, "machine.features.rfence: got 'IPI'; allowed: 'sbi' or 'ipi'"),
        ("server-64", {"kernel__preempt": "rtt"}, "machine.kernel.preempt: got 'rtt'; allowed: .*'rt'.*mean 'rt'"),
        ("server-64", {"kernel__page_size": "64KiB"}, "machine.kernel.page_size: got 64KiB; allowed: 4KiB on x86_64"),
        ("riscv64-board-8", {"kernel__page_size": "16KiB"}, "page_size: got 16KiB; allowed: 4KiB on riscv64"),
        ("arm64-server-128", {"kernel__page_size": "8KiB"}, "got 8KiB; allowed: 4KiB, 16KiB, 64KiB on arm64"),
        ("arm64-server-128", {"kernel__page_size": "64"}, "machine.kernel.page_size: got .*64"),
        ("server-64", {"kernel__rcu_tasks_holdout__value": 1.5}, "rcu_tasks_holdout.value: got 1.5; allowed: less tha"),
        ("server-64", {"topology__isolated": 64}, "machine.topology.isolated: got 64; allowed: 0 to 63: some CPU keep"),
        ("server-64", {"topology__isolated": 4}, "machine.background.isolated: got no table; allowed: the states of t"),
        ("x86-rt-isolated", {"background__isolated__restart": "user"},
         "machine.background.isolated.restart: got user; allowed: user-nohz_full, kernel, irqs-off-short"),
        ("x86-rt-isolated", {"background__isolated__states__kernel__fraction": 0.5},
         "machine.background.isolated.states"),
        ("x86-rt-isolated", {"background__isolated__use": "x"}, "background.isolated.use: got the unknown key 'use'"),
        ("arm64-server-128", {"arch": "riscv64", "features": {"rfence": "sbi"}},
         r"machine.costs: got costs of another architecture: tlbi \(arm64\), dsb_ish \(arm64\)"),
    ],
)  # fmt: skip
def test_an_impossible_machine_is_refused_at_its_place(machine: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolved(machine, **change)


@pytest.mark.parametrize(("text", "size"), [("4KiB", 4096), ("16KiB", 16_384), ("64KiB", 65_536), (65_536, 65_536)])
def test_an_arm64_kernel_has_one_of_three_page_sizes(text: str | int, size: int) -> None:
    assert resolved("arm64-server-128", kernel__page_size=text)["kernel"]["page_size"] == size


def test_the_isolated_chain_is_part_of_a_cell_only_where_cpus_are_isolated() -> None:
    whole = resolved("x86-rt-isolated", topology__memory="8GiB")
    assert whole["topology"] == {"cpus": 32, "nodes": 1, "isolated": 28, "memory": 8 << 30}
    assert set(whole["background"]["isolated"]) == {"rule", "restart", "states"}
    assert "isolated" not in resolved("x86-rt-isolated", topology__isolated=0)["background"]
    with pytest.raises(InputError, match=r"background.isolated.states.kernel.mean"):
        resolved("x86-rt-isolated", topology__isolated=0, background__isolated__states__kernel__mean="x")
