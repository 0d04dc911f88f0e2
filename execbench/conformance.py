"""What every backend must keep, checked on a toy machine: the verbs' contract, memory, locks, and two tasks at once.

A backend passes when `check` returns no findings. The machine has four CPUs and costs of round numbers; nothing here
depends on how long anything takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from execbench.contract import Image, Proc, Region, Request, Support, TextKind
from execbench.costs import CATALOGUE, Cost, CostTable, Evidence
from execbench.errors import ExecbenchError, InputError, SimulatedFailure, did_you_mean
from execbench.kernel.arch import ARCHITECTURES
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation
from execbench.kernel.releases import RELEASES, release_from
from execbench.kernel.shared import Shared
from execbench.registry.instances import client_costs
from execbench.registry.params import constructed, given_fields, resolved
from execbench.registry.plugins import class_for, source_of
from execbench.sim.machine import Machine
from execbench.sim.rng import Streams
from execbench.sim.task import Task
from execbench.simulate import rcu_rules
from execbench.study.arms import parse_arm

VERBS = ("start", "alloc", "write", "finalize", "free", "usage")
SIZES = (1, 63, 64, 65, 4095, 4096, 4097, 8192, 20_000, 3 << 20)
_END = 10_000_000_000


@dataclass(frozen=True)
class Finding:
    """One broken promise: which rule, and what was seen."""

    rule: str
    seen: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.rule}: {self.seen}"


@dataclass(frozen=True)
class Conformance:
    """What the suite found about one backend as it was named."""

    backend: str
    places: tuple[Place, ...]
    refused: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no rule is broken and something was checked."""
        return not self.findings and bool(self.places)

    def __str__(self) -> str:
        """The findings, or what was checked."""
        if self.refused and not self.places:
            return f"{self.backend}: n/a ({self.refused})"
        architectures = ", ".join(dict.fromkeys(place.arch for place in self.places))
        releases = ", ".join(dict.fromkeys(place.release for place in self.places))
        head = f"{self.backend} on {architectures}, releases {releases}: "
        if self.ok:
            return f"{head}conforms ({len(SCENARIOS) * len(self.places)} scenarios)"
        return "\n".join([f"{head}{len(self.findings)} findings", *(f"  {finding}" for finding in self.findings)])


@dataclass(frozen=True)
class Place:
    """Where a backend is checked: an architecture, a release, and the kind of text that is asked for."""

    arch: str
    release: str
    kind: TextKind

    def __str__(self) -> str:
        """As findings name it."""
        return f"{self.arch}, {self.release}, {self.kind}"


def check(backend: Any, architectures: Iterable[str] | None = None) -> list[Finding]:
    """Return what the backend breaks on any release of these architectures (default: all that it declares).

    An empty list means that it conforms.
    """
    findings = list(_shape(backend))
    if findings:
        return findings
    for place in places(backend, architectures):
        for scenario in SCENARIOS:
            where = f"({scenario.__name__.strip('_')}, {place})"
            try:
                findings += (Finding(f"{found.rule} {where}", found.seen) for found in scenario(backend, place))
            except (ExecbenchError, SimulatedFailure, AssertionError, ValueError, TypeError, AttributeError) as error:
                findings.append(Finding(f"runs {where}", repr(error)))
    return findings


def conformance(arm: str, architectures: Iterable[str] | None = None) -> Conformance:
    """Return what the suite finds about an arm as `--backend` takes it; InputError if there is no such backend."""
    parsed = parse_arm(arm, "BACKEND")
    source = source_of(parsed.file, "BACKEND") if parsed.file else None
    name = parsed.cls or (Path(parsed.file).stem if parsed.file else parsed.name)
    cls = class_for("backends", name, "BACKEND", source)
    root = f"backend.{name}"
    backend = constructed(cls, resolved(cls, given_fields(cls, parsed.params, root), root), root)
    wanted = None if architectures is None else tuple(architectures)
    for arch in wanted or ():
        if arch not in ARCHITECTURES:
            raise InputError(
                "--arch", arch, ", ".join(ARCHITECTURES), did_you_mean(arch, ARCHITECTURES) or "correct it"
            )
    support = getattr(cls, "support", Support())
    refused = "; ".join(filter(None, (support.refusal(arch) for arch in wanted or ())))
    if wanted is not None:
        wanted = tuple(arch for arch in wanted if not support.refusal(arch))
    where = tuple(places(backend, wanted)) if isinstance(support, Support) else ()
    return Conformance(arm, where, refused, tuple(check(backend, wanted)))


def places(backend: Any, architectures: Iterable[str] | None = None) -> Iterator[Place]:
    """Yield what a backend declares: its architectures on every release, with each kind that has a path of its own."""
    support: Support = type(backend).support
    for arch in support.architectures if architectures is None else architectures:
        if not getattr(backend, "refusal", lambda arch: "")(arch):
            for release in RELEASES:
                yield from (Place(arch, release, kind) for kind in _kinds(support))


