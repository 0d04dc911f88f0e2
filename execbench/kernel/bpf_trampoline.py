"""BPF trampolines: text between a kernel function and the programs attached to it (kernel/bpf/trampoline.c).

Left out: freplace (a program that replaces another's function) and IPMODIFY sharing with livepatch. Whoever is inside
the original function when an image with fexit programs dies is taken to be out by the end of the first grace period
(percpu_ref).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from execbench.kernel.bpf_text_poke import bpf_arch_text_poke
from execbench.kernel.ftrace import FtraceOps, TextMemory
from execbench.kernel.ftrace_direct import (
    DirectFunctions,
    modify_ftrace_direct,
    ops_of,
    register_ftrace_direct,
    unregister_ftrace_direct,
)  # fmt: skip
from execbench.kernel.rcu_chain import Counts, Flavour, add, call_rcu_chain
from execbench.kernel.text import Image, Region, Request, TextKind
from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.operation import Operation
    from execbench.kernel.shared import Shared

BPF_LOCK: Final = LockKind("bpf_lock", "spinlock", "kernel/bpf/core.c: bpf_lock (kallsyms)")
MUTEX: Final = LockKind("bpf_trampoline.mutex", "mutex", "kernel/bpf/trampoline.c: bpf_trampoline.mutex")
"""One for each trampoline, with its number behind the name."""
POOLED: Final = LockKind("trampoline_locks", "mutex", "kernel/bpf/trampoline.c: trampoline_locks (7.x)")
"""As many as _LOCKS, with their numbers behind the name."""
PAGE_IMAGES: Final = ("6.1",)
"""Releases whose images are pages of their own, made RO and X one after the other; later ones ask the allocator of
programs (arch_alloc_bpf_trampoline)."""
_SKIPS: Final = ("7.3",)
"""Releases that patch a detached program out of every image not freed yet (bpf_trampoline_skip_prog); earlier ones
patch an image with fexit programs when it is put (bpf_tramp_image_put: ip_after_call)."""
_LOCKS: Final = 32
"""Trampolines of 7.x share so many mutexes (TRAMPOLINE_LOCKS_TABLE_SIZE); earlier ones have one each."""
BASE, PER_PROGRAM, CALL_ORIG = 96, 80, 64
"""Bytes of an image: entry, saved arguments and exit; one program called (invoke_bpf_prog); the original function
called. Assumed (60 to 160, 60 to 110, 40 to 100), read off __arch_prepare_bpf_trampoline; never above a page."""


@dataclass(slots=True, eq=False)
class TrampImage:
    """struct bpf_tramp_image: its text, the programs it calls, and whether it calls the original function."""

    region: Region
    programs: set[int]
    call_orig: bool
    page: bool
    """It is a page of its own and not the allocator's under test."""


@dataclass(slots=True, eq=False)
class Trampoline:
    """struct bpf_trampoline of one function: attached programs (True: at its exit), the image in use, all not freed."""

    lock: str
    programs: dict[int, bool] = field(default_factory=dict)
    ops: FtraceOps | None = None
    image: TrampImage | None = None
    images: list[TrampImage] = field(default_factory=list)


def image_size(programs: int, call_orig: bool) -> int:
    """Return the bytes of an image that calls so many programs."""
    return BASE + PER_PROGRAM * programs + CALL_ORIG * call_orig


