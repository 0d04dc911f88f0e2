"""`execbench audit` as a user types it."""

from __future__ import annotations

import json
from typing import Any

import pytest

import execbench.audit
from execbench import api
from execbench.cli import main
from execbench.errors import CannotWrite, InputError

FAST = {"machine.topology.cpus": 4, "run.duration": "60ms", "run.warmup": "5ms", "run.drain": "20ms"}
ONE = ["audit", "-w", "bpf", "-m", "server-64", "-j", "1"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(execbench.audit, "SHORT", {**execbench.audit.SHORT, **FAST})


def told(capsys, *arguments: str) -> dict[str, Any]:
    assert main([*ONE, *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_user_space_needs_no_options(monkeypatch, capsys):
    brief = {**execbench.audit.SHORT, "run.duration": "20ms", "run.warmup": "1ms"}
    monkeypatch.setattr(execbench.audit, "SHORT", {key: brief[key] for key in brief if "topology" not in key})
    assert main(["audit", "-w", "user-jit", "-j", "1"]) == 0
    said = capsys.readouterr().out
    assert "  user-mmap      passive" in said
    assert "execmem-rox-copy: n/a (the ROX cache needs ARCH_HAS_EXECMEM_ROX" in said
    assert max(map(len, said.splitlines())) <= 100


def test_the_table_fits_whatever_an_arm_is_called(capsys):
    arm = "jit_text_alloc[sync=int3-protocol,update=per-write]"
    assert main([*ONE, "-b", arm, "-b", "module_alloc"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    at = lines.index("x86_64, server-64")
    assert lines[at + 2].startswith("  jit_text_alloc[")
    assert lines[at + 3].split()[0] in ("any", "passive")


def test_nothing_to_judge_is_code_5_and_one_line(capsys, tmp_path):
    assert main(["audit", "-w", "bpf", "-b", "user-mmap", "-j", "1"]) == 5
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if "audited" not in line]
    assert "workload bpf on user-mmap" in line
    assert "serves user only, not bpf" in line
    assert main([*ONE, "-b", "user-mmap", "-o", str(tmp_path / "kept"), "--json"]) == 5


def test_seed_and_settings_are_those_of_run(capsys):
    usual = told(capsys, "-b", "bpf_prog_pack")["rows"][0]
    other = told(capsys, "-b", "bpf_prog_pack", "--seed", "7")["rows"][0]
    longer = told(capsys, "-b", "bpf_prog_pack", "-s", "run.duration=1200ms")["rows"][0]
    assert other["facts"] != usual["facts"]
    assert longer["published"] > usual["published"]
    verdicts = [{hazard: one["verdict"] for hazard, one in row["hazards"].items()} for row in (usual, other)]
    assert verdicts[0] == verdicts[1]
    assert main([*ONE, "-s", "run.colour=blue"]) == 2
    assert main([*ONE, "-s", "nonsense"]) == 2


def test_a_machine_that_cannot_is_left_out_unless_named(capsys):
    few = {"machine.features.fred": True}
    found = api.audit("bpf", backends="module_alloc", paths="pointer", set=few)
    assert {row.arch for row in found.rows} == {"x86_64"}
    assert set(found.left_out) == {"arm64-server-128", "riscv64-server-64"}
    with pytest.raises(InputError):
        api.audit("bpf", backends="module_alloc", machines="server-64,arm64-server-128", set=few)
    with pytest.raises(InputError):
        api.audit("bpf", backends="module_alloc", set={"machine.features.nonsense": True})


def test_the_table_text_safety(tmp_path):
    import pyarrow.parquet as pq

    found = api.audit("bpf", backends="bpf_prog_pack,user-mmap", machines=["server-64"], paths="pointer,fd-only",
                      replications=2, seed=3, set={"client.bpf.loaded": 2}, out=tmp_path / "new" / "out")  # fmt: skip
    table = pq.read_table(tmp_path / "new" / "out" / "text_safety.parquet")
    rows = table.to_pylist()
    assert table.column_names == list(execbench.audit.COLUMNS)
    assert json.loads((tmp_path / "new" / "out" / "text_safety.json").read_text()) == rows
    (row, _) = found.rows
    assert [(one["publication"], one["hazard"]) for one in rows] == [
        (via, hazard) for via in ("pointer", "fd-only") for hazard in sorted(row.judged)
    ]
    first = rows[0]
    assert (first["clause"], first["kinds"], first["release"]) == ("1/x86_64/stale-trap", "bpf", "6.18")
    assert first["verdict"] == "permitted by the manual, no known mechanism"
    assert first["byte_seconds"] == row.judged[1].byte_ns / 1e9 > 0
    assert first["trace"].splitlines() == list(row.judged[1].trace)
    assert {one["byte_seconds"] for one in rows if one["verdict"].startswith("excluded")} == {0.0}


def test_replications_add_up():
    one, two = (
        api.audit("bpf", backends="bpf_prog_pack", machines="server-64", paths="pointer", replications=n).rows[0]
        for n in (1, 2)
    )
    assert two.judged[1].byte_ns > one.judged[1].byte_ns > 0


def test_out_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite):
        api.audit("bpf", backends="module_alloc", machines="server-64", paths="pointer", out=tmp_path / "file")
