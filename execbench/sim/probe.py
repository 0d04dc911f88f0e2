"""Events that sinks may listen to: one slot per event, `None` while nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

TOLD: Final = (
    "alias", "call", "fact", "fetch", "flush", "freed", "icache", "lock", "map", "reach", "serialize", "spend",
    "store", "unreach", "window",
)  # fmt: skip
"""Events of a task's own plan: told by execbench.kernel.facade, which spares the telling while nobody listens.

t is the time (ns) at which it happened. call(t, task, primitive, units); spend(t, task, cost, n, ns). lock(t, task,
lock, kind, taken): acquired or released, in the order of the program; fact(t, task, event, fields): one of
the following, at once and so in the order of the program too, t being the start of the plan. Facts for auditors:
map(t, task, area, first page, pages, perm): a mapping at the text's own address now has this protection;
"none" = absent. alias(t, task, kind, pfn, pages, perm): the direct map. window(t, task, kind, va, size, open):
a temporary writable alias of text; kind "mm" (this CPU only), "fixmap" (every CPU), "user". store(t, task, va, size,
content, through): bytes written to text at `va`; content "code", "trap" (a fill that traps), "site" (one live
instruction; va 0 = not modelled); through "text", "direct-map", "mm", "fixmap", "user". flush(t, task, t0, va, pages,
how, caller): a TLB flush that began at t0 is complete; pages 0 = everything; how "ipi", "broadcast", "rfence",
"mm" (here, of a process that no other CPU runs), "local".
serialize(t, task, t0, cpus, why): a forced context-synchronizing event between t0 and t on "all", "others" or "self".
icache(t, task, t0, va, size, how): maintenance of the instruction cache; size 0 = everything; how "ic-ivau",
"fence.i-all", "fence.i-local". fetch(t, task, region): the task enters text. reach(t, task, region, via, inside).
unreach(t, task, region). freed(t, task, area): the frames of an area went back.
"""
EVENTS: Final = (*TOLD, "gp", "hold", "ipi", "wait")
"""All events; a sink is an object whose public methods are named after the events that it wants.

gp(t, flavour, seq, what, n); hold(t0, t1, task, lock, site); ipi(t0, t1, task, why, targets); wait(t0, t1, task, kind,
object, site, in a verb). Operations and their phases go to the recorder (execbench.kernel.operation).
"""

Listener = Callable[..., None]


class Probe:
    """One slot per event: call it when it is not None; times passed are ns."""

    __slots__ = (*EVENTS,)

    alias: Listener | None
    call: Listener | None
    fact: Listener | None
    fetch: Listener | None
    flush: Listener | None
    freed: Listener | None
    gp: Listener | None
    hold: Listener | None
    icache: Listener | None
    ipi: Listener | None
    lock: Listener | None
    map: Listener | None
    reach: Listener | None
    serialize: Listener | None
    spend: Listener | None
    store: Listener | None
    unreach: Listener | None
    wait: Listener | None
    window: Listener | None

    def __init__(self) -> None:
        """Start with every slot empty."""
        for event in EVENTS:
            setattr(self, event, None)

    @property
    def told(self) -> bool:
        """Whether somebody listens to what a task tells of its plan."""
        return any(getattr(self, event) is not None for event in TOLD)

    def attach(self, sink: Any) -> None:
        """Let `sink` hear every event that one of its public methods is named after, behind earlier sinks."""
        for event in EVENTS:
            heard = getattr(sink, event, None)
            if heard is not None:
                setattr(self, event, _both(getattr(self, event), heard))


def _both(first: Listener | None, second: Listener) -> Listener:
    if first is None:
        return second

    def both(*fields: Any) -> None:
        first(*fields)
        second(*fields)

    return both
