"""Bad input: one message that names the place, what was given, what is allowed and the remedy; and the exit code."""

from __future__ import annotations

import pytest

from execbench import cli, errors
from execbench.cli import main

RUN = ("run", "-w", "bpf")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "-w", "bfp"), 2, ("--workload", "bfp", "did you mean 'bpf'?")),
        (("run",), 2, ("--workload", "allowed", "bpf")),
        ((*RUN, "-b", "modul_alloc"), 2, ("--backend", "did you mean 'module_alloc'?")),
        ((*RUN, "-b", "rw-inplace-finalize[sync=rcuu]"), 2, ("sync", "rcuu", "merged-flush")),
        ((*RUN, "-b", "rw-inplace-finalize[snyc=rcu]"), 2, ("snyc", "did you mean 'sync'?")),
        ((*RUN, "-m", "serve-64"), 2, ("--machine", "did you mean 'server-64'")),
        ((*RUN, "-k", "6.11"), 2, ("--kernel", "6.11", "6.12")),
        ((*RUN, "--cpus", "0"), 2, ("--cpus", "got 0", "greater than or equal to 1")),
        ((*RUN, "--cpus", "many"), 2, ("--cpus", "integer")),
        ((*RUN, "-d", "5"), 2, ("--duration", "'5'", "5", "ns, us, ms")),
        ((*RUN, "-d", "5parsecs"), 2, ("--duration", "5parsecs")),
        ((*RUN, "-d", "1s", "--warmup", "2s"), 2, ("--duration and --warmup: got", "1.00 s with a warm-up of 2.00 s")),
        (
            (*RUN, "-d", "100ms"),
            2,
            (
                "--duration and ",
                "run.warmup: got",
                "100 ms with a warm-up of 500 ms",
                "lengthen --duration",
                "shorten --warmup",
            ),
        ),
        ((*RUN, "-s", "run.warmup=9s"), 2, ("run.duration and --set run.warmup: got", "of 9.00 s", "longer than")),
        ((*RUN, "--warmup", "5parsecs"), 2, ("--warmup", "5parsecs")),
        (
            (*RUN, "-b", "user-mmap", "-b", "user-dual-map[alias=temporary]"),
            2,
            (
                "--backend: got user-mmap, user-dual-map[alias=temporary], which cannot serve workload bpf",
                "bpf text",
                "backends that can: alloc-write-map, bpf_prog_pack",
                "vmalloc-exec;",
                "with -w: user-jit",
            ),
        ),
        (
            ("run", "-w", "user-jit", "-b", "module_alloc"),
            2,
            (
                "module_alloc, which cannot serve workload user-jit",
                "user text",
                "backends that can: user-dual-map, user-mmap, user-mprotect;",
                "with -w: bcachefs, bpf",
            ),
        ),
        (
            ("sweep", "ipi/cpus", "-w", "user-jit", "-b", "module_alloc"),
            2,
            ("module_alloc, which cannot serve workload user-jit", "user text", "user-mmap, user-mprotect;"),
        ),
        ((*RUN, "-m", "arm64-server-128", "-b", "execmem-rox-copy"), 2, ("this machine", "ARCH_HAS_EXECMEM_ROX")),
        ((*RUN, "-r", "0"), 2, ("--replications",)),
        ((*RUN, "-j", "0"), 2, ("--jobs", "from 1 on")),
        ((*RUN, "-s", "machin.topology.cpus=3"), 2, ("machin", "did you mean 'machine'?")),
        ((*RUN, "-s", "machine.topology.cpu=3"), 2, ("cpu", "did you mean 'cpus'?")),
        ((*RUN, "-s", "client.bpf.threads=0"), 2, ("threads", "at least 1")),
        ((*RUN, "-b", "./missing.py"), 2, ("--backend", "./missing.py", "cannot be read")),
        ((*RUN, "--recrod", "operations"), 2, ("--recrod", "--record")),
        (("rnu",), 2, ("rnu", "Did you mean 'run'?")),
        (("list", "machine"), 2, ("Did you mean 'machines'?",)),
        (("sweep", "ipi/cpu"), 2, ("ipi/cpu", "did you mean 'ipi/cpus'?")),
        (("report", "./nowhere"), 74, ("nowhere", "no such directory")),
        (("verify", "./nowhere"), 74, ("nowhere", "no such directory")),
    ],
)
def test_message_and_exit_code(arguments, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("execbench: ")
    assert err.count("\n") == 1
    assert not [word for word in words if word not in err], err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir()), "nothing may be written before the input is checked"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\ndef broken(:\n", ("--backend ./mine.py, line 2: got SyntaxError: invalid syntax",)),
        ("\n\nimport nonexistent_module\n", ("./mine.py, line 3: got ModuleNotFoundError", "nonexistent_module")),
        ("x = 1\n", ("--backend", "0 backends", "alloc")),
    ],
)
def test_plugin_that_does_not_load(source, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(source)
    assert main([*RUN, "-b", "./mine.py"]) == 2
    err = capsys.readouterr().err
    assert not [word for word in words if word not in err], err
    assert "Traceback" not in err
    assert "execbench_plugin_" not in err
    assert not (tmp_path / "results").exists()
    assert main(["check", "./mine.py"]) == 2
    err = capsys.readouterr().err
    assert "execbench_plugin_" not in err
    if words[-1] != "alloc":
        assert "BACKEND ./mine.py, line " in err


def test_results_of_another_study_are_not_overwritten(small, capsys):
    out, _ = small
    assert main([*RUN, "-d", "1s", "-o", str(out)]) == 74
    assert "another study" in capsys.readouterr().err


def test_bug_is_one_line_and_a_file(capsys, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(cli, "app", broken)
    assert main(["run"]) == 70
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "RuntimeError: two lines" in err
    path = err.split()[-1]
    with open(path) as file:
        assert "Traceback" in file.read()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("a", "b", "c", "d"), 2),
        (errors.MachineError("a", "b", "c", "d"), 2),
        (errors.Deadlock("deadlock", "x", {}), 1),
        (errors.NothingMeasured("a", "b"), 5),
        (errors.CannotWrite("a", "b", "c"), 73),
        (errors.StoreError("a", "b", "c"), 74),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error, code, monkeypatch, capsys):
    def fails(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(cli, "app", fails)
    assert main(["run"]) == code
    assert capsys.readouterr().err.startswith("execbench: ")


@pytest.mark.parametrize(
    ("workload", "backend"), [("bpf", "user-mmap"), ("user-jit", "execmem"), ("module-churn", "user-mprotect")]
)
def test_what_a_backend_does_not_serve_reads_alike_everywhere(workload, backend, capsys, tmp_path, monkeypatch):
    from execbench import api

    monkeypatch.chdir(tmp_path)
    assert main(["run", "-w", workload, "-b", backend]) == 2
    said = capsys.readouterr().err.strip()
    assert f"{backend}, which cannot serve workload {workload} (it asks for" in said
    for call in (lambda: api.run(workload, backends=backend),
                 lambda: api.sweep("ipi/cpus", workload=workload, backends=backend, dry_run=True)):  # fmt: skip
        with pytest.raises(errors.InputError) as caught:
            call()
        assert f"execbench: {caught.value}" == said
    assert not list(tmp_path.iterdir())
