"""A run that is as small as a run can be, and the command in this process or in its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import execbench

SMALL = ("-w", "bpf", "-b", "module_alloc", "-b", "bpf_prog_pack", "--cpus", "4", "-d", "60ms", "--warmup", "10ms",
         "-r", "2", "-j", "1")  # fmt: skip
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run `execbench ARGS...` in a process of its own, in an empty directory."""
    where = tmp_path_factory.mktemp("cwd")
    # The package as these tests see it, whether it is installed or a checkout.
    path = os.pathsep.join([str(Path(execbench.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

    def run(*arguments: str, cwd: Path = where) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "execbench", *arguments], cwd=cwd, text=True, capture_output=True,
                              env={**os.environ, "PYTHONPATH": path}, timeout=120, check=False)  # fmt: skip

    return run


@pytest.fixture(scope="session")
def small_arguments() -> tuple[str, ...]:
    """What the small run was told."""
    return SMALL


@pytest.fixture(scope="session")
def small(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The results directory of a small run, and what the run printed."""
    out = tmp_path_factory.mktemp("small") / "out"
    return out, command("run", *SMALL, "-o", str(out))
