"""Values that no kernel, client or backend could have are refused before anything runs, each with what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from execbench.cli import main

BOOM = """
from dataclasses import dataclass
from typing import ClassVar

from execbench.contract import Support, Usage


@dataclass(frozen=True, kw_only=True)
class Boom:
    support: ClassVar[Support] = Support()

    def start(self, k):
        return None

    def alloc(self, k, s, reqs):
        yield from k.settle()
        raise RuntimeError("no memory for you")

    write = finalize = free = alloc

    def usage(self, s):
        return Usage(0, 0, 0, (0, 0))
"""


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("kernel.pack_chunk=0", "a power of two up to 4096 bytes"),
        ("kernel.pack_bytes=100", "whole pages"),
        ("kernel.module_window=1MiB", "at least 16MiB"),
        ("kernel.poke_batch=0", "at least 1"),
        ("kernel.lazy_max_pages=-4", "0 or more"),
        ("client.bpf.jit_passes=-1", "at least 1"),
        ("client.bpf.rate=-1", "rate"),
        ("client.bpf.threads=-1", "at least 1"),
        ("client.bpf.threads=9999999", "at most 4194304"),
        ("client.bpf.linked=1.1", "a share from 0 to 1"),
        ("client.bpf.linked=nan", "a number"),
        ("machine.features.idc=true", "machine.features.idc"),
    ],
)
def test_impossible_values(
    setting: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-w", "bpf", "-s", setting, "-r", "1"]) == 2
    message = capsys.readouterr().err
    assert setting.partition("=")[0].rpartition(".")[2] in message and said in message
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_a_chunk_that_tiles_no_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-w", "bpf", "-b", "bpf_prog_pack[chunk=7]", "-o", str(tmp_path / "o")]) == 2
    assert "a power of two up to 4096 bytes" in capsys.readouterr().err


def test_a_plugin_that_raises_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "boom.py"
    file.write_text(BOOM)
    short = ["-d", "100ms", "--warmup", "10ms", "-r", "1", "-j", "1"]
    assert main(["run", "-w", "bpf", "-b", str(file), *short, "-o", str(tmp_path / "o")]) == 2
    message = capsys.readouterr().err
    assert "plug-in boom, line 17" in message and "no memory for you" in message


def test_a_run_in_which_nothing_was_due(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["-d", "2ms", "--warmup", "1ms", "-r", "1", "-j", "1", "-s", "client.bpf.think=1s"]
    assert main(["run", "-w", "bpf", "-b", "bpf_prog_pack", *short, "-o", str(tmp_path / "o")]) == 5
    assert "no operation was due" in capsys.readouterr().err
