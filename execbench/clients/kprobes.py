"""Kprobes: tracing agents that attach probes to functions and take them off again (kernel/kprobes.c)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from execbench.clients.arrivals import Arriving, Turn, loops
from execbench.clients.ftrace import trampolines
from execbench.clients.limits import at_least, shares
from execbench.contract import Entry, Estimate, Image, Proc, Region, Request, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.kprobes import (
    Kprobe,
    Kprobes,
    disable_kprobe,
    enable_kprobe,
    register_kprobe,
    unregister_kprobes,
)  # fmt: skip
from execbench.kernel.phases import end, verb
from execbench.kernel.srcu import tracepoint_synchronize_unregister

_JUDGED = "assumed: no figure published; symbol lookup and decoding of a function's instructions"

COSTS = {
    "register": Entry("probe", "find the symbol, decode up to the probe, hash (register_kprobe without its text)",
                      estimate=Estimate("8us", "2us", "40us", _JUDGED)),
    "prepare_detour": Entry("probe", "decode the whole function, build the detour (arch_prepare_optimized_kprobe)",
                            estimate=Estimate("6us", "1us", "40us", _JUDGED)),
    "perf_attach": Entry("probe", "what perf adds to attaching (perf_event_open, create_local_trace_kprobe)",
                         estimate=Estimate("15us", "5us", "60us", "assumed: two file systems' worth of allocations")),
    "perf_detach": Entry("probe", "what perf adds to detaching (perf_event_release_kernel, destroy_local_trace_kprobe)",
                         estimate=Estimate("10us", "3us", "40us", "assumed: less than attaching")),
}  # fmt: skip
"""What registering costs besides slots, pokes and waits, one row per name under `[costs.client.kprobes]`."""

DRAWS = 3
"""Uniforms of one probe: where it is, whether it is boostable, whether it can become a jump."""


@dataclass(frozen=True, kw_only=True)
class KprobesClient(Arriving):
    """Threads that attach a batch of probes and, once they have `attached` batches, take their oldest one off.

    `through` perf each probe is registered disabled, then enabled, and goes through a tracepoint's grace periods when
    it is closed, with event_mutex held: who attaches or closes meanwhile waits for them. Through the kernel's own
    interface a batch is registered and unregistered by one call. Slots come from the backend if it serves kprobes, else
    from the release.
    """

    name: ClassVar[str] = "kprobes"
    api_phases: ClassVar[frozenset[str]] = frozenset({"alloc", "write", "finalize", "reclaim", "free", "free_deferred"})
    arrivals: ClassVar[frozenset[str]] = frozenset({"attach"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = ()

    probes: int = 1
    """Probes of one batch."""
    attached: int = 4
    """Batches that a thread keeps attached."""
    through: Literal["perf", "kernel"] = "perf"
    entry: float = 0.5
    """Share of probes at the entry of a function that ftrace can call; assumed: agents probe entries and offsets."""
    boostable: float = 0.9
    """Share of the others whose slot ends with a jump back (x86_64); assumed: all but calls, returns, interrupts."""
    optimizable: float = 0.8
    """Share of the others that can become jumps (x86_64); assumed: no jump into the five bytes, no exception table."""
    optimize: bool = True
    """debug.kprobes-optimization."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        at_least(self, 1, "probes", "attached")
        shares(self, "entry", "boostable", "optimizable")

    def start(self, setting: Setting) -> None:
        """Begin without a probe."""
        run = _Run(self, setting)
        for i in range(self.threads):
            setting.spawn(f"kprobes/{i}", i, partial(run.thread, number=i))


