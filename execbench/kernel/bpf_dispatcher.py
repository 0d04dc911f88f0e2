"""The XDP dispatcher: a tree of direct calls in place of an indirect one (kernel/bpf/dispatcher.c; x86_64 only)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from execbench.kernel.bpf_trampoline import BPF_LOCK
from execbench.kernel.ftrace import TextMemory
from execbench.kernel.static_call import static_call_update
from execbench.kernel.text import Image, Region, Request, TextKind
from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

DISPATCHER_MUTEX: Final = LockKind("bpf_dispatcher.mutex", "mutex", "kernel/bpf/dispatcher.c: bpf_dispatcher.mutex")
PAGE: Final = 4096
MAX: Final = 48
"""Programs that fit into half a page (BPF_DISPATCHER_MAX); what is beyond is called indirectly."""
_MODULE_RW: Final = ("6.1", "6.12", "6.18")
"""Releases whose writable copy is a page of the module area; 7.3 takes data (vzalloc), for its execmem gives BPF pages
that are read-only. 6.18 was not read: its execmem does not."""


class LiveMemory(TextMemory, Protocol):
    """Memory whose finished text may be written again: an execbench.contract.Setting."""

    @property
    def rewrites(self) -> bool:
        """Whether it has a way of its own to do that; else the kernel's for BPF text is taken."""

    def rewrite(self, k: Kernel, region: Region, image: Image) -> Proc[None]:
        """Write over live text."""


@dataclass(slots=True, eq=False)
class Dispatcher:
    """struct bpf_dispatcher: its page, two halves of which take turns, and how many programs it calls."""

    memory: LiveMemory
    sites: int
    """Inline call sites of its static call, besides the trampoline."""
    publish: Callable[[Kernel, Region, str, str], Proc[None]] | None = None
    """How its page becomes reachable, if not as the kernel does it."""
    region: Region | None = None
    half: int = 0
    programs: int = 0
    _live: Region | None = None
    _finished: bool = False

    def declare(self, shared: Shared) -> None:
        """Declare its locks."""
        shared.declare(DISPATCHER_MUTEX)
        shared.declare(BPF_LOCK)

    def change_prog(self, k: Kernel, more: int) -> Proc[None]:
        """Add a program (1) or remove one (-1), then wait until the other half is left (bpf_dispatcher_change_prog).

        On arm64 and riscv64 nothing can be prepared (arch_prepare_bpf_dispatcher) and nobody calls the dispatcher, so
        that all ends with the page; but when the last program goes there is nothing to prepare, and that is waited for.
        """
        with (yield from k.lock("bpf_dispatcher.mutex")):
            k.count("bpf_dispatcher_change_prog")
            yield from k.settle()
            if self.region is None:
                self.region = yield from self._image(k)
            before, self.programs = self.programs, self.programs + more
            if max(before, self.programs) <= MAX:
                yield from self._update(k, before)

    def _image(self, k: Kernel) -> Proc[Region]:
        (region,) = yield from self.memory.alloc(k, [Request(PAGE, TextKind.BPF)])
        if k.release.name in _MODULE_RW:
            yield from k.execmem_alloc(1, TextKind.BPF)
        else:
            yield from k.vmalloc_data(PAGE)
        with (yield from k.lock("bpf_lock")):
            k.count("bpf_ksym_add")
        return region

    def _update(self, k: Kernel, before: int) -> Proc[None]:
        """bpf_dispatcher_update: fill the half not in use, let the static call go there, wait until the other is left.

        The first program goes into the half at the beginning.
        """
        k.count("bpf_dispatcher_update", max(self.programs, 1))
        if k.arch.name != "x86_64":
            if not self.programs:
                yield from k.synchronize_rcu()
            return
        self.half = self.half ^ 1 if before else 0
        old, self._live = self._live, None
        if self.programs:
            self._live = yield from self._copy(k)
        yield from static_call_update(k, 1 + self.sites)
        if old is not None:
            k.retire(old)
        if self._live is not None:
            yield from self._publish(k, self._live)
        yield from k.synchronize_rcu()

    def _publish(self, k: Kernel, half: Region) -> Proc[None]:
        if self.publish is None:
            k.expose(half, "text-poke", "rcu")
        else:
            yield from self.publish(k, half, "text-poke", "rcu")

    def _copy(self, k: Kernel) -> Proc[Region]:
        """Write half a page; what is returned is that half, for text is reached and left by halves."""
        region = self.region
        assert region is not None
        k.spend("copy_byte", PAGE // 2)  # into the writable copy
        offset = self.half * (PAGE // 2)
        image = Image(region.id, PAGE // 2)
        if not self._finished:  # the page comes with its first half
            self._finished = True
            yield from self.memory.write(k, region, image)
            yield from self.memory.finalize(k, (region,))
        elif self.memory.rewrites:
            yield from self.memory.rewrite(k, region, image)
        else:
            yield from k.bpf_arch_text_copy(region.va + offset, PAGE // 2)
        return Region(region.id, region.va + offset, PAGE // 2, PAGE // 2, region.kind, region.own)
