"""eBPF: programs loaded and unloaded by agents that keep a steady set of them (kernel/bpf)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import ClassVar

from execbench.clients.arrivals import Arriving, loops
from execbench.clients.columns import Column
from execbench.clients.limits import at_least, shares
from execbench.contract import Entry, Image, LockKind, Proc, Region, Request, Setting, TextKind
from execbench.kernel.bpf_trampoline import BPF_LOCK
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation
from execbench.kernel.rcu_chain import Counts, Flavour, add, call_rcu_chain
from execbench.sim.dists import Dist, Exponential
from execbench.sim.task import Task

PROG_IDR_LOCK = LockKind("prog_idr_lock", "spinlock", "kernel/bpf/syscall.c: prog_idr_lock")

COSTS = {
    "load_fixed": Entry("load", "all of BPF_PROG_LOAD that depends on no count (bpf_prog_load)"),
    "copy_insn": Entry("instruction", "copy one instruction in (copy_from_bpfptr in bpf_prog_load)"),
    "verify_fixed": Entry("program", "all of bpf_check that depends on no count: BTF, maps, environment"),
    "verify_program_insn": Entry(
        "instruction", "passes over the program before and after do_check (check_cfg, do_misc_fixups)"
    ),
    "verify_insn": Entry("processed instruction", "verify one instruction on one path (do_check)"),
    "verify_state": Entry("state", "make, keep and compare one verifier state (is_state_visited)"),
    "verify_alu_insn": Entry(
        "processed instruction", "all of bpf_check for one instruction of a program of constants and arithmetic"
    ),
    "jit_insn": Entry("instruction and pass", "translate one instruction in one JIT pass (do_jit)"),
    "subprog_fixed": Entry("subprogram", "set up one subprogram (jit_subprogs)"),
    "kallsyms": Entry("program", "make one program's symbol visible or remove it (bpf_prog_kallsyms_add)"),
    "expose_fd": Entry("program", "identifier and file descriptor (bpf_prog_alloc_id, bpf_prog_new_fd)"),
    "put": Entry("program", "close of the last descriptor, synchronous part (bpf_prog_put)"),
    "free_fixed": Entry("program", "deferred free on a kworker, fixed part (bpf_prog_free_deferred)"),
}
"""What the loader itself costs, one row per name under `[costs.client.bpf]`."""

COLUMNS = (
    Column("insns", least=1), Column("processed", least=1), Column("total_states"), Column("xlated", least=1),
    Column("func_lens", "wholes", least=1),
)  # fmt: skip
"""What is read of a file of programs."""

_PROG_HEADER = 72 + 8
"""struct bpf_prog without its instructions, and the tag's padding (kernel/bpf/core.c: bpf_prog_calc_tag)."""
_INSN = 8
_TASKS_STEP = ("7.3",)
"""Releases that wait for tasks before anything else when a program was in a trampoline (__bpf_prog_put_noref)."""


@dataclass(frozen=True, slots=True)
class Program:
    """One real program: counts only; its times come from the machine."""

    insns: int
    processed: int
    total_states: int
    xlated: int
    functions: tuple[int, ...]
    straight_line: bool = False
    """Made of constants and arithmetic, without calls or branches: `verify_alu_insn` is all that verifying it costs."""

    @staticmethod
    def from_row(row: Mapping[str, str]) -> Program:
        """Read a row of workloads/data/bpf_loaded.csv."""
        return Program(
            insns=int(row["insns"]),
            processed=int(row["processed"]),
            total_states=int(row["total_states"]),
            xlated=int(row["xlated"]),
            functions=tuple(int(length) for length in row["func_lens"].split()),
        )


@dataclass(slots=True, eq=False)
class Loaded:
    """A program in the kernel."""

    program: Program
    regions: tuple[Region, ...]
    pages: int
    sleepable: bool = False
    """It may sleep, so that its readers are those of Tasks Trace."""
    linked: bool = False
    """It was called from a trampoline (tramp_linked)."""


