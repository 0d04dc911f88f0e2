"""A module's memory as the release's loader lays it out and protects it: areas by type, or two areas for everything.

kernel/module/main.c: move_module, do_free_init, free_module; kernel/module/strict_rwx.c. The client calls these for
what the backend under test does not serve; backends that stand for the release's own allocator call them for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from execbench.kernel import execmem
from execbench.kernel.execmem import Piece
from execbench.kernel.text import Region, Request, TextKind
from execbench.kernel.vmalloc import vm_unmap_aliases
from execbench.kernel.x86_64.set_memory import set_memory_rox_at_once
from execbench.sim.engine import Proc
from execbench.sim.memory import VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

ORDER: Final = (TextKind.MODULE_TEXT, TextKind.INIT_TEXT, TextKind.RODATA, TextKind.RO_AFTER_INIT, TextKind.MODULE_DATA)
"""Order inside a layout: text, constants, what is read-only after init, the rest (kernel/module/strict_rwx.c, 6.1)."""
TEXT: Final = (TextKind.MODULE_TEXT, TextKind.INIT_TEXT)
CONSTANTS: Final = ((TextKind.RODATA, False), (TextKind.RODATA, True))
RO_TWICE: Final = (
    (TextKind.MODULE_TEXT, False), (TextKind.RODATA, False), (TextKind.INIT_TEXT, True), (TextKind.RODATA, True),
)  # fmt: skip
"""(Type, whether it is init's own) in the order of 6.1's module_enable_ro."""


@dataclass(slots=True, eq=False)
class Layout:
    """One area that holds several types of memory (struct module_layout), and how many of its parts live."""

    area: VmArea
    live: int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One type of a module's memory: a piece of an area that it has alone, or shares with others of its layout."""

    kind: TextKind
    piece: Piece
    init: bool
    layout: Layout | None = None

    @property
    def area(self) -> VmArea:
        """The area that it lies in."""
        return self.piece.area


@dataclass(slots=True, eq=False)
class Flushed(Region):
    """A module's region whose loader has flushed instruction caches already (flush_module_icache): see `flushed`."""


def flushed(region: Region) -> Region:
    """Return the same region, marked for the finalize of a backend that leaves the flush to the loader."""
    return Flushed(region.id, region.va, region.size, region.reserved, region.kind, region.own)


def by_layout(k: Kernel, reqs: Iterable[Request]) -> bool:
    """Say whether these are a module's and go into areas of several types: before 6.4."""
    return not k.release.mod_mem and all([req.layout for req in reqs] or [""])


def parts_of(regions: Iterable[Region]) -> tuple[list[Part], list[Region]]:
    """Return the parts behind regions that lie in layouts, and the regions that do not."""
    parts, others = [], []
    for region in regions:
        if isinstance(region.own, Part):
            parts.append(region.own)
        else:
            others.append(region)
    return parts, others


def move_module(k: Kernel, reqs: Sequence[Request]) -> Proc[list[Part]]:
    """Allocate a module's memory, one part per request: execmem_alloc_rw for each, or module_alloc for each layout."""
    if by_layout(k, reqs):
        return (yield from alloc_layouts(k, reqs))
    parts = []
    for req in reqs:
        pages = k.pages_of(req.size)
        if k.release.rox_cache:
            piece = yield from execmem.alloc_rw(k, pages, req.kind)
        else:
            piece = yield from execmem.alloc(k, pages, req.kind)
        parts.append(Part(req.kind, piece, req.layout == "init"))
    return parts


def alloc_layouts(k: Kernel, reqs: Sequence[Request]) -> Proc[list[Part]]:
    """Allocate core_layout, then init_layout, with module_alloc; each type begins on a page (6.1: move_module)."""
    found: dict[int, Part] = {}
    for life in ("core", "init"):
        mine = [i for kind in ORDER for i, req in enumerate(reqs) if (req.kind, req.layout) == (kind, life)]
        pages = [k.pages_of(reqs[i].size) for i in mine]
        if not mine:
            continue
        area = (yield from execmem.alloc(k, sum(pages), TextKind.MODULE_TEXT)).area
        layout, first = Layout(area, len(mine)), 0
        for i, n in zip(mine, pages, strict=True):
            found[i] = Part(reqs[i].kind, Piece(area, first, n, False), life == "init", layout)
            first += n
    return [found[i] for i in range(len(reqs))]


def flush_module_icache(k: Kernel, parts: Sequence[Part], regions: Sequence[Region] = ()) -> Proc[None]:
    """flush_icache_range for every area that parts and regions are in (kernel/module/main.c:flush_module_icache).

    The loader calls it behind the relocations, before ftrace_module_init and without module_mutex.
    """
    shared, others = parts_of(region for region in regions if not isinstance(region, Flushed))
    parts = [*parts, *shared]
    for region in others:
        yield from k.flush_icache_range(region.va, region.size)
    done: set[int] = set()
    for part in sorted(parts, key=lambda part: not part.init) if any(part.layout for part in parts) else parts:
        if part.layout is None:
            yield from k.flush_icache_range(part.piece.va, part.piece.size)
        elif id(part.layout) not in done:
            done.add(id(part.layout))
            yield from k.flush_icache_range(part.area.va, part.area.size)


def complete_formation(k: Kernel, parts: Sequence[Part], text: bool = True) -> Proc[None]:
    """Protect a module's parts: since 6.4 constants, then data; whose text it is makes that executable behind it.

    Before 6.4 everything read-only, data NX, text executable; each type of both layouts gets its calls, those of no
    pages too (frob_text and others), which change nothing, but purge on x86_64. Without `text` its calls are left out.
    """
    if not k.release.mod_mem and any(part.layout for part in parts):
        for kind, init in RO_TWICE:
            if text or kind not in TEXT:
                yield from _set(k, "set_memory_ro", _of(parts, kind, init))
        for kind, init in ((TextKind.RODATA, False), (TextKind.RO_AFTER_INIT, False), (TextKind.MODULE_DATA, False),
                           (TextKind.RODATA, True), (TextKind.MODULE_DATA, True)):  # fmt: skip
            yield from _set(k, "set_memory_nx", _of(parts, kind, init))
        if text:
            yield from _set(k, "set_memory_x", _of(parts, TextKind.MODULE_TEXT, False))
            yield from _set(k, "set_memory_x", _of(parts, TextKind.INIT_TEXT, True))
        return
    yield from module_enable_rodata_ro(k, parts)
    for part in parts:
        yield from _set(k, "set_memory_nx", part)


def module_enable_text_rox_at_once(k: Kernel, parts: Sequence[Part]) -> Proc[None]:
    """Make text read-only and executable by one change_page_attr_set_clr, as x86_64 could have done it before 6.2."""
    for part in parts:
        if part.kind in TEXT:
            yield from set_memory_rox_at_once(k, part.area, part.piece.first, part.piece.pages)


def module_enable_rodata_ro(k: Kernel, parts: Sequence[Part]) -> Proc[None]:
    """Make constants read-only, those of init too."""
    for part in parts:
        if part.kind is TextKind.RODATA:
            yield from _set(k, "set_memory_ro", part)


def sealed(k: Kernel) -> Sequence[tuple[TextKind, bool]]:
    """Return what the release sets read-only when init has run, in order: (type, whether it is init's own).

    module_enable_rodata_ro_after_init; up to 6.12 module_enable_rodata_ro(after_init), before 6.4 module_enable_ro:
    both go over what is read-only already first, which changes nothing, but purges on x86_64.
    """
    again = RO_TWICE if not k.release.mod_mem else () if k.release.sealed_alone else CONSTANTS
    return (*again, (TextKind.RO_AFTER_INIT, False))


def seal(k: Kernel, part: Part | None) -> Proc[None]:
    """Make a part read-only; one that a module does not have is a call for no pages before 6.4, none since."""
    if part is not None or not k.release.mod_mem:
        yield from _set(k, "set_memory_ro", part)


def free(k: Kernel, parts: Sequence[Part]) -> Proc[None]:
    """Give parts back: execmem_free of each, or module_memfree of a layout when its last part goes."""
    for part in parts:
        if part.layout is None:
            yield from execmem.free(k, part.piece)
        else:
            part.layout.live -= 1
            if not part.layout.live:
                yield from execmem.free(k, Piece(part.area, 0, part.area.pages, False))


def _of(parts: Sequence[Part], kind: TextKind, init: bool) -> Part | None:
    return next((part for part in parts if (part.kind, part.init) == (kind, init)), None)


def _set(k: Kernel, name: str, part: Part | None) -> Proc[None]:
    """Call set_memory_*() for a part, or for no pages at all: then x86_64 purges, the others return at once."""
    if part is not None:
        verb = {"set_memory_ro": k.set_memory_ro, "set_memory_nx": k.set_memory_nx, "set_memory_x": k.set_memory_x}
        yield from verb[name](part.area, part.piece.first, part.piece.pages)
    else:
        k.count(name, 0)
        if k.arch.name == "x86_64":
            k.count("change_page_attr_set_clr", 0)
            yield from vm_unmap_aliases(k)
