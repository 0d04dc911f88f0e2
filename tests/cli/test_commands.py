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
from execbench.cli import main

MACHINES = Path(__file__).parents[2] / "configs/machines"
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


@pytest.mark.parametrize("what", ["workloads", "machines", "backends", "costs", "costs -m server-64"])
def test_the_last_column_of_a_list_has_room_and_keeps_its_words_whole(what, capsys):
    assert main(["list", *what.split()]) == 0
    text = capsys.readouterr().out
    assert main(["list", *what.split(), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    last = list(rows[0])[-1]
    at = next(line.index(last.replace("architectures", "arch")) for line in text.splitlines() if last in line)
    assert at <= 70
    lines = [line[at:].split() for line in text.splitlines() if line[at - 1 : at] == " "]
    whole = {word for words in lines for word in words}
    assert not [word for row in rows for word in (row[last] or "").split() if len(word) <= 30 and word not in whole]


@pytest.mark.parametrize(
    "what",
    ["backends", "backends --matrix", "workloads", "machines", "kernels", "costs", "costs -m server-64", "metrics"],
)  # fmt: skip
def test_lists_fit_a_terminal_and_are_whole_when_wide(what, capsys):
    assert main(["list", *what.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert main(["list", *what.split(), "--wide"]) == 0
    wide = capsys.readouterr().out.splitlines()
    assert main(["list", *what.split(), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(wide) == len(rows) + 2  # head and rule
    assert wide[0].split() == list(rows[0])
    words = {word for line in lines for word in line.split()}
    for row, line in zip(rows, wide[2:], strict=True):
        assert all(" ".join(str(value).split()) in " ".join(line.split())
                   for value in row.values() if value not in (None, True, False)), row  # fmt: skip
        assert str(next(iter(row.values()))) in words  # names are never folded


def test_a_machine_file_that_lacks_costs_is_told_which(tmp_path, capsys):
    from execbench.catalogue import CATALOGUE

    stated = 'value = "10ns", range = ["1ns", "20ns"], evidence = "assumed", source = "a guess"'
    costs = [name for name, entry in CATALOGUE.items() if "arm64" in entry.arch and name not in ("isb", "ipi_send")]
    assert len(costs) == len([name for name, entry in CATALOGUE.items() if "arm64" in entry.arch]) - 2
    file = tmp_path / "half.toml"
    file.write_text('arch = "arm64"\n[costs]\n' + "".join(f"{name} = {{ {stated} }}\n" for name in costs))
    assert main(["list", "costs", "-m", str(file), "--json"]) == 0
    said = capsys.readouterr()
    rows = {row["cost"]: row for row in json.loads(said.out)}
    missing = [name for name, row in rows.items() if row["evidence"] == "missing"]
    assert {"isb", "ipi_send"} <= set(missing)
    assert all(name.startswith("client.") for name in {*missing} - {"isb", "ipi_send"})
    assert rows["isb"]["value"] is None
    assert rows[costs[0]]["value"] == "10 ns"
    (line,) = said.err.splitlines()
    assert f"has no value for {len(missing)} of the costs" in line
    assert line.endswith(", ".join(missing))
    file.write_text("[costs]\n")
    assert main(["list", "costs", "-m", str(file)]) == 2
    assert "arch: got nothing; allowed: x86_64, arm64, riscv64" in capsys.readouterr().err


@pytest.mark.parametrize("machine", [path.stem for path in sorted(MACHINES.glob("*.toml"))])
def test_shipped_machines_lack_nothing(machine, capsys):
    assert main(["list", "costs", "-m", machine, "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert all(row["value"] for row in json.loads(said.out))


def test_metrics_have_their_units(capsys):
    assert main(["list", "metrics", "--json"]) == 0
    units = {row["metric"]: row["unit"] for row in json.loads(capsys.readouterr().out)}
    some = [units[name] for name in ("isolated_hourly", "interruptions", "p50", "throughput")]
    assert some == ["1/h", "1", "ns", "1/s"]


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
