"""Where a user-space runtime keeps its code: groups of regions published together, and memory that stays mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from execbench.kernel.text import Region, Request, Usage
from execbench.kernel.user import Folios, Mm, Vma
from execbench.kernel.user_arch import LINE
from execbench.sim.engine import Proc
from execbench.sim.memory import Holes, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(slots=True, eq=False)
class Space:
    """Memory that is kept while pieces come and go: its folios, its mappings, and the free bytes.

    next_fit: a piece goes behind the one before, into memory that nobody has touched since the last lap, so the caches
    do not hold it; otherwise into the lowest hole, which is the memory used last.
    """

    folios: Folios
    page: int
    """Bytes of one."""
    next_fit: bool
    text: Vma | None = None
    alias: Vma | None = None
    holes: Holes = field(default_factory=Holes)
    cursor: int = 0
    entered_last: int = -1
    """The page that the last piece ended in."""

    def __post_init__(self) -> None:
        """Everything is free."""
        self.holes.give(0, self.size)

    @property
    def size(self) -> int:
        """Bytes, free or not."""
        return self.folios.pages * self.page

    def place(self, size: int, align: int) -> int | None:
        """Take `size` bytes; return their offset, None if no hole fits."""
        fit = self.holes.first_fit(self.cursor if self.next_fit else 0, self.size, size, align)
        if fit is None and self.next_fit:
            fit = self.holes.first_fit(0, self.size, size, align)
        if fit is None:
            return None
        self.holes.take(fit.start, fit.start + size)
        self.cursor = fit.start + size
        return fit.start

    def entered(self, offset: int, size: int) -> int:
        """Return how many pages are touched for the first time in a while by writing there, one piece after another."""
        if not self.next_fit:
            return 0
        first, last = offset // self.page, (offset + size - 1) // self.page
        n = last - first + (first != self.entered_last)
        self.entered_last = last
        return n


@dataclass(slots=True, eq=False)
class Group:
    """Regions published together, one behind the other from `va` on: in a space, or in a mapping of their own."""

    va: int
    size: int
    space: Space | None = None
    offset: int = 0
    vma: Vma | None = None
    """The mapping that the group has for itself: of its text, or an alias to write through."""
    at: VmArea | None = None
    """An address kept for a mapping to come."""
    live: int = 0

    def file_page(self, va: int) -> tuple[Folios, int]:
        """Return the memfd of the group's space and the page of it that holds the text at `va`."""
        assert self.space is not None
        return self.space.folios, (self.offset + va - self.va) // self.space.page

    def entered(self, va: int, size: int) -> tuple[int, bool]:
        """Return how many cold pages a piece at `va` enters, and whether its memory is cold at all."""
        if self.space is None:
            return 0, False
        return self.space.entered(self.offset + va - self.va, size), self.space.next_fit

    def release(self, va: int, size: int) -> None:
        """Give bytes of the group back to its space."""
        assert self.space is not None
        start = self.offset + va - self.va
        self.space.holes.give(start, start + size)


class Heap:
    """State of a backend of user space: its process, its spaces, and its totals (bytes)."""

    __slots__ = ("asked", "idle", "mm", "next_fit", "regions", "reserved", "space_pages", "spaces")

    def __init__(self, shared: Shared, space_bytes: int = 1, next_fit: bool = False) -> None:
        """A process that has mapped nothing yet."""
        self.mm = Mm(shared)
        self.space_pages = shared.geometry.pages_of(space_bytes)
        self.next_fit = next_fit
        self.spaces: list[Space] = []
        self.idle: list[Vma] = []
        """Mappings that wait for the next group."""
        self.asked = self.reserved = self.regions = 0

    def place(
        self, k: Kernel, size: int, align: int, make: Callable[[Kernel, Heap, int], Proc[Space]]
    ) -> Proc[tuple[Space, int]]:
        """Find room in a space, or make another: `make(k, self, pages)` maps it as the backend does."""
        yield from k.settle()
        for space in self.spaces:
            offset = space.place(size, align)
            if offset is not None:
                return space, offset
        space = yield from make(k, self, max(self.space_pages, k.pages_of(size)))
        offset = space.place(size, align)
        assert offset is not None
        self.spaces.append(space)
        self.reserved += space.size
        return space, offset

    def take(self, reqs: Sequence[Request], group: Group) -> tuple[Region, ...]:
        """Return the regions of a group, in the order of their requests."""
        regions, va = [], group.va
        for req in reqs:
            self.regions += 1
            self.asked += req.size
            regions.append(Region(self.regions, va, req.size, lines(req.size), req.kind, group))
            va += lines(req.size)
        group.live = len(regions)
        return tuple(regions)

    def give(self, region: Region) -> bool:
        """Take a region back; say whether it was the last of its group."""
        group: Group = region.own
        self.asked -= region.size
        group.live -= 1
        return not group.live

    def take_idle(self, pages: int) -> Vma | None:
        """Return the mapping that has waited longest of those that are large enough, if there is one."""
        for i, vma in enumerate(self.idle):
            if vma.area.pages >= pages:
                return self.idle.pop(i)
        return None

    def usage(self) -> Usage:
        """Return the memory held: whole spaces and mappings; all that nobody asked for is waste.

        Leaves are the pages that are mapped executable, whether somebody has fetched from them yet or not.
        """
        return Usage(self.asked, self.reserved, self.reserved - self.asked, (self.mm.text_pages, 0))


def lines(size: int) -> int:
    """Return what a piece of `size` bytes takes: whole cache lines."""
    return -(-size // LINE) * LINE


def size_of(reqs: Iterable[Request]) -> int:
    """Return what a group takes."""
    return sum(lines(req.size) for req in reqs)


def groups_of(regions: Iterable[Region]) -> list[Group]:
    """Return the groups of some regions, each once, in order."""
    return list(dict.fromkeys(region.own for region in regions))
