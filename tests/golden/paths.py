"""Every path a verb can take on a toy machine, as text that a kernel developer can hold against the source."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from execbench.conformance import Bench, Place, places
from execbench.contract import Image, Proc, Request
from execbench.kernel.facade import Kernel
from execbench.record.steps.fold import Item
from execbench.record.steps.sink import StepSink
from execbench.record.steps.table import path_of, text_of
from execbench.registry.plugins import class_for, registered
from tests.golden.kernel_paths import KERNEL, kernel_runs

SIZE = 6000
"""Bytes of the region: two pages of 4 KiB, one poke."""
PATCHES = 3
"""Relocations and alternatives in it."""
VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "x86_64": {"ipi": {}, "invlpgb": {"invlpgb": True}, "ibpb,cBPF": {"ibpb_on_cbpf": True}},
    "arm64": {
        "base": {}, "idc,dic": {"idc": True, "dic": True}, "bbml": {"bbml": True}, "rodata=on": {"rodata_full": False},
    },
    "riscv64": {"ipi": {}, "sbi": {"rfence": "sbi"}},
}  # fmt: skip
"""Machines: an architecture, and how its features differ from the toy machine's."""
LATER = 50_000_000
"""ns that queued work gets before it is looked at."""

Path = tuple[Item, ...]


class Combination(NamedTuple):
    """Who takes a path: backend, verb, architecture and variant, the how-manieth time, kind, release, standing.

    standing: shipped, retired or proposed, as this release and architecture have the backend, or the kernel its verb.
    """

    backend: str
    verb: str
    arch: str
    variant: str
    turn: str
    kind: str
    release: str
    standing: str


Taken = tuple[str, str, Path]
"""Verb, turn, and the path that it took."""


@cache
def all_paths() -> Mapping[Path, list[Combination]]:
    """Every distinct path with the combinations that share it."""
    found: dict[Path, list[Combination]] = {}
    for who, path in (*_backends(), *_kernel()):
        found.setdefault(path, []).append(who)
    return found


def _backends() -> Iterator[tuple[Combination, Path]]:
    for name in registered("backends"):
        backend = class_for("backends", name, "golden")()
        for place in places(backend):
            standing = backend.support.status(place.release, place.arch)
            for variant, features in VARIANTS[place.arch].items():
                for verb, turn, path in lifecycle(backend, place, features):
                    who = Combination(name, verb, place.arch, variant, turn, str(place.kind), place.release, standing)
                    yield who, path


def _kernel() -> Iterator[tuple[Combination, Path]]:
    for arch, variants in VARIANTS.items():
        for variant, features in variants.items():
            for run in kernel_runs(arch, features):
                if run.steps:
                    who = Combination(KERNEL, run.verb, arch, variant, "", "", run.release, run.standing)
                    yield who, path_of(run.steps)


def lifecycle(backend: Any, place: Place, features: Mapping[str, Any]) -> list[Taken]:
    """Two regions one after the other, then both are freed: the first meets a fresh machine, the second a used one.

    What a kworker does in the end is a verb of its own.
    """
    bench = Bench(backend, place, features=features)
    sink = StepSink()
    bench.machine.probe.attach(sink)
    taken: list[Taken] = []

    def noted(verb: str, turn: str, task: str) -> None:
        taken.append((verb, turn, path_of(sink.take(task))))

    def body(k: Kernel) -> Proc[None]:
        live = []
        for turn in ("first", "second"):
            request = Request(SIZE, place.kind, classic=bool(features.get("ibpb_on_cbpf")))
            regions = yield from backend.alloc(k, bench.state, [request])
            yield from k.settle()
            noted("alloc", turn, k.task.name)
            for region in regions:
                yield from backend.write(k, bench.state, region, Image(region.id, SIZE, PATCHES))
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

    bench.task(0, body)
    findings = bench.run()
    assert not findings, findings
    return taken


def heads(users: Iterable[Combination]) -> list[str]:
    """Return who shares a path, one line for all that differ in one thing only, again and again."""
    cells = [tuple((value,) for value in one) for one in users]
    for column in (6, 5, 3, 4):  # releases, kinds, variants, turns
        joined: dict[tuple[Any, ...], list[str]] = {}
        for cell in cells:
            values = joined.setdefault((*cell[:column], *cell[column + 1 :]), [])
            values += [value for value in cell[column] if value not in values]
        cells = [(*rest[:column], tuple(values), *rest[column:]) for rest, values in joined.items()]
    return [_head(cell) for cell in cells]


def _head(cell: tuple[tuple[str, ...], ...]) -> str:
    """One line of a head; an architecture alone stands for all its variants."""
    (backend,), (verb,), (arch,), variants, turns, kinds, releases, (standing,) = cell
    machine = arch if len(variants) == len(VARIANTS[arch]) else f"{arch}+{'|'.join(variants)}"
    what = ", ".join(filter(None, (verb, *turns)))
    note = {"shipped": "", "retired": "(sequence: retired)", "proposed": "(sequence: DESIGN)"}[standing]
    row = f"# {backend:<20} {what:<36} {machine:<24} {' '.join(releases):<18} {', '.join(kinds):<28} {note}"
    return row.rstrip()


def documents() -> dict[str, str]:
    """Every golden file by its name: the combinations that share the path, then step, effect and evidence of each line.

    The name carries the first combination and a hash of the path, so that a changed path is a new file in the diff.
    """
    made: dict[str, str] = {}
    for path, users in all_paths().items():
        name = f"{_folder(users)}-{digest(path)}.txt"
        assert name not in made, name
        made[name] = document(path, users)
    return made


def _folder(users: list[Combination]) -> str:
    """Architecture, verb and backend of who takes the path first; what the kernel does stands together."""
    first = users[0]
    arch = first.arch if len({one.arch for one in users}) == 1 else "any"
    verb = "-".join(re.findall(r"\w+", first.verb))
    return f"{arch}/kernel/{verb}" if first.backend == KERNEL else f"{arch}/{verb}/{first.backend}"


def document(path: Path, users: list[Combination]) -> str:
    """Return one golden file."""
    architectures = tuple(dict.fromkeys(one.arch for one in users))
    releases = tuple(dict.fromkeys(one.release for one in users))
    body = text_of(path, architectures, releases) or ["(nothing that others see)"]
    return "\n".join([*heads(users), "", *body]) + "\n"


def digest(path: Path) -> str:
    """Return what names a path: its steps and effects, without the evidence."""
    return hashlib.blake2b(repr(path).encode()).hexdigest()[:6]
