"""Events that sinks may listen to: one slot per event, `None` while nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EVENTS = ("op", "phase", "call", "spend", "wait", "hold", "ipi", "flush", "gp", "map", "store", "gauge")
"""Names of the events; a sink is an object whose public methods are named after the events that it wants."""

Listener = Callable[..., None]


class Probe:
    """One slot per event: call it when it is not None; times passed are settled ns."""

    __slots__ = EVENTS

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
