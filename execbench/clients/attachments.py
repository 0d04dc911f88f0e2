"""What BPF programs are attached to: each kind of place, how one more gets there, and how the oldest one leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Protocol

from execbench.contract import Proc, Region, Setting
from execbench.kernel.bpf_dispatcher import Dispatcher
from execbench.kernel.bpf_link import LinkIds
from execbench.kernel.bpf_prog_array import ProgArray
from execbench.kernel.bpf_struct_ops import (
    MAP_LOCK,
    MEMBER,
    StructOps,
    map_alloc,
    map_free,
    most_members,
    unreg,
    update_elem,
)  # fmt: skip
from execbench.kernel.bpf_trampoline import Trampolines
from execbench.kernel.tracepoint import Tracepoint, Tracepoints, call_behind_probes

if TYPE_CHECKING:
    from execbench.clients.bpf_attach import BpfAttach
    from execbench.kernel.facade import Kernel
    from execbench.kernel.operation import Operation

_MOST = 38
"""Programs on one trampoline (include/linux/bpf.h: BPF_MAX_TRAMP_LINKS)."""


class Attachment(Protocol):
    """One kind of place for programs; `row` are the operation's uniforms."""

    attach_kind: str
    detach_kind: str

    def attach(self, k: Kernel, row: Sequence[float]) -> Proc[None]:
        """Attach one more program."""

    def detaches(self, row: Sequence[float]) -> bool:
        """Whether one is detached behind that."""

    def detach(self, k: Kernel) -> Proc[None]:
        """Detach the oldest one."""


class Common:
    """What all kinds share: trampolines, identifiers of links, the setting."""

    def __init__(self, params: BpfAttach, setting: Setting) -> None:
        """Declare what every kind may need."""
        self.params, self.setting = params, setting
        self.links = LinkIds(setting.shared)
        self._ends = count()
        self.trampolines = Trampolines(
            setting.shared, setting, lambda k, size: k.spend("client.bpf-attach.generate_byte", size),
            partial(self.deferred, "image-free"), self.publish,
        )  # fmt: skip

    def publish(self, k: Kernel, region: Region, via: str, inside: str) -> Proc[None]:
        """Say that text is reachable by `via`, whose patches the kernel has made; or take the path the run asks for."""
        if self.setting.publication is None:
            k.expose(region, via, inside)
        else:
            yield from self.setting.publish(k, region, via, inside)

    def deferred(self, kind: str) -> Operation:
        """Return the operation to which the end of an image or a map is charged."""
        return self.setting.operation("bpf-attach", kind, next(self._ends), self.setting.shared.machine.engine.now,
                                      "deferred")  # fmt: skip


class Fentry:
    """Programs at the entry of kernel functions, some at their exit (bpf_tracing_prog_attach)."""

    attach_kind, detach_kind = "fentry-attach", "fentry-detach"

    def __init__(self, common: Common) -> None:
        """Begin with nothing attached."""
        self._common = common
        self._attached: deque[tuple[int, int, int]] = deque()
        self._programs = count()

    def attach(self, k: Kernel, row: Sequence[float]) -> Proc[None]:
        """BPF_LINK_CREATE: identifier, then the trampoline of the function drawn."""
        params, trampolines = self._common.params, self._common.trampolines
        k.spend("client.bpf-attach.link_fixed")
        link = yield from self._common.links.alloc(k)
        function = int(row[0] * params.functions)
        while len(trampolines.at(function).programs) >= _MOST:
            function = (function + 1) % params.functions
        program = next(self._programs)
        yield from trampolines.link_prog(k, function, program, at_exit=row[1] < params.exits)
        self._attached.append((function, program, link))

    def detaches(self, row: Sequence[float]) -> bool:
        """Always: as many stay attached as before."""
        return True

    def detach(self, k: Kernel) -> Proc[None]:
        """bpf_link_free: identifier, then the trampoline; the link itself is freed at once."""
        function, program, link = self._attached.popleft()
        k.spend("client.bpf-attach.release_fixed")
        yield from self._common.links.remove(k, link)
        yield from self._common.trampolines.unlink_prog(k, function, program)
        k.spend("kfree")


class RawTracepoint:
    """Programs at raw tracepoints (bpf_raw_tp_link_attach)."""

    attach_kind, detach_kind = "raw-tp-attach", "raw-tp-detach"

    def __init__(self, common: Common) -> None:
        """Begin with nothing attached."""
        self._common, params = common, common.params
        self._state = Tracepoints()
        self._points = [Tracepoint(params.call_sites, params.key_sites) for _ in range(params.tracepoints)]
        self._attached: deque[tuple[Tracepoint, int]] = deque()

    def attach(self, k: Kernel, row: Sequence[float]) -> Proc[None]:
        """BPF_RAW_TRACEPOINT_OPEN: identifier, then the probe."""
        k.spend("client.bpf-attach.link_fixed")
        link = yield from self._common.links.alloc(k)
        point = self._points[int(row[0] * len(self._points))]
        k.phase("probe")
        yield from self._state.probe_register(k, point)
        self._attached.append((point, link))

    def detaches(self, row: Sequence[float]) -> bool:
        """Always: as many stay attached as before."""
        return True

    def detach(self, k: Kernel) -> Proc[None]:
        """bpf_link_free: identifier, probe; the link is freed behind a grace period (bpf_link_defer_dealloc)."""
        point, link = self._attached.popleft()
        k.spend("client.bpf-attach.release_fixed")
        yield from self._common.links.remove(k, link)
        k.phase("probe")
        yield from self._state.probe_unregister(k, point)
        yield from call_behind_probes(k)


