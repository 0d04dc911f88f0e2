"""The table as a whole: rows, refusals, cost, and the command that prints it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from execbench.audit import MACHINES, OWN, audit
from execbench.cli import main
from execbench.contract import Image
from execbench.errors import InputError
from execbench.kernel.publish import PATHS
from execbench.replay import RELOCATIONS, few

FAST = {"machine.topology.cpus": 4, "run.duration": "60ms", "run.warmup": "5ms", "run.drain": "20ms"}


def small(*backends: str, **how):
    return audit("bpf", backends=backends, settings=FAST, **how)


def test_one_row_for_every_arm_machine_and_path():
    found = small("module_alloc", "vmalloc-exec", machines=["server-64", "arm64-server-128"])
    rows = [(row.arm, row.machine, row.via) for row in found.rows]
    passive = "pointer, fd-only, module-init"
    assert rows == [
        (arm, machine, via)
        for machine in ("server-64", "arm64-server-128")
        for arm in ("module_alloc", "vmalloc-exec")
        for via in (passive, "text-poke", "ftrace")
    ]
    assert {via for row in found.rows for via in row.via.split(", ")} == set(PATHS)


def test_listening_changes_nothing_and_is_paid_for():
    found = small("bpf_prog_pack", machines=["server-64"], paths=["pointer"])
    (row,) = found.rows
    assert row.same
    assert row.facts > 100
    assert row.with_s > 0 < row.without_s
    assert found.cost == row.with_s / row.without_s


def test_what_cannot_be_expressed_is_a_row_with_its_reason():
    found = small("execmem-rox-copy", "user-mmap", machines=["arm64-server-128"], paths=["pointer"])
    copy, user = found.rows
    assert "ARCH_HAS_EXECMEM_ROX" in copy.refused
    assert "user" in user.refused
    assert not copy.judged


def test_paths_that_a_client_does_not_take_are_refused():
    found = audit("user-jit", backends=["user-mmap"], machines=["host-2cpu"], paths=["pointer", "ftrace"],
                  settings={"run.duration": "5ms", "run.warmup": "1ms"})  # fmt: skip
    pointer, patched = found.rows
    assert pointer.judged
    assert not patched.judged
    assert patched.refused == "its client publishes by pointer only"


def test_replications_are_one_row_and_the_worst_counts():
    one, two = (
        small("bpf_prog_pack", machines=["server-64"], paths=["pointer"], replications=n).rows[0] for n in (1, 2)
    )
    assert two.published > one.published
    assert {hazard: judgement.verdict for hazard, judgement in one.judged.items()} == {
        hazard: judgement.verdict for hazard, judgement in two.judged.items()
    }


def test_workers_make_the_same_table():
    serial = small("module_alloc", machines=["server-64"])
    spawned = small("module_alloc", machines=["server-64"], workers=2)
    assert [(row.via, row.judged) for row in serial.rows] == [(row.via, row.judged) for row in spawned.rows]


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_every_run_from_none_to_all(workers):
    said = []
    small("module_alloc", machines=["server-64"], workers=workers, progress=lambda *counts: said.append(counts))
    assert said == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_input_is_checked():
    with pytest.raises(InputError, match="publication path"):
        small("module_alloc", paths=["pigeon"])
    with pytest.raises(InputError):
        small("no_such_backend", machines=["server-64"])
    with pytest.raises(InputError):
        audit("no_such_workload")


@pytest.fixture
def short(monkeypatch):
    import execbench.audit

    monkeypatch.setattr(execbench.audit, "SHORT", {**execbench.audit.SHORT, **FAST})


def test_the_command_prints_table_clauses_traces_and_cost(short, capsys):
    assert main(["audit", "-w", "bpf", "-b", "bpf_prog_pack", "-b", "module_alloc", "-b", "user-mmap",
                 "-m", "server-64", "-m", "arm64-server-128", "-j", "1"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert "x86_64, server-64" in lines
    assert "arm64, arm64-server-128" in lines
    pack = next(line for line in lines if line.startswith("  bpf_prog_pack  passive"))
    assert pack.split()[2:5] == ["nomech", "nomech", "proto"]
    assert any(line.startswith("  module_alloc   any path") for line in lines)
    assert "user-mmap: n/a (serves user only, not bpf)" in said
    assert "permitted by the manual, no known mechanism" in said
    assert "Missing: a serializing event on every other CPU between the last store and the publication." in said
    assert "stores code at" in said
    assert "by pointer (inside: rcu)" in " ".join(said.split())
    assert "meanwhile, up to" in said
    cost = said[said.index("\nCost: ") :]
    assert "left the same records" in " ".join(cost.split())
    assert max(len(line) for line in lines) <= 100


def test_the_command_prints_json(short, capsys):
    assert (
        main(["audit", "-w", "bpf", "-b", "vmalloc-exec", "-m", "riscv64-server-64", "-r", "2", "-j", "1", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    row = found["rows"][0]
    assert row["arch"] == "riscv64"
    assert row["hazards"]["6"]["verdict"] == "violated"
    assert row["hazards"]["1"]["condition"] == "icache"
    assert row["hazards"]["1"]["manual"]
    assert row["hazards"]["1"]["trace"][-1].endswith("(inside: rcu)")
    assert found["cost"]["ratio"] > 0


def test_the_command_says_what_is_wrong(capsys):
    assert main(["audit"]) == 2
    assert "name one with -w" in capsys.readouterr().err
    assert main(["audit", "-w", "bpf", "-r", "0"]) == 2
    assert main(["audit", "-w", "bpf", "-b", "nobody"]) == 2


def test_the_default_machines_are_one_of_each_architecture():
    from execbench.study.resolve import machine_tables

    tables = [machine_tables(name)[0] for name in MACHINES]
    assert {table["arch"] for table in tables} == {"x86_64", "arm64", "riscv64"}
    assert any(table["features"].get("invlpgb") for table in tables)


MIXED = {"machine.topology.cpus": 8, "run.duration": "900ms"}


def test_clients_with_paths_of_their_own_are_judged_by_these():
    found = audit("kprobes", backends=["execmem"], machines=["server-64"], settings=MIXED)
    own, *others = found.rows
    assert own.via == OWN
    assert {"text-poke", "ftrace"} <= set(own.paths)
    assert own.judged
    assert [row.via for row in others] == ["text-poke", "ftrace"]
    assert all(row.refused and not row.judged for row in others)
    assert "by ftrace whatever is asked" in others[0].refused


def test_only_the_first_path_of_an_arm_runs_without_listener():
    rows = small("bpf_prog_pack", machines=["server-64"]).rows
    assert [row.without_s > 0 for row in rows] == [True, False, False]
    assert all(row.with_s > 0 for row in rows)


def test_an_audit_says_what_it_made_short_and_what_was_asked_instead():
    found = audit("module-churn", backends=["execmem"], machines=["server-64"], paths=["pointer"],
                  settings={"run.duration": "60ms", "run.drain": "20ms"})  # fmt: skip
    assert found.simulated == {"run.warmup": ("20ms", "1s")}


@pytest.mark.parametrize("patches", [0, RELOCATIONS, RELOCATIONS + 1, 5000])
def test_few_relocations_of_an_image_are_written(patches):
    class Kept:
        def write(self, k, s, region, image):
            return image

    world = SimpleNamespace(backend=Kept())
    written = few(world).backend.write(None, None, None, Image(1, 65536, patches))
    assert written == Image(1, 65536, min(patches, RELOCATIONS))
