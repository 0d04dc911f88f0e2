"""Identifiers of BPF links, and what taking the last one out of a node of their tree defers (kernel/bpf/syscall.c)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

LINK_IDR_LOCK: Final = LockKind("link_idr_lock", "spinlock", "kernel/bpf/syscall.c: link_idr_lock")
_NODE: Final = 64
"""Slots of a node (include/linux/xarray.h: XA_CHUNK_SIZE)."""


class LinkIds:
    """link_idr: identifiers given out in turn (idr_alloc_cyclic); of the tree only the lowest level is modelled."""

    def __init__(self, shared: Shared) -> None:
        """Begin without any, as at boot."""
        shared.declare(LINK_IDR_LOCK)
        self._next = 1
        self._nodes: Counter[int] = Counter()

    def alloc(self, k: Kernel) -> Proc[int]:
        """Return a new identifier (bpf_link_prime: bpf_link_alloc_id)."""
        with (yield from k.lock("link_idr_lock")):
            k.count("bpf_link_prime")
            k.spend("kmalloc")
            number, self._next = self._next, self._next + 1
            self._nodes[number // _NODE] += 1
        return number

    def remove(self, k: Kernel, number: int) -> Proc[None]:
        """Give one back; a node that is empty then is freed behind a grace period (bpf_link_free_id: delete_node)."""
        with (yield from k.lock("link_idr_lock")):
            k.count("bpf_link_free_id")
            node = number // _NODE
            self._nodes[node] -= 1
            empty = not self._nodes[node]
        if empty:
            del self._nodes[node]
            yield from k.call_rcu(lambda: None)
