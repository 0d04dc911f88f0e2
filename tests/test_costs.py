"""Costs: the catalogue, the table's arithmetic, and refusals that list what is missing or wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from execbench.catalogue import ARCHITECTURES, CATALOGUE, Entry, Estimate, catalogue, required
from execbench.costs import Cost, CostTable, Evidence
from execbench.errors import InputError, MachineError
from execbench.kernel import arch

GOOD: dict[str, Any] = {"value": "14.4us", "range": ["13.4us", "18.5us"], "evidence": "measured", "source": "host.csv"}
SPREAD: dict[str, Any] = GOOD | {"dist": "lognormal", "p99": "18us", "n": 900_000, "use": "predicted"}
BYTE: dict[str, Any] = {"value": "0.1ns", "range": ["0.05ns", "0.3ns"], "evidence": "assumed", "source": "memcpy speed"}
CLIENTS = {"bpf": {"verify_insn": Entry("processed instruction", "one instruction on one path")},
           "arm": {"work": Entry("piece", "what only arm64 has", ("arm64",))}}  # fmt: skip


def table(on: str = "", /, **rows: Any) -> CostTable:
    return CostTable.from_toml(rows, "m.toml: costs", on, CLIENTS)


def full() -> CostTable:
    return table(ipi_flight=SPREAD, copy_byte=BYTE, kmalloc=GOOD | {"evidence": "derived", "dist": "exponential"},
                 client={"bpf": {"verify_insn": GOOD | {"evidence": "published"}}})  # fmt: skip


def test_every_entry_of_the_catalogue_says_what_one_unit_is_and_what_it_stands_for() -> None:
    for name, (per, meaning, architectures, *_) in CATALOGUE.items():
        assert name == name.strip().lower()
        assert per
        assert len(meaning) > 15
        assert tuple(name for name in ARCHITECTURES if name in architectures) == architectures != ()


def test_what_only_some_architectures_have() -> None:
    assert ARCHITECTURES == arch.ARCHITECTURES
    only = {name: entry.arch for name, entry in CATALOGUE.items() if entry.arch != ARCHITECTURES}
    x86, arm, riscv = (
        {name for name, has in only.items() if has == (one,)} for one in ARCHITECTURES
    )  # fmt: skip
    assert x86 == set("cpa_page cpa_split cpa_collapse text_poke int3_queue sync_core invlpgb tlbsync ibpb".split())
    assert arm == set("tlbi dsb_ish isb dc_cvau ic_ivau".split())
    assert riscv == set("fence_i sbi_call sbi_hart sfence_fault".split())
    assert {name: only[name] for name in only.keys() - x86 - arm - riscv} == {
        **dict.fromkeys(("tlb_flush_all", "tlb_flush_page"), ("x86_64", "riscv64")),
        **dict.fromkeys(("pageattr_page", "fixmap_map", "linear_split", "mm_switch"), ("arm64", "riscv64")),
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_machine_needs_the_costs_of_its_architecture_and_of_the_clients_it_runs(name: str) -> None:
    assert set(required(name, {})) == {cost for cost, entry in CATALOGUE.items() if name in entry.arch}
    mine = set(required(name, CLIENTS)) - set(required(name, {}))
    assert mine == {"client.bpf.verify_insn"} | ({"client.arm.work"} if name == "arm64" else set())
    assert set(catalogue(CLIENTS)) == set(CATALOGUE) | {"client.bpf.verify_insn", "client.arm.work"}


def test_a_cost_of_another_architecture_is_refused_as_such() -> None:
    with pytest.raises(MachineError) as caught:
        table("arm64", text_poke=GOOD, kmalloc=GOOD, fence_i=GOOD, tlbi=GOOD, tlb_flush_all=GOOD)
    text = str(caught.value)
    assert (
        "costs of another architecture: text_poke (x86_64), fence_i (riscv64), tlb_flush_all (x86_64, riscv64)" in text
    )
    assert "the costs of arm64" in text
    with pytest.raises(MachineError, match=r"another architecture: client.arm.work \(arm64\)"):
        table("x86_64", client={"arm": {"work": GOOD}})
    assert set(table("arm64", tlbi=GOOD, kmalloc=GOOD)) == {"tlbi", "kmalloc"}
    assert set(table("", tlbi=GOOD, text_poke=GOOD)) == {"tlbi", "text_poke"}


def test_a_cost_is_read_in_picoseconds() -> None:
    assert full()["ipi_flight"] == Cost(
        "ipi_flight", 14_400_000, 13_400_000, 18_500_000, "interrupt", "lognormal", 18_000_000, Evidence.MEASURED,
        "host.csv (n = 900000)", "predicted",
    )  # fmt: skip
    assert full()["copy_byte"].ps == 100
    assert full()["client.bpf.verify_insn"].per == "processed instruction"
    assert list(full()) == ["client.bpf.verify_insn", "copy_byte", "ipi_flight", "kmalloc"]
    assert "kfree" not in full()
    assert len(full()) == 4


def test_ns_rounds_half_up_once_for_all_units() -> None:
    costs = full()
    assert costs.ns("ipi_flight") == 14_400
    assert [costs.ns("copy_byte", n) for n in (0, 1, 4, 5, 14, 15, 4096)] == [0, 0, 0, 1, 1, 2, 410]
    assert sum(costs.ns("copy_byte") for _ in range(4096)) == 0  # why per-byte costs are not rounded one by one


def test_weakest_evidence() -> None:
    costs = full()
    assert costs.weakest(["ipi_flight"]) is Evidence.MEASURED
    assert costs.weakest(["client.bpf.verify_insn", "ipi_flight"]) is Evidence.PUBLISHED
    assert costs.weakest(["kmalloc", "client.bpf.verify_insn"]) is Evidence.DERIVED
    assert costs.weakest(iter(costs)) is Evidence.ASSUMED
    with pytest.raises(ValueError, match="empty"):
        costs.weakest([])


def test_scaled_multiplies_value_range_and_p99_and_leaves_the_original() -> None:
    costs = full()
    double = costs.scaled({"ipi_flight": 2, "copy_byte": 0.5})
    flight = double["ipi_flight"]
    assert (flight.ps, flight.low_ps, flight.high_ps, flight.p99_ps) == (28_800_000, 26_800_000, 37_000_000, 36_000_000)
    assert double.ns("copy_byte", 100) == 5
    assert double["kmalloc"] == costs["kmalloc"]
    assert costs == full()
    assert costs != double
    with pytest.raises(MachineError, match="factor above 0"):
        costs.scaled({"kmalloc": 0.0})
    with pytest.raises(MachineError, match="did you mean 'kmalloc'"):
        costs.scaled({"kmaloc": 2.0})


def test_the_spec_form_survives_json() -> None:
    spec = json.loads(json.dumps(full().to_spec()))
    assert CostTable.from_spec(spec) == full()
    assert spec["copy_byte"] == {
        "ps": 100, "low_ps": 50, "high_ps": 300, "per": "byte", "dist": "constant", "p99_ps": None,
        "evidence": "assumed", "source": "memcpy speed", "use": "input",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"ps": 1.5}, {"ps": True}, {"evidence": "guessed"}, {"extra": 1}, {"low_ps": 101}, {"p99_ps": 7}]
)
def test_a_damaged_spec_is_refused(change: dict[str, Any]) -> None:
    spec = full().to_spec()
    spec["copy_byte"] |= change
    with pytest.raises(MachineError, match=r"costs\.copy_byte"):
        CostTable.from_spec(spec)


def test_a_missing_cost_is_named_where_it_is_used_and_all_at_once_beforehand() -> None:
    costs = full()
    with pytest.raises(MachineError, match=r"m.toml: costs: got no value for the cost 'kfree'.*per call"):
        costs["kfree"]
    with pytest.raises(MachineError, match=r"unknown cost 'kfre'.*did you mean 'kfree'"):
        costs.ns("kfre")
    with pytest.raises(MachineError) as caught:
        costs.require(required("arm64", CLIENTS))
    assert f"{len(required('arm64', CLIENTS)) - 4} of the costs" in str(caught.value)
    assert "client.arm.work (per piece), context_switch (per switch), dc_cvau (per line), dsb_ish" in str(caught.value)
    costs.require({name: catalogue(CLIENTS)[name] for name in costs})


def test_unknown_names_are_listed_with_the_closest() -> None:
    with pytest.raises(MachineError) as caught:
        table(ipi_fligth=GOOD, kmalloc=GOOD, zzz=GOOD, client={"bpf": {"verify_insns": GOOD}})
    text = str(caught.value)
    assert "'ipi_fligth' (did you mean 'ipi_flight'" in text
    assert "'zzz'" in text
    assert "did you mean 'client.bpf.verify_insn'" in text


def test_a_client_from_outside_brings_its_own_costs_with_their_unit() -> None:
    mine = {"mine": {"think": GOOD | {"per": "thought"}}}
    assert table(client=mine)["client.mine.think"].per == "thought"
    with pytest.raises(MachineError, match=r"client.mine.think.per"):
        table(client={"mine": {"think": GOOD}})


@pytest.mark.parametrize(
    ("row", "place", "said"),
    [
        (GOOD | {"value": 14}, "kmalloc.value", "with its unit"),
        (GOOD | {"value": "14 parsec"}, "kmalloc.value", "parsec"),
        (GOOD | {"range": "13us"}, "kmalloc.range", "list of two"),
        (GOOD | {"range": ["13us"]}, "kmalloc.range", "list of two"),
        (GOOD | {"range": ["13us", 4]}, "kmalloc.range[1]", "with its unit"),
        (GOOD | {"range": ["15us", "18us"]}, "kmalloc", "low <= value"),
        (GOOD | {"range": ["1us", "2us"]}, "kmalloc", "value <= high"),
        (GOOD | {"evidence": "measurd"}, "kmalloc.evidence", "did you mean 'measured'"),
        (GOOD | {"evidence": ["measured"]}, "kmalloc.evidence", "measured, published, derived, assumed"),
        (GOOD | {"source": ""}, "kmalloc", "a source"),
        (GOOD | {"source": 3}, "kmalloc.source", "text"),
        (GOOD | {"dist": "normal"}, "kmalloc", "constant, lognormal, exponential"),
        (GOOD | {"dist": "lognormal"}, "kmalloc", "p99"),
        (GOOD | {"p99": "20us"}, "kmalloc", "lognormal"),
        (SPREAD | {"p99": "14us"}, "kmalloc", "p99 >= value"),
        (GOOD | {"use": "both"}, "kmalloc", "input, predicted"),
        (GOOD | {"n": 0}, "kmalloc.n", "at least 1"),
        (GOOD | {"per": "byte"}, "kmalloc.per", '"call"'),
        (GOOD | {"sourc": "x"}, "kmalloc.sourc", "did you mean 'source'"),
        ({"value": "1us"}, "kmalloc", "no range, evidence, source"),
        ("14us", "kmalloc", "a table with value"),
    ],
)
def test_an_ill_typed_cost_is_refused_at_its_place(row: object, place: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        table(kmalloc=row)
    assert caught.value.where == f"m.toml: costs.{place}"
    assert said in str(caught.value)


@pytest.mark.parametrize("client", [3, {"bpf": 3}])
def test_client_costs_must_be_tables(client: object) -> None:
    with pytest.raises(MachineError, match=r"m.toml: costs.client"):
        table(client=client)


# --- what clients bring along -----------------------------------------------------------------------------------------

BROUGHT = {
    "client.new.own": Entry("call", "what only this client does", estimate=Estimate("100ns", "50ns", "400ns", "guess")),
    "client.new.same": Entry("call", "what another does too", like="client.old.step"),
    "client.new.either": Entry(
        "call", "like first", estimate=Estimate("1ns", "1ns", "1ns", "x"), like="client.old.step"
    ),
    "client.new.lost": Entry("call", "like one that is not there", like="client.old.gone"),
}  # fmt: skip
OLD = Cost("client.old.step", 7_000, 3_000, 9_000, "step", "lognormal", 8_000, Evidence.MEASURED, "row", "input")


def test_estimates_and_like_costs_stand_in_for_what_a_machine_does_not_state() -> None:
    table = CostTable({OLD.name: OLD}).with_estimates(BROUGHT, 5)
    own = table["client.new.own"]
    assert (own.ps, own.low_ps, own.high_ps) == (500_000, 250_000, 2_000_000)
    assert own.evidence is Evidence.ASSUMED
    assert own.source == "guess; for server-64, times 5 (machine.code_factor)"
    for name in ("client.new.same", "client.new.either"):
        same = table[name]
        assert (same.ps, same.p99_ps, same.evidence, same.per) == (7_000, 8_000, Evidence.MEASURED, "call")
        assert same.source == "as client.old.step: row"
    assert "client.new.lost" not in table
    with pytest.raises(MachineError, match="client.new.lost"):
        table.require(BROUGHT)


def test_what_a_machine_states_counts_before_any_estimate() -> None:
    stated = Cost("client.new.own", 1, 1, 1, "call", "constant", None, Evidence.PUBLISHED, "paper", "input")
    assert CostTable({stated.name: stated}).with_estimates(BROUGHT, 5)["client.new.own"] == stated
