"""Every shipped workload runs on each architecture that it speaks of: a twentieth here, all of it in the long tier."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from execbench.catalogue import ARCHITECTURES
from execbench.registry.files import data_checked
from execbench.simulate import simulate
from execbench.study.expand import Asked, expand
from execbench.study.point import Cell
from execbench.units import time_ns

WORKLOADS = sorted((Path(__file__).resolve().parents[1] / "workloads").glob("*.toml"))
MACHINE = {"x86_64": "server-64", "arm64": "arm64-server-128", "riscv64": "riscv64-server-64"}
MOST_BYTES = 500 << 20


def table(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def machine_of(path: Path, arch: str) -> str:
    """The workload's own machine where that is of this architecture, else the architecture's server."""
    own = table(path)["workload"]["machine"]
    folder = path.parents[1] / "configs/machines"
    found, extends = own, own
    while extends is not None:
        file = tomllib.loads((folder / f"{extends}.toml").read_text(encoding="utf-8"))
        found, extends = file.get("arch", found), file.get("extends")
        if "arch" in file:
            break
    return own if found == arch else MACHINE[arch]


EVERYWHERE = [
    pytest.param(path, arch, id=f"{path.stem}-{arch}")
    for path in WORKLOADS
    for arch in table(path)["workload"].get("architectures", ARCHITECTURES)
]


def cells_of(path: Path, arch: str, **how: Any) -> list[Cell]:
    study = expand(Asked.of(workload=str(path), machine=machine_of(path, arch), **how))
    found = [cell for cell in study.cells if not cell.refused]
    assert found, [cell.refused for cell in study.cells]
    for cell in found:
        data_checked(cell.spec)
    return found


@pytest.mark.parametrize(("path", "arch"), EVERYWHERE)
def test_a_twentieth_of_a_workload_does_something(path: Path, arch: str) -> None:
    _a_twentieth(path, arch, slice(1))


@pytest.mark.long
@pytest.mark.parametrize(("path", "arch"), EVERYWHERE)
def test_a_twentieth_does_something_under_every_other_arm(path: Path, arch: str) -> None:
    _a_twentieth(path, arch, slice(1, None))


def _a_twentieth(path: Path, arch: str, arms: slice) -> None:
    run = table(path)["run"]
    short = {f"run.{name}": f"{time_ns(run[name]) // 20}ns" for name in ("duration", "warmup")}
    for cell in cells_of(path, arch, set=short)[arms]:
        record = simulate(json.loads(json.dumps(cell.spec)), 0, {})
        assert (record.outcome, record.detail) == ("ok", ""), cell.arm
        assert record.operations > 0, cell.arm
        metrics = record.tables["metrics"]
        rows = zip(metrics["metric"], metrics["value"], strict=True)
        assert [value for metric, value in rows if metric == "littles_law_residual"] == [0.0]


def test_a_workload_says_what_it_asks_and_what_it_stands_on() -> None:
    for path in WORKLOADS:
        told = table(path)["workload"]
        assert told["question"].endswith("?"), path.name
        assert path.read_text(encoding="utf-8").startswith("# "), path.name
        assert len(told["backends"]) >= 1


_CHILD = """
import json, resource, sys, time
from execbench.simulate import simulate
seconds = []
for spec in json.load(sys.stdin):
    begin = time.perf_counter()
    record = simulate(spec, 0, {})
    seconds.append(time.perf_counter() - begin)
    assert record.outcome == "ok", (record.outcome, record.detail)
    assert record.operations > 0
json.dump([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds], sys.stdout)
"""


@pytest.mark.long
@pytest.mark.parametrize(("path", "arch"), EVERYWHERE)
def test_all_of_a_workload_fits_into_memory(path: Path, arch: str) -> None:
    """Every default arm at full size, one replication each, in a process of its own; seconds are told (`pytest -s`)."""
    cells = cells_of(path, arch)
    specs = [cell.spec for cell in cells]
    child = subprocess.run([sys.executable, "-c", _CHILD], input=json.dumps(specs), capture_output=True, text=True,
                           check=False)  # fmt: skip
    assert child.returncode == 0, child.stderr
    most, seconds = json.loads(child.stdout)
    arms = ", ".join(f"{cell.arm} {spent:.1f}" for cell, spent in zip(cells, seconds, strict=True))
    print(f"\n{path.stem} on {arch}: {sum(seconds):.1f} s, {most / 2**20:.0f} MiB ({arms})")
    assert most < MOST_BYTES
