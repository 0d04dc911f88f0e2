"""Text traces (trace-cmd report, /sys/kernel/tracing/trace): when code was made on a real machine, as arrivals.

A row per operation that began: `at_ns` from the first line of the trace on, the client and the kind of operation that
it is here, and the module's or program's name where the trace says it. Rounds of interrupts, pokes and grace periods
are rows of the clients `ipi`, `text_poke` and `rcu`: no workload's client takes them, they are there to compare with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from execbench.errors import InputError

COLUMNS: Final = ("at_ns", "client", "kind", "name", "task", "cpu")

_LINE: Final = re.compile(
    r"^\s*(?P<task>.+?)-(?P<pid>\d+|<\.\.\.>)\s+(?:\(\s*[\d-]+\)\s+)?\[(?P<cpu>\d+)\]\s+(?:\S{4,8}\s+)?"
    r"(?P<s>\d+)\.(?P<frac>\d{3,9}):\s+(?P<event>.*)$"
)
"""TASK-PID [CPU] (flags) SECONDS.FRACTION: event; both the kernel's own file and trace-cmd's report."""


class Source(NamedTuple):
    """One way in which a trace shows an operation; `pattern` is searched in the event, its group `name` is its name."""

    client: str
    kind: str
    pattern: re.Pattern[str]


def _source(client: str, kind: str, pattern: str) -> Source:
    return Source(client, kind, re.compile(pattern))


SOURCES: Final = (
    _source("module", "load", r"^module_load: (?P<name>\S+)"),
    _source("module", "load", r"^sys_(?:enter_)?finit_module\b|^sys_(?:enter_)?init_module\b"),
    _source("module", "load", r"^load_module <-"),
    _source("module", "unload", r"^module_free: (?P<name>\S+)"),
    _source("module", "unload", r"^sys_(?:enter_)?delete_module\b"),
    _source("module", "unload", r"^free_module <-"),
    _source("bpf", "load", r"^sys_(?:enter_)?bpf\b.*\bcmd:? ?(?:0x)?0*5\b"),
    _source("bpf", "load", r"^bpf_prog_load <-"),
    _source("bpf", "unload", r"^bpf_prog_free_deferred <-"),
    _source("kprobes", "attach", r"^register_kprobe <-"),
    _source("kprobes", "detach", r"^unregister_kprobes? <-"),
    _source("static-keys", "flip", r"^arch_jump_label_transform_apply <-"),
    _source("ftrace", "enable", r"^ftrace_modify_all_code <-"),
    _source("text_poke", "batch", r"^(?:smp_text_poke_batch_finish|text_poke_bp_batch) <-"),
    _source("text_poke", "batch", r"^smp_text_poke_batch_finish\b|^text_poke_bp_batch\b"),
    _source("ipi", "round", r"^ipi_send_cpumask: .*callsite=(?P<name>[\w.]+)"),
    _source("ipi", "round", r"^smp_call_function_many_cond <-(?P<name>[\w.]+)"),
    _source("rcu", "gp", r"^rcu_grace_period: \S+ \S+ (?P<name>start)\b"),
    _source("rcu", "gp", r"^rcu_gp_init <-"),
)
"""What shows an operation, best first: of several ways for one kind, only the first that a trace has counts."""


class Line(NamedTuple):
    """One event of a trace; `at` in ns of the trace's own clock."""

    at: int
    task: str
    cpu: int
    event: str


def lines_of(text: Iterable[str]) -> Iterator[Line]:
    """Yield the events of a text trace; whatever else stands in it (headers, comments, marks) is passed over."""
    for raw in text:
        found = _LINE.match(raw)
        if found is not None:
            at = int(found["s"]) * 1_000_000_000 + int(found["frac"].ljust(9, "0"))
            yield Line(at, found["task"].strip(), int(found["cpu"]), found["event"].strip())


def arrivals_of(path: Path) -> list[dict[str, str]]:
    """Return the operations of a trace in the order of their time; InputError for a file that shows none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = list(lines_of(file))
    except OSError as error:
        raise InputError("PATH", f"{path}, which cannot be read ({error.strerror})", "a text trace",
                         "write one with: trace-cmd report > FILE") from error  # fmt: skip
    if not lines:
        raise InputError("PATH", f"{path}, in which no line is an event", "TASK-PID [CPU] SECONDS: event",
                         "write one with: trace-cmd report > FILE")  # fmt: skip
    chosen = _chosen(lines)
    if not chosen:
        wanted = ", ".join(sorted({f"{source.client} {source.kind}" for source in SOURCES}))
        raise InputError("PATH", f"{path}, whose {len(lines)} events show no operation", wanted,
                         "record module:*, ipi:ipi_send_cpumask, rcu:rcu_grace_period, syscalls:sys_enter_bpf, or "
                         "the function tracer with functions of that list")  # fmt: skip
    first = min(line.at for line in lines)
    rows = [(line.at - first, row) for line in lines for row in _rows(line, line.at - first, chosen)]
    return [row for _, row in sorted(rows, key=lambda found: found[0])]


def counted(rows: Iterable[dict[str, str]]) -> dict[tuple[str, str], int]:
    """Return how many rows each client and kind has."""
    return dict(sorted(Counter((row["client"], row["kind"]) for row in rows).items()))


def takers(rows: Iterable[dict[str, str]]) -> dict[str, list[str]]:
    """Return which clients take arrivals from these rows, each with the kinds that it takes; the others take none."""
    from execbench.registry.params import fields_of
    from execbench.registry.plugins import registered

    found: dict[str, list[str]] = {}
    clients = registered("clients")
    for client, kind in counted(rows):
        cls = clients.get(client)
        if cls is not None and "trace" in fields_of(cls) and kind in cls.arrivals:  # type: ignore[attr-defined]
            found.setdefault(client, []).append(kind)
    return found


def _chosen(lines: list[Line]) -> list[Source]:
    """Return for each kind of operation the best way that this trace shows it."""
    chosen: dict[tuple[str, str], Source] = {}
    for source in SOURCES:
        key = (source.client, source.kind)
        if key not in chosen and any(source.pattern.search(line.event) for line in lines):
            chosen[key] = source
    return list(chosen.values())


def _rows(line: Line, at: int, sources: Iterable[Source]) -> Iterator[dict[str, str]]:
    for source in sources:
        found = source.pattern.search(line.event)
        if found is not None:
            name = found.groupdict().get("name") or ""
            yield dict(zip(COLUMNS, (str(at), source.client, source.kind, name, line.task, str(line.cpu)), strict=True))
