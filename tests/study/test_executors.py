from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from execbench.errors import CannotWrite, InputError
from execbench.store import parts
from execbench.study.executors import Done, Interrupted, Task, WorkerDied, compute, execute

CELL = "0123456789ab"
SPEC = json.dumps({"run": {"seed": 5}, "workload": {"data": {}}})


def tasks(root: Path, fake: str, *numbers: int) -> list[Task]:
    return [Task(f"{CELL}-r{n}-{n}", SPEC, CELL, n, n, {}, str(root), fake) for n in numbers]


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_every_item_is_computed_and_reported(tmp_path: Path, fake: str, workers: int | None) -> None:
    seen: list[Done] = []
    execute(compute, tasks(tmp_path, fake, 0, 1, 2), workers, seen.append, str(tmp_path))
    assert sorted((one.first, one.operations, one.events, one.fresh) for one in seen) == [
        (0, 0, 3, True), (1, 1, 3, True), (2, 2, 3, True),
    ]  # fmt: skip
    assert {one.pid == os.getpid() for one in seen} == {workers != 2}
    assert [part.first for part in parts.committed(tmp_path)] == [0, 1, 2]


def test_pool_and_serial_leave_the_same_bytes(tmp_path: Path, fake: str) -> None:
    for workers in (1, 2):
        execute(compute, tasks(tmp_path / str(workers), fake, 3, 4), workers, lambda _: None, "")
    one, two = ({file.relative_to(tmp_path / w): file.read_bytes() for file in (tmp_path / w).rglob("*.parquet")}
                for w in ("1", "2"))  # fmt: skip
    assert one == two
    assert len(one) == 2 * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_in_the_simulation_comes_through(tmp_path: Path, fake: str, workers: int) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        execute(compute, tasks(tmp_path, fake, 0, 9, 1), workers, lambda _: None, str(tmp_path))


def test_a_worker_that_dies_is_named_and_the_rest_kept(tmp_path: Path, fake: str) -> None:
    seen: list[Done] = []
    with pytest.raises(WorkerDied, match=r"of 3 parts are finished and kept") as caught:
        execute(compute, tasks(tmp_path, fake, 0, 1, 8), 2, seen.append, str(tmp_path))
    assert caught.value.done == len(seen)
    assert str(type(caught.value)(*caught.value.args)) == str(caught.value)


def test_errors_of_the_store_come_through_the_pool(tmp_path: Path, fake: str) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CannotWrite, match="cannot be written"):
        execute(compute, tasks(blocked, fake, 0, 1), 2, lambda _: None, "")


def test_data_that_changed_are_not_simulated(tmp_path: Path, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("a\n1\n")
    spec = {"run": {"seed": 5}, "workload": {"data": {"bpf.data": {"name": "x.csv", "sha256": "0" * 64, "rows": 1}}}}
    task = Task(f"{CELL}-r0-0", json.dumps(spec), CELL, 0, 0, {}, str(tmp_path), fake)
    with pytest.raises(InputError, match="x.csv, whose content has changed"):
        compute(task)


SCRIPT = """\
SPEC = '{"run": {"seed": 5}, "workload": {"data": {}}}'
import sys
from pathlib import Path
from execbench.store.parts import sweep_tmp
from execbench.study.executors import Interrupted, Task, compute, execute

if __name__ == "__main__":
    root, cell = Path(sys.argv[1]), "0123456789ab"
    tasks = [Task(f"{cell}-r{n}-{n}", SPEC, cell, n, n, {}, str(root), "fake_simulation:simulate")
             for n in range(100, 140)]
    try:
        execute(compute, tasks, int(sys.argv[2]), lambda done: print(done.name, flush=True), str(root),
                lambda pids: sweep_tmp(root, pids))
    except Interrupted as stop:
        print("STOP", stop, flush=True)
        sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_finished_parts_and_leaves_nobody_behind(tmp_path: Path, fake: str, workers: int) -> None:
    script, root = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(tmp_path / "modules"), *filter(None, sys.path)])
    command = [sys.executable, str(script), str(root), str(workers)]
    environment = os.environ | {"PYTHONPATH": path, "FAKE_SLEEP": "0.2"}
    process = subprocess.Popen(command, text=True, start_new_session=True, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    assert CELL in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: everybody in the foreground group gets it
    out, err = process.communicate(timeout=60)
    assert process.returncode == Interrupted.exit_code == 130
    done = len(list((root / "parts").iterdir()))
    assert 1 <= done < 40
    assert f"STOP interrupted; {done} of 40 parts are finished and kept in {root}" in out
    assert "Traceback" not in err
    assert not (root / "tmp").exists()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker is still running")
