"""Every shipped workload, machine, study and table of measurements parses, and says what a reader may rely on."""

from __future__ import annotations

import csv
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from execbench.catalogue import ARCHITECTURES, CATALOGUE, catalogue, required
from execbench.costs import CostTable, Evidence
from execbench.errors import MachineError
from execbench.registry.instances import client_costs
from execbench.study import resolve
from execbench.units import time_ns

REPO = Path(__file__).resolve().parents[1]
MACHINES = sorted((REPO / "configs/machines").glob("*.toml"))
TRUTH = sorted((REPO / "configs/truth").glob("*.csv"))
COLUMNS = "id group release operation parameter quantity unit value p10 p90 n use source".split()
ROW = re.compile(r"\w+\.csv#[\w-]+(?:\.[\w-]+)*")
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


def chains(path: Path) -> list[dict[str, Any]]:
    background = machine(path)["background"]
    return [background, *([background["isolated"]] if "isolated" in background else [])]


def sources(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    own = [value["source"]] if isinstance(value.get("source"), str) else []
    return own + [source for child in value.values() for source in sources(child)]


each_machine = pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
each_table = pytest.mark.parametrize("path", TRUTH, ids=lambda path: path.stem)


def test_the_agreed_files_are_there() -> None:
    assert {path.stem for path in MACHINES} == {
        "amd-invlpgb-128", "arm64-server-128", "host-2cpu", "riscv64-board-8", "riscv64-server-64", "server-256",
        "server-64", "x86-guest-8", "x86-rt-isolated",
    }  # fmt: skip
    assert {machine(path)["arch"] for path in MACHINES} == set(ARCHITECTURES)
    assert {path.stem for path in TRUTH} >= {
        "host_bpf_load", "host_text_poke", "host_rcu", "host_ipi", "counts_bpf", "counts_text_poke",
    }  # fmt: skip
    assert all(toml(path) for path in [*REPO.glob("configs/**/*.toml"), *REPO.glob("workloads/*.toml")])


@each_machine
def test_a_machine_has_every_cost_with_range_evidence_and_source(path: Path) -> None:
    known, clients = machine(path), client_costs()
    # checks value in range, evidence, source, known names, nothing of another architecture
    table = CostTable.from_toml(known["costs"], path.name, known["arch"], clients)
    assert set(required(known["arch"], {"bpf": clients["bpf"]})) <= set(table) <= set(catalogue(clients))
    for name in table:
        cost = table[name]
        assert cost.low_ps < cost.high_ps, f"{name}: a range without width claims certainty"
        assert cost.high_ps >= 2 * cost.low_ps or cost.evidence != Evidence.ASSUMED, f"{name}: too sure"
        if cost.evidence != Evidence.ASSUMED:
            assert ROW.search(cost.source), f"{name} is {cost.evidence} and names no row: {cost.source}"


@each_machine
@pytest.mark.parametrize("explicit", [False, True])
def test_a_machine_resolves_with_the_bpf_client(path: Path, explicit: bool) -> None:
    tables, _ = resolve.machine_tables(path.stem)
    spec = resolve.machine(path.stem, tables, {"bpf": {}}, explicit)
    assert (spec["name"], spec["arch"]) == (path.stem, tables["arch"])
    assert set(spec["costs"]) == set(required(spec["arch"], {"bpf": client_costs()["bpf"]}))
    assert spec["topology"]["cpus"] == tables["topology"]["cpus"]
    assert spec["kernel"]["page_size"] == 4096
    assert ("isolated" in spec["background"]) == (spec["topology"]["isolated"] > 0)


@pytest.mark.parametrize("name", ["server-64", "arm64-server-128", "riscv64-board-8"])
def test_a_machine_that_lacks_costs_of_its_architecture_is_refused_with_the_list(name: str) -> None:
    tables, _ = resolve.machine_tables(name)
    own = sorted(cost for cost, entry in CATALOGUE.items() if entry.arch != ARCHITECTURES and cost in tables["costs"])
    lacking = {key: cost for key, cost in tables["costs"].items() if key not in (*own, "kfree")}
    lacking["client"] = {"bpf": {key: cost for key, cost in lacking["client"]["bpf"].items() if key != "put"}}
    with pytest.raises(MachineError) as caught:
        resolve.machine(name, {**tables, "costs": lacking}, {"bpf": {}})
    assert f"{len(own) + 2} of the costs" in str(caught.value)
    assert all(f"{cost} (per {CATALOGUE[cost].per})" in str(caught.value) for cost in [*own, "kfree"])
    assert "client.bpf.put (per program)" in str(caught.value)
    resolve.machine(name, {**tables, "costs": {**lacking, **{cost: tables["costs"][cost] for cost in own},
                                               "kfree": tables["costs"]["kfree"]}}, {})  # fmt: skip


def test_isolated_cpus_have_states_of_their_own_and_are_more_than_those_that_keep_house() -> None:
    tables, _ = resolve.machine_tables("x86-rt-isolated")
    spec = resolve.machine("x86-rt-isolated", tables, {"bpf": {}})
    assert spec["topology"]["isolated"] > spec["topology"]["cpus"] / 2
    assert spec["background"]["isolated"]["states"]["user-nohz_full"]["fraction"] > 0.999
    assert spec["background"]["isolated"]["states"]["user-nohz_full"]["mean"] == 1_000_000_000
    plain = {**tables, "topology": {**tables["topology"], "isolated": 0}}
    assert "isolated" not in resolve.machine("x86-rt-isolated", plain, {"bpf": {}})["background"]


@each_machine
def test_fractions_of_background_states_sum_to_one_in_every_scenario(path: Path) -> None:
    for background in chains(path):
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
    for background in chains(path):
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
    named = [ref for source in sources(toml(path)) for ref in ROW.findall(source)]
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


def test_every_row_that_user_text_is_fitted_to_is_named_by_a_cost_and_no_other() -> None:
    table = rows(REPO / "configs/truth/host_jit.csv")
    costs = machine(REPO / "configs/machines/host-2cpu.toml")["costs"]["client"]["jit"]
    named = {ref for source in sources(costs) for ref in re.findall(r"host_jit\.csv#([\w-]+)", source)}
    assert {row["id"] for row in table if row["use"] == "input"} == named
    assert sum(row["unit"] == "ns" for row in table) > 8 * len(named)


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
