from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from execbench.errors import CannotWrite, StoreError
from execbench.store import manifest
from execbench.store.manifest import CellRow, Manifest

SPEC = {"backend": {"name": "rw-inplace-finalize", "plugin": None},
        "workload": {"name": "w", "clients": {"bpf": {}}},
        "machine": {"name": "m", "topology": {"cpus": 4}},
        "kernel": {"release": "6.18"}, "run": {"seed": 3}}  # fmt: skip
CELL = CellRow(
    "a" * 12,
    "execmem[x=1]",
    {"machine.topology.cpus": 4},
    "shipped",
    "",
    json.dumps(SPEC, sort_keys=True, separators=(",", ":")),
)
HELD = Manifest("study", "run", "w", "Why?", "so", "12345678", 10, (CELL,), {"costs.py": "ab"}, {"numpy": "2.0"},
                {"cafe0000": "./mine.py"}, {"cafe0000": "x = 1\n"}, "execbench run")  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest.write(tmp_path, HELD)
    assert manifest.read(tmp_path) == HELD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.parquet", "plugins", "study.json"]
    data = json.loads((tmp_path / "study.json").read_text())
    assert (data["schema"], data["seeds"], data["expect"], data["fingerprint"]) == (
        1, [3], {"reading": "so"}, manifest.fingerprint({"costs.py": "ab"}),
    )  # fmt: skip
    [cell] = pq.read_table(tmp_path / "cells.parquet").to_pylist()
    assert (cell["arm"], cell["cpus"], json.loads(cell["point"])) == ("execmem[x=1]", 4, {"machine.topology.cpus": 4})


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "damaged"), ("[]", "damaged"), ('{"schema": 1}', "damaged"), ('{"schema": 99}', "schema 99 instead of 1")],
)
def test_a_manifest_that_cannot_be_read_is_a_store_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(StoreError, match=said):
        manifest.read(tmp_path)


def test_a_directory_without_a_manifest_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="study.json is missing"):
        manifest.read(tmp_path)
    with pytest.raises(StoreError, match="no such directory"):
        manifest.read(tmp_path / "none")


def test_a_place_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="choose another directory with -o"):
        manifest.write(tmp_path / "file", HELD)


def test_the_fingerprint_covers_what_the_specs_run_and_nothing_else() -> None:
    code = manifest.code_of([SPEC], {"cafe0000": "x = 1\n"})
    assert {
        "catalogue.py", "costs.py", "contract.py", "simulate.py", "sim/engine.py", "kernel/releases.py",
        "clients/bpf.py", "clients/arrivals.py", "clients/limits.py", "backends/rw_inplace_finalize.py",
        "plugin cafe0000",
    } <= set(code)  # fmt: skip
    assert not {"clients/jit.py", "backends/module_alloc.py", "units.py", "store/parts.py", "study/spec.py"} & set(code)
    assert all((Path(str(files("execbench"))) / name).is_file() for name in code if not name.startswith("plugin"))


def test_changed_code_is_listed() -> None:
    before, now = {"a.py": "1", "b.py": "2", "c.py": "3"}, {"a.py": "1", "b.py": "9", "d.py": "4"}
    assert manifest.changed_code(before, now) == ["b.py", "c.py", "d.py"]
    assert manifest.fingerprint(before) != manifest.fingerprint(now)
    assert manifest.changed_code(before, before) == []


def test_a_study_without_plug_ins_has_no_folder_for_them(tmp_path: Path) -> None:
    manifest.write(tmp_path, replace(HELD, plugins={}, plugin_files={}))
    assert not (tmp_path / "plugins").exists()