def _shape(backend: Any) -> Iterator[Finding]:
    cls = type(backend)
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield Finding("is a frozen dataclass", cls.__name__)
    elif any(not field.kw_only for field in dataclasses.fields(cls)):
        yield Finding("has keyword-only parameters", cls.__name__)
    if not isinstance(getattr(cls, "support", None), Support):
        yield Finding("declares its support", f"support = {getattr(cls, 'support', None)!r}")
    for verb in VERBS:
        if not callable(getattr(backend, verb, None)):
            yield Finding("has all verbs", f"no {verb}")


class Bench:
    """A toy machine with one backend started on it."""

    def __init__(
        self, backend: Any, place: Place, merge: bool = True, features: Mapping[str, Any] | None = None
    ) -> None:
        """Four CPUs, of which two may host tasks; the others idle. `features` differ from the toy machine's."""
        costs = toy_costs()
        spec: dict[str, Any] = {
            "arch": place.arch, "features": {**TOY_FEATURES[place.arch], **(features or {})},
            "topology": {"cpus": 4, "nodes": 1}, "kernel": {"hz": 1000, "preempt": "full"},
            "background": toy_background(),
        }  # fmt: skip
        self.machine = Machine(spec, costs, Streams(1, 0), (0, 1), {"merge": merge})
        release = release_from({"release": place.release})
        self.machine.start_rcu(rcu_rules(spec["kernel"], release, costs, self.machine.cpus, place.arch))
        self.shared = Shared(self.machine, release, costs)
        self.shared.recorder = _Nobody()
        self.backend = backend
        self.kind = place.kind
        self.state = backend.start(self.shared)
        self.findings: list[Finding] = []
        self.finished = 0
        self.started = 0

    def task(self, cpu: int, body: Any) -> None:
        """Run `body(k)` on a CPU."""
        self.started += 1
        task = Task(f"check/{cpu}", self.machine.active_cpu(cpu), self.machine.engine, 10)
        self.machine.engine.spawn(task.run(self._counted(body, self.shared.view(task))), 0, task.cpu.key)

    def _counted(self, body: Any, k: Kernel) -> Proc[None]:
        yield from body(k)
        yield from k.settle()
        self.finished += 1

    def expect(self, rule: str, holds: bool, seen: object) -> None:
        """Note a finding unless `holds`."""
        if not holds:
            self.findings.append(Finding(rule, str(seen)))

    def run(self) -> list[Finding]:
        """Run everything; afterwards all tasks are done, all locks free, and memory adds up."""
        self.machine.engine.run(_END)
        self.expect("every task comes to its end", self.finished == self.started, f"{self.finished} of {self.started}")
        for name, lock in self.shared.locks.items():
            lock.sync()
            self.expect("locks are free in the end", lock.hold is None, name)
        exposed = self.shared.text_map.wx_pages
        self.expect("no page stays writable and executable", exposed == 0, exposed)
        for part in (self.shared.vmap, self.shared.frames, self.shared.direct_map, self.shared.text_map):
            part.check()
        return self.findings

    def install(self, k: Kernel, requests: Sequence[Request], patches: int = 0) -> Proc[tuple[Region, ...]]:
        """Allocate, write and finalize one group, checking what alloc promises."""
        regions: tuple[Region, ...] = yield from self.backend.alloc(k, self.state, requests)
        self.expect("alloc returns one region per request", len(regions) == len(requests), len(regions))
        for region, request in zip(regions, requests, strict=False):
            sizes = region.size, request.size
            self.expect("a region has the size that was asked", sizes[0] == sizes[1], sizes)
            self.expect("a region reserves at least its size", region.reserved >= region.size, region)
            self.expect("a region keeps the kind that was asked", region.kind == request.kind, region.kind)
            self._exposed()
            yield from self.backend.write(k, self.state, region, Image(region.id, region.size, patches))
        self._exposed()
        yield from self.backend.finalize(k, self.state, regions)
        yield from k.settle()
        self._exposed()
        return regions

    def _exposed(self) -> None:
        """Between verbs no page is writable and executable, unless the backend says so: then some are."""
        declared, pages = type(self.backend).support.wx, self.shared.text_map.wx_pages
        rule = "text is writable and executable, as declared" if declared else "no page is writable and executable"
        self.expect(rule, (pages > 0) == declared, pages)

    def account(self, live: Sequence[Region]) -> None:
        """Compare usage with the regions that are live."""
        usage = self.backend.usage(self.state)
        asked, reserved = sum(region.size for region in live), sum(region.reserved for region in live)
        self.expect("usage.asked is the sum of live regions", usage.asked == asked, (usage.asked, asked))
        self.expect("usage.reserved covers live regions", usage.reserved >= reserved, (usage.reserved, reserved))
        self.expect("usage.internal_waste is not negative", usage.internal_waste >= 0, usage.internal_waste)
        spans = sorted((region.va, region.va + region.reserved) for region in live)
        for (_, end), (start, _) in pairwise(spans):
            self.expect("live regions do not overlap", start >= end, (hex(end), hex(start)))
        if live:
            self.expect("finished text is mapped", sum(usage.leaves) > 0, usage.leaves)


