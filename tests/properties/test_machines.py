"""Every shipped machine runs the shipped workloads on every backend that its architecture can express."""

from __future__ import annotations

import pytest

from execbench.kernel.releases import RELEASES
from execbench.registry.plugins import registered
from tests.contract.arms import arms
from tests.properties.runs import MACHINES, cells, counters, digest, run

each_machine = pytest.mark.parametrize("machine", MACHINES)
FOUR_CPUS = {machine: ("machine.topology.cpus=4",) for machine in MACHINES if machine != "x86-rt-isolated"}
"""So that the explicit model is cheap."""
STATE = frozenset({
    "cpa_collapse", "cpa_flush", "cpa_split", "collapse_flush", "flush_tlb_all", "flush_tlb_kernel_range",
    "purge_flush", "round", "split_flush", "tlbi", "vmap_purge",
})  # fmt: skip
"""What depends on what others have freed meanwhile: flushes, and what they are merged with."""


@each_machine
@pytest.mark.parametrize("release", RELEASES)
def test_bpf_runs_on_every_backend_that_can_be_expressed(machine: str, release: str) -> None:
    ran = 0
    for cell in cells(machine, kernel=release):
        if cell.refused:
            assert len(cell.refused.split()) > 2
            continue
        record = run(cell)
        assert (record.outcome, record.detail) == ("ok", ""), cell.arm
        assert record.operations > 10, cell.arm
        ran += 1
    assert ran >= 9


@each_machine
def test_user_jit_runs_on_every_backend_of_user_space_and_no_other(machine: str) -> None:
    ran = set()
    for cell in cells(machine, workload="user-jit"):
        if not cell.refused:
            record = run(cell)
            assert (record.outcome, record.detail) == ("ok", ""), cell.arm
            assert record.operations > 10, cell.arm
            ran.add(cell.arm)
    assert ran == {name for name in registered("backends") if name.startswith("user-")}


@pytest.mark.parametrize("page", ["16KiB", "64KiB"])
def test_bpf_runs_with_large_pages(page: str) -> None:
    for cell in cells("arm64-server-128", f"machine.kernel.page_size={page}"):
        if not cell.refused:
            assert run(cell).outcome == "ok", cell.arm


@pytest.mark.parametrize("machine", ["server-64", "arm64-server-128", "riscv64-server-64"])
def test_every_parameter_runs_or_is_refused_with_a_reason(machine: str) -> None:
    names = [name for name, _ in arms()]
    found = {cell.arm: cell.refused or run(cell).outcome for cell in cells(machine, arms=names, duration="12ms")}
    assert set(found) == set(names)
    assert {name: what for name, what in found.items() if what != "ok" and len(what.split()) < 3} == {}
    assert sum(what == "ok" for what in found.values()) > 40


@each_machine
def test_seeds_and_replications_differ_and_each_is_the_same_again(machine: str) -> None:
    digests = set()
    for seed in (1, 2):
        (cell,) = cells(machine, f"run.seed={seed}", arms=["module_alloc"])
        for replication in (0, 1):
            record = run(cell, replication)
            assert record.outcome == "ok"
            assert digest(run(cell, replication)) == digest(record)
            digests.add(digest(record))
    assert len(digests) == 4


@each_machine
def test_both_cpu_models_do_the_same_operations_with_the_same_primitives(machine: str) -> None:
    """Arrivals are the clients', not the machine's, so the operations are the same; when they end is not.

    What a verb does is fixed by the code, but for what depends on what others freed before.
    """
    names = ["alloc-write-map", "bpf_prog_pack", "execmem", "module_alloc", "rw-inplace-finalize[sync=rcu]"]
    found = {}
    for model in ("lazy", "explicit"):
        settings = ["client.bpf.rate=200/s", f"run.cpu_model={model}", *FOUR_CPUS.get(machine, ())]
        for cell in cells(machine, *settings, arms=names):
            record = run(cell)
            assert record.outcome == "ok", record.detail
            fixed = {key: n for key, n in counters(record).items() if key[2] not in STATE}
            found[model, cell.arm] = record.operations, fixed
    for name in names:
        lazy, explicit = found["lazy", name], found["explicit", name]
        assert lazy[0] == explicit[0] > 6, name
        assert lazy[1] == explicit[1], name
