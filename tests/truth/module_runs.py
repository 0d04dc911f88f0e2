"""Real modules loaded one after the other, then unloaded, on a quiet machine of four CPUs, as they were traced."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.clients.module_data import Module, modules_of
from execbench.clients.module_loader import COSTS, Loaded, Loader
from execbench.contract import Proc, Request, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.releases import RELEASES
from execbench.kernel.static_call import Patching
from execbench.registry.files import data_path, rows_of
from execbench.units import time_ps
from tests.truth.bench import FOREVER, TRUTH, Bench

DATA = {
    "6.1": "modules_6.1.0-56-amd64", "6.12": "modules_6.12.117+deb12-amd64", "6.18": "modules_6.12.117+deb12-amd64",
    "6.1/arm64": "modules_6.1.0-56-arm64",
}  # fmt: skip
JUMP_ENTRY = 16
"""sizeof(struct jump_entry)."""
QUIET = 300_000_000
"""Longer than what a load leaves to a kworker (ns)."""
INPUT = ("static_call_sites", "init_keys", "init_static_calls", "exit_static_calls", "exit_waits")
"""What the traced kernel's own module had, or did: 6.12 and 6.18 were not traced in the versions of the data files."""

ARM64_SITES = {
    "crc7": 0, "fat": 123, "vfat": 20, "cdrom": 51, "isofs": 46, "overlay": 245, "fuse": 266, "llc": 10, "stp": 3,
    "bridge": 632, "mrp": 15, "garp": 13, "8021q": 73, "dummy": 10, "veth": 47, "tun": 66, "gre": 6, "ip_tunnel": 29,
    "ip_gre": 43, "nf_defrag_ipv4": 5, "nf_defrag_ipv6": 12, "nfnetlink": 17, "sch_htb": 33, "tcp_vegas": 7,
    "udp_tunnel": 26, "ip6_udp_tunnel": 3, "loop": 43, "brd": 10, "dax": 79, "dm_mod": 347, "twofish_common": 2,
    "twofish_generic": 3, "serpent_generic": 8, "xts": 13, "soundcore": 12, "snd": 203, "snd_timer": 60, "snd_pcm": 290,
    "drm": 870,
}  # fmt: skip
"""Calls of aarch64_insn_patch_text_nosync in each load of the run "6.1/arm64", as its function trace counted them
(Debian 6.1.0-56-arm64 under QEMU with four CPUs, the run of the rows in counts_modules.csv.gz)."""


@cache
def traced(release: str) -> dict[str, Mapping[str, str]]:
    """Rows of configs/truth/counts_modules.csv.gz of one run, by module, in the order of their loads."""
    with gzip.open(Path(TRUTH) / "counts_modules.csv.gz", "rt", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["release"] == release]
    return {row["module"]: row for row in sorted(rows, key=lambda row: int(row["order"]))}


def module_of(row: Mapping[str, str], of: Mapping[str, str]) -> dict[str, str]:
    """A row of the data file with what the traced kernel's own module had."""
    sealed = int(row["ro_after_init"] or 0) + JUMP_ENTRY * (int(of["jump_labels"]) - int(row["jump_table"] or 0))
    return {
        **row, **{name: of[name] for name in INPUT}, "mcount_loc": of["mcount"], "jump_table": of["jump_labels"],
        "exec_core": of["text_bytes"], "exec_init": of["init_text"], "ro_after_init": str(max(sealed, 0)),
    }  # fmt: skip


def modules(run: str, own: bool = True) -> dict[str, Module]:
    """The modules of a traced run that the data files know, in the order of their loads.

    `own`: with what the traced kernel's own version of the module had; else all bytes are the data file's.
    """
    kernel = run.partition(" ")[0]
    known = {row["name"]: row for row in rows_of(data_path(DATA[kernel] + ".csv.gz"))}
    found = {name: known[name] for name in traced(run) if name in known}
    if "arm64" not in run and own:
        found = {name: module_of(row, traced(run)[name]) for name, row in found.items()}
    return modules_of(list(found.values()), RELEASES[kernel.partition("/")[0]])


@dataclass
class Run:
    """What each load, each deferred free of its init memory and each unload counted, by module."""

    load: dict[str, Counter[str]]
    free: dict[str, Counter[str]]
    unload: dict[str, Counter[str]]


class Trace:
    """Counts all primitives by the operation that is going on, as a tracer reads windows and tasks."""

    def __init__(self) -> None:
        self.into: Counter[str] = Counter()
        self.deferred: Counter[str] = Counter()

    def call(self, at: int, task: Any, primitive: str, units: int) -> None:
        (self.deferred if task.name.startswith("kworker") else self.into)[primitive] += 1

    def ipi(self, begin: int, end: int, task: Any, why: str, targets: int) -> None:
        """A round that was sent, by its reason."""
        self.call(begin, task, f"round of {why}", 1)


@cache
def run(name: str, patching: Patching = "per-site", own: bool = True) -> Run:
    """Load every module of a traced run, "RELEASE", "RELEASE run N" or "RELEASE/arm64"; unload all, the last first."""
    release, _, arch = name.partition(" ")[0].partition("/")
    bench = Bench(
        f"truth/modules/{name}", release=release, cpus=4, scenario="" if arch else "halted",
        machine="arm64-server-128" if arch else "host-2cpu",
    )  # fmt: skip
    for cost, entry in COSTS.items():
        assert entry.estimate is not None
        bench.shared.rates[f"client.module.{cost}"] = (time_ps(entry.estimate.value), None)
    api: Any = ModuleAlloc() if release == "6.1" else Execmem()
    setting = Setting(bench.shared, api, api.start(bench.shared), FOREVER, 0, 0, lambda _: [])
    loader = Loader(setting, patching)
    trace = Trace()
    bench.machine.probe.attach(trace)
    found = Run({}, {}, {})

    def window(into: dict[str, Counter[str]], module: str) -> None:
        trace.into, trace.deferred = Counter(), Counter()
        into[module] = trace.into
        if into is found.load:
            found.free[module] = trace.deferred

    def body(k: Kernel) -> Proc[None]:
        held: list[Loaded] = []
        resident = yield from setting.alloc(k, [Request(9_000, TextKind.FTRACE)])  # a machine that is up has text
        yield from setting.finalize(k, resident)
        for module in modules(name, own).values():
            yield from k.sleep_until(k.now + QUIET)
            window(found.load, module.name)
            loaded = yield from loader.load(k, module)
            assert loaded is not None
            yield from k.settle()
            held.append(loaded)
        for number, loaded in enumerate(reversed(held)):
            yield from k.sleep_until(k.now + QUIET)
            window(found.unload, loaded.module.name)
            yield from loader.unload(k, loaded, number)
            yield from k.settle()

    bench.task("insmod", body)
    bench.run()
    return found
