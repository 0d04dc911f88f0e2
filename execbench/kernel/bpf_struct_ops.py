"""struct_ops: a kernel structure of functions, each a trampoline to one BPF program (kernel/bpf/bpf_struct_ops.c)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.kernel.bpf_trampoline import PAGE_IMAGES, Trampolines, image_size
from execbench.kernel.phases import verb
from execbench.kernel.text import Image, Region, Request, TextKind
from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

MAP_LOCK: Final = LockKind("bpf_struct_ops_map.lock", "mutex", "kernel/bpf/bpf_struct_ops.c: st_map->lock")
MEMBER: Final = image_size(1, False)
"""Bytes of the trampoline of one member: it calls one program, and no function that was there before."""
MOST_PAGES: Final = 8
"""Pages of trampolines that a map may take (MAX_TRAMP_IMAGE_PAGES); on 6.1 it is one."""
_SAFETY: Final = 64
"""Bytes that 6.1 keeps free behind the last one on x86_64 (arch/x86/net/bpf_jit_comp.c: BPF_INSN_SAFETY); later they
are part of a trampoline's size."""


@dataclass(slots=True, eq=False)
class StructOps:
    """struct bpf_struct_ops_map: its pages of trampolines, and the symbols that were added for it.

    `page`: its one page is the module area's, taken with the map (6.1), and not memory of the allocator of programs.
    """

    page: bool
    regions: list[Region] = field(default_factory=list)
    symbols: int = 0


def most_members(k: Shared) -> int:
    """Return how many trampolines the pages of a map hold; the kernel refuses one more."""
    page = k.geometry.page
    if k.release.name in PAGE_IMAGES:
        return (page - _SAFETY * (k.arch.name == "x86_64")) // MEMBER
    return MOST_PAGES * (page // MEMBER)


def map_alloc(k: Kernel) -> Proc[StructOps]:
    """Make a map; on 6.1 with the page of all its trampolines (bpf_struct_ops_map_alloc)."""
    k.count("bpf_struct_ops_map_alloc")
    k.spend("kmalloc", 3)  # the map, its value as user space sees it, links
    ops = StructOps(k.release.name in PAGE_IMAGES)
    if ops.page:
        piece = yield from k.execmem_alloc(1, TextKind.BPF)
        ops.regions.append(Region(0, piece.va, piece.size, piece.size, TextKind.BPF, piece))
    else:
        k.spend("kmalloc")  # symbols
    return ops


def update_elem(
    k: Kernel, trampolines: Trampolines, ops: StructOps, sizes: Sequence[int], reg: Callable[[Kernel], None]
) -> Proc[None]:
    """Make a trampoline of each size (bytes), then register by `reg` (bpf_struct_ops_map_update_elem).

    That is done under the map's lock; the symbols of the trampolines, which 6.1 has not, are added behind it.
    """
    k.count("bpf_struct_ops_map_update_elem", len(sizes))
    fill = _fill_page if ops.page else _fill_pages
    with (yield from k.lock("bpf_struct_ops_map.lock")):
        yield from fill(k, trampolines, ops, sizes)
        reg(k)
        for region in ops.regions:
            yield from trampolines.publish(k, region, "pointer", "rcu+tasks")
    ops.symbols = 0 if ops.page else len(sizes)
    for _ in range(ops.symbols):
        yield from trampolines.ksym_add(k)


def _fill_page(k: Kernel, trampolines: Trampolines, ops: StructOps, sizes: Sequence[int]) -> Proc[None]:
    """6.1: one trampoline behind the other, written in place; then the page is made RO, then X."""
    (page,) = ops.regions
    offset = 0
    for size in sizes:
        k.spend("kmalloc")  # link
        yield from trampolines.emit_in_place(k, page.va + offset, size, page.size - offset)
        offset += size
    yield from k.set_memory_ro(page.own.area)
    yield from k.set_memory_x(page.own.area)


def _fill_pages(k: Kernel, trampolines: Trampolines, ops: StructOps, sizes: Sequence[int]) -> Proc[None]:
    """Since 6.9: trampolines fill pages of the allocator of programs (bpf_struct_ops_prepare_trampoline).

    Each is measured, then emitted into a buffer of its own and written behind the one before; one that does not fit
    into the rest begins the next page. When all are there each page is finished (arch_protect_bpf_trampoline).
    """
    memory, left = trampolines.memory, 0
    for size in sizes:
        k.spend("kmalloc", 2)  # link, symbol
        yield from trampolines.measure(k, size)
        if size > left:
            ops.regions += yield from verb(k, "image", memory.alloc(k, [Request(k.page_size, TextKind.BPF)]))
            left = k.page_size
        page = ops.regions[-1]
        k.spend("kmalloc")
        trampolines.generate(k, size)
        yield from verb(k, "image", memory.write(k, page, Image(page.id, size)))
        k.spend("kfree")
        left -= size
    for page in ops.regions:
        yield from verb(k, "image", memory.finalize(k, (page,)))


def unreg(k: Kernel, ops: StructOps) -> None:
    """Take the structure out of reach (bpf_struct_ops_map_delete_elem, st_ops->unreg)."""
    k.count("bpf_struct_ops_map_delete_elem")
    for region in ops.regions:
        k.retire(region)


def map_free(k: Kernel, trampolines: Trampolines, ops: StructOps) -> Proc[None]:
    """Take the symbols away, wait for both kinds of readers at once, give the pages back (bpf_struct_ops_map_free)."""
    for _ in range(ops.symbols):
        yield from trampolines.ksym_del(k)
    yield from synchronize_rcu_mult(k)
    k.phase("bpf_struct_ops_map_free_image")
    for region in ops.regions:
        if ops.page:
            yield from k.execmem_free(region.own)
        else:
            yield from trampolines.memory.free(k, (region,))


def synchronize_rcu_mult(k: Kernel) -> Proc[None]:
    """Wait until a callback of either flavour has run: call_rcu and call_rcu_tasks, queued together."""
    k.count("synchronize_rcu_mult")
    left = 2

    def done() -> None:
        nonlocal left
        left -= 1
        if not left and k.task.asleep is not None:
            k.task.wake(k.now)

    yield from k.call_rcu(done)
    yield from k.call_rcu_tasks(done)
    yield from k.settle()
    if left:
        yield from k.task.block()
