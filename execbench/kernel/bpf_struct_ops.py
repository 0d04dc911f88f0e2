"""struct_ops: a kernel structure of functions, each a trampoline to one BPF program (kernel/bpf/bpf_struct_ops.c)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from execbench.kernel.bpf_trampoline import PAGE_IMAGES, Trampolines, image_size
from execbench.kernel.text import Region
from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

MAP_LOCK: Final = LockKind("bpf_struct_ops_map.lock", "mutex", "kernel/bpf/bpf_struct_ops.c: st_map->lock")


@dataclass(slots=True, eq=False)
class StructOps:
    """A registered map: its trampolines' text."""

    regions: tuple[Region, ...]
    page: bool


def update_elem(k: Kernel, trampolines: Trampolines, members: int, reg: Callable[[Kernel], None]) -> Proc[StructOps]:
    """Make a trampoline for each member that has a program, then register by `reg`: bpf_struct_ops_map_update_elem.

    All of it is under the map's lock.

    Since 6.9 each is measured by itself and copied by itself; the kernel packs them into pages of the allocator of
    programs, the model asks for each one alone: as many copies, more allocations, less memory. On 6.1 all are in one
    page.
    """
    k.count("bpf_struct_ops_map_update_elem", members)
    size = image_size(1, False)
    page = k.release.name in PAGE_IMAGES
    regions: list[Region] = []
    with (yield from k.lock("bpf_struct_ops_map.lock")):
        if page:
            regions.append((yield from trampolines.page_image(k, size * members)))
        else:
            for _ in range(members):
                yield from trampolines.measure(k, size)
                regions.append((yield from trampolines.pack_image(k, size)))
        k.spend("kmalloc", members)
        reg(k)
        for region in regions:
            yield from trampolines.publish(k, region, "pointer", "rcu+tasks")
    return StructOps(tuple(regions), page)


def unreg(k: Kernel, ops: StructOps) -> None:
    """Take the structure out of reach (st_ops->unreg)."""
    k.count("bpf_struct_ops_map_delete_elem")
    for region in ops.regions:
        k.retire(region)


def map_free(k: Kernel, trampolines: Trampolines, ops: StructOps) -> Proc[None]:
    """Wait for both kinds of readers at once, then give the text back (bpf_struct_ops_map_free)."""
    yield from synchronize_rcu_mult(k)
    k.phase("bpf_struct_ops_map_free_image")
    for region in ops.regions:
        yield from trampolines.free_image(k, region, ops.page)


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
