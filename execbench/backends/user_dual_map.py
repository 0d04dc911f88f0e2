"""user-dual-map: a memfd mapped twice, read-only and executable here, writable there."""

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
class UserDualMap:
    """The executable mapping stays; the writable alias stays too, or is made and unmapped for each group.

    sync: whether a group is followed by membarrier(SYNC_CORE), so that other threads may be sent there at once; needed
    where bytes are overwritten that they may have fetched. Spaces and `place` are those of user-mmap.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"), kinds=(TextKind.USER,), sub_page=True,
        shipped=("6.1", "6.12", "6.18", "7.3"), source="mm/memfd.c, kernel/sched/membarrier.c",
    )  # fmt: skip
    alias: Literal["persistent", "temporary"] = "persistent"
    sync: Literal["none", "sync-core"] = "none"
    arena: int = field(default=1 << 20, metadata={"unit": "size"})
    place: Literal["next", "lowest"] = "next"

    def __post_init__(self) -> None:
        """Refuse an empty arena."""
        if self.arena < 1:
            raise ValueError("arena: at least one page")

    def start(self, k: Shared) -> Heap:
        """A process that has mapped nothing yet."""
        return Heap(k, self.arena, self.place == "next")

    def alloc(self, k: Kernel, s: Heap, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Room for the group where it is executable already."""
        size = size_of(reqs)
        space, offset = yield from s.place(k, size, 1, self._mapped)
        assert space.text is not None
        return s.take(reqs, Group(space.text.text + offset, size, space, offset))

    def _mapped(self, k: Kernel, s: Heap, pages: int) -> Proc[Space]:
        """Map a memfd executable, and writable if that stays, with all pages present (MAP_POPULATE)."""
        file = yield from user.memfd_create(k, pages)
        text = yield from user.mmap(k, s.mm, pages, "ro-x", file=file)
        yield from user.fault_in(k, s.mm, text, text.text, pages * k.page_size)
        if self.alias == "temporary":
            return Space(file, k.page_size, s.next_fit, text)
        alias = yield from user.mmap(k, s.mm, pages, "rw-nx", file=file, text=text.text)
        yield from user.fault_in(k, s.mm, alias, text.text, pages * k.page_size)
        return Space(file, k.page_size, s.next_fit, text, alias)

    def write(self, k: Kernel, s: Heap, region: Region, image: Image) -> Proc[None]:
        """Stores through the alias; a temporary one is made by the first write of a group."""
        group: Group = region.own
        assert group.space is not None
        alias = group.space.alias or group.vma
        if alias is None:
            file, page = group.file_page(group.va)
            pages, base = user.pages_at(s.mm, group.va, group.size)
            alias = yield from user.mmap(k, s.mm, pages, "rw-nx", file=file, first=page, text=base)
            group.vma = alias
        entered, cold = group.entered(region.va, image.size)
        yield from user_text.store_user(k, s.mm, alias, region.va, image.size, entered, cold)

    def finalize(self, k: Kernel, s: Heap, regions: Sequence[Region]) -> Proc[None]:
        """A temporary alias goes, with its flush; then caches, and the barrier if there is one."""
        for group in groups_of(regions):
            yield from self._unmap_alias(k, s, group)
        for region in regions:
            yield from user_text.clear_cache(k, s.mm, region.va, region.size)
        if self.sync == "sync-core":
            yield from user_text.membarrier_sync_core(k, s.mm)

    def _unmap_alias(self, k: Kernel, s: Heap, group: Group) -> Proc[None]:
        alias, group.vma = group.vma, None
        if alias is not None:
            yield from user.munmap(k, s.mm, alias)

    def free(self, k: Kernel, s: Heap, regions: Sequence[Region]) -> Proc[None]:
        """The bytes are free for other pieces; nothing is unmapped but the alias of what was never finished."""
        yield from k.settle()
        for region in regions:
            group: Group = region.own
            if s.give(region):
                yield from self._unmap_alias(k, s, group)
            group.release(region.va, region.reserved)

    def usage(self, s: Heap) -> Usage:
        """Reserved are whole spaces."""
        return s.usage()
