"""Audit of text safety: replications run with the facts recorded, judged, and laid side by side.

Verdicts depend on what the API forces, not on how long anything takes, so that short runs are enough. One path of
publication of each arm runs without listener too, which says what listening costs and checks that it changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any, Final

from execbench.errors import InputError
from execbench.kernel.publish import PASSIVE, PATHS
from execbench.record.audit import HAZARDS, Judgement, rule, verdicts
from execbench.record.audit.rules import machine_facts
from execbench.record.audit.verdicts import exposed
from execbench.registry.plugins import names
from execbench.replay import few, replay, world_of
from execbench.study.load import names as files
from execbench.study.load import read
from execbench.study.point import Asked, Cell, Point
from execbench.study.spec import StudyFile, canonical

__all__ = ["COLUMNS", "MACHINES", "OWN", "Audit", "Row", "audit", "replay", "rows_of", "text_safety"]

MACHINES: Final = ("server-64", "amd-invlpgb-128", "arm64-server-128", "riscv64-server-64")
"""One machine of every architecture, and one whose flushes interrupt nobody."""
SHORT: Final = {"run.duration": "300ms", "run.warmup": "20ms", "run.drain": "100ms"}
"""Simulated time of an audited replication: some hundred functions loaded and freed."""
FEW: Final[Mapping[str, Mapping[str, Any]]] = {
    "bpf": {"client.bpf.loaded": 4, "run.duration": "900ms"},
    "bcachefs": {"client.bcachefs.nodes": 64, "run.duration": "200ms"},
}
"""What makes clients free in a short run what they have loaded in it."""
BOOT: Final = {"run.duration": "20ms"}
"""A boot's run is shorter, for modules come one behind the other: some dozens of them."""
OWN: Final = "own"
"""Instead of a path of publication: every client by its own, where some cannot be told to take another."""
_Item = tuple[Cell, Mapping[str, str], str]
"""One run to be made: cell, plugins, path of publication."""


@dataclass(frozen=True)
class Row:
    """One line of the verdict table: an arm on a machine, published by one path.

    judged: hazard -> judgement, where it was met. exposure: writable aliases in words. future: where unsealed text lay.
    refused: why the machine cannot express the arm; outcome: how the run ended if not well. facts: how many were told.
    with_s, without_s: seconds of the run with and without listener (0: not run). same: both left the same records.
    """

    arm: str
    machine: str
    arch: str
    via: str
    status: str
    judged: Mapping[int, Judgement]
    exposure: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    published: int = 0
    refused: str = ""
    outcome: str = ""
    facts: int = 0
    with_s: float = 0.0
    without_s: float = 0.0
    same: bool = True
    release: str = ""
    kinds: tuple[str, ...] = ()
    """Kinds of the text that was published."""
    paths: tuple[str, ...] = ()
    """The paths by which it was."""


