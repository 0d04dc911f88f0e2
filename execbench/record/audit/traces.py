"""Facts in words, for the shortest trace behind a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from execbench.record.audit.could import FROM_THEN, otherwise
from execbench.record.audit.facts import Fact
from execbench.record.audit.platform import Platform
from execbench.units import show_time

if TYPE_CHECKING:
    from execbench.record.audit.analysis import Finding


def told(finding: Finding, platform: Platform) -> tuple[str, ...]:
    """Return one line per fact: time since the first, who, what; and who could have fetched meanwhile."""
    trace = finding.trace
    if not trace:
        return ()
    begin = trace[0].t
    lines = [f"+{show_time(fact.t - begin)} {_who(fact)}: {_what(fact, platform.page)}" for fact in trace]
    if finding.could is not None:
        lines.insert(-1, finding.could.told(begin, platform.cpus, _user(trace), show_time))
    elif line := otherwise(finding.hazard, finding.condition):
        lines.insert(len(lines) if line.startswith(FROM_THEN) else -1, line)
    return tuple(lines)


def _user(trace: Sequence[Fact]) -> bool:
    """Say whether the text is a process's own."""
    return any(fact.event == "reach" and str(fact.fields[0].kind) == "user" for fact in trace)


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
