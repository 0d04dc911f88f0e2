"""Files that nobody can import: each ends with where, what was given, what is allowed and what to do; exit code 2."""

from __future__ import annotations

import gzip
import lzma
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from execbench.cli import main
from tests.importers.elf import Section, elf
from tests.importers.test_modules import whole

HEAD = "file_name,prog_name,verdict,total_insns,total_states"
EVENT = " a-1 [000] 1.000000: tlb_flush: pages:-1\n"
FILES: dict[str, tuple[str, bytes, str]] = {
    "text.ko": ("modules", b"#!/bin/sh\n", "text.ko, which cannot be read"),
    "empty.ko": ("modules", b"", "cannot be read"),
    "cut.ko": ("modules", whole()[:900], "cannot be read"),
    "text.ko.xz": ("modules", b"text", "cannot be read"),
    "text.ko.zst": ("modules", b"text", "zstd"),
    "text.ko.gz": ("modules", b"text", "cannot be read"),
    "cut.ko.xz": ("modules", lzma.compress(whole())[:-20], "ended before"),
    "cut.ko.gz": ("modules", gzip.compress(whole())[:-20], "ended before"),
    "cut.ko.zst": ("modules", zstandard.compress(whole())[:-20], "cannot be read"),
    "bits.ko": ("modules", whole()[:4] + b"\x01" + whole()[5:], "32 bits"),
    "empty.csv": ("veristat", b"", "empty.csv, which is empty"),
    "columns.csv": ("veristat", b"a,b\n1,2\n", "columns for object, prog"),
    "semicolons.csv": ("veristat", f"{HEAD}\nf,p,success,7,1\n".replace(",", ";").encode(), "with commas between"),
    "negative.csv": ("veristat", f"{HEAD}\nf,p,success,7,1\nf,p,success,-7,1\n".encode(), "line 3: total_insns = '-7'"),
    "short.csv": ("veristat", f"{HEAD}\nf,p,success\n".encode(), "line 2: total_insns = ''"),
    "unjited.csv": ("veristat", f"{HEAD},prog_size_jited\nf,p,success,7,1,0\n".encode(), "prog_size_jited = '0'"),
    "binary.csv": ("veristat", bytes(range(256)), "cannot be read"),
    "empty.txt": ("ftrace", b"", "no line is an event"),
    "trace.dat": ("ftrace", b"\x17\x08\x44tracing6" + bytes(range(256)), "no line is an event"),
    "unknown.txt": ("ftrace", EVENT.encode(), "1 events show no operation"),
}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the command says of a path that it refuses."""
    monkeypatch.chdir(tmp_path)

    def run(what: str, path: str) -> str:
        assert main(["import", what, path, "-o", "out.csv"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("execbench: PATH: got ") and "; allowed: " in err and err.count("\n") == 1
        assert not Path("out.csv").exists()
        return err

    return run


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_sort(name: str, refused: Callable[..., str]) -> None:
    what, content, said = FILES[name]
    Path(name).write_bytes(content)
    assert said in refused(what, name)


@pytest.mark.parametrize("what", ["modules", "veristat", "ftrace"])
def test_folders_and_what_is_not_there(what: str, refused: Callable[..., str]) -> None:
    Path("folder").mkdir()
    Path("folder/readme.txt").write_text("no modules\n")
    assert "folder" in refused(what, "folder")
    assert "nothing" in refused(what, "nothing")


def test_a_folder_that_may_not_be_read(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(top: Path, onerror: Callable[[OSError], None]) -> Iterator[None]:
        onerror(PermissionError(13, "Permission denied", f"{top}/secret"))
        yield from ()

    Path("folder").mkdir()
    monkeypatch.setattr("os.walk", walk)
    assert "folder/secret, which cannot be read (Permission denied)" in refused("modules", "folder")


def test_modules_of_two_kernels_in_one_folder(refused: Callable[..., str]) -> None:
    for kernel in ("6.1", "6.12"):
        Path(kernel).mkdir()
        Path(kernel, "a-b.ko").write_bytes(whole())
    assert "a_b twice: 6.1/a-b.ko and 6.12/a-b.ko" in refused("modules", ".")


def test_modules_with_some_bytes_changed_are_read_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, codes = random.Random("bytes changed"), set()
    for _ in range(60):
        content = bytearray(whole())
        for _ in range(rng.choice((1, 4, 20))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "a.ko").write_bytes(content)
        codes.add(main(["import", "modules", str(tmp_path / "a.ko"), "-o", str(tmp_path / "o.csv")]))
        assert "bug" not in capsys.readouterr().err
    assert codes == {0, 2}


def test_what_others_depend_on_and_was_not_imported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, needs in {"a": "b,c-d", "b": ""}.items():
        info = Section(".modinfo", 2, f"depends={needs}\0".encode())
        (tmp_path / f"{name}.ko").write_bytes(elf(info))
    assert main(["import", "modules", str(tmp_path), "-o", str(tmp_path / "o.csv")]) == 0
    assert "not among them, though others depend on them: c_d;" in capsys.readouterr().out
