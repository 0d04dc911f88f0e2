"""Tail calls: a slot of a program array is a direct jump in every program that knows the slot (kernel/bpf/arraymap.c).

x86_64 patches these jumps; on arm64 and riscv64 a tail call reads the array, so that a store is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.kernel.bpf_text_poke import bpf_arch_text_poke
from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

POKE_MUTEX: Final = LockKind("bpf_array_aux.poke_mutex", "mutex", "kernel/bpf/arraymap.c: bpf_array_aux.poke_mutex")


@dataclass(slots=True)
class ProgArray:
    """A program array: the slots that hold a program, and how many tail calls of live programs name each slot."""

    pokes: int
    filled: dict[int, None] = field(default_factory=dict)

    def declare(self, shared: Shared) -> None:
        """Declare its lock: one for all arrays of a run."""
        shared.declare(POKE_MUTEX)

    def update(self, k: Kernel, slot: int) -> Proc[None]:
        """Put a program into a slot (bpf_fd_array_map_update_elem, bpf_arch_poke_desc_update).

        Each tail call: its jump goes to the new program; if the slot was empty, the jump around it becomes a nop.
        """
        with (yield from k.lock("bpf_array_aux.poke_mutex")):
            k.count("prog_array_map_poke_run")
            yield from k.settle()
            fresh = slot not in self.filled
            self.filled[slot] = None
            for _ in range(self._pokes(k)):
                yield from bpf_arch_text_poke(k)
                if fresh:
                    yield from bpf_arch_text_poke(k)

    def delete(self, k: Kernel) -> Proc[None]:
        """Empty the slot filled first: each tail call is jumped around first, and becomes a nop behind a grace period.

        Nothing happens if all are empty by the time that the lock is held (-ENOENT).
        """
        with (yield from k.lock("bpf_array_aux.poke_mutex")):
            k.count("prog_array_map_poke_run")
            yield from k.settle()
            if not self.filled:
                return
            del self.filled[next(iter(self.filled))]
            for _ in range(self._pokes(k)):
                yield from bpf_arch_text_poke(k)
                yield from k.synchronize_rcu()
                yield from bpf_arch_text_poke(k)

    def _pokes(self, k: Kernel) -> int:
        k.spend("list_walk", self.pokes)
        return self.pokes if k.arch.name == "x86_64" else 0
