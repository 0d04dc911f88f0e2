"""ftrace: tracers that have many functions call them at entry, all at once (kernel/trace/ftrace.c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from execbench.clients.arrivals import Arriving, Turn, loops
from execbench.clients.limits import INT_MAX, at_least
from execbench.contract import Entry, Estimate, Image, Proc, Region, Request, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.ftrace import (
    RELEASE,
    TRAMPOLINE,
    FtraceOps,
    TextMemory,
    register_ftrace_function,
    unregister_ftrace_function,
)  # fmt: skip
from execbench.kernel.phases import end, verb
from execbench.sim.dists import Constant, Dist, Exponential

COSTS = {
    "register": Entry("session", "reach ftrace from user space, without its filter (register_ftrace_function)",
                      estimate=Estimate("10us", "2us", "100us", "assumed: a write to tracefs, or bpf_link_create")),
    "filter": Entry("function", "find one function by name or address and put it into the filter (ftrace_match_record)",
                    estimate=Estimate("150ns", "40ns", "2us", "assumed: a hash entry each, kallsyms for names")),
}  # fmt: skip
"""What a session costs besides text and waits."""


@dataclass(frozen=True, kw_only=True)
class FtraceClient(Arriving):
    """Threads that register a tracer at `sites` functions, keep it for `kept`, unregister it.

    A tracer that may be freed (`dynamic`) gets a trampoline from the backend if that serves ftrace (x86_64 only), and
    its end waits for Tasks-Rude and Tasks RCU with ftrace_lock held. One that is not, as the function tracer, is
    called by the common trampoline, whose call is patched.
    """

    name: ClassVar[str] = "ftrace"
    api_phases: ClassVar[frozenset[str]] = frozenset({"alloc", "write", "finalize", "free"})
    arrivals: ClassVar[frozenset[str]] = frozenset({"enable"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = ()

    sites: Dist = field(default=Constant(1000), metadata={"unit": "count"})
    """Functions of one tracer; 10,000 and more for a tracer without a filter."""
    dynamic: bool = True
    kept: Dist = field(default=Exponential(100e6), metadata={"unit": "time"})
    """How long it stays. With `rate` or `trace` its thread serves no other arrival meanwhile: an arrival that finds
    every thread keeping a tracer waits, and its latency says so; give `threads` above rate times `kept`."""
    trampoline: int = TRAMPOLINE
    """Bytes of a trampoline."""
    think: Dist = field(default=Exponential(500e6), metadata={"unit": "time"})

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        at_least(self, 1, "trampoline")
        if self.sites.mean > INT_MAX:
            raise ValueError(f"sites: at most {INT_MAX} on average")

    def start(self, setting: Setting) -> None:
        """Begin with no function traced."""
        run = _Run(self, setting)
        for i in range(self.threads):
            setting.spawn(f"ftrace/{i}", i, partial(run.thread, number=i))


class BackendText:
    """Memory for trampolines from the backend under test, its verbs phases of their own (TextMemory)."""

    def __init__(self, setting: Setting) -> None:
        """Give what `setting` has."""
        self._setting = setting

    def alloc(self, k: Kernel, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """See execbench.contract.Backend."""
        return verb(k, "alloc", self._setting.alloc(k, reqs))

    def write(self, k: Kernel, region: Region, image: Image) -> Proc[None]:
        """See execbench.contract.Backend."""
        return verb(k, "write", self._setting.write(k, region, image))

    def finalize(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """See execbench.contract.Backend."""
        return verb(k, "finalize", self._setting.finalize(k, regions))

    def free(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """See execbench.contract.Backend."""
        return verb(k, "free", self._setting.free(k, regions))


def trampolines(setting: Setting) -> TextMemory:
    """Return where trampolines come from: the backend if it serves ftrace, else the release."""
    return BackendText(setting) if setting.serves(TextKind.FTRACE) else RELEASE


class _Run:
    """One replication of the client."""

    def __init__(self, params: FtraceClient, setting: Setting) -> None:
        self.params = params
        self.setting = setting
        self.memory = trampolines(setting)
        self.draws = params.sites.uniforms + params.kept.uniforms
        self.loops = loops(setting, params, "enable", self.draws)

    def thread(self, k: Kernel, number: int) -> Proc[None]:
        params, loop = self.params, self.loops[number]
        mine: FtraceOps | None = None
        while (turn := (yield from loop.next(k))) is not None:
            sites = max(int(params.sites.sample(turn.row[: params.sites.uniforms]) + 0.5), 1)
            if mine is None or params.dynamic:
                mine = FtraceOps(f"tracer/{number}", sites, params.dynamic, memory=self.memory, size=params.trampoline)
            mine.sites = sites
            yield from self.enable(k, turn, mine)
            kept = params.kept.sample(turn.row[params.sites.uniforms : self.draws])
            yield from k.settle()
            yield from k.sleep_until(k.now + int(kept + 0.5))
            yield from self.disable(k, turn, mine)
            yield from loop.done(k, turn)

    def enable(self, k: Kernel, turn: Turn, ops: FtraceOps) -> Proc[None]:
        """ftrace_set_filter, register_ftrace_function."""
        k.begin(turn.operation, "filter")
        k.task.site = "register_ftrace_function"
        k.spend("syscall")
        k.spend("client.ftrace.register")
        yield from k.compute("client.ftrace.filter", ops.sites)
        k.phase("register")
        yield from register_ftrace_function(k, ops)
        end(k)

    def disable(self, k: Kernel, turn: Turn, ops: FtraceOps) -> Proc[None]:
        """unregister_ftrace_function."""
        yield from k.settle()
        k.begin(self.setting.operation("ftrace", "disable", turn.number, k.now), "unregister")
        k.task.site = "unregister_ftrace_function"
        k.spend("syscall")
        yield from unregister_ftrace_function(k, ops)
        end(k)
