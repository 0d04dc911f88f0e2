"""seccomp: filters of classic BPF that tasks put on themselves when they start, and that go when they exit."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from execbench.clients.arrivals import Arriving, loops
from execbench.clients.columns import Column
from execbench.clients.limits import at_least
from execbench.contract import Entry, Estimate, Image, Proc, Region, Request, Row, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation
from execbench.sim.task import Task

COSTS = {
    "load_fixed": Entry(
        "filter", "all of seccomp(2) that depends on no count (seccomp_prepare_filter, seccomp_attach_filter)",
        estimate=Estimate("1.5us", "0.7us", "6us", "assumed: two allocations, capability checks, siglock"),
    ),
    "copy_insn": Entry(
        "instruction", "copy one classic instruction in (bpf_prog_create_from_user: copy_from_user, kmemdup)",
        like="client.bpf.copy_insn",  # assumed alike
    ),
    "check_insn": Entry(
        "instruction", "check one classic instruction (bpf_check_classic, seccomp_check_filter)",
        estimate=Estimate("3ns", "1ns", "8ns", "assumed: two switches, and a mask of scratch memory per instruction"),
    ),
    "convert_insn": Entry(
        "instruction and pass", "convert one classic instruction (bpf_convert_filter: once for the length, twice to "
        "write, the last time with final offsets)",
        estimate=Estimate("4ns", "2ns", "12ns", "assumed: a switch and up to two stores for each"),
    ),
    "jit_insn": Entry(
        "instruction and pass", "translate one instruction in one JIT pass (do_jit)",
        like="client.bpf.jit_insn",  # assumed alike
    ),
    "emulate_insn": Entry(
        "instruction", "emulate one step for one system call number (seccomp_is_const_allow)",
        estimate=Estimate("1.5ns", "0.7ns", "5ns", "assumed: a load, a compare and a mispredicted jump now and then"),
    ),
    "release": Entry(
        "filter", "give one filter up when its last task is gone (__seccomp_filter_release, bpf_prog_destroy)",
        estimate=Estimate("0.3us", "0.1us", "1us", "assumed: two reference counts and two kfree"),
    ),
    "free_fixed": Entry(
        "filter", "deferred free on a kworker, fixed part (bpf_prog_free_deferred)",
        like="client.bpf.free_fixed",  # assumed alike
    ),
}  # fmt: skip
"""What a filter costs beside the verbs under test, one row per name under `[costs.client.seccomp]`."""

_PROG_HEADER, _INSN = 72, 8
_PASSES = 3
"""bpf_convert_filter: the length, then the instructions, then again until the jumps agree."""


COLUMNS = (
    Column("set", "text"), Column("insns", least=1), Column("converted", least=1), Column("emulated"),
    Column("jited", least=1),
)  # fmt: skip
"""What is read of a file of filters."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One real filter: instructions as given and after conversion, steps of the cache's emulation, machine code."""

    insns: int
    converted: int
    emulated: int
    jited: int

    @staticmethod
    def from_row(row: Row) -> Filter:
        """Read a row of workloads/data/seccomp_filters.csv."""
        return Filter(*(int(row[name]) for name in ("insns", "converted", "emulated", "jited")))


@dataclass(slots=True, eq=False)
class Installed:
    """A filter in the kernel: its text, and the pages of its struct bpf_prog."""

    region: Region
    pages: int


