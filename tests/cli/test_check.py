"""`check`, `new backend` and `list backends --matrix` as a user types them."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from execbench.cli import main
from execbench.registry import plugins

BROKEN = '''
from dataclasses import dataclass
from execbench.backends.module_alloc import ModuleAlloc

@dataclass(frozen=True, kw_only=True)
class Broken(ModuleAlloc):
    """Frees nothing."""

    def free(self, k, s, regions):
        return
        yield
'''


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_scaffold_conforms_as_created_and_runs(capsys):
    assert main(["new", "backend", "mine.py"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "mine.py"
    assert main(["check", "./mine.py"]) == 0
    said = capsys.readouterr().out
    assert "conforms" in said
    assert all(arch in said for arch in ("x86_64", "arm64", "riscv64"))
    assert main(["check", "./mine.py[guard_fill=true]"]) == 0
    run = ["run", "-w", "bpf", "-b", "./mine.py", "-d", "40ms", "--warmup", "10ms", "-r", "2", "-j", "1", "--cpus", "4"]
    assert main([*run, "-s", "client.bpf.loaded=4"]) == 0
    assert "mine" in capsys.readouterr().out


def test_a_scaffold_is_found_by_its_entry_point(tmp_path, monkeypatch, capsys):
    assert main(["new", "backend", "entered.py"]) == 0
    monkeypatch.syspath_prepend(str(tmp_path))
    point = metadata.EntryPoint("entered", "entered:Entered", "execbench.backends")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == "execbench.backends" else [])
    plugins.registered.cache_clear()
    try:
        assert main(["check", "entered"]) == 0
        assert "conforms" in capsys.readouterr().out
        assert main(["list", "backends", "--json"]) == 0
        assert "entered" in {row["backend"] for row in json.loads(capsys.readouterr().out)}
    finally:
        plugins.registered.cache_clear()
        sys.modules.pop("entered", None)


def test_a_backend_that_breaks_a_rule_is_told_so(tmp_path, capsys):
    (tmp_path / "broken.py").write_text(BROKEN)
    assert main(["check", "./broken.py", "--arch", "x86_64", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert any("usage.asked" in finding["rule"] for finding in found["findings"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "nope"], "got nope"),
        (["check", "module_alloc", "--arch", "arm"], "did you mean 'arm64'"),
        (["check", "./absent.py"], "absent.py"),
        (["check", "module_alloc[speed=3]"], "speed"),
        (["new", "backend", "Not-a-name.py"], "lower-case"),
        (["new", "backend", "mine.txt"], "ending .py"),
        (["new", "backend", "module_alloc.py"], "shipped"),
        (["new", "backend", "nowhere/mine.py"], "choose another folder"),
    ],
)
def test_bad_input_is_one_readable_line(arguments, said, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_backend_that_applies_nowhere_was_not_checked(more, capsys):
    assert main(["check", "execmem-rox-copy", "-a", "arm64", "-a", "riscv64", *more]) == 5
    said = capsys.readouterr()
    assert "only x86_64 selects" in said.out
    assert said.err == ""
    assert main(["check", "execmem-rox-copy", "-a", "arm64", "-a", "x86_64", *more]) == 0


def test_a_plug_in_without_support_breaks_a_rule_though_there_is_no_place(tmp_path, capsys):
    verbs = "".join(f"    def {verb}(self): ...\n" for verb in ("start", "alloc", "write", "finalize", "free", "usage"))
    text = "from dataclasses import dataclass\n@dataclass(frozen=True, kw_only=True)\nclass Mine:\n" + verbs
    (tmp_path / "mine.py").write_text(text)
    assert main(["check", "./mine.py"]) == 1
    assert "declares its support" in capsys.readouterr().out


def test_a_file_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("precious")
    assert main(["new", "backend", "mine.py"]) == 2
    assert (tmp_path / "mine.py").read_text() == "precious"
    assert "does not exist yet" in capsys.readouterr().err


def test_the_matrix_gives_a_standing_or_a_reason_for_every_place(capsys):
    assert main(["list", "backends", "--matrix", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["architecture"] for row in rows} == {"x86_64", "arm64", "riscv64"}
    for row in rows:
        standing = {row[release] for release in ("6.1", "6.12", "6.18", "7.3")}
        assert standing == {"n/a"} if row["reason"] else standing <= {"shipped", "retired", "proposed"}