class Xdp:
    """Programs on network devices, called through the dispatcher (dev_xdp_install, bpf_prog_change_xdp)."""

    attach_kind, detach_kind = "xdp-attach", "xdp-detach"

    def __init__(self, common: Common) -> None:
        """Begin with an empty dispatcher."""
        self._common = common
        self._dispatcher = Dispatcher(common.setting, common.params.dispatcher_sites, common.publish)
        self._dispatcher.declare(common.setting.shared)
        self._links: deque[int] = deque()

    def attach(self, k: Kernel, row: Sequence[float]) -> Proc[None]:
        """Identifier, then the dispatcher."""
        k.spend("client.bpf-attach.link_fixed")
        self._links.append((yield from self._common.links.alloc(k)))
        k.phase("dispatcher")
        yield from self._dispatcher.change_prog(k, 1)

    def detaches(self, row: Sequence[float]) -> bool:
        """Always: as many stay attached as before."""
        return True

    def detach(self, k: Kernel) -> Proc[None]:
        """Identifier, then the dispatcher."""
        k.spend("client.bpf-attach.release_fixed")
        yield from self._common.links.remove(k, self._links.popleft())
        k.phase("dispatcher")
        yield from self._dispatcher.change_prog(k, -1)


class TailCall:
    """Programs in slots of a program array (BPF_MAP_UPDATE_ELEM)."""

    attach_kind, detach_kind = "tail-call-update", "tail-call-delete"

    def __init__(self, common: Common) -> None:
        """Begin with empty slots."""
        self._params = common.params
        self._array = ProgArray(common.params.pokes)
        self._array.declare(common.setting.shared)

    def attach(self, k: Kernel, row: Sequence[float]) -> Proc[None]:
        """Put a program into the slot drawn."""
        k.spend("client.bpf-attach.map_update")
        yield from self._array.update(k, int(row[0] * self._params.slots))

    def detaches(self, row: Sequence[float]) -> bool:
        """By chance: most updates replace."""
        return row[1] < self._params.deletes and bool(self._array.filled)

    def detach(self, k: Kernel) -> Proc[None]:
        """Empty the slot that was filled first."""
        k.spend("client.bpf-attach.map_update")
        yield from self._array.delete(k)


class StructOpsMaps:
    """Structures of functions (BPF_MAP_CREATE, _UPDATE_ELEM, _DELETE_ELEM): schedulers, congestion control."""

    attach_kind, detach_kind = "struct-ops-attach", "struct-ops-detach"

    def __init__(self, common: Common) -> None:
        """Begin with none; ValueError if a map cannot hold the trampolines of so many members."""
        self._common = common
        most = most_members(common.setting.shared)
        if common.params.members > most:
            raise ValueError(f"members: at most {most}, as many trampolines as the pages of a map hold on this machine")
        common.setting.shared.declare(MAP_LOCK)
        self._maps: deque[StructOps] = deque()
        self._ends = count()

    def attach(self, k: Kernel, row: Sequence[float]) -> Proc[None]:
        """Make the map, then its trampolines, and register."""
        k.spend("client.bpf-attach.map_update")
        ops = yield from map_alloc(k)
        sizes = [MEMBER] * self._common.params.members
        yield from update_elem(
            k, self._common.trampolines, ops, sizes, lambda k: k.spend("client.bpf-attach.struct_ops_reg")
        )  # fmt: skip
        self._maps.append(ops)

    def detaches(self, row: Sequence[float]) -> bool:
        """Always: as many stay attached as before."""
        return True

    def detach(self, k: Kernel) -> Proc[None]:
        """Unregister; the map is freed by a worker that may sleep for long (bpf_map_free_deferred, unbound)."""
        k.spend("client.bpf-attach.map_update")
        k.spend("client.bpf-attach.struct_ops_reg")
        ops = self._maps.popleft()
        unreg(k, ops)
        yield from k.settle()
        self._common.setting.spawn(
            f"bpf-attach/map-free/{next(self._ends)}", 0, partial(self._map_free, ops=ops), k.now
        )  # fmt: skip

    def _map_free(self, k: Kernel, ops: StructOps) -> Proc[None]:
        k.begin(self._common.deferred("map-free"), "bpf_struct_ops_map_free")
        k.task.site = "bpf_map_free_deferred"
        yield from map_free(k, self._common.trampolines, ops)
        k.end()


KINDS: dict[str, type[Attachment]] = {
    "fentry": Fentry, "raw_tp": RawTracepoint, "xdp": Xdp, "tail_call": TailCall, "struct_ops": StructOpsMaps,
}  # fmt: skip
"""By the name of the parameter that gives their weight."""