@dataclass(frozen=True, kw_only=True)
class Seccomp(Arriving):
    """Tasks that start with all filters of one set, drawn by weight; for each that starts the oldest one exits."""

    name: ClassVar[str] = "seccomp"
    api_phases: ClassVar[frozenset[str]] = frozenset({"alloc", "write", "finalize", "bpf_jit_free"})
    arrivals: ClassVar[frozenset[str]] = frozenset({"install"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = (TextKind.BPF,)

    data: str = field(metadata={"kind": "data", "columns": COLUMNS})
    threads: int = 2
    tasks: int = 100
    """Tasks with filters before the measurement begins, and all the time."""
    sets: tuple[str, ...] = ()
    """Sets of the data file that tasks are drawn from; none named: all."""
    weights: tuple[float, ...] = ()
    """Their weights; none given: alike."""
    jit_passes: int = 3
    """Passes of bpf_int_jit_compile until the size is stable, the emitting one included; assumed as for eBPF."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        at_least(self, 1, "jit_passes")
        at_least(self, self.threads, "tasks")
        if self.weights and (len(self.weights) != len(self.sets) or min(self.weights) <= 0):
            raise ValueError("weights: one above 0 for each of sets")

    def start(self, setting: Setting) -> None:
        """Install the filters of the tasks that are there at time 0, then let the threads go."""
        _Run(self, setting).spawn_boot()


class _Run:
    """One replication of the client."""

    def __init__(self, params: Seccomp, setting: Setting) -> None:
        self.params, self.setting, self.shared = params, setting, setting.shared
        self._sets, self._bounds = _sets(params, setting.data(params.data))
        self._frees = 0
        self._loops = loops(setting, params, "install", 1)

    def spawn_boot(self) -> None:
        machine = self.shared.machine
        task = Task("seccomp/boot", machine.active_cpu(self.setting.cpu(0)), machine.engine, 0)
        machine.engine.spawn(task.run(self._boot(self.shared.view(task))), 0, task.cpu.key)

    def _boot(self, k: Kernel) -> Proc[None]:
        """Install through the verbs alone, as one group: these filters were there before."""
        params, stream = self.params, self.setting.stream("client.seccomp/boot")
        drawn = [self._drawn(stream.u()) for _ in range(params.tasks)]
        regions = iter((yield from self._install(k, [one for filters in drawn for one in filters])))
        living: list[deque[list[Installed]]] = [deque() for _ in range(params.threads)]
        for i, filters in enumerate(drawn):
            mine: list[Installed] = []
            for one in filters:
                pages = yield from k.vmalloc_data(_bytes(one.converted))
                mine.append(Installed(next(regions), pages))
            living[i % params.threads].append(mine)
        yield from k.settle()
        for i, tasks in enumerate(living):
            self.setting.spawn(f"seccomp/{i}", i, partial(self._thread, thread=i, living=tasks), k.now)

    def _thread(self, k: Kernel, thread: int, living: deque[list[Installed]]) -> Proc[None]:
        setting, loop = self.setting, self._loops[thread]
        while (turn := (yield from loop.next(k))) is not None:
            mine: list[Installed] = []
            for one in self._drawn(turn.row[0]):
                yield from k.settle()
                again = setting.operation("seccomp", "install", turn.number, k.now) if mine else turn.operation
                mine.append((yield from self._set_mode_filter(k, one, again)))
            living.append(mine)
            yield from self._exit(k, living.popleft(), turn.number)
            yield from loop.done(k, turn)

    def _drawn(self, uniform: float) -> Sequence[Filter]:
        """Return the filters of a task."""
        return next(filters for filters, bound in zip(self._sets, self._bounds, strict=True) if uniform < bound)

    # --- seccomp(2) -------------------------------------------------------------------------------------------------

    def _set_mode_filter(self, k: Kernel, one: Filter, operation: Operation) -> Proc[Installed]:
        """seccomp_set_mode_filter: copy, check, convert, JIT, then the verbs, then the cache; no verifier, no symbol.

        The program grows when it is converted, so that its pages are taken twice (bpf_migrate_filter).
        """
        k.begin(operation, "copy")
        k.task.site = "seccomp_set_mode_filter"
        k.spend("syscall")
        k.spend("client.seccomp.load_fixed")
        k.spend("client.seccomp.copy_insn", one.insns)
        pages = yield from k.vmalloc_data(_bytes(one.insns))
        k.phase("convert")
        k.spend("client.seccomp.check_insn", one.insns)
        k.spend("client.seccomp.convert_insn", one.insns * _PASSES)
        if k.pages_of(_bytes(one.converted)) > pages:
            old, pages = pages, (yield from k.vmalloc_data(_bytes(one.converted)))
            yield from k.vfree_data(old)
        k.phase("jit")
        k.spend("client.seccomp.jit_insn", one.converted * self.params.jit_passes)
        (region,) = yield from self._install(k, [one])
        k.phase("attach")
        yield from k.compute("client.seccomp.emulate_insn", one.emulated)
        k.spend("kmalloc")
        yield from self.setting.publish(k, region, "pointer", "none")
        k.end()
        return Installed(region, pages)

    def _install(self, k: Kernel, filters: Sequence[Filter]) -> Proc[tuple[Region, ...]]:
        """The three verbs of the API, for several filters as one group."""
        setting, extra = self.setting, k.arch.bpf_mitigation_bytes
        k.phase("alloc")
        regions = yield from setting.alloc(k, [Request(one.jited + extra, TextKind.BPF, True) for one in filters])
        k.phase("write")
        for region in regions:
            yield from setting.write(k, region, Image(region.id, region.size))
        k.phase("finalize")
        yield from setting.finalize(k, regions)
        return regions

    # --- exit(2) ----------------------------------------------------------------------------------------------------

    def _exit(self, k: Kernel, mine: Sequence[Installed], number: int) -> Proc[None]:
        """seccomp_filter_release: the last task that had them is gone, so nobody can be inside; no grace period.

        6.1 releases them when the task is reaped (release_task), 6.12 and later when it exits (do_exit).
        """
        yield from k.settle()
        k.begin(self.setting.operation("seccomp", "exit", number, k.now), "release")
        k.task.site = "seccomp_filter_release"
        for one in mine:
            k.spend("client.seccomp.release")
            self.setting.retire(k, one.region)
            yield from k.settle()
            self._frees += 1
            free = self.setting.operation("seccomp", "free", self._frees, k.now, "deferred")
            k.queue_work("bpf_prog_free_deferred", partial(self._bpf_prog_free_deferred, one=one), free)
        k.end()

    def _bpf_prog_free_deferred(self, k: Kernel, one: Installed) -> Proc[None]:
        k.spend("client.seccomp.free_fixed")
        k.phase("bpf_jit_free")
        yield from self.setting.free(k, (one.region,))
        k.phase("bpf_prog_free")
        yield from k.vfree_data(one.pages)


def _bytes(insns: int) -> int:
    return _PROG_HEADER + _INSN * insns


def _sets(params: Seccomp, rows: Sequence[Row]) -> tuple[list[list[Filter]], list[float]]:
    """Return the sets to draw from, and for each the sum of shares up to it; ValueError for one that is not there."""
    by_name: dict[str, list[Filter]] = {}
    for row in rows:
        by_name.setdefault(row["set"], []).append(Filter.from_row(row))
    names = list(params.sets) or list(by_name)
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(f"sets: no {', '.join(missing)} in {params.data}, only {', '.join(by_name)}")
    weights = list(params.weights) or [1.0] * len(names)
    bounds = [sum(weights[: i + 1]) / sum(weights) for i in range(len(names))]
    return [by_name[name] for name in names], [*bounds[:-1], 1.0]
