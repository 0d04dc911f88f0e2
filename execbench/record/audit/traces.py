"""Facts in words, for the shortest trace behind a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from execbench.record.audit.facts import Fact
from execbench.units import show_time


def told(trace: Sequence[Fact], page: int) -> tuple[str, ...]:
    """Return one line per fact: time since the first, who, what; `page` is the base page in bytes."""
    if not trace:
        return ()
    begin = trace[0].t
    return tuple(f"+{show_time(fact.t - begin)} {_who(fact)}: {_what(fact, page)}" for fact in trace)


def _who(fact: Fact) -> str:
    task = fact.task
    name = getattr(task, "name", task)
    cpu = getattr(getattr(task, "cpu", None), "id", None)
    return f"{name}" if cpu is None else f"{name} on CPU {cpu}"


def _what(fact: Fact, page: int) -> str:
    fields: Any = fact.fields
    match fact.event:
        case "map":
            area, first, pages, perm = fields
            where = _span(area.va + first * page, pages * page)
            return f"unmaps {where}" if perm == "none" else f"maps {where} {perm}"
        case "alias":
            _, pfn, pages, perm = fields
            return f"makes the direct map of frames {pfn} to {pfn + pages - 1} {perm}"
        case "window":
            kind, va, size, opened = fields
            return f"{'opens' if opened else 'closes'} an alias of {_span(va, size)} ({kind})"
        case "store":
            va, size, content, through = fields
            return f"stores {content} at {_span(va, size)} through {through}"
        case "reach":
            region, via, inside = fields
            return f"publishes {_span(region.va, region.size)} by {via} (inside: {inside})"
        case "unreach":
            return f"takes {_span(fields[0].va, fields[0].size)} out of sight"
        case "freed":
            return f"gives the frames of {_span(fields[0].va, fields[0].pages * page)} back"
    return f"{fact.event} {fields}"


def _span(va: int, size: int) -> str:
    return f"{va:#x}..{va + size:#x}"
