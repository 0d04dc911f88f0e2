"""user-mprotect: text of user space is written while RW and not X, then turned read-only and executable (W^X)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from execbench.contract import Image, Proc, Region, Request, Support, TextKind, Usage
from execbench.kernel import user, user_text
from execbench.kernel.user import Vma
from execbench.kernel.user_heap import Group, Heap, groups_of, size_of

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class UserMprotect:
    """One mapping for each group, flipped as a whole: one mprotect and one flush, whatever the group holds.

    reused: a group takes the mapping of one that has been freed and flips it twice. fresh: it gets one of its own and
    gives it back, which is one flip and one munmap.
    """

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"), kinds=(TextKind.USER,), sub_page=True, writable_in_place=True,
        shipped=("6.1", "6.12", "6.18", "7.3"), source="mm/mprotect.c",
    )  # fmt: skip
    mapping: Literal["reused", "fresh"] = "reused"

    def start(self, k: Shared) -> Heap:
        """A process that has mapped nothing yet."""
        return Heap(k)

    def alloc(self, k: Kernel, s: Heap, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """A mapping that waits, made writable again, or a new one."""
        size = size_of(reqs)
        yield from k.settle()
        vma = s.take_idle(k.pages_of(size))
        if vma is None:
            vma = yield from user.mmap(k, s.mm, k.pages_of(size), "rw-nx")
            s.reserved += vma.area.size
        elif vma.perm != "rw-nx":
            yield from user.mprotect(k, s.mm, vma, "rw-nx")
        return s.take(reqs, Group(vma.text, size, vma=vma))

    def write(self, k: Kernel, s: Heap, region: Region, image: Image) -> Proc[None]:
        """Plain stores."""
        yield from user_text.store_user(k, s.mm, _mapping_of(region.own), region.va, image.size)

    def finalize(self, k: Kernel, s: Heap, regions: Sequence[Region]) -> Proc[None]:
        """mprotect(PROT_READ | PROT_EXEC) for the group; then caches, which the kernel sees to the first time only."""
        for group in groups_of(regions):
            yield from user.mprotect(k, s.mm, _mapping_of(group), "ro-x")
        for region in regions:
            yield from user_text.clear_cache(k, s.mm, region.va, region.size)

    def free(self, k: Kernel, s: Heap, regions: Sequence[Region]) -> Proc[None]:
        """The mapping of a group whose last region goes waits for another, or is unmapped."""
        yield from k.settle()
        for region in regions:
            if not s.give(region):
                continue
            vma = _mapping_of(region.own)
            if self.mapping == "reused":
                s.idle.append(vma)
            else:
                yield from user.munmap(k, s.mm, vma)
                s.reserved -= vma.area.size

    def usage(self, s: Heap) -> Usage:
        """Reserved are all mappings, those that wait too."""
        return s.usage()


def _mapping_of(group: Group) -> Vma:
    assert group.vma is not None
    return group.vma
