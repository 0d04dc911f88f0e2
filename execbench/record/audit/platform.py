"""What an audit must know of the machine and of the API besides the facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from execbench.kernel.arm64.set_memory import PAGE_OFFSET
from execbench.record.audit.rules import Facts, machine_facts
from execbench.sim.memory import PAGE

STATE_DECIDES: Final = frozenset({"purge_flush", "split_flush", "collapse_flush", "flush_reset_perms"})
"""Flushes that the state of memory sends, not the API: whether there is one is chance, so nobody may rely on it."""
STOPPED: Final = frozenset({"stop_machine", "aarch64_insn_patch_text", "patch_text"})
"""Reasons of a `serialize` during which no other CPU fetched anything but the stopper's loop."""
LINEAR: Final = {"arm64": PAGE_OFFSET}
"""First byte of the direct map where it is flushed by ranges of its own."""


@dataclass(frozen=True)
class Platform:
    """One machine and API.

    retries: whoever meets a trap in such text goes back and executes what is there now. page: bytes of a base page.
    """

    arch: str
    features: Mapping[str, Any] = field(default_factory=dict)
    retries: bool = False
    page: int = PAGE
    cpus: int = 0
    """CPUs of the machine; 0 if nobody says."""
    tasks_rcu: bool = True
    """Whether Tasks RCU is a flavour of its own; without CONFIG_TASKS_RCU it is RCU."""

    @property
    def facts(self) -> Facts:
        """What rules.toml says of this machine."""
        return machine_facts(self.arch, self.features)

    def flavours(self, inside: str) -> frozenset[str]:
        """Return the grace periods that outlast everybody who is inside under the protection `inside`."""
        if inside in ("tasks", "rude") and not self.tasks_rcu:
            return SUFFICIENT["rcu"] | SUFFICIENT[inside]
        return SUFFICIENT[inside]


SUFFICIENT: Final[dict[str, frozenset[str]]] = {
    "none": frozenset(),
    "rcu": frozenset({"rcu", "expedited"}),
    "tasks": frozenset({"tasks"}),
    "rude": frozenset({"rude"}),
    "trace": frozenset({"trace"}),
}
"""By what protects those inside: the flavours of which one grace period is enough."""
