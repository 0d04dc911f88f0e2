"""user-mmap: text of user space in mappings that are executable from the start, or made when it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import Image, Proc, Region, Request, Support, TextKind, Usage
from execbench.kernel import user, user_text
from execbench.kernel.user_heap import Group, Heap, Space, groups_of, size_of

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class UserMmap:
    """Written by pwrite to the memfd behind it, or by plain stores; in a fresh mapping, or in one that stays.

    pwrite, fresh: written, then mapped, only then executable; unmapped when freed (alloc-write-map). pwrite, once: into
    what is mapped read-only and executable. store: the mapping is writable and executable at once, which many systems
    forbid. What stays (all but store, fresh) comes in spaces of `arena` bytes; `place`: behind the last piece, which is
    memory that the caches do not hold, or the lowest that is free.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"), kinds=(TextKind.USER,), sub_page=True,
        shipped=("6.1", "6.12", "6.18", "7.3"), source="mm/mmap.c, mm/memfd.c",
    )  # fmt: skip
    through: Literal["pwrite", "store"] = "pwrite"
    mapping: Literal["fresh", "once"] = "fresh"
    arena: int = field(default=1 << 20, metadata={"unit": "size"})
    place: Literal["next", "lowest"] = "next"

    def __post_init__(self) -> None:
        """Refuse an empty arena."""
        if self.arena < 1:
            raise ValueError("arena: at least one page")

    @property
    def wx(self) -> bool:
        """Whether its text is writable and executable at once."""
        return self.through == "store"

    def start(self, k: Shared) -> Heap:
        """A process that has mapped nothing yet."""
        return Heap(k, self.arena, self.place == "next")

    def alloc(self, k: Kernel, s: Heap, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """One address for the group: in a mapping that stays, in a fresh one, or where one will be."""
        size = size_of(reqs)
        if self.mapping == "once":
            space, offset = yield from s.place(k, size, 1, self._mapped)
            assert space.text is not None
            return s.take(reqs, Group(space.text.text + offset, size, space, offset))
        if self.through == "store":
            vma = yield from user.mmap(k, s.mm, k.pages_of(size), "rw-x")
            s.reserved += vma.area.size
            return s.take(reqs, Group(vma.text, size, vma=vma))
        space, offset = yield from s.place(k, k.pages_of(size) * k.page_size, k.page_size, self._unmapped)
        at = yield from user.get_unmapped_area(k, s.mm, k.pages_of(size))
        return s.take(reqs, Group(at.va, size, space, offset, at=at))

    def _mapped(self, k: Kernel, s: Heap, pages: int) -> Proc[Space]:
        """Map memory that stays, with all its pages present (MAP_POPULATE)."""
        if self.through == "store":
            vma = yield from user.mmap(k, s.mm, pages, "rw-x")
        else:
            file = yield from user.memfd_create(k, pages)
            vma = yield from user.mmap(k, s.mm, pages, "ro-x", file=file)
        yield from user.fault_in(k, s.mm, vma, vma.text, pages * k.page_size)
        return Space(vma.folios, k.page_size, s.next_fit, vma)

    def _unmapped(self, k: Kernel, s: Heap, pages: int) -> Proc[Space]:
        file = yield from user.memfd_create(k, pages)
        return Space(file, k.page_size, s.next_fit)

    def write(self, k: Kernel, s: Heap, region: Region, image: Image) -> Proc[None]:
        """Store, or pwrite: the kernel writes through its own map."""
        group: Group = region.own
        entered, cold = group.entered(region.va, image.size)
        if self.through == "store":
            vma = s.mm.text_at(region.va)
            assert vma is not None
            yield from user_text.store_user(k, s.mm, vma, region.va, image.size, entered, cold)
        else:
            file, page = group.file_page(region.va)
            yield from user_text.pwrite(k, s.mm, file, page, region.va, image.size, entered, cold)

    def finalize(self, k: Kernel, s: Heap, regions: Sequence[Region]) -> Proc[None]:
        """Map what has been written: the kernel sees to the caches. For what is mapped already the runtime does."""
        if self.through == "pwrite" and self.mapping == "fresh":
            for group in groups_of(regions):
                file, page = group.file_page(group.va)
                group.vma = yield from user.mmap(
                    k, s.mm, k.pages_of(group.size), "ro-x", file=file, first=page, at=group.at
                )
            return
        for region in regions:
            yield from user_text.clear_cache(k, s.mm, region.va, region.size)

    def free(self, k: Kernel, s: Heap, regions: Sequence[Region]) -> Proc[None]:
        """Unmap when the last of a group goes, after which the bytes of the file are free; else give bytes back."""
        yield from k.settle()
        for region in regions:
            group: Group = region.own
            last = s.give(region)
            if self.mapping == "once":
                group.release(region.va, region.reserved)
            elif last and self.through == "store":
                assert group.vma is not None
                yield from user.munmap(k, s.mm, group.vma)
                s.reserved -= group.vma.area.size
            elif last:
                if group.vma is not None:
                    yield from user.munmap(k, s.mm, group.vma)
                elif group.at is not None:
                    s.mm.forget(group.at)
                group.release(group.va, k.pages_of(group.size) * k.page_size)

    def usage(self, s: Heap) -> Usage:
        """Reserved are spaces and fresh mappings; what nobody asked for is waste."""
        return s.usage()
