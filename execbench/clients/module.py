"""Kernel modules: a machine that boots loads its set of them, or a host that is up loads and unloads some."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import groupby
from typing import Any, ClassVar, Final, Literal

from execbench.clients.arrivals import Arriving, loops
from execbench.clients.limits import at_least
from execbench.clients.module_data import BOOT_SETS, MODULES, Module, closure, lines_of, modules_of
from execbench.clients.module_loader import COSTS, Loaded, Loader
from execbench.contract import Entry, Proc, Setting, TextKind
from execbench.errors import InputError
from execbench.kernel.facade import Kernel
from execbench.kernel.static_call import PATCHING, Patching
from execbench.sim.task import Task

KERNELS: Final = {
    ("x86_64", "6.1"): ("6.1.0-56-amd64", "amd64_6_1"),
    ("arm64", "6.1"): ("6.1.0-56-arm64", "arm64_6_1"),
    ("x86_64", ""): ("6.12.117+deb12-amd64", "amd64_6_12"),
    ("arm64", ""): ("6.12.117+deb12-arm64", "arm64_6_12"),
}
"""Whose modules stand for an architecture and release (later releases take 6.12's), and the parameter with its file."""
_MODULES: Final = {"kind": "data", "columns": MODULES}
NO_BOOT_SET: Final = ("6.1.0-56-arm64",)
"""Kernels of workloads/data/modules_*.csv.gz without a boot set."""
_SETS: Final = ("boot_set", "boot_sets", *(file for _, file in dict.fromkeys(KERNELS.values())))
"""Parameters that choose what is loaded when no file of your own does."""


def kernel_of(arch: str, release: str) -> tuple[str, str] | None:
    """Return the kernel whose modules are loaded and the parameter that names their file; None if none are known."""
    return KERNELS.get((arch, release), KERNELS.get((arch, "")))


@dataclass(frozen=True, kw_only=True)
class Modules(Arriving):
    """Loaders that ask for modules with all they depend on, or threads that load a module and unload it again.

    work = boot: the set's roots in the order of its phases, taken in turn by `threads` loaders (udev's workers, each a
    modprobe); a phase begins when the one before is over; then nothing more. work = churn: the modules of the set that
    others depend on are there; each thread thinks, loads one of its share of the rest and unloads the one before.
    """

    name: ClassVar[str] = "module"
    api_phases: ClassVar[frozenset[str]] = frozenset(
        {"alloc", "write", "flush_icache", "finalize", "seal", "free_init", "free_mod_mem"}
    )
    arrivals: ClassVar[frozenset[str]] = frozenset({"load"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = (TextKind.MODULE_TEXT, TextKind.INIT_TEXT)

    work: Literal["boot", "churn"] = "boot"
    boot_set: str = "server_1vendor"
    """Which set of `boot_sets`; of no meaning beside `data`."""
    patching: Patching = "per-site"
    """How static-call sites (and keys that differ) of a module get their targets."""
    duplicates: int = 1
    """Further requests for each root of a boot set, right behind the first: devices of one type ask for one driver."""
    differing_keys: int = 0
    """Static keys of the kernel that differ from what modules were compiled for, in every module with branches."""
    threads: int = 4
    data: str | None = field(default=None, metadata=_MODULES)
    """Modules of your own (execbench import modules): all of them are loaded, or take part, in their order."""
    boot_sets: str = field(default="boot_sets.csv.gz", metadata={"kind": "data", "columns": BOOT_SETS})
    amd64_6_1: str = field(default="modules_6.1.0-56-amd64.csv.gz", metadata=_MODULES)
    amd64_6_12: str = field(default="modules_6.12.117+deb12-amd64.csv.gz", metadata=_MODULES)
    arm64_6_1: str = field(default="modules_6.1.0-56-arm64.csv.gz", metadata=_MODULES)
    arm64_6_12: str = field(default="modules_6.12.117+deb12-arm64.csv.gz", metadata=_MODULES)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        if self.patching not in PATCHING:
            raise ValueError(f"patching: one of {', '.join(PATCHING)}")
        at_least(self, 0, "duplicates", "differing_keys")
        for name in ("rate", "trace"):
            if self.work == "boot" and getattr(self, name) is not None:
                raise ValueError(f"{name}: only with work = churn, for a boot's requests come one behind the other")
        for one in fields(self):
            if self.data is not None and one.name in _SETS and getattr(self, one.name) != one.default:
                raise ValueError(f"{one.name}: {one.default} beside data, for no set chooses from modules of your own: "
                                 "all of them are asked for")  # fmt: skip

    @staticmethod
    def thinks(fields: Mapping[str, Any]) -> bool:
        """Whether there are pauses: a boot has none."""
        return str(fields["work"]) == "churn"

    def refusal(self, arch: str, release: str) -> str:
        """Return why there are no modules to load, or ""."""
        if self.data is not None:
            return ""
        kernel = kernel_of(arch, release)
        if kernel is None:
            return f"no figures of modules for {arch}: name a file of your own (data)"
        if kernel[0] in NO_BOOT_SET:
            return f"no boot set for {kernel[0]}: name a file of modules (data)"
        return ""

    def start(self, setting: Setting) -> None:
        """Load the set, or what of it is there in a running system."""
        modules, phases = self._wanted(setting)
        (_Boot if self.work == "boot" else _Churn)(self, setting, modules, phases).spawn()

    def _wanted(self, setting: Setting) -> tuple[dict[str, Module], list[list[str]]]:
        """Return all modules by name, and the roots of each phase."""
        release = setting.shared.release
        if self.data is not None:
            modules = modules_of(setting.data(self.data), release)
            return modules, [list(modules)]
        found = kernel_of(setting.shared.arch.name, release.name)
        assert found is not None, self.refusal(setting.shared.arch.name, release.name)
        kernel, file = found
        lines = lines_of(setting.data(self.boot_sets), kernel, self.boot_set)
        phases = [[line.module for line in same if line.root] for _, same in groupby(lines, lambda line: line.phase)]
        rows, roots = setting.data(getattr(self, file)), [name for roots in phases for name in roots]
        modules = modules_of(rows, release, roots)
        if missing := [root for root in roots if root not in modules]:
            raise InputError(f"client.{self.name}.boot_set", f"{self.boot_set}, which asks for {', '.join(missing)}",
                             f"modules with a row in {getattr(self, file)}",
                             f"correct boot_sets ({self.boot_sets}) or {file}")  # fmt: skip
        return modules, phases


class _Boot:
    """One replication of a boot."""

    def __init__(
        self, params: Modules, setting: Setting, modules: Mapping[str, Module], phases: Sequence[Sequence[str]]
    ) -> None:
        self.params = params
        self.setting = setting
        self.modules = modules
        self.loader = Loader(setting, params.patching, params.differing_keys)
        self.phases = deque(deque(name for name in roots for _ in range(1 + params.duplicates)) for roots in phases)
        self.busy = 0
        self.waiting: list[Task] = []
        self.over: Task | None = None

    def spawn(self) -> None:
        for i in range(self.params.threads):
            self.setting.spawn(f"module/{i}", i, self._worker)
        self.setting.spawn("module/boot", 0, self._boot)

    def _boot(self, k: Kernel) -> Proc[None]:
        """The boot as one operation: from the first request to the end of the last, or of what the window held."""
        yield from k.settle()
        k.begin(self.setting.operation("module", "boot", 0, 0), "boot")
        yield from k.settle()
        while self.phases or self.busy:
            self.over = k.task
            yield from k.task.block()
            yield from k.settle()
        k.end()

    def _worker(self, k: Kernel) -> Proc[None]:
        """Take the next root of this phase; when there is none, wait until the others are done with theirs.

        Nobody takes one behind the window's end.
        """
        yield from k.settle()
        while self.phases:
            if k.now >= self.setting.duration:
                self.setting.undone["module"] = sum(map(len, self.phases))
                self.phases.clear()
                break
            if not self.phases[0]:
                if self.busy:
                    self.waiting.append(k.task)
                    yield from k.task.block()
                    yield from k.settle()
                else:
                    self.phases.popleft()
                continue
            self.busy += 1
            yield from self._modprobe(k, self.phases[0].popleft())
            yield from k.settle()
            self.busy -= 1
            self._wake(k)
        self._wake(k)

    def _wake(self, k: Kernel) -> None:
        if not self.busy:
            waiting, self.waiting = self.waiting, []
            over, self.over = (self.over, None) if not self.phases or not any(self.phases) else (None, self.over)
            for task in (*waiting, *([over] if over else [])):
                task.wake(k.now)

    def _modprobe(self, k: Kernel, root: str) -> Proc[None]:
        """Load what the root depends on and is not there yet, then the root itself (libkmod: module_do_insmod)."""
        for name in closure(root, self.modules):
            if self.loader.states.get(name) != "live":  # /sys/module/NAME/initstate
                yield from self.loader.load(k, self.modules[name])
                yield from k.settle()


class _Churn:
    """One replication of a host that loads and unloads modules."""

    def __init__(
        self, params: Modules, setting: Setting, modules: Mapping[str, Module], phases: Sequence[Sequence[str]]
    ) -> None:
        self.params = params
        self.setting = setting
        self.loader = Loader(setting, params.patching, params.differing_keys)
        every = dict.fromkeys(name for roots in phases for root in roots for name in closure(root, modules))
        needed = {below for name in every for below in modules[name].depends}
        self.resident = [modules[name] for name in every if name in needed]
        self.pool = [modules[name] for name in every if name not in needed]
        self.unloads = 0
        self.loops = loops(setting, params, "load", 1)

    def spawn(self) -> None:
        if len(self.pool) < 2 * self.params.threads:
            raise ValueError(f"threads: at most half of the {len(self.pool)} modules on which no other depends")
        self.setting.spawn("module/boot", 0, self._boot)

    def _boot(self, k: Kernel) -> Proc[None]:
        yield from k.settle()
        yield from self.loader.install(k, self.resident)
        yield from k.settle()
        for i in range(self.params.threads):
            self.setting.spawn(f"module/{i}", i, partial(self._thread, thread=i), k.now)

    def _thread(self, k: Kernel, thread: int) -> Proc[None]:
        loop = self.loops[thread]
        held: Loaded | None = None
        while (turn := (yield from loop.next(k))) is not None:
            module = self._draw(thread, turn.row[0], held)
            loaded = yield from self.loader.finit_module(k, module, turn.operation)
            assert loaded is not None, "nobody else loads it"
            if held is not None:
                self.unloads += 1
                yield from self.loader.unload(k, held, self.unloads)
            held = loaded
            yield from loop.done(k, turn)

    def _draw(self, thread: int, uniform: float, held: Loaded | None) -> Module:
        """Return one of the thread's own part of the pool with equal chance, but not the one that it holds.

        So a thread's k-th load is of the same module under every API, whatever the others do meanwhile.
        """
        mine = [one for one in self.pool[thread :: self.params.threads] if held is None or one is not held.module]
        return mine[int(uniform * len(mine))]
