"""Every shipped workload, machine, study and table of measurements parses, and says what a reader may rely on."""

from __future__ import annotations

import csv
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from execbench.costs import CATALOGUE, CostTable
from execbench.units import time_ns

REPO = Path(__file__).resolve().parents[1]
MACHINES = sorted((REPO / "configs/machines").glob("*.toml"))
TRUTH = sorted((REPO / "configs/truth").glob("*.csv"))
COLUMNS = "id group release operation parameter quantity unit value p10 p90 n use source".split()
EVIDENCE = {"measured", "published", "derived", "assumed"}


def toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    both = {**base, **change}
    nested = {
        key for key in base.keys() & change.keys() if isinstance(base[key], dict) and isinstance(change[key], dict)
    }
    return both | {key: merged(base[key], change[key]) for key in nested}


def machine(path: Path) -> dict[str, Any]:
    table = toml(path)
    base = table.pop("extends", None)
    return merged(machine(path.with_name(f"{base}.toml")), table) if base else table


def sources(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    own = [value["source"]] if isinstance(value.get("source"), str) else []
    return own + [source for child in value.values() for source in sources(child)]


each_machine = pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
each_table = pytest.mark.parametrize("path", TRUTH, ids=lambda path: path.stem)


def test_the_agreed_files_are_there() -> None:
    assert {path.stem for path in MACHINES} == {"host-2cpu", "server-64", "server-256"}
    assert {path.stem for path in TRUTH} >= {
        "host_bpf_load", "host_text_poke", "host_rcu", "host_ipi", "counts_bpf", "counts_text_poke",
    }  # fmt: skip
    assert all(toml(path) for path in [*REPO.glob("configs/**/*.toml"), *REPO.glob("workloads/*.toml")])


@each_machine
def test_a_machine_has_every_cost_with_range_evidence_and_source(path: Path) -> None:
    costs = machine(path)["costs"]
    table = CostTable.from_toml(costs, path.name)  # checks value in range, evidence, source, known names
    assert set(table) == set(CATALOGUE)
    for name in table:
        assert table[name].low_ps < table[name].high_ps, f"{name}: a range without width claims certainty"
        assert table[name].high_ps >= 2 * table[name].low_ps or table[name].evidence != "assumed", f"{name}: too sure"


@each_machine
def test_fractions_of_background_states_sum_to_one_in_every_scenario(path: Path) -> None:
    background = machine(path)["background"]
    states = background["states"]
    plain = {name: state["fraction"] for name, state in states.items()}
    for change in [{}, *background.get("scenario", {}).values()]:
        assert set(change) <= set(states)
        fractions = plain | change
        assert sum(fractions.values()) == pytest.approx(1, abs=1e-12)
        # A chain whose moves balance pairwise exists only if no state is left more often than all others together.
        rate = {name: fractions[name] / time_ns(state["mean"]) for name, state in states.items()}
        assert max(rate.values()) <= sum(rate.values()) / 2


@each_machine
def test_background_states_name_costs_and_states_that_exist(path: Path) -> None:
    background = machine(path)["background"]
    assert background["restart"] in background["states"]
    for state in background["states"].values():
        assert state.get("wake", "syscall") in CATALOGUE
        assert state.get("after_interrupt", background["restart"]) in background["states"]
        assert state["evidence"] in EVIDENCE
        assert state["source"]
        assert not (state["masked"] and state["qs"]), "interrupts off is no quiescent state"


@each_machine
def test_sources_that_name_a_row_of_truth_name_one_that_exists(path: Path) -> None:
    known = {f"{table.name}#{row['id']}" for table in TRUTH for row in rows(table)}
    named = [ref for source in sources(toml(path)) for ref in re.findall(r"\w+\.csv#[\w-]+(?:\.[\w-]+)*", source)]
    assert named
    assert set(named) <= known


@each_table
def test_a_table_of_truth_has_the_columns_unique_ids_and_provenance(path: Path) -> None:
    table = rows(path)
    assert list(table[0]) == COLUMNS
    assert len({row["id"] for row in table}) == len(table)
    for row in table:
        assert row["use"] in {"input", "predicted"}
        assert all(row[column] for column in ("id", "group", "operation", "parameter", "quantity", "unit", "source"))
        value = float(row["value"])
        if row["p10"]:
            assert float(row["p10"]) <= value <= float(row["p90"])


def test_the_rows_that_the_model_is_fitted_to_are_few() -> None:
    loads = [row for row in rows(REPO / "configs/truth/host_bpf_load.csv") if row["unit"] == "ns"]
    callers = [row for row in rows(REPO / "configs/truth/host_rcu.csv") if row["group"] == "rcu"]
    assert {row["parameter"] for row in loads if row["use"] == "input"} == {"2", "3000", "100"}
    assert {row["id"] for row in callers if row["use"] == "input" and row["quantity"] == "latency_mean"} == {
        "idle-1", "idle-16",
    }  # fmt: skip


def test_the_counts_are_those_of_the_kernel_paths() -> None:
    count = {row["id"]: float(row["value"]) for row in rows(REPO / "configs/truth/counts_bpf.csv")}
    for release in ("6.12", "6.18"):
        for insns, pokes in (("2", 1), ("100", 1), ("1000", 1), ("64x3000", 2), ("10000", 6)):
            assert count[f"{release}-load-{insns}-pokes"] == pokes
            seen = count[f"{release}-unload-{insns}-text-fills-deferred"]  # 0.75 where one of four came too late
            assert seen == (0.75 if (release, insns) == ("6.18", "2") else 1)
            assert count[f"{release}-unload-{insns}-pokes-deferred"] == pokes * seen
            assert count[f"{release}-load-{insns}-rounds"] == 0
    flips = {row["id"]: float(row["value"]) for row in rows(REPO / "configs/truth/counts_text_poke.csv")}
    for key in [name.removesuffix("-sites") for name in flips if name.endswith("-sites")]:
        assert flips[f"{key}-rounds"] == 3
        assert flips[f"{key}-pokes"] == 3 * flips[f"{key}-sites"]


def test_the_programs_are_834_loads_with_a_tag_each_and_no_measured_time() -> None:
    table = rows(REPO / "workloads/data/bpf_loaded.csv")
    assert len(table) == 834
    assert len({row["tag"] for row in table}) == 834
    assert list(table[0]) == (
        "source object prog type insns processed total_states xlated jited nfuncs func_lens tag".split()
    )
    for row in table:
        lengths = [int(length) for length in row["func_lens"].split()]
        assert sum(lengths) == int(row["jited"])
        assert len(lengths) == int(row["nfuncs"])
        assert row["source"] != "selftests"
        assert int(row["insns"]) > 0
        assert int(row["processed"]) > 0


def test_an_installed_package_ships_the_same_files() -> None:
    shipped = Path(str(files("execbench"))) / "_data"
    if not shipped.is_dir():
        pytest.skip("running from a checkout, which is what the package would ship")
    for kind in ("workloads", "configs"):
        ours = {path.relative_to(REPO / kind): path.read_bytes() for path in (REPO / kind).rglob("*") if path.is_file()}
        theirs = {
            path.relative_to(shipped / kind): path.read_bytes()
            for path in (shipped / kind).rglob("*")
            if path.is_file()
        }
        assert theirs == ours