class Trampolines:
    """All trampolines of a kernel, by function; images come from `memory`.

    `generate(k, size)` spends what it takes to emit `size` bytes; `deferred()` returns the operation to which the end
    of an image is charged; `publish(k, region, via, inside)` makes an image reachable, if not as the kernel does.
    """

    def __init__(
        self, shared: Shared, memory: TextMemory, generate: Callable[[Kernel, int], None],
        deferred: Callable[[], Operation], publish: Callable[[Kernel, Region, str, str], Proc[None]] | None = None,
    ) -> None:  # fmt: skip
        """Begin without any, as at boot."""
        shared.declare(BPF_LOCK)
        self._shared, self.memory = shared, memory
        self.generate, self._deferred, self._publish = generate, deferred, publish
        self.direct = DirectFunctions()
        self._by_function: dict[int, Trampoline] = {}

    def at(self, function: int) -> Trampoline:
        """Return the trampoline of a function (bpf_trampoline_lookup)."""
        found = self._by_function.get(function)
        if found is None:
            kind, number = (POOLED, function % _LOCKS) if self._shared.release.name in _SKIPS else (MUTEX, function)
            lock = self._shared.declare(replace(kind, name=f"{kind.name}[{number}]"))
            found = self._by_function[function] = Trampoline(lock.kind.name)
        return found

    def link_prog(self, k: Kernel, function: int, program: int, at_exit: bool = False) -> Proc[None]:
        """Attach a program to a function's entry or exit (bpf_trampoline_link_prog)."""
        tr = self.at(function)
        with (yield from k.lock(tr.lock)):
            k.count("bpf_trampoline_link_prog")
            yield from k.settle()
            tr.programs[program] = at_exit
            yield from self._update(k, tr, "image")

    def unlink_prog(self, k: Kernel, function: int, program: int) -> Proc[None]:
        """Detach a program; 7.x patches it out of all images that still call it (bpf_trampoline_unlink_prog)."""
        tr = self.at(function)
        with (yield from k.lock(tr.lock)):
            k.count("bpf_trampoline_unlink_prog")
            yield from k.settle()
            del tr.programs[program]
            if k.release.name in _SKIPS:
                for image in list(tr.images):
                    if program in image.programs:
                        image.programs.remove(program)
                        k.count("arch_bpf_trampoline_skip")
                        yield from bpf_arch_text_poke(k)
            yield from self._update(k, tr, "smaller_image")

    def _update(self, k: Kernel, tr: Trampoline, phase: str) -> Proc[None]:
        """bpf_trampoline_update: a new image, then the call site goes to it, then the old image is put.

        `phase` is what the time in the allocator's verbs is called.
        """
        k.count("bpf_trampoline_update")
        old, new = tr.image, None
        if tr.programs:
            new = yield from self._new_image(k, tr, phase)
        k.phase("switch")
        if old is None:
            tr.ops = ops_of(k, self.direct)
            yield from register_ftrace_direct(k, self.direct, tr.ops)
        elif new is not None:
            assert tr.ops is not None
            yield from modify_ftrace_direct(k, self.direct, tr.ops)
        else:
            assert tr.ops is not None
            yield from unregister_ftrace_direct(k, self.direct, tr.ops)
        yield from k.settle()
        tr.image = new
        if new is not None:
            tr.images.append(new)
            yield from self.publish(k, new.region, "ftrace", "tasks" if new.call_orig else "trace+tasks")
        if old is not None:
            yield from self._image_put(k, tr, old)

    def publish(self, k: Kernel, region: Region, via: str, inside: str) -> Proc[None]:
        """Say that an image is reachable by `via`, whose patches have been made, or by the run's own path."""
        if self._publish is None:
            k.expose(region, via, inside)
        else:
            yield from self._publish(k, region, via, inside)

    # --- images -----------------------------------------------------------------------------------------------------

    def _new_image(self, k: Kernel, tr: Trampoline, phase: str) -> Proc[TrampImage]:
        call_orig = any(tr.programs.values())
        size = image_size(len(tr.programs), call_orig)
        page = k.release.name in PAGE_IMAGES
        if page:
            k.phase("page_image")
            region = yield from self._page_image(k, size)
        else:
            k.phase("measure")
            yield from self.measure(k, size)
            k.phase(phase)
            region = yield from self._pack_image(k, size)
        return TrampImage(region, set(tr.programs), call_orig, page)

    def measure(self, k: Kernel, size: int) -> Proc[None]:
        """Emit an image once to know its size (arch_bpf_trampoline_size).

        x86_64 must do that where the image may stand later, hence into a page of the module area that is freed at once:
        its vfree resets permissions, which purges and flushes. arm64 and riscv64 emit into nothing.
        """
        k.count("arch_bpf_trampoline_size")
        if k.arch.name != "x86_64":
            self.generate(k, size)
            return
        kind = TextKind.MODULE_DATA if k.release.name in _SKIPS else TextKind.BPF
        piece = yield from k.execmem_alloc(1, kind)
        self.generate(k, size)
        yield from k.execmem_free(piece)

    def _pack_image(self, k: Kernel, size: int) -> Proc[Region]:
        """Take an image from the allocator of programs, emit it and copy it there (arch_prepare_bpf_trampoline)."""
        (region,) = yield from self.memory.alloc(k, [Request(size, TextKind.BPF)])
        yield from self.ksym_add(k)
        self.generate(k, size)
        yield from self.memory.write(k, region, Image(region.id, size))
        yield from self.memory.finalize(k, (region,))
        return region

    def _page_image(self, k: Kernel, size: int) -> Proc[Region]:
        """Make a page of its own, emit the image into it, then set_memory_ro and set_memory_x (6.1)."""
        piece = yield from k.execmem_alloc(1, TextKind.BPF)
        yield from self.ksym_add(k)
        yield from self.emit_in_place(k, piece.va, size, piece.size)
        yield from k.set_memory_ro(piece.area)
        yield from k.set_memory_x(piece.area)
        return Region(0, piece.va, size, piece.size, TextKind.BPF, piece)

    def emit_in_place(self, k: Kernel, va: int, size: int, room: int) -> Proc[None]:
        """Emit an image where it stays, in a page that is writable still (arch_prepare_bpf_trampoline, 6.1).

        arm64 emits it once more before that, to see whether it fits into the `room` bytes, and fills all of them with
        traps (jit_fill_hole).
        """
        if k.arch.name != "x86_64":
            self.generate(k, size)
            k.store_text(va, room, "trap")
        self.generate(k, size)
        k.store_text(va, size)
        if k.arch.name != "x86_64":
            yield from k.flush_icache_range(va, size)

    def _free_image(self, k: Kernel, region: Region, page: bool) -> Proc[None]:
        """Give an image back (arch_free_bpf_trampoline; bpf_jit_free_exec on 6.1)."""
        yield from self.ksym_del(k)
        if page:
            yield from k.execmem_free(region.own)
        else:
            yield from self.memory.free(k, (region,))

    def ksym_add(self, k: Kernel) -> Proc[None]:
        """Add a symbol for an image (bpf_image_ksym_add)."""
        with (yield from k.lock("bpf_lock")):
            k.count("bpf_ksym_add")
            k.spend("list_walk")

    def ksym_del(self, k: Kernel) -> Proc[None]:
        """Take a symbol away (bpf_image_ksym_del)."""
        with (yield from k.lock("bpf_lock")):
            k.count("bpf_ksym_del")
            k.spend("list_walk")

    def _image_put(self, k: Kernel, tr: Trampoline, image: TrampImage) -> Proc[None]:
        """bpf_tramp_image_put: out of reach by now; freed by work behind two or three grace periods in a row.

        Only entry programs: tasks-trace for sleepable ones, then tasks for who is in the image. With exit programs:
        tasks (where the kernel preempts), percpu_ref_kill's own callback, tasks.
        """
        k.phase("put")
        k.count("bpf_tramp_image_put")
        k.retire(image.region)
        chain: list[Flavour] = ["trace", "tasks"]
        if image.call_orig:
            if k.release.name not in _SKIPS:
                yield from bpf_arch_text_poke(k)
            chain = ["tasks", "rcu", "tasks"]
            if self._shared.machine.flavours.tasks is None:
                chain = ["rcu", "tasks"]
        yield from call_rcu_chain(k, chain, partial(self._image_put_rcu, k, tr, image))

    def _image_put_rcu(self, k: Kernel, tr: Trampoline, image: TrampImage, counts: Counts) -> None:
        operation = self._deferred()
        add(operation.counts, counts)
        k.queue_work("__bpf_tramp_image_put_deferred", partial(self._deferred_free, tr=tr, image=image), operation)

    def _deferred_free(self, k: Kernel, tr: Trampoline, image: TrampImage) -> Proc[None]:
        """__bpf_tramp_image_put_deferred; on 7.x the image leaves the list of those not freed under the lock."""
        if k.release.name in _SKIPS:
            with (yield from k.lock(tr.lock)):
                k.spend("list_walk")
        tr.images.remove(image)
        k.phase("bpf_tramp_image_free")
        yield from self._free_image(k, image.region, image.page)
