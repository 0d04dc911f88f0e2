"""A small world: a working directory with a workload, a machine and a stand-in for the simulation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")  # what fails here fails everywhere, however loaded the machine

WORKLOAD = """\
[workload]
question = "Does it work?"
horizon = "steady-state"
machine = "small"
kernel = "6.18"
backends = ["module_alloc", "bpf_prog_pack"]

[run]
duration = "20ms"
warmup = "2ms"
drain = "10ms"
replications = 3

[client.bpf]
threads = 2
think = { dist = "exponential", mean = "3ms" }
loaded = 4
data = "bpf_loaded.csv"
"""
MACHINE = """\
extends = "server-64"

[topology]
cpus = 4
"""
FAKE = '''\
"""A simulation that is over at once; replication 8 kills its process, 9 fails by itself."""
import os, signal, time
from types import SimpleNamespace

SLEEP = float(os.environ.get("FAKE_SLEEP", "0"))


def deaf(_):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def simulate(spec, replication, plugins):
    time.sleep(SLEEP)
    if replication == 8 and "machine" not in spec:
        os._exit(1)
    if replication == 9 and "machine" not in spec:
        raise RuntimeError("a bug")
    tables = {
        "metrics": {"metric": ["throughput"], "client": ["bpf"], "kind": ["load"], "unit": ["op/s"],
                    "value": [replication / 3], "n": [replication]},
        "histograms": {"client": ["bpf"] * 2, "kind": ["load"] * 2, "phase": ["total"] * 2,
                       "bucket": [300, 301], "count": [replication, spec["run"]["seed"]]},
    }
    return SimpleNamespace(outcome="ok", detail="", operations=replication, events=3, draws=4, tables=tables)
'''
PLUGIN = '''\
"""A backend of one's own."""
from dataclasses import dataclass

from execbench.backends.module_alloc import ModuleAlloc


@dataclass(frozen=True, kw_only=True)
class MyAlloc(ModuleAlloc):
    """Like module_alloc."""

    slack: int = 0
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with workload `tiny`, machine `small` and plug-in ./mine.py."""
    files = {"workloads/tiny.toml": WORKLOAD, "configs/machines/small.toml": MACHINE, "mine.py": PLUGIN}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the stand-in for `simulate`, importable here and in spawned workers."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "fake_simulation.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("fake_simulation", None)
    return "fake_simulation:simulate"
