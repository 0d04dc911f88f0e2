"""Where a backend is checked: every architecture, release and page size that it declares, for each way through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from execbench.contract import Support, TextKind
from execbench.kernel.releases import RELEASES
from execbench.sim.memory import PAGE
from execbench.study.spec import PAGE_SIZES as _NAMED
from execbench.units import size_bytes

PAGE_SIZES: Final[Mapping[str, tuple[int, ...]]] = {
    arch: tuple(size_bytes(size) for size in sizes) for arch, sizes in _NAMED.items()
}
"""Base pages (bytes) that each architecture has."""
DATA: Final = (TextKind.RODATA, TextKind.RO_AFTER_INIT, TextKind.MODULE_DATA)
"""What a module has besides text (include/linux/module.h: mod_mem_type_is_data)."""
PATHS: Final = (TextKind.BPF, TextKind.MODULE_TEXT, TextKind.KPROBES)
"""Kinds that take different paths through execmem; the others share one of these."""


@dataclass(frozen=True)
class Place:
    """An architecture, a release, the kind of text that is asked for, and the base page (bytes)."""

    arch: str
    release: str
    kind: TextKind
    page_size: int = PAGE

    def __str__(self) -> str:
        """As findings name it."""
        page = "" if self.page_size == PAGE else f", pages of {self.page_size >> 10}KiB"
        return f"{self.arch}, {self.release}, {self.kind}{page}"


def places(
    backend: Any, architectures: Iterable[str] | None = None, page_sizes: Mapping[str, Sequence[int]] | None = None
) -> Iterator[Place]:
    """Yield what a backend declares: its architectures on every release, with each kind that has a path of its own.

    With pages of 4 KiB, or of the sizes that `page_sizes` gives for an architecture.
    """
    support: Support = type(backend).support
    for arch in support.architectures if architectures is None else architectures:
        if refusal(backend, arch):
            continue
        for release in RELEASES:
            for page in (PAGE,) if page_sizes is None else page_sizes[arch]:
                yield from (Place(arch, release, kind, page) for kind in path_kinds(support))


def refusal(backend: Any, arch: str) -> str:
    """Return why a backend cannot be expressed on an architecture with these parameters; "" if it can."""
    support: Support = type(backend).support
    return support.refusal(arch) or str(getattr(backend, "refusal", lambda arch: "")(arch))


def path_kinds(support: Support) -> tuple[TextKind, ...]:
    """Return the kinds of text that a backend is asked for one at a time."""
    return tuple(kind for kind in PATHS if kind in support.kinds) or support.kinds[:1]


def kernel_kinds(support: Support) -> tuple[TextKind, ...]:
    """Return all kinds that a backend serves in the kernel."""
    return tuple(kind for kind in support.kinds if kind is not TextKind.USER)
