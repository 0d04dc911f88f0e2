"""Attaching eBPF programs: to functions, tracepoints, network devices, slots of tail calls, kernel structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar

from execbench.clients.arrivals import Arriving, Loop, loops
from execbench.clients.attachments import KINDS, Attachment, Common
from execbench.clients.limits import at_least, shares
from execbench.contract import Entry, Estimate, Proc, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.phases import end
from execbench.sim.dists import Dist
from execbench.sim.rng import Stream
from execbench.sim.task import Task

COSTS = {
    "link_fixed": Entry(
        "link", "making a link without what it changes (bpf_raw_tp_link_attach, bpf_link_prime, bpf_link_settle)",
        estimate=Estimate("1us", "0.4us", "4us", "configs/truth/host_text_poke.csv: about 1 us of a raw tracepoint's "
                          "94 us are neither interrupts nor pokes"),
    ),
    "release_fixed": Entry(
        "link", "closing the last descriptor of a link without what it changes (bpf_link_release)",
        estimate=Estimate("0.6us", "0.3us", "3us", "as link_fixed, less what makes descriptor and file"),
    ),
    "generate_byte": Entry(
        "byte of an image", "emit a trampoline once (__arch_prepare_bpf_trampoline)",
        estimate=Estimate("1.6ns", "0.5ns", "8ns", "client.bpf.jit_insn over 4 bytes an instruction; assumed alike"),
    ),
    "map_update": Entry(
        "call", "a map's element without its lock and what it changes (map_update_elem, map_delete_elem)",
        estimate=Estimate("0.4us", "0.15us", "2us", "assumed: a system call's work on one array element"),
    ),
    "struct_ops_reg": Entry(
        "call", "hand a structure to its subsystem or take it back (st_ops->reg, unreg)",
        estimate=Estimate("1us", "0.2us", "20us", "assumed: a list and its lock; sched_ext does far more"),
    ),
}  # fmt: skip
"""What attaching costs beside the kernel's own primitives, one row per name under `[costs.client.bpf-attach]`."""

_NO_DIRECT_CALLS = {
    ("arm64", "6.1"): "fentry: no direct calls from ftrace's sites, attaching fails with ENOTSUPP "
    "(arch/arm64/Kconfig: DYNAMIC_FTRACE_WITH_DIRECT_CALLS since 6.4)",
    ("riscv64", "6.1"): "fentry: the JIT has no trampolines (arch/riscv/net/bpf_jit_comp64.c: "
    "arch_prepare_bpf_trampoline since 6.3)",
}
_NO_TRAMPOLINES = {
    ("riscv64", "6.1"): "struct_ops: the JIT has no trampolines (arch/riscv/net/bpf_jit_comp64.c: "
    "arch_prepare_bpf_trampoline since 6.3)",
}


@dataclass(frozen=True, slots=True)
class Slower:
    """A distribution whose variates are `factor` times as large: a kind of small weight thinks longer."""

    dist: Dist
    factor: float

    @property
    def uniforms(self) -> int:
        """As the distribution."""
        return self.dist.uniforms

    @property
    def mean(self) -> float:
        """The mean."""
        return self.dist.mean * self.factor

    def sample(self, us: Sequence[float]) -> float:
        """Return the variate."""
        return self.dist.sample(us) * self.factor

    def draw(self, stream: Stream) -> int:
        """Return the next variate, rounded half up."""
        return int(self.dist.draw(stream) * self.factor + 0.5)


@dataclass(slots=True)
class _Apart(Setting):
    """The setting as one kind sees it: its arrivals are drawn apart from those of the others."""

    kind: str = ""

    @staticmethod
    def of(setting: Setting, kind: str) -> _Apart:
        """Return the same setting for one kind."""
        values: dict[str, Any] = {field.name: getattr(setting, field.name) for field in fields(Setting)}
        own = _Apart(**values)
        own.kind = kind
        return own

    def stream(self, name: str) -> Any:
        """Return a named random stream of this kind."""
        return Setting.stream(self, f"{name}/{self.kind}")


