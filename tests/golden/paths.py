"""Every path a verb can take on a toy machine, as text that a kernel developer can hold against the source.

`python -m tests.golden.paths` is not how these are made: run `pytest tests/golden --golden=write`, then read the diff.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from execbench.conformance import Bench, Place, places
from execbench.contract import Image, Proc, Request
from execbench.kernel.facade import Kernel
from execbench.record.steps.sink import StepSink
from execbench.record.steps.table import render
from execbench.registry.plugins import class_for, registered

SIZE = 6000
"""Bytes of the region: two pages of 4 KiB, one poke."""
PATCHES = 3
"""Relocations and alternatives in it."""
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "x86_64": {"": {}, "invlpgb": {"invlpgb": True}},
    "arm64": {"": {}, "idc,dic": {"idc": True, "dic": True}},
    "riscv64": {"": {}, "sbi": {"rfence": "sbi"}},
}


@dataclass(frozen=True)
class Combination:
    """Who takes a path: backend, architecture (and a feature), release, kind of text, verb and the how-manieth time."""

    backend: str
    arch: str
    feature: str
    release: str
    kind: str
    verb: str
    turn: str

    def __str__(self) -> str:
        machine = f"{self.arch}+{self.feature}" if self.feature else self.arch
        return f"{self.backend:<20} {machine:<16} {self.release:<5} {self.kind:<12} {self.verb}, {self.turn}"


def all_paths() -> dict[tuple[str, ...], list[Combination]]:
    """Every distinct path (its lines) with the combinations that share it."""
    found: dict[tuple[str, ...], list[Combination]] = {}
    for name in registered("backends"):
        backend = class_for("backends", name, "golden")()
        for place in places(backend):
            for feature, features in VARIANTS[place.arch].items():
                for verb, turn, lines in _lifecycle(backend, place, features):
                    who = Combination(name, place.arch, feature, place.release, str(place.kind), verb, turn)
                    found.setdefault(tuple(lines), []).append(who)
    return found


def _lifecycle(backend: Any, place: Place, features: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Two regions one after the other, then both are freed: the first meets a fresh machine, the second a used one."""
    bench = Bench(backend, place, features=features)
    sink = StepSink()
    bench.machine.probe.attach(sink)
    taken: list[tuple[str, str, list[str]]] = []

    def noted(verb: str, turn: str, k: Kernel) -> None:
        taken.append((verb, turn, render(sink.take(k.task.name), place.arch)))

    def body(k: Kernel) -> Proc[None]:
        live = []
        for turn in ("first", "second"):
            regions = yield from backend.alloc(k, bench.state, [Request(SIZE, place.kind)])
            yield from k.settle()
            noted("alloc", turn, k)
            for region in regions:
                yield from backend.write(k, bench.state, region, Image(region.id, SIZE, PATCHES))
            yield from k.settle()
            noted("write", turn, k)
            yield from backend.finalize(k, bench.state, regions)
            yield from k.settle()
            noted("finalize", turn, k)
            live.append(regions)
        for turn, regions in zip(("neighbour left", "last"), live, strict=True):
            yield from backend.free(k, bench.state, regions)
            yield from k.settle()
            noted("free", turn, k)

    bench.task(0, body)
    findings = bench.run()
    assert not findings, findings
    return iter(taken)


def documents() -> dict[str, str]:
    """Every golden file by its name: the combinations that share the path, then the path."""
    made: dict[str, str] = {}
    for lines, users in all_paths().items():
        first = users[0]
        stem = f"{first.arch}-{first.verb}-{first.backend}"
        digest = hashlib.blake2b("\n".join(lines).encode()).hexdigest()[:4]
        head = [f"# {user}" for user in users]
        body = lines or ("(nothing)",)
        made[f"{stem}-{digest}.txt"] = "\n".join([*head, "", *body]) + "\n"
    return made
