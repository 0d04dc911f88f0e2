"""One backend on a toy machine: each verb run by itself, and what it counted, in order."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any

from execbench import conformance
from execbench.contract import Image, Proc, Region, Request, TextKind
from execbench.kernel.facade import Kernel
from tests.kernel.bench import Bench

QUIET = frozenset({
    "round", "flush_tlb_mm_range", "change_page_attr_set_clr", "patch_map", "tlbi", "sbi_remote_sfence_vma_asid",
    "sbi_remote_fence_i", "mmap_read_lock", "mmap_write_lock",
})  # fmt: skip
"""Primitives inside the one before, the same each time: left out of the sequences."""


class Verbs:
    """A backend started on a toy machine of four CPUs; `steps` = what the last verb counted, as "name" or "name n".

    The direct map of its first pages is split already: what a backend takes pays for splits only once.
    """

    def __init__(self, backend: Any, arch: str = "x86_64", release: str = "6.18", **bench: Any) -> None:
        self.backend = backend
        self.arch = arch
        self.bench = Bench(arch, release, **bench)
        self.state = backend.start(self.bench.shared)
        self.steps: list[str] = []
        self.do(_split)

    def do(self, body: Callable[[Kernel], Proc[Any]], cpu: int = 0) -> Any:
        """Run `body` on a CPU until everything is over; return what it returned."""
        returned = []

        def kept(k: Kernel) -> Proc[None]:
            returned.append((yield from body(k)))

        self.bench.forget()
        self.bench.task(kept, cpu, self.bench.machine.engine.now)
        self.bench.run()
        calls = [(name, units) for name, units in self.bench.calls if name not in QUIET]
        self.steps = [name if units == 1 else f"{name} {units}" for name, units in calls]
        return returned[0]

    def alloc(self, *sizes: int, kind: TextKind = TextKind.JIT) -> tuple[Region, ...]:
        """Call alloc for one group."""
        requests = [Request(size, kind) for size in sizes]
        return tuple(self.do(lambda k: self.backend.alloc(k, self.state, requests)))

    def write(self, region: Region, patches: int = 0) -> None:
        """Write all of a region."""
        image = Image(region.id, region.size, patches)
        self.do(lambda k: self.backend.write(k, self.state, region, image))

    def finalize(self, *regions: Region) -> None:
        """Finalize regions as one group."""
        self.do(lambda k: self.backend.finalize(k, self.state, regions))

    def rewrite(self, region: Region, patches: int = 0) -> None:
        """Rewrite all of a region."""
        image = Image(region.id, region.size, patches)
        self.do(lambda k: self.backend.rewrite(k, self.state, region, image))

    def free(self, *regions: Region) -> None:
        """Free regions as one group."""
        self.do(lambda k: self.backend.free(k, self.state, regions))

    def load(self, *sizes: int, patches: int = 0) -> tuple[Region, ...]:
        """Alloc, write and finalize one group."""
        regions = self.alloc(*sizes)
        for region in regions:
            self.write(region, patches)
        self.finalize(*regions)
        return regions

    def perm(self, region: Region) -> str:
        """The protection of the first page of a region that has an area of its own, "none" if it is not mapped."""
        text_map = self.bench.shared.text_map
        return text_map.perm(region.own, 0) if region.own in text_map else "none"

    def alias(self, region: Region) -> str:
        """The protection of the direct map of the first page of a region that has an area of its own."""
        return self.bench.shared.direct_map.perm(region.own.pfn(0))

    @property
    def usage(self) -> tuple[int, int, int]:
        """Bytes asked, reserved and wasted."""
        usage = self.backend.usage(self.state)
        return usage.asked, usage.reserved, usage.internal_waste


def _split(k: Kernel) -> Proc[None]:
    """Make the direct map of some pages invalid and valid again; they are the next to be taken."""
    area = yield from k.vmalloc_node_range(64, TextKind.MODULE_TEXT)
    yield from k.vfree(area)


def policies(cls: type) -> list[str]:
    """The synchronization policies that a backend offers."""
    return list(typing.get_args(typing.get_type_hints(cls)["sync"]))


def variants(cls: type, *more: Any) -> list[tuple[Any, str]]:
    """(backend, architecture) for the defaults, for each other value of each parameter, and for `more`."""
    hints = typing.get_type_hints(cls)
    backends = [cls()]
    for field in dataclasses.fields(cls):
        others = [value for value in typing.get_args(hints[field.name]) if value != field.default]
        backends += [cls(**{field.name: value}) for value in others]
    return [
        (backend, arch)
        for backend in [*backends, *more]
        for arch in cls.support.architectures  # type: ignore[attr-defined]
        if not getattr(backend, "refusal", lambda arch: "")(arch)
    ]


def conforms(backend: Any, arch: str) -> list[str]:
    """What a backend breaks on one release of an architecture, asked for its first kind of text."""
    place = conformance.Place(arch, "6.18", type(backend).support.kinds[0])
    return [str(finding) for scenario in conformance.SCENARIOS for finding in scenario(backend, place)]


def lines(text: str) -> Sequence[str]:
    """Steps written one to a line."""
    return [line.strip() for line in text.strip().splitlines()]
