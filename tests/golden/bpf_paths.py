"""What the kernel does when BPF programs are attached and detached: trampolines, the dispatcher, struct_ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.contract import Proc, Request, Setting, TextKind
from execbench.kernel.bpf_dispatcher import Dispatcher
from execbench.kernel.bpf_struct_ops import MAP_LOCK, MEMBER, StructOps, map_alloc, map_free, unreg, update_elem
from execbench.kernel.bpf_trampoline import Trampolines
from execbench.kernel.facade import Kernel
from execbench.kernel.shared import Shared

SIZES = {"one page": (MEMBER, MEMBER), "two pages": (MEMBER, 4096 - MEMBER + 1)}
"""Bytes of the trampolines of a structure's members."""
PROGRAM = 1000
FUNCTION, FIRST, SECOND = 0, 1, 2
Attachments = Mapping[str, Callable[[Kernel], Proc[Any]]]


class Attached:
    """Programs from packs, on a machine of its own."""

    def __init__(self, shared: Shared) -> None:
        backend = BpfProgPack()
        self.setting = Setting(shared, backend, backend.start(shared), 1 << 60, 0, 0, lambda _: [])
        self.trampolines = Trampolines(shared, self.setting, lambda k, size: None, self._end)
        self.dispatcher = Dispatcher(self.setting, sites=1)
        self.dispatcher.declare(shared)
        shared.declare(MAP_LOCK)
        self._maps: list[StructOps] = []

    def load(self, k: Kernel) -> Proc[None]:
        """There is a program before, so that there is a pack."""
        yield from self.setting.alloc(k, [Request(PROGRAM, TextKind.BPF)])

    def _end(self) -> Any:
        return self.setting.operation("golden", "image-free", 0, self.setting.shared.machine.engine.now, "deferred")

    def update_elem(self, k: Kernel, pages: str) -> Proc[None]:
        """BPF_MAP_CREATE, BPF_MAP_UPDATE_ELEM."""
        ops = yield from map_alloc(k)
        yield from update_elem(k, self.trampolines, ops, SIZES[pages], lambda k: None)
        self._maps.append(ops)

    def map_free(self, k: Kernel) -> Proc[None]:
        """BPF_MAP_DELETE_ELEM, then what a kworker does when the last descriptor is closed."""
        ops = self._maps.pop()
        unreg(k, ops)
        yield from map_free(k, self.trampolines, ops)


def families(arch: str, release: str) -> list[str]:
    """Return what this release has there, each for a machine of its own."""
    direct, made = arch == "x86_64" or release != "6.1", (arch, release) != ("riscv64", "6.1")
    return ["fentry"] * direct + ["xdp"] + ["struct_ops"] * made


def attachments(of: Attached, family: str) -> Attachments:
    """What a machine does, by name; each finds what the one before left, whose deferred work has been done."""
    tr, change = of.trampolines, of.dispatcher.change_prog
    if family == "fentry":
        return {
            "bpf_trampoline_link_prog, first": lambda k: tr.link_prog(k, FUNCTION, FIRST),
            "bpf_trampoline_link_prog, second": lambda k: tr.link_prog(k, FUNCTION, SECOND, at_exit=True),
            "bpf_trampoline_unlink_prog, one left": lambda k: tr.unlink_prog(k, FUNCTION, FIRST),
            "bpf_trampoline_unlink_prog, last": lambda k: tr.unlink_prog(k, FUNCTION, SECOND),
        }
    if family == "xdp":
        return {
            "bpf_dispatcher_change_prog, first": lambda k: change(k, 1),
            "bpf_dispatcher_change_prog, second": lambda k: change(k, 1),
            "bpf_dispatcher_change_prog, one left": lambda k: change(k, -1),
            "bpf_dispatcher_change_prog, last": lambda k: change(k, -1),
        }
    maps: dict[str, Callable[[Kernel], Proc[Any]]] = {}
    for pages in SIZES if of.setting.shared.release.name != "6.1" else ("one page",):
        maps[f"bpf_struct_ops_map_update_elem, {pages}"] = partial(of.update_elem, pages=pages)
        maps[f"bpf_struct_ops_map_free, {pages}"] = of.map_free
    return maps
