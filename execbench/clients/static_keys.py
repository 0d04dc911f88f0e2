"""Static keys: subsystems, debuggers and tracers that switch branches of the running kernel (kernel/jump_label.c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from execbench.clients.arrivals import Arriving, Turn, loops
from execbench.clients.columns import Column
from execbench.clients.limits import at_least
from execbench.contract import Entry, Estimate, Proc, Row, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.jump_label import jump_label_update
from execbench.sim.dists import Dist, Exponential

COSTS = {
    "flip": Entry("key", "reach the key from user space and count its users (static_key_slow_inc, its system call)",
                  estimate=Estimate("770ns", "600ns", "5us",
                                    "host_text_poke.csv#key-already-on: all that happens when nothing is patched")),
}  # fmt: skip
"""What a flip costs besides patching."""


COLUMNS = (Column("key", "text"), Column("arch", "text"), Column("release", "release"), Column("sites"))
"""What is read of a file of keys."""


@dataclass(frozen=True, kw_only=True)
class StaticKeys(Arriving):
    """Threads that flip `storm` keys one after the other: each key drawn from real ones with their numbers of branches.

    Whether a key is on or off is no state of the model: both ways patch all its branches at the same cost, so that each
    flip is a change. Threads meet in the locks, not in a key.
    """

    name: ClassVar[str] = "static-keys"
    api_phases: ClassVar[frozenset[str]] = frozenset()
    arrivals: ClassVar[frozenset[str]] = frozenset({"flip"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = ()

    data: str = field(default="static_keys.csv", metadata={"kind": "data", "columns": COLUMNS})
    """Rows key, arch, release, sites; see `keys_of` for which of them count."""
    sites: int | None = None
    """Branches of every key instead, in vmlinux: from 1 (a tracepoint's) to hundreds (schedstats, memory cgroups)."""
    storm: int = 1
    """Keys flipped by one operation, as a tracer does that enables many tracepoints."""
    think: Dist = field(default=Exponential(100e6), metadata={"unit": "time"})

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        at_least(self, 1, "storm")
        if self.sites is not None:
            at_least(self, 0, "sites")

    def start(self, setting: Setting) -> None:
        """Let the threads go at time 0."""
        run = _Run(self, setting)
        for i in range(self.threads):
            setting.spawn(f"static-keys/{i}", i, partial(run.thread, number=i))


def keys_of(rows: Sequence[Row], arch: str, release: str) -> list[int]:
    """Return the branches of the keys known for a kernel: of its architecture, else of x86_64; of its release, else of
    the newest one.

    All of them are in vmlinux: a flip was 3 rounds (x86_64) or one kick (arm64), and a module that asks the key would
    have added as many again (kernel/jump_label.c: __jump_label_mod_update).
    """
    here = [row for row in rows if row["arch"] == arch] or [row for row in rows if row["arch"] == "x86_64"]
    if not any(row["release"] == release for row in here):
        release = max((row["release"] for row in here), key=lambda name: [int(part) for part in name.split(".")])
    return [int(row["sites"]) for row in here if row["release"] == release]


class _Run:
    """One replication of the client."""

    def __init__(self, params: StaticKeys, setting: Setting) -> None:
        self.params = params
        shared = setting.shared
        if params.sites is None:
            self.sites = keys_of(setting.data(params.data), shared.arch.name, shared.release.name)
        else:
            self.sites = [params.sites]
        self.loops = loops(setting, params, "flip", params.storm)

    def thread(self, k: Kernel, number: int) -> Proc[None]:
        loop = self.loops[number]
        while (turn := (yield from loop.next(k))) is not None:
            yield from self.flip(k, turn)
            yield from loop.done(k, turn)

    def flip(self, k: Kernel, turn: Turn) -> Proc[None]:
        """static_key_enable or static_key_disable of each key: both patch all branches."""
        k.begin(turn.operation, "flip")
        k.task.site = "static_key_slow_inc"
        for u in turn.row[: self.params.storm]:
            k.spend("client.static-keys.flip")
            yield from jump_label_update(k, self.sites[int(u * len(self.sites))])
        k.end()
