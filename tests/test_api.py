"""The four functions on the real simulation, in small: what a Python user does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import execbench
from execbench.errors import InputError, StoreError
from execbench.store.schema import ON_REQUEST, TABLES
from execbench.study.work import Progress

SMALL = {"machine": "host-2cpu", "duration": "60ms", "warmup": "10ms", "replications": 2,
         "set": ["client.bpf.loaded=4"], "backends": "module_alloc,bpf_prog_pack"}  # fmt: skip
PLUGIN = '''\
from dataclasses import dataclass

from execbench.backends.module_alloc import ModuleAlloc


@dataclass(frozen=True, kw_only=True)
class Mine(ModuleAlloc):
    """module_alloc under another name."""
'''


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = """
import sys, execbench
assert sorted(execbench.__all__) == dir(execbench)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"pandas", "scipy", "seaborn", "matplotlib", "pyarrow", "numpy", "pydantic", "simpy"}, loaded
execbench.run
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"pandas", "scipy", "seaborn", "matplotlib"}, loaded
"""
    path = ":".join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=True)


def test_a_run_returns_frames_and_says_what_it_is() -> None:
    seen: list[Progress] = []
    results = execbench.run("bpf", **SMALL, progress=seen.append)
    assert results.dir.parent == Path("results")
    assert results.dir.name == f"bpf-{results.study['sha8']}"
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, 4, 4)
    assert list(results.cells["arm"]) == ["module_alloc", "bpf_prog_pack"]
    assert list(results.replications["arm"]) == ["module_alloc"] * 2 + ["bpf_prog_pack"] * 2
    assert set(results.replications["outcome"]) == {"ok"}
    assert results.unexpected.empty
    for name in TABLES:
        frame = getattr(results, name)
        assert list(frame.columns) == ["cell", "arm", "replication", *TABLES[name]]
        assert frame.empty == (name in ON_REQUEST), name
    assert repr(results).splitlines()[0].startswith(f"Results of bpf: 2 cells, 4 replications in {results.dir}")
    assert "module_alloc  retired  2 of 2 replications" in repr(results)


def test_results_are_reused_loaded_and_verified(tmp_path: Path) -> None:
    first = execbench.run("bpf", **SMALL, out="out")
    seen: list[Progress] = []
    again = execbench.run("bpf", **SMALL, out=tmp_path / "out", progress=seen.append)
    assert [one.done for one in seen] == [4]
    assert again.metrics.equals(first.metrics)
    assert execbench.load("out").histograms.equals(first.histograms)
    assert execbench.verify("out", all=True).levels == {1: True, 2: True, 3: True}
    with pytest.raises(StoreError, match="study.json is missing"):
        execbench.load(tmp_path)


def test_workers_change_nothing_and_run_plug_ins(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    options = SMALL | {"backends": ["./mine.py", "module_alloc"]}
    serial = execbench.run("bpf", **options, out="serial")
    pooled = execbench.run("bpf", **options, out="pooled", workers=2)
    assert list(serial.replications["digest"]) == list(pooled.replications["digest"])
    assert serial.metrics.equals(pooled.metrics)
    digests = serial.replications.groupby("arm")["digest"].apply(list)
    assert digests["mine"] == digests["module_alloc"]
    (tmp_path / "mine.py").unlink()  # the source is kept beside the results
    assert execbench.verify("pooled").ok


def test_recorded_operations_are_kept_and_change_no_digest() -> None:
    plain = execbench.run("bpf", **SMALL, out="plain")
    listened = execbench.run("bpf", **SMALL, out="listened", record=["operations"])
    assert len(listened.operations) > 0
    assert list(plain.replications["digest"]) == list(listened.replications["digest"])
    assert set(plain.cells["cell"]).isdisjoint(listened.cells["cell"])


STUDY = """\
[study]
workload = "bpf"
[[axes]]
"machine.topology.cpus" = [2, 3]
[expect]
reading = "it grows"
"""


def test_a_sweep_is_planned_and_run(tmp_path: Path) -> None:
    (tmp_path / "grow.toml").write_text(STUDY)
    plan = execbench.sweep("grow.toml", **SMALL, dry_run=True, out="out")
    assert isinstance(plan, execbench.Plan)
    assert "4 cells x 2 replications, 8 of 8 to compute" in repr(plan)
    assert not (tmp_path / "out").exists()
    results = execbench.sweep("grow.toml", **SMALL, out="out")
    assert isinstance(results, execbench.Results)
    assert list(results.cells["cpus"]) == [2, 2, 3, 3]
    assert results.study["expect"] == {"reading": "it grows"}
    assert "machine.topology.cpus=3" in repr(results)
    after = execbench.sweep("grow.toml", **SMALL, dry_run=True, out="out")
    assert "0 of 8 to compute" in repr(after)


def test_wrong_input_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'module_alloc'"):
        execbench.run("bpf", **SMALL | {"backends": "modul_alloc"})
    assert list(tmp_path.iterdir()) == []


def test_the_comparison_has_a_row_for_each_arm() -> None:
    frame = execbench.run("bpf", **SMALL).comparison()
    assert set(frame["arm"]) == {"module_alloc", "bpf_prog_pack"}
