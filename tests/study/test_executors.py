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
from execbench.study.executors import Done, Interrupted, Task, WorkerDied, compute, execute, simulator

CELL = "0123456789ab"
SPEC = json.dumps({"run": {"seed": 5}, "workload": {"data": {}}})


def tasks(root: Path, fake: str, *numbers: int) -> list[Task]:
    return [Task(f"{CELL}-r{n}-{n}", SPEC, CELL, n, n, {}, str(root), fake) for n in numbers]


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_every_item_is_computed_and_reported(tmp_path: Path, fake: str, workers: int | None) -> None:
    seen: list[Done] = []
    execute(compute, tasks(tmp_path, fake, 0, 1, 2), workers, seen.append)
    assert sorted((one.first, one.operations, one.events, one.fresh) for one in seen) == [
        (0, 0, 3, True), (1, 1, 3, True), (2, 2, 3, True),
    ]  # fmt: skip
    assert {one.pid == os.getpid() for one in seen} == {workers != 2}
    assert [part.first for part in parts.committed(tmp_path)] == [0, 1, 2]


def test_pool_and_serial_leave_the_same_bytes(tmp_path: Path, fake: str) -> None:
    for workers in (1, 2):
        execute(compute, tasks(tmp_path / str(workers), fake, 3, 4), workers, lambda _: None)
    one, two = ({file.relative_to(tmp_path / w): file.read_bytes() for file in (tmp_path / w).rglob("*.parquet")}
                for w in ("1", "2"))  # fmt: skip
    assert one == two
    assert len(one) == 2 * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_in_the_simulation_comes_through(tmp_path: Path, fake: str, workers: int) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        execute(compute, tasks(tmp_path, fake, 0, 9, 1), workers, lambda _: None)


def test_a_worker_that_dies_is_named_and_the_rest_kept(tmp_path: Path, fake: str) -> None:
    with pytest.raises(WorkerDied, match="a worker process died .finished parts are kept.") as caught:
        execute(compute, tasks(tmp_path, fake, 0, 1, 2, 3, 8), 2, lambda _: None)
    assert len(parts.committed(tmp_path)) >= 1
    assert str(type(caught.value)(*caught.value.args)) == str(caught.value)


def test_workers_leave_ctrl_c_to_us(fake: str) -> None:
    seen: list[bool] = []
    execute(simulator("fake_simulation:deaf"), [1, 2, 3], 2, seen.append)
    assert seen == [True] * 3
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_errors_of_the_store_come_through_the_pool(tmp_path: Path, fake: str) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CannotWrite, match="cannot be written"):
        execute(compute, tasks(blocked, fake, 0, 1), 2, lambda _: None)


def test_data_that_changed_are_not_simulated(tmp_path: Path, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("a\n1\n")
    spec = {"run": {"seed": 5}, "workload": {"data": {"bpf.data": {"name": "x.csv", "sha256": "0" * 64, "rows": 1}}}}
    task = Task(f"{CELL}-r0-0", json.dumps(spec), CELL, 0, 0, {}, str(tmp_path), fake)
    with pytest.raises(InputError, match="x.csv, whose content has changed"):
        compute(task)


SCRIPT = """\
import sys
from pathlib import Path
from execbench.study.executors import Interrupted
from execbench.study.expand import Asked, expand
from execbench.study.work import carry_out

if __name__ == "__main__":
    try:
        carry_out(expand(Asked.of(workload="tiny", replications=40)), Path("out"), workers=int(sys.argv[1]),
                  progress=lambda now: print(now.done, flush=True), simulate="fake_simulation:simulate")
    except Interrupted as stop:
        print("STOP", stop, flush=True)
        sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_finished_parts_and_leaves_nobody_behind(here: Path, fake: str, workers: int) -> None:
    (here / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(here / "modules"), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "FAKE_SLEEP": "0.02"}
    process = subprocess.Popen([sys.executable, "script.py", str(workers)], text=True, start_new_session=True,
                               env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    assert process.stdout.readline() == "5\n"
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: everybody in the foreground group gets it
    out, err = process.communicate(timeout=60)
    assert process.returncode == Interrupted.exit_code == 130
    done = 5 * len(list((here / "out/parts").iterdir()))
    assert f"STOP interrupted; {done} of 80 replications are finished and kept in out" in out
    assert "Traceback" not in err
    assert not (here / "out/tmp").exists()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker is still running")