class _Nobody:
    """A recorder that keeps nothing."""

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        return {}, {}

    def begun(self, operation: Operation, at: int) -> None: ...
    def finished(self, operation: Operation) -> None: ...


_PATHS = (TextKind.BPF, TextKind.MODULE_TEXT, TextKind.KPROBES)
"""Kinds that take different paths through execmem; the others share one of these."""


def _kinds(support: Support) -> tuple[TextKind, ...]:
    return tuple(kind for kind in _PATHS if kind in support.kinds) or support.kinds[:1]


def _one_by_one(backend: Any, place: Place) -> list[Finding]:
    """Sizes around every boundary, each freed again: nothing is left but what the backend keeps for later."""
    bench = Bench(backend, place)
    kind = place.kind

    def body(k: Kernel) -> Proc[None]:
        live: list[Region] = []
        for size in SIZES:
            live += yield from bench.install(k, [Request(size, kind)])
            bench.account(live)
        for region in live[::2]:
            yield from backend.free(k, bench.state, [region])
        yield from k.settle()
        bench.account(live[1::2])
        for region in live[1::2]:
            yield from backend.free(k, bench.state, [region])
        yield from k.settle()
        bench.account([])

    bench.task(0, body)
    return bench.run()


def _groups(backend: Any, place: Place) -> list[Finding]:
    """A group of several regions is handed out, written with patches, finished and freed as one."""
    bench = Bench(backend, place)
    kind = place.kind

    def body(k: Kernel) -> Proc[None]:
        regions = yield from bench.install(k, [Request(size, kind) for size in SIZES[:6]], patches=3)
        bench.account(regions)
        yield from backend.free(k, bench.state, regions)
        yield from k.settle()
        bench.account([])

    bench.task(0, body)
    return bench.run()


def _two_tasks(backend: Any, place: Place) -> list[Finding]:
    """Two CPUs at once, out of step: no deadlock, no overlap, and the same end whether costs are merged or not."""
    ends = []
    findings: list[Finding] = []
    for merge in (True, False):
        bench = Bench(backend, place, merge)
        for cpu in (0, 1):
            bench.task(cpu, _loop(bench, cpu))
        findings += bench.run()
        locks = {name: (lock.acquisitions, lock.wait_ns, lock.hold_ns) for name, lock in bench.shared.locks.items()}
        ends.append((bench.machine.interrupts.rounds, locks, backend.usage(bench.state)))
    if ends[0] != ends[1]:
        findings.append(Finding("merging costs changes nothing", f"{ends[0]} against {ends[1]}"))
    return findings


def _loop(bench: Bench, cpu: int) -> Any:
    def body(k: Kernel) -> Proc[None]:
        kind = bench.kind
        for i in range(6):
            regions = yield from bench.install(k, [Request(100 * (i + 1) + 37 * cpu, kind)])
            yield from k.sleep_until(k.now + 5_000 * (1 + cpu))
            yield from bench.backend.free(k, bench.state, regions)

    return body


def _never_finalized(backend: Any, place: Place) -> list[Finding]:
    """A load that fails after alloc, or after write, is freed without ever having been executable."""
    bench = Bench(backend, place)
    kind = place.kind

    def body(k: Kernel) -> Proc[None]:
        for write in (False, True):
            regions = yield from backend.alloc(k, bench.state, [Request(300, kind)])
            if write:
                yield from backend.write(k, bench.state, regions[0], Image(1, 300))
            yield from backend.free(k, bench.state, regions)
            yield from k.settle()
            bench.account([])

    bench.task(0, body)
    return bench.run()


SCENARIOS = (_one_by_one, _groups, _two_tasks, _never_finalized)
TOY_FEATURES: dict[str, dict[str, Any]] = {
    "x86_64": {"apic": "x2apic", "ipi": "shorthand", "invlpgb": False, "serialize": True, "fred": False, "its": False,
               "fineibt": False, "ibpb_on_cbpf": False},
    "arm64": {"idc": False, "dic": False, "rodata_full": True, "bbml": False, "tlbi_range": True},
    "riscv64": {"rfence": "ipi"},
}  # fmt: skip
"""Features of the toy machine of each architecture."""


def toy_costs() -> CostTable:
    """Return a table in which every cost is a whole number of ns, no two alike, so that a mistaken name shows.

    The costs of all clients are there too: some backends are about one client's world (user space).
    """
    rows = {**CATALOGUE, **{f"client.{client}.{cost}": entry for client, costs in client_costs().items()
                            for cost, entry in costs.items()}}  # fmt: skip
    return CostTable(
        {
            name: Cost(name, 1000 * (10 + i), 1, 10**6, entry.per, "constant", None, Evidence.ASSUMED, "toy", "input")
            for i, (name, entry) in enumerate(rows.items())
        }
    )


def toy_background() -> dict[str, Any]:
    """Return a background that idles half of the time and works in user mode otherwise."""
    state = {"fraction": 0.5, "mean": 100_000, "masked": False, "qs": True}
    return {"rule": "symmetric-flux", "restart": "idle-shallow", "states": {"user": state, "idle-shallow": dict(state)}}
