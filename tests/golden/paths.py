"""Every path a verb can take on a toy machine, as text that a kernel developer can hold against the source."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.conformance import Place, places
from execbench.contract import TextKind
from execbench.record.steps.fold import Item
from execbench.record.steps.table import path_of, text_of
from tests.golden.backend_paths import arms, lives
from tests.golden.kernel_paths import KERNEL, kernel_runs

VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "x86_64": {"ipi": {}, "invlpgb": {"invlpgb": True}},
    "arm64": {
        "base": {}, "idc,dic": {"idc": True, "dic": True}, "bbml": {"bbml": True}, "rodata=on": {"rodata_full": False},
    },
    "riscv64": {"ipi": {}, "sbi": {"rfence": "sbi"}},
}  # fmt: skip
"""Machines: an architecture, and how its features differ from the toy machine's."""
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


@cache
def all_paths() -> Mapping[Path, list[Combination]]:
    """Every distinct path with the combinations that share it."""
    found: dict[Path, list[Combination]] = {}
    for who, path in (*_backends(), *_kernel()):
        found.setdefault(path, []).append(who)
    return found


def _backends() -> Iterator[tuple[Combination, Path]]:
    for arm in arms():
        for place in (place for place in places(arm.backend) if place.kind in arm.kinds and arm.on(place.arch)):
            standing = _standing(arm.backend, place)
            for variant, features in VARIANTS[place.arch].items():
                for verb, turn, steps in lives(arm.backend, place, {**features, **arm.features}):
                    who = Combination(
                        arm.name, verb, place.arch, variant, turn, str(place.kind), place.release, standing
                    )
                    yield who, _path(tuple(steps))


def _kernel() -> Iterator[tuple[Combination, Path]]:
    for arch, variants in VARIANTS.items():
        for variant, features in variants.items():
            for run in kernel_runs(arch, features):
                if run.steps:
                    who = Combination(KERNEL, run.verb, arch, variant, "", "", run.release, run.standing)
                    yield who, _path(tuple(run.steps))


_path = cache(path_of)  # of the many ways to the same steps


def _standing(backend: Any, place: Place) -> str:
    """Return whether a kernel goes this way: some kinds of a shipped allocator are served otherwise by every kernel.

    BPF takes packs from execmem, not pages of its own. And before 6.2 no kernel merged two permission changes.
    """
    if isinstance(backend, Execmem) and place.kind is TextKind.BPF:
        return "proposed"
    if isinstance(backend, ModuleAlloc) and backend.order == "merged" and place.release == "6.1":
        return "proposed"
    return str(backend.support.status(place.release, place.arch))


def heads(users: Iterable[Combination]) -> list[str]:
    """Return who shares a path, one line for all that differ in one thing only, again and again."""
    cells = [tuple((value,) for value in one) for one in users]
    for column in (6, 5, 3, 4):  # releases, kinds, variants, turns
        joined: dict[tuple[Any, ...], list[str]] = {}
        for cell in cells:
            values = joined.setdefault((*cell[:column], *cell[column + 1 :]), [])
            values += [value for value in cell[column] if value not in values]
        cells = [(*rest[:column], tuple(values), *rest[column:]) for rest, values in joined.items()]
    machines: dict[tuple[Any, ...], list[str]] = {}
    for backend, verb, (arch,), variants, *rest in cells:
        machine = arch if len(variants) == len(VARIANTS[arch]) else f"{arch}+{'|'.join(variants)}"
        machines.setdefault((backend, verb, *rest), []).append(machine)
    return [_head(*cell, tuple(where)) for cell, where in machines.items()]


def _head(backend: Any, verb: Any, turns: Any, kinds: Any, releases: Any, standing: Any, machines: Any) -> str:
    """One line of a head; an architecture alone stands for all its variants."""
    what = ", ".join(filter(None, (*verb, *turns)))
    where = f"{' '.join(machines):<26} {' '.join(releases):<18}"
    note = {"shipped": "", "retired": "(sequence: retired)", "proposed": "(sequence: DESIGN)"}[standing[0]]
    return f"# {backend[0]:<42} {what:<38} {where} {', '.join(kinds):<26} {note}".rstrip()


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
    return f"{arch}/kernel/{verb}" if first.backend == KERNEL else f"{arch}/{verb}/{re.split('[ (]', first.backend)[0]}"


def document(path: Path, users: list[Combination]) -> str:
    """Return one golden file."""
    architectures = tuple(dict.fromkeys(one.arch for one in users))
    releases = tuple(dict.fromkeys(one.release for one in users))
    body = text_of(path, architectures, releases) or ["(nothing that others see)"]
    return "\n".join([*heads(users), "", *body]) + "\n"


def digest(path: Path) -> str:
    """Return what names a path: its steps and effects, without the evidence."""
    return hashlib.blake2b(repr(path).encode()).hexdigest()[:6]