@dataclass(frozen=True)
class Audit:
    """All rows, and why the CPUs of each machine count as they do (execbench.record.audit.rules)."""

    workload: str
    rows: tuple[Row, ...]
    machines: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Machines that nobody named and that cannot run the workload so, and why."""
    simulated: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """What the audit set to make runs short: dotted key -> (its value, that of the workload's file or None)."""
    replications: int = 1

    @property
    def cost(self) -> float:
        """How many times longer runs took for being listened to, where both were made; 0 if none was."""
        both = [row for row in self.rows if row.without_s]
        return sum(row.with_s for row in both) / sum(row.without_s for row in both) if both else 0.0


def audit(
    workload: str,
    *,
    backends: Iterable[str] | None = None,
    machines: Iterable[str] | None = None,
    paths: Iterable[str] | None = None,
    kernel: str | None = None,
    replications: int = 1,
    seed: int | None = None,
    settings: Iterable[str] | Mapping[str, Any] = (),
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Judge a workload on backends (all), machines (one per architecture) and publication paths (all).

    Paths that force nothing are one row: what holds for one of them holds for all. Where clients have paths of
    their own that nobody can choose, one row (OWN) judges what they do in its stead. A machine that cannot run this is
    left out unless it was named, or none can. `settings` are KEY=VALUE texts or a mapping of dotted keys; a run takes
    SHORT unless they say otherwise. progress(done, total) counts runs, from 0. Raises InputError before anything runs.
    """
    wanted = tuple(paths or PATHS)
    for via in wanted:
        if via not in PATHS:
            raise InputError("publication path", via, ", ".join(PATHS), "name one of them")
    passive = [via for via in wanted if via in PASSIVE]
    runs = passive[:1] + [via for via in wanted if via not in PASSIVE]
    arms = list(backends or names("backends"))
    work: list[_Item] = []
    left_out: dict[str, InputError] = {}
    for machine in machines or [name for name in MACHINES if name in files("machine")]:
        try:
            point = _point(workload, arms, machine, kernel, seed, settings)
        except InputError as error:
            if machines:
                raise
            left_out[machine] = error
            continue
        work += [(cell, point.plugins, via) for cell in point.cells() for via in runs]
    if left_out and not work:
        raise next(iter(left_out.values()))
    assumed = {
        str(spec["name"]): machine_facts(spec["arch"], spec["features"]).because
        for spec in (cell.spec["machine"] for cell, _, _ in work)
    }
    rows = _rows(work, replications, workers, progress or (lambda done, total: None))
    together = {passive[0]: ", ".join(passive)} if passive else {}
    rows = [replace(row, via=together.get(row.via, row.via)) for row in rows]
    said = {key for key, _, _ in Asked.of(set=settings).settings}
    simulated = {key: one for key, one in _simulated(workload).items() if key not in said}
    return Audit(workload, tuple(rows), assumed, {machine: str(error) for machine, error in left_out.items()},
                 simulated, replications)  # fmt: skip


def _point(
    workload: str, arms: Sequence[str], machine: str, kernel: str | None, seed: int | None,
    settings: Iterable[str] | Mapping[str, Any],
) -> Point:  # fmt: skip
    """Return what is simulated on one machine: a short run, unless the settings say how long."""
    short = {key: value for key, (value, _) in _simulated(workload).items()}
    asked = Asked.of(workload=workload, backends=arms, machine=machine, kernel=kernel, set=short)
    asked = replace(asked, settings=asked.settings + Asked.of(seed=seed, set=settings).settings)
    return Point(asked, None, StudyFile.model_validate({"study": {}}), {})


def _simulated(workload: str) -> dict[str, tuple[Any, Any]]:
    """Return what the audit sets: dotted key -> (its value, that of the workload's file or None)."""
    table: Mapping[str, Any] = read("workload", workload, "--workload").table
    clients = table.get("client", {})
    short: dict[str, Any] = dict(SHORT)
    for client, few_keys in FEW.items():
        short.update(few_keys if client in clients else {})
    if "module" in clients and clients["module"].get("work", "boot") == "boot":
        short.update(BOOT)
    if table.get("workload", {}).get("horizon") == "terminating":
        del short["run.warmup"]  # there is no steady state to reach
    return {key: (value, _value(table, key.split("."))) for key, value in short.items()}


def _value(table: Any, keys: Sequence[str]) -> Any:
    """Return what stands at dotted keys of a file, None if nothing does."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _rows(
    work: Sequence[_Item], replications: int, workers: int,
    progress: Callable[[int, int], None],
) -> list[Row]:  # fmt: skip
    """Return one row per item of work, in its order."""
    calls = [
        (canonical(cell.spec), cell.arm, cell.status, dict(plugins), via, replications, via == work[0][2])
        for cell, plugins, via in work
        if not cell.refused
    ]
    done = iter(_computed(calls, workers, progress))
    return [_refused(cell, via) if cell.refused else next(done) for cell, _, via in work]


def _computed(calls: Sequence[tuple[Any, ...]], workers: int, progress: Callable[[int, int], None]) -> Iterator[Row]:
    """Yield the row of each call, in their order."""
    progress(0, len(calls))
    if workers < 2 or len(calls) < 2:
        for i, call in enumerate(calls, 1):
            row = rows_of(*call)
            progress(i, len(calls))
            yield row
        return
    pool: Executor
    with ProcessPoolExecutor(min(workers, len(calls)), mp_context=get_context("spawn")) as pool:
        futures: list[Future[Row]] = [pool.submit(rows_of, *call) for call in calls]
        for i, _ in enumerate(as_completed(futures), 1):
            progress(i, len(calls))
        yield from (future.result() for future in futures)


def _refused(cell: Cell, via: str) -> Row:
    machine = cell.spec["machine"]
    return Row(cell.arm, machine["name"], machine["arch"], via, cell.status, {}, refused=cell.refused,
               release=cell.spec["kernel"]["release"])  # fmt: skip


# --- as a table -------------------------------------------------------------------------------------------------------

COLUMNS: Final = {
    "workload": "string", "backend": "string", "machine": "string", "architecture": "string", "release": "string",
    "kinds": "string", "publication": "string", "status": "string", "hazard": "int32", "name": "string",
    "verdict": "string", "clause": "string", "also": "string", "silent": "bool", "missing": "string",
    "count": "int64", "byte_seconds": "float64", "detail": "string", "trace": "string",
}  # fmt: skip
"""The columns of `text_safety` and their Arrow types; docs/audit.md says what each holds."""


def text_safety(found: Audit) -> list[dict[str, Any]]:
    """Return the table `text_safety`: one row per backend, machine, path of publication and hazard that was met.

    Paths that share a verdict are rows of their own here. Clauses are the rows of rules.toml as "hazard/architecture/
    condition"; several kinds or conditions are joined by ", ", the lines of a trace by newlines.
    """
    return [
        _told(found.workload, row, via, judgement)
        for row in found.rows
        for via in row.via.split(", ")
        for _, judgement in sorted(row.judged.items())
    ]


def _told(workload: str, row: Row, via: str, one: Judgement) -> dict[str, Any]:
    return {
        "workload": workload, "backend": row.arm, "machine": row.machine, "architecture": row.arch,
        "release": row.release, "kinds": ", ".join(row.kinds), "publication": via, "status": row.status,
        "hazard": one.hazard, "name": HAZARDS[one.hazard], "verdict": str(one.verdict),
        "clause": one.rule.id, "also": ", ".join(rule(one.hazard, row.arch, also).id for also in one.also),
        "silent": one.rule.silent, "missing": one.rule.missing, "count": one.count, "byte_seconds": one.byte_seconds,
        "detail": one.detail, "trace": "\n".join(one.trace),
    }  # fmt: skip


# --- one run ----------------------------------------------------------------------------------------------------------


def rows_of(
    spec: str, arm: str, status: str, plugins: Mapping[str, str], via: str, replications: int, first: bool
) -> Row:
    """Return the row of one spec (canonical JSON) and path: the worst replication. first: of its arm's paths."""
    resolved = json.loads(spec)
    row: Row | None = None
    for replication in range(replications):
        one = _row(resolved, arm, status, plugins, via, replication, first)
        row = one if row is None else _worse(row, one)
    if row is None:
        raise InputError("--replications", replications, "a number from 1 on", "run at least one")
    return row


def _row(
    spec: dict[str, Any], arm: str, status: str, plugins: Mapping[str, str], via: str | None, replication: int,
    first: bool,
) -> Row:  # fmt: skip
    """Return the row of one replication; the first path's is OWN if some clients do not let others choose theirs."""
    machine = spec["machine"]
    begin = time.perf_counter()
    findings, record = replay(spec, replication, via, plugins)
    between = time.perf_counter()
    fixed = findings.paths - {via} if via else set()
    if fixed and first and len(findings.paths) > 1:
        return _row(spec, arm, status, plugins, None, replication, first)
    row = Row(arm, machine["name"], machine["arch"], via or OWN, status, verdicts(findings),
              published=findings.published, release=spec["kernel"]["release"], kinds=tuple(sorted(findings.kinds)),
              paths=tuple(sorted(findings.paths)))  # fmt: skip
    if fixed:
        said = ", ".join(sorted(fixed))
        return replace(row, judged={}, refused=f"some of its text is published by {said} whatever is asked"
                       if via in findings.paths else f"its client publishes by {said} only")  # fmt: skip
    plain = few(world_of(spec, replication, plugins, via)).run() if first else None
    end = time.perf_counter()
    return replace(
        row,
        exposure=tuple(exposed(findings, kind) for kind, one in findings.exposures.items() if one.status != "never"),
        future=findings.future,
        outcome="" if record.outcome == "ok" else f"{record.outcome}: {record.detail}",
        facts=findings.facts,
        with_s=between - begin,
        without_s=end - between if plain else 0.0,
        same=plain is None or plain.tables == record.tables,
    )


def _worse(one: Row, other: Row) -> Row:
    """Return both as one row: per hazard the judgement that stands lower, and how long both were open together."""
    judged = dict(one.judged)
    for hazard, judgement in other.judged.items():
        before = judged.get(hazard)
        if before is None:
            judged[hazard] = judgement
            continue
        known = [each.byte_ns for each in (before, judgement) if each.byte_ns is not None]
        both = sum(known) if len(known) == 2 else None
        judged[hazard] = replace(judgement if judgement.verdict > before.verdict else before, byte_ns=both)
    return replace(
        one, judged=judged, exposure=tuple(dict.fromkeys(one.exposure + other.exposure)),
        future=tuple(sorted({*one.future, *other.future})), published=one.published + other.published,
        outcome=one.outcome or other.outcome, facts=one.facts + other.facts, with_s=one.with_s + other.with_s,
        without_s=one.without_s + other.without_s, same=one.same and other.same,
        kinds=tuple(sorted({*one.kinds, *other.kinds})), paths=tuple(sorted({*one.paths, *other.paths})),
    )  # fmt: skip
