"""Events that sinks may listen to: one slot per event, `None` while nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

EVENTS: Final = ("call", "gp", "hold", "ipi", "reach", "spend", "wait")
"""Names of the events; a sink is an object whose public methods are named after the events that it wants.

call(t, task, primitive, units); gp(t, flavour, seq, what, n); hold(t0, t1, task, lock, site); ipi(t0, t1, task, why,
targets); reach(t, task, region, via); spend(t, task, cost, n, ns); wait(t0, t1, task, kind, object, site, in a verb).
Operations and their phases go to the recorder (execbench.kernel.operation).
"""

Listener = Callable[..., None]


class Probe:
    """One slot per event: call it when it is not None; times passed are ns."""

    __slots__ = ("call", "gp", "hold", "ipi", "reach", "spend", "wait")

    call: Listener | None
    gp: Listener | None
    hold: Listener | None
    ipi: Listener | None
    reach: Listener | None
    spend: Listener | None
    wait: Listener | None

    def __init__(self) -> None:
        """Start with every slot empty."""
        for event in EVENTS:
            setattr(self, event, None)

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