@dataclass(frozen=True, kw_only=True)
class Bpf(Arriving):
    """Threads that load a real program, drawn as a whole row, and unload their oldest one.

    Closed loop: each thread thinks, loads, unloads; `rate` and `trace` are of loads.
    """

    name: ClassVar[str] = "bpf"
    api_phases: ClassVar[frozenset[str]] = frozenset({"alloc", "write", "finalize", "bpf_jit_free"})
    arrivals: ClassVar[frozenset[str]] = frozenset({"load"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = (TextKind.BPF,)

    data: str = field(metadata={"kind": "data", "columns": COLUMNS})
    threads: int = 2
    think: Dist = field(default=Exponential(3e6), metadata={"unit": "time"})
    loaded: int = 140
    """Programs loaded before the measurement begins, and kept loaded."""
    jit_passes: int = 3
    """Passes of bpf_int_jit_compile over straight-line code: two until the size is stable, one to emit."""
    sleepable: float = 0.0
    """Share of the programs loaded that may sleep."""
    linked: float = 0.0
    """Share of the programs loaded that are attached to a function before they are unloaded: counts since 7.x."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        if self.loaded < self.threads:
            raise ValueError("loaded: at least one program per thread")
        shares(self, "sleepable", "linked")
        at_least(self, 1, "jit_passes", "loaded")

    def start(self, setting: Setting) -> None:
        """Load the steady set at time 0, then let the threads go."""
        _Run(self, setting).spawn_boot()


class _Run:
    """One replication of the client."""

    def __init__(self, params: Bpf, setting: Setting) -> None:
        self.params = params
        self.setting = setting
        self.shared = setting.shared
        self.programs = _programs(setting.data(params.data))
        self.loader = Loader(params, setting)
        self.more = 2 * bool(params.sleepable or params.linked)
        self.loops = loops(setting, params, "load", 1 + self.more)

    def spawn_boot(self) -> None:
        machine = self.shared.machine
        task = Task("bpf/boot", machine.active_cpu(self.setting.cpu(0)), machine.engine, 0)
        machine.engine.spawn(task.run(self._boot(self.shared.view(task))), 0, task.cpu.key)

    def _boot(self, k: Kernel) -> Proc[None]:
        """Put the steady set in place through the backend's verbs, without verifier or JIT: it was there before.

        As one group, so that an API that waits for a grace period waits once and not past the warm-up.
        """
        params, stream = self.params, self.setting.stream("client.bpf/boot")
        programs = [self.programs[int(stream.u() * len(self.programs))] for _ in range(params.loaded)]
        sleeps_and_links = self.setting.stream("client.bpf/boot/traits")
        installed = yield from self.loader.install(k, *programs)
        sets: list[deque[Loaded]] = [deque() for _ in range(params.threads)]
        for i, (program, regions) in enumerate(zip(programs, installed, strict=True)):
            pages = yield from k.vmalloc_data(_PROG_HEADER + _INSN * program.insns)
            traits = self._traits((0.0, *sleeps_and_links.row(i, 2))) if self.more else {}
            sets[i % params.threads].append(loaded := Loaded(program, regions, pages, **traits))
            for region in regions:
                yield from self.setting.publish(k, region, "fd-only", "+".join(_readers(k, loaded)))
        yield from k.settle()
        for i, mine in enumerate(sets):
            self.setting.spawn(f"bpf/{i}", i, partial(self._thread, thread=i, mine=mine), k.now)

    def _thread(self, k: Kernel, thread: int, mine: deque[Loaded]) -> Proc[None]:
        loop = self.loops[thread]
        while (turn := (yield from loop.next(k))) is not None:
            drawn = int(turn.row[0] * len(self.programs))
            mine.append(
                (yield from self.loader.load(k, self.programs[drawn], turn.operation, **self._traits(turn.row)))
            )
            yield from self.loader.unload(k, mine.popleft(), turn.number)
            yield from loop.done(k, turn)

    def _traits(self, row: Sequence[float]) -> dict[str, bool]:
        """Return what the program is that belongs to these uniforms."""
        if not self.more:
            return {}
        return {"sleepable": row[1] < self.params.sleepable, "linked": row[2] < self.params.linked}


class Loader:
    """The kernel's program loader around the verbs under test; one per replication: it declares its locks."""

    def __init__(self, params: Bpf, setting: Setting, client: str = "bpf") -> None:
        """Of `params` only `jit_passes` matters here; operations and costs are those of `client`."""
        self._setting = setting
        self._client = client
        self._cost = {name: f"client.{client}.{name}" for name in COSTS}
        self._jit_passes = params.jit_passes
        self._frees = 0
        setting.shared.declare(BPF_LOCK)
        setting.shared.declare(PROG_IDR_LOCK)

    # --- BPF_PROG_LOAD ----------------------------------------------------------------------------------------------

    def load(
        self, k: Kernel, program: Program, operation: Operation, *, sleepable: bool = False, linked: bool = False
    ) -> Proc[Loaded]:
        """kernel/bpf/syscall.c:bpf_prog_load: copy, verify, JIT, alloc, write, finalize, publish."""
        cost = self._cost
        k.begin(operation, "copy")
        k.task.site = "bpf_prog_load"
        k.spend("syscall")
        k.spend(cost["load_fixed"])
        k.spend(cost["copy_insn"], program.insns)
        pages = yield from k.vmalloc_data(_PROG_HEADER + _INSN * program.insns)
        k.phase("verify")
        yield from self._bpf_check(k, program)
        k.phase("jit")
        passes = self._jit_passes
        if len(program.functions) > 1:  # once more for every function when all addresses are known (extra_pass)
            passes += 1
            k.spend(cost["subprog_fixed"], len(program.functions))
        k.spend(cost["jit_insn"], program.xlated * passes)
        (regions,) = yield from self.install(k, program)
        k.phase("publish")
        with (yield from k.lock("prog_idr_lock")):
            k.spend("kmalloc")  # bpf_prog_alloc_id: a node of the identifier tree
        k.spend(cost["expose_fd"])
        with (yield from k.lock("bpf_lock")):
            k.spend(cost["kallsyms"], len(regions))
        loaded = Loaded(program, regions, pages, sleepable, linked)
        inside = "+".join(_readers(k, loaded))
        for region in regions:
            yield from self._setting.publish(k, region, "fd-only", inside)
        k.end()
        return loaded

    def _bpf_check(self, k: Kernel, program: Program) -> Proc[None]:
        """kernel/bpf/verifier.c:bpf_check with its two temporary areas: the instructions' aux data, the tag's copy."""
        cost = self._cost
        aux = yield from k.vmalloc_data(k.release.aux_bytes * program.insns)
        if program.straight_line:
            yield from k.compute(cost["verify_alu_insn"], program.processed)
        else:
            k.spend(cost["verify_fixed"])
            k.spend(cost["verify_program_insn"], program.insns)
            states = (cost["verify_state"], program.total_states)
            yield from k.compute(cost["verify_insn"], program.processed, states)
        tag = yield from k.vmalloc_data(_PROG_HEADER + _INSN * program.insns)
        yield from k.vfree_data(tag)
        yield from k.vfree_data(aux)

    def install(self, k: Kernel, *programs: Program) -> Proc[list[tuple[Region, ...]]]:
        """The three verbs of the API: one region per function (jit_subprogs), each written and made executable.

        Several programs go through as one group; returns the regions of each.
        """
        setting = self._setting
        k.phase("alloc")
        extra = k.arch.bpf_mitigation_bytes
        requests = [Request(size + extra, TextKind.BPF) for program in programs for size in program.functions]
        regions = yield from setting.alloc(k, requests)
        k.phase("write")
        for region in regions:
            yield from setting.write(k, region, Image(region.id, region.size))
        k.phase("finalize")
        yield from setting.finalize(k, regions)
        rest = iter(regions)
        return [tuple(islice(rest, len(program.functions))) for program in programs]

    # --- close of the last descriptor -------------------------------------------------------------------------------

    def unload(self, k: Kernel, loaded: Loaded, number: int) -> Proc[None]:
        """bpf_prog_put: symbols out of sight, then everything else after grace periods on this CPU's kworker.

        __bpf_prog_put_noref: a program that sleeps waits for Tasks Trace instead of RCU; since 7.x one that was in a
        trampoline waits for Tasks RCU before.
        """
        cost = self._cost
        yield from k.settle()
        k.begin(self._setting.operation(self._client, "unload", number, k.now), "put")
        k.task.site = "bpf_prog_put"
        k.spend("syscall")
        k.spend(cost["put"])
        with (yield from k.lock("prog_idr_lock")):
            k.spend("kfree")  # bpf_prog_free_id
        with (yield from k.lock("bpf_lock")):
            k.spend(cost["kallsyms"], len(loaded.regions))
        for region in loaded.regions:
            self._setting.retire(k, region)
        self._frees += 1
        yield from call_rcu_chain(k, _readers(k, loaded), partial(self._bpf_prog_put_rcu, k, loaded, self._frees))
        k.end()

    def _bpf_prog_put_rcu(self, k: Kernel, loaded: Loaded, number: int, counts: Counts) -> None:
        operation = self._setting.operation(self._client, "free", number, k.now, "deferred")
        add(operation.counts, counts)
        k.queue_work("bpf_prog_free_deferred", partial(self._bpf_prog_free_deferred, loaded=loaded), operation)

    def _bpf_prog_free_deferred(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        cost = self._cost
        k.spend("rcu_callback")
        k.spend(cost["free_fixed"])
        k.phase("bpf_jit_free")
        yield from self._setting.free(k, loaded.regions)
        k.phase("bpf_prog_free")
        yield from k.vfree_data(loaded.pages)


def _readers(k: Kernel, loaded: Loaded) -> list[Flavour]:
    """Return whom a program must be kept for, in the order in which they are waited for."""
    last: Flavour = "trace" if loaded.sleepable else "rcu"
    return ["tasks", last] if loaded.linked and k.release.name in _TASKS_STEP else [last]


def _programs(rows: Sequence[Mapping[str, str]]) -> list[Program]:
    return [Program.from_row(row) for row in rows]
