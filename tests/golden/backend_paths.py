"""What each verb of each backend does in the life of two regions on a toy machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.conformance import TOY_FEATURES, Bench, Place, places
from execbench.contract import Image, Proc, Request, TextKind
from execbench.kernel.facade import Kernel
from execbench.record.steps.sink import Step, StepSink
from execbench.registry.plugins import class_for, registered

SIZE = 6000
"""Bytes of the region: two pages of 4 KiB, one poke."""
SLOT = 8
"""Bytes of a slot for kprobes: two instructions of 4 bytes (MAX_INSN_SIZE on arm64 and riscv64), in a page."""
PATCHES = 3
"""Relocations and alternatives in it."""
LATER = 20_000_000
"""ns that queued work gets before it is looked at."""
SPIN = 60_000_000
"""ns for which another thread of the process works: all the time."""
SYNCS = ("merged-flush", "sync-core")
"""Synchronizations that are part of a verb; what the others do is the kernel's."""


class Arm(NamedTuple):
    """A backend with at most one parameter that is not the default's, and the kinds of text that it is asked for."""

    name: str
    backend: Any
    kinds: tuple[TextKind, ...]
    features: Mapping[str, Any] = {}
    """Of the machine, which has to be one that can have them."""

    def on(self, arch: str) -> bool:
        """Whether an architecture has these features at all."""
        return all(name in TOY_FEATURES[arch] for name in self.features)


class Taken(NamedTuple):
    """What one verb did: the how-manieth time, and its steps."""

    verb: str
    turn: str
    steps: list[Step]


def arms() -> Iterator[Arm]:
    """Every backend as it is for all kinds that differ, and with each other value of each parameter for one kind."""
    for name in registered("backends"):
        cls = class_for("backends", name, "golden")
        kinds = tuple(dict.fromkeys(place.kind for place in places(cls())))
        yield Arm(name, cls(), kinds)
        if cls is BpfProgPack:
            yield Arm(f"{name} of cBPF", cls(), kinds, {"ibpb_on_cbpf": True})
        one = (TextKind.MODULE_TEXT,) if TextKind.MODULE_TEXT in kinds else kinds[:1]
        for field, value in _deviations(cls):
            yield Arm(f"{name}({field}={value})", cls(**{field: value}), one)


def _deviations(cls: Any) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if get_origin(hints[field.name]) is not None and field.name != "place":  # where in memory changes no step
            for value in get_args(hints[field.name]):
                if value != field.default and (field.name != "sync" or value in SYNCS):
                    yield field.name, value


def lives(backend: Any, place: Place, features: Mapping[str, Any]) -> list[Taken]:
    """Live on a machine where nobody else does; a process of user space also with a thread on another CPU (2 CPUs)."""
    taken = life(backend, place, features)
    if place.kind is TextKind.USER:
        others = life(backend, place, features, spinning=True)
        taken += (one._replace(turn=f"{one.turn} (2 CPUs)") for one in others)
    return taken


def life(backend: Any, place: Place, features: Mapping[str, Any], spinning: bool = False) -> list[Taken]:
    """Two regions one after the other, then both are freed: the first meets a fresh machine, the second a used one.

    What a kworker does in the end is a verb of its own. spinning: another thread of the process works on its CPU.
    """
    bench = Bench(backend, place, features=features)
    sink = StepSink()
    bench.machine.probe.attach(sink)
    taken: list[Taken] = []

    def noted(verb: str, turn: str, task: str) -> None:
        taken.append(Taken(verb, turn, sink.take(task)))

    slot = place.kind is TextKind.KPROBES and isinstance(backend, Execmem | ModuleAlloc)
    size = SLOT if slot else SIZE

    def body(k: Kernel) -> Proc[None]:
        live = []
        for turn in ("first", "second"):
            request = Request(size, place.kind, classic=bool(features.get("ibpb_on_cbpf")))
            regions = yield from backend.alloc(k, bench.state, [request])
            yield from k.settle()
            noted("alloc", turn, k.task.name)
            for region in regions:
                yield from backend.write(k, bench.state, region, Image(region.id, size, PATCHES))
            yield from k.settle()
            noted("write", turn, k.task.name)
            yield from backend.finalize(k, bench.state, regions)
            yield from k.settle()
            noted("finalize", turn, k.task.name)
            live.append(regions)
        for turn, regions in zip(("neighbour left", "last"), live, strict=True):
            yield from backend.free(k, bench.state, regions)
            yield from k.settle()
            noted("free", turn, k.task.name)
            yield from k.sleep_until(k.now + LATER)
            for worker in sink.tasks():
                noted("free", f"{turn}, by kworker", worker)

    def other(k: Kernel) -> Proc[None]:
        bench.state.mm.enter(k.task)
        yield from k.task.compute(SPIN)

    if spinning:
        bench.task(1, other)
    bench.task(0, body)
    findings = bench.run()
    assert not findings, findings
    return taken
