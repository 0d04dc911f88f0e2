"""The commands as a user types them: what they print where, and their exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import execbench

HEAVY = ("pandas", "scipy", "seaborn", "matplotlib", "pyarrow", "numpy", "pydantic", "simpy", "jinja2")


def test_help_imports_nothing_heavy():
    code = ("import sys\nfrom execbench.cli import main\ncode = main(['--help'])\n"
            "print(code, [name for name in sys.argv[1:] if name in sys.modules])")  # fmt: skip
    path = str(Path(execbench.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], text=True, capture_output=True, check=True,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "run" in done.stdout
    assert "verify" in done.stdout


def test_version(command):
    done = command("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("execbench")


def test_run_prints_table_on_stdout_progress_on_stderr_and_the_path_last(small):
    out, done = small
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == str(out / "report.html")
    assert (out / "report.html").is_file()
    assert max(map(len, lines[:-1])) <= 78
    assert "bpf load (closed loop" in lines[0]
    assert "bpf_prog_pack" in done.stdout
    assert "sampling only: cost uncertainty not" in done.stdout
    assert "\x1b" not in done.stdout
    assert "4 of 4 replications" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_run_reuses_what_is_finished(small, small_arguments, command):
    out, _ = small
    parts = sorted(path.stat().st_mtime_ns for path in (out / "parts").rglob("*.parquet"))
    done = command("run", *small_arguments, "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert "4 of them finished before" in done.stderr
    assert sorted(path.stat().st_mtime_ns for path in (out / "parts").rglob("*.parquet")) == parts


def test_report_says_the_same_as_the_run(small, command):
    out, run = small
    assert command("report", str(out)).stdout == run.stdout
    text = command("report", str(out), "-f", "text").stdout
    assert text.rstrip() == "\n".join(run.stdout.splitlines()[:-1]).rstrip()


def test_report_names_the_command_that_made_it(small):
    out, _ = small
    assert "execbench run -w bpf -b module_alloc" in (out / "report.html").read_text()


def test_verify_holds_and_notices_a_changed_digest(small, command, tmp_path):
    import shutil

    import pyarrow.parquet as pq

    out, _ = small
    done = command("verify", str(out), "--json", "-j", "1")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], len(found["checked"])) == (0, True, 2)
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    file = sorted(copy.glob("parts/*/replications.parquet"))[0]
    table = pq.read_table(file)
    column = table.column_names.index("digest")
    other = [digest[::-1] for digest in table["digest"].to_pylist()]
    pq.write_table(table.set_column(column, table.field(column), [other]), file)
    changed = command("verify", str(copy), "-j", "1")
    assert changed.returncode == 1
    assert "level 1, digests of integer records: did NOT hold" in changed.stdout


@pytest.mark.parametrize("what", ["backends", "workloads", "machines", "kernels", "costs", "metrics"])
def test_list(command, what):
    text, data = command("list", what), command("list", what, "--json")
    assert (text.returncode, data.returncode) == (0, 0)
    rows = json.loads(data.stdout)
    assert rows
    first = str(next(iter(rows[0].values())))
    assert first in text.stdout


def test_list_costs_of_a_machine_has_value_evidence_and_source(command):
    rows = json.loads(command("list", "costs", "-m", "server-64", "--json").stdout)
    assert all(row["value"] and row["evidence"] and row["source"] for row in rows)


def test_sweep_dry_run_computes_nothing(command, tmp_path):
    done = command("sweep", "ipi/cpus", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "to compute" in done.stdout
    assert not list(tmp_path.iterdir())


def test_interrupt_keeps_finished_parts(tmp_path):
    path = str(Path(execbench.__file__).parents[1])
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "execbench", "run", "-w", "bpf", "-b", "bpf_prog_pack", "--cpus", "4", "-d", "300ms",
         "--warmup", "10ms", "-r", "1000", "-j", "1", "-o", str(out)],
        env={**os.environ, "PYTHONPATH": path}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(out.glob("parts/*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "are finished and kept in" in errors
    assert "Traceback" not in errors
    assert len(list(out.glob("parts/*"))) >= 1
    assert not list(out.glob("tmp/*"))