@dataclass(frozen=True, kw_only=True)
class BpfAttach(Arriving):
    """Threads that attach a program, then detach the oldest one of the same kind; the programs are loaded all the time.

    `fentry`, `raw_tp`, `xdp`, `tail_call`, `struct_ops` are the weights of the kinds: shares of the arrivals (`rate`),
    or of the operations of a closed loop. Each kind with a weight has `threads` threads.
    """

    name: ClassVar[str] = "bpf-attach"
    api_phases: ClassVar[frozenset[str]] = frozenset(
        {"image", "smaller_image", "bpf_tramp_image_free", "bpf_struct_ops_map_free_image"}
    )  # fmt: skip
    arrivals: ClassVar[frozenset[str]] = frozenset(kind.attach_kind for kind in KINDS.values())
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = (TextKind.BPF,)
    threads_for: ClassVar[tuple[str, ...]] = tuple(KINDS)
    """Fields that have `threads` threads each where they are not 0."""

    fentry: float = 1.0
    raw_tp: float = 0.0
    xdp: float = 0.0
    tail_call: float = 0.0
    struct_ops: float = 0.0
    attached: int = 4
    """Programs of each kind that are attached before the measurement begins, and stay so many."""
    functions: int = 16
    """Kernel functions that programs are attached to."""
    exits: float = 0.0
    """Share of programs attached to a function's exit: their trampoline calls the function itself."""
    tracepoints: int = 8
    call_sites: int = 1
    """Inline call sites of a tracepoint, besides its static call's trampoline (x86_64)."""
    key_sites: int = 1
    """Sites that ask a tracepoint's static key."""
    dispatcher_sites: int = 2
    """Inline call sites of the XDP dispatcher's static call: assumed (1 to 6), one for each place that runs XDP."""
    slots: int = 32
    """Slots of the program array."""
    pokes: int = 1
    """Tail calls of live programs that name the same slot (x86_64 patches each)."""
    deletes: float = 0.1
    """Share of tail-call updates behind which a slot is emptied."""
    members: int = 12
    """Functions of a structure that have a program."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        weights = [getattr(self, kind) for kind in KINDS]
        if min(weights) < 0 or not any(weights):
            raise ValueError("fentry, raw_tp, xdp, tail_call, struct_ops: 0 or more, and not all of them 0")
        at_least(self, 1, "functions", "tracepoints", "key_sites", "slots", "members")
        at_least(self, 0, "attached", "call_sites", "dispatcher_sites", "pokes")
        shares(self, "exits", "deletes")
        if self.attached > 30 * self.functions:
            raise ValueError("attached: at most 30 programs for each function")

    def refusal(self, arch: str, release: str) -> str:
        """Return why a kind with a weight does not exist there, or ""."""
        reasons = [
            table[arch, release]
            for weight, table in ((self.fentry, _NO_DIRECT_CALLS), (self.struct_ops, _NO_TRAMPOLINES))
            if weight and (arch, release) in table
        ]
        return "; ".join(reasons)

    def active(self) -> tuple[str, ...]:
        """Return the kinds with a weight."""
        return tuple(kind for kind in KINDS if getattr(self, kind))

    def cpus(self, machine_cpus: int) -> tuple[int, ...]:
        """Place the threads of the first kind first."""
        return tuple(range(self.threads * len(self.active())))

    def start(self, setting: Setting) -> None:
        """Attach the steady set from time 0 on, then let the threads go."""
        _Run(self, setting).spawn_boot()


class _Run:
    """One replication of the client."""

    def __init__(self, params: BpfAttach, setting: Setting) -> None:
        self.params, self.setting = params, setting
        self.shared = setting.shared
        common = Common(params, setting)
        self.kinds = {kind: KINDS[kind](common) for kind in params.active()}  # type: ignore[call-arg]

    def spawn_boot(self) -> None:
        machine = self.shared.machine
        task = Task("bpf-attach/boot", machine.active_cpu(self.setting.cpu(0)), machine.engine, 0)
        machine.engine.spawn(task.run(self._boot(self.shared.view(task))), 0, task.cpu.key)

    def _boot(self, k: Kernel) -> Proc[None]:
        """Attach the steady set as later ones are; nobody's operation."""
        stream = self.setting.stream("client.bpf-attach/boot")
        for kind in self.kinds.values():
            for number in range(self.params.attached):
                yield from kind.attach(k, stream.row(number, 2))
        yield from k.settle()
        place = 0
        for name, kind in self.kinds.items():
            for loop in self._loops(name):
                body = partial(self._thread, kind=kind, loop=loop)
                self.setting.spawn(f"bpf-attach/{place}", place, body, k.now)
                place += 1

    def _loops(self, kind: str) -> Sequence[Loop]:
        params = self.params
        share = getattr(params, kind) / sum(getattr(params, name) for name in self.kinds)
        rate = None if params.rate is None else params.rate * share
        own = _Apart.of(self.setting, kind)
        ours = replace(params, think=Slower(params.think, 1 / share), rate=rate)
        return loops(own, ours, self.kinds[kind].attach_kind, 2)

    def _thread(self, k: Kernel, kind: Attachment, loop: Loop) -> Proc[None]:
        setting = self.setting
        while (turn := (yield from loop.next(k))) is not None:
            k.begin(turn.operation, "link")
            k.task.site = kind.attach_kind
            k.spend("syscall")
            yield from kind.attach(k, turn.row)
            end(k)
            if kind.detaches(turn.row):
                yield from k.settle()
                k.begin(setting.operation("bpf-attach", kind.detach_kind, turn.number, k.now), "release")
                k.task.site = kind.detach_kind
                k.spend("syscall")
                yield from kind.detach(k)
                k.end()
            yield from loop.done(k, turn)