class BackendSlots:
    """Pages of slots from the backend under test (execbench.kernel.kprobe_slots.SlotMemory).

    An interface that writes live text gives pages of slots: by `rewrite`, or, where it is the release's own allocator
    (which serves modules' data too), by poking in `write`. Any other gives each slot a region of its own.
    """

    def __init__(self, setting: Setting) -> None:
        """Ask what the backend can do."""
        self._setting = setting
        self._pokes = setting.serves(TextKind.MODULE_DATA)
        self.whole = self._pokes or (setting.rewrites and not setting.backend.support.sub_page)

    def page(self, k: Kernel, size: int) -> Proc[Region]:
        """Allocate, and make it executable if slots will be written later."""
        setting = self._setting
        (region,) = yield from verb(k, "alloc", setting.alloc(k, [Request(size, TextKind.KPROBES)]))
        if self.whole:
            yield from verb(k, "finalize", setting.finalize(k, (region,)))
        return region

    def write(self, k: Kernel, slot: Region, image: Image) -> Proc[None]:
        """Poke, rewrite, or write a region that is not executable yet."""
        setting = self._setting
        if self.whole and not self._pokes:
            yield from verb(k, "write", setting.rewrite(k, slot, image))
            return
        yield from verb(k, "write", setting.write(k, slot, image))
        if not self.whole:
            yield from verb(k, "finalize", setting.finalize(k, (slot,)))

    def free(self, k: Kernel, region: Region) -> Proc[None]:
        """Give it back: behind a detach, or to make room for an attach."""
        attach = k.task.op is not None and k.task.op.kind == "attach"
        return verb(k, "reclaim" if attach else "free", self._setting.free(k, (region,)))


class _Run:
    """One replication of the client."""

    def __init__(self, params: KprobesClient, setting: Setting) -> None:
        self.params = params
        self.setting = setting
        self.kprobes = Kprobes.of(
            setting.shared.arch.name,
            lambda number: setting.operation("kprobes", "optimize", number, setting.shared.machine.engine.now,
                                             "deferred"),
            BackendSlots(setting) if setting.serves(TextKind.KPROBES) else None,
            trampolines(setting),
            params.optimize,
        )  # fmt: skip
        self.loops = loops(setting, params, "attach", DRAWS * params.probes)

    def thread(self, k: Kernel, number: int) -> Proc[None]:
        loop, batches = self.loops[number], deque[list[Kprobe]]()
        while (turn := (yield from loop.next(k))) is not None:
            batches.append((yield from self.attach(k, turn)))
            if len(batches) > self.params.attached:
                yield from k.settle()
                yield from self.detach(k, batches.popleft(), turn.number)
            yield from loop.done(k, turn)

    def attach(self, k: Kernel, turn: Turn) -> Proc[list[Kprobe]]:
        """perf_event_open for each probe (perf_kprobe_init: register_kprobe, then enabling), or register_kprobes."""
        perf = self.params.through == "perf"
        batch = [self._probe(turn.row[DRAWS * i :]) for i in range(self.params.probes)]
        k.begin(turn.operation, "register")
        k.task.site = "register_kprobe"
        for p in batch:
            if perf:
                k.spend("syscall")
                k.spend("client.kprobes.perf_attach")
            k.spend("client.kprobes.register")
            if p.optimizable and k.arch.name == "x86_64" and not p.entry:
                k.spend("client.kprobes.prepare_detour")
            yield from register_kprobe(k, self.kprobes, p, disabled=perf)
            if perf:
                k.phase("arm")
                with (yield from k.lock("event_mutex")):
                    yield from enable_kprobe(k, self.kprobes, p)
                k.phase("register")
        end(k)
        return batch

    def detach(self, k: Kernel, batch: list[Kprobe], number: int) -> Proc[None]:
        """Close of each event (perf_kprobe_destroy), or unregister_kprobes.

        perf_trace_event_unreg disables the probe and waits, both with event_mutex held; destroy_local_trace_kprobe
        unregisters it behind that.
        """
        k.begin(self.setting.operation("kprobes", "detach", number, k.now), "disarm")
        k.task.site = "unregister_kprobes"
        if self.params.through == "perf":
            for p in batch:
                k.spend("syscall")
                k.spend("client.kprobes.perf_detach")
                with (yield from k.lock("event_mutex")):
                    yield from disable_kprobe(k, self.kprobes, p)
                    k.phase("tracepoint")
                    yield from tracepoint_synchronize_unregister(k)
                k.phase("unregister")
                yield from unregister_kprobes(k, self.kprobes, [p])
                k.phase("disarm")
        else:
            k.phase("unregister")
            yield from unregister_kprobes(k, self.kprobes, batch)
        end(k)

    def _probe(self, row: Sequence[float]) -> Kprobe:
        params = self.params
        where, boost, jump = row[:DRAWS]
        return Kprobe(where < params.entry, boost < params.boostable, jump < params.optimizable)
