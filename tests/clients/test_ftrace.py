"""The client of ftrace: mass enabling in batches, trampolines from the backend, waits with the lock held."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from execbench import api
from execbench.api import Results
from execbench.clients.ftrace import FtraceClient


@pytest.fixture(autouse=True, scope="module")
def somewhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Results go, and are looked for, in a directory of these tests."""
    with contextlib.chdir(tmp_path_factory.mktemp("results")):
        yield


def run(*settings: str, **options: object) -> Results:
    return api.run("ftrace-mass", duration="6s", warmup="0s", replications=1,
                   set=list(settings), **options)  # type: ignore[arg-type] # fmt: skip


def per_operation(results: Results, kind: str, counter: str) -> float:
    counters, totals = results.table("counters"), results.table("totals")
    mine = counters[(counters["kind"] == kind) & (counters["primitive"] == counter)]["count"].sum()
    return float(mine / totals[totals["kind"] == kind]["operations"].sum())


@pytest.mark.parametrize(("sites", "rounds"), [(1, 9), (256, 9), (1_000, 18)])
def test_sites_take_three_rounds_for_256_and_six_for_the_function(sites: int, rounds: int) -> None:
    """Without the trampoline's flushes: alloc-write-map has none. The end adds the empty round, not the list's."""
    results = run(f"client.ftrace.sites={sites}", backends=["alloc-write-map"])
    first = results.table("totals").set_index("kind").loc["enable", "operations"]
    assert first >= 4
    assert per_operation(results, "enable", "text_poke") == pytest.approx(3 * sites + 6, abs=1e-9)
    assert per_operation(results, "enable", "round") == rounds
    assert per_operation(results, "disable", "synchronize_rcu_tasks") == 1


def test_a_tracer_that_stays_has_one_trampoline_and_waits_for_nobody() -> None:
    results = run("client.ftrace.dynamic=false", backends=["execmem"])
    counters = results.table("counters")
    assert counters[counters["primitive"] == "create_trampoline"]["count"].sum() == 1
    assert counters[counters["primitive"] == "ftrace_shutdown"].empty


def test_the_lock_is_held_over_the_waits_and_the_phases_are_the_apis() -> None:
    results = run(backends=["execmem"])
    locks = results.table("locks").set_index("lock")
    totals = results.table("totals").set_index("kind")
    assert locks.loc["ftrace_lock", "hold_ns"] > 0.9 * totals.loc["disable", "latency_ns"] > 0
    phases = results.table("histograms").groupby("kind")["phase"].unique()
    assert {"filter", "register", "alloc", "write", "finalize", "total"} == set(phases["enable"])
    assert {"unregister", "free", "total"} == set(phases["disable"])
    assert 0 < totals.loc["enable", "api_ns"] < totals.loc["enable", "latency_ns"]


@pytest.mark.parametrize("machine", ["arm64-server-128", "riscv64-server-64"])
def test_other_architectures_need_no_trampoline(machine: str) -> None:
    counters = run(machine=machine, backends=["execmem"]).table("counters")
    assert not (counters["primitive"] == "create_trampoline").any()
    assert (counters["primitive"] == "ftrace_modify_all_code").any()


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"burst": 0}, {"trampoline": 0}, {"rate": -1.0}])
def test_what_cannot_run_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FtraceClient(**wrong)  # type: ignore[arg-type]
