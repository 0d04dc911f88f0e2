"""Audit of text safety: replications run with the facts recorded, judged, and laid side by side.

Verdicts depend on what the API forces, not on how long anything takes, so that short runs are enough; the same
replications run without listener too, which says what listening costs and proves that it changed nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any, Final

from execbench.contract import Image, Proc, Region, Request, Setting
from execbench.errors import InputError
from execbench.kernel.facade import Kernel
from execbench.kernel.publish import PASSIVE, PATHS
from execbench.record.audit import HAZARDS, FactLog, Findings, Judgement, Platform, analyse, rule, verdicts
from execbench.record.audit.rules import machine_facts
from execbench.record.audit.verdicts import exposed
from execbench.registry.plugins import names
from execbench.simulate import World
from execbench.study.load import names as files
from execbench.study.load import read
from execbench.study.point import Asked, Cell, Point
from execbench.study.spec import StudyFile, canonical

__all__ = ["COLUMNS", "MACHINES", "Audit", "Row", "audit", "replay", "rows_of", "text_safety"]

MACHINES: Final = ("server-64", "amd-invlpgb-128", "arm64-server-128", "riscv64-server-64")
"""One machine of every architecture, and one whose flushes interrupt nobody."""
SHORT: Final = {"run.duration": "300ms", "run.warmup": "20ms", "run.drain": "100ms"}
"""Simulated time of an audited replication: some hundred functions loaded and freed."""
FEW: Final = {"bpf": {"client.bpf.loaded": 4, "run.duration": "900ms"}}
"""What makes clients free in a short run what they have loaded in it."""


@dataclass(frozen=True)
class Row:
    """One line of the verdict table: an arm on a machine, published by one path.

    judged: hazard -> judgement, where it was met. exposure: writable aliases in words. future: where unsealed text lay.
    refused: why the machine cannot express the arm; outcome: how the run ended if not well. facts: how many were told.
    with_s, without_s: seconds of the run with and without listener; same: both runs left the same records.
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


@dataclass(frozen=True)
class Audit:
    """All rows, and why the CPUs of each machine count as they do (execbench.record.audit.rules)."""

    workload: str
    rows: tuple[Row, ...]
    machines: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Machines that nobody named and that cannot run the workload so, and why."""

    @property
    def cost(self) -> float:
        """How many times longer the runs took for being listened to; 0 if nothing ran."""
        without = sum(row.without_s for row in self.rows)
        return sum(row.with_s for row in self.rows) / without if without else 0.0


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

    Paths that force nothing are one row: what holds for one of them holds for all. A machine that cannot run this is
    left out unless it was named, or none can. `settings` are KEY=VALUE texts or a mapping of dotted keys; a run takes
    SHORT unless they say otherwise. Raises InputError before anything runs.
    """
    wanted = tuple(paths or PATHS)
    for via in wanted:
        if via not in PATHS:
            raise InputError("publication path", via, ", ".join(PATHS), "name one of them")
    passive = [via for via in wanted if via in PASSIVE]
    runs = passive[:1] + [via for via in wanted if via not in PASSIVE]
    arms = list(backends or names("backends"))
    work: list[tuple[Cell, Mapping[str, str], str]] = []
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
    return Audit(workload, tuple(rows), assumed, {machine: str(error) for machine, error in left_out.items()})


def _point(
    workload: str, arms: Sequence[str], machine: str, kernel: str | None, seed: int | None,
    settings: Iterable[str] | Mapping[str, Any],
) -> Point:  # fmt: skip
    """Return what is simulated on one machine: a short run, unless the settings say how long."""
    clients = read("workload", workload, "--workload").table.get("client", {})
    few = {key: value for client, keys in FEW.items() if client in clients for key, value in keys.items()}
    window = dict(SHORT)
    if read("workload", workload, "--workload").table.get("workload", {}).get("horizon") == "terminating":
        del window["run.warmup"]  # there is no steady state to reach
    short = Asked.of(workload=workload, backends=arms, machine=machine, kernel=kernel, set={**window, **few})
    asked = replace(short, settings=short.settings + Asked.of(seed=seed, set=settings).settings)
    return Point(asked, None, StudyFile.model_validate({"study": {}}), {})


def _rows(
    work: Sequence[tuple[Cell, Mapping[str, str], str]], replications: int, workers: int,
    progress: Callable[[int, int], None],
) -> list[Row]:  # fmt: skip
    """Return one row per item of work, in its order."""
    calls = [
        (canonical(cell.spec), cell.arm, cell.status, dict(plugins), via, replications)
        for cell, plugins, via in work
        if not cell.refused
    ]
    done = iter(_computed(calls, workers, progress))
    return [_refused(cell, via) if cell.refused else next(done) for cell, _, via in work]


def _computed(calls: Sequence[tuple[Any, ...]], workers: int, progress: Callable[[int, int], None]) -> Iterator[Row]:
    if workers < 2 or len(calls) < 2:
        for i, call in enumerate(calls, 1):
            yield rows_of(*call)
            progress(i, len(calls))
        return
    pool: Executor
    with ProcessPoolExecutor(min(workers, len(calls)), mp_context=get_context("spawn")) as pool:
        futures: list[Future[Row]] = [pool.submit(rows_of, *call) for call in calls]
        for i, future in enumerate(futures, 1):
            yield future.result()
            progress(i, len(calls))


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


def rows_of(spec: str, arm: str, status: str, plugins: Mapping[str, str], via: str, replications: int) -> Row:
    """Return the row of one spec (canonical JSON) and path: the worst of all replications."""
    resolved = json.loads(spec)
    row: Row | None = None
    for replication in range(replications):
        one = _row(resolved, arm, status, plugins, via, replication)
        row = one if row is None else _worse(row, one)
    if row is None:
        raise InputError("--replications", replications, "a number from 1 on", "run at least one")
    return row


def _row(spec: dict[str, Any], arm: str, status: str, plugins: Mapping[str, str], via: str, replication: int) -> Row:
    machine = spec["machine"]
    begin = time.perf_counter()
    plain = _world(spec, replication, plugins, via).run()
    between = time.perf_counter()
    findings, record = replay(spec, replication, via, plugins)
    end = time.perf_counter()
    row = Row(arm, machine["name"], machine["arch"], via, status, verdicts(findings), published=findings.published,
              release=spec["kernel"]["release"], kinds=tuple(sorted(findings.kinds)))  # fmt: skip
    if findings.paths - {via}:
        return replace(row, judged={}, refused=f"its client publishes by {', '.join(sorted(findings.paths))} only")
    return replace(
        row,
        exposure=tuple(exposed(findings, kind) for kind, one in findings.exposures.items() if one.status != "never"),
        future=findings.future,
        outcome="" if record.outcome == "ok" else f"{record.outcome}: {record.detail}",
        facts=findings.facts,
        with_s=end - between,
        without_s=between - begin,
        same=plain.tables == record.tables,
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
        kinds=tuple(sorted({*one.kinds, *other.kinds})),
    )  # fmt: skip


def replay(
    spec: dict[str, Any], replication: int, via: str | None = None, plugins: Mapping[str, str] | None = None,
    change: Callable[[World], None] = lambda world: None,
) -> tuple[Findings, Any]:  # fmt: skip
    """Run one replication with its facts recorded; return what they permit, and the replication's record.

    `via` is the path by which everything is published, None the clients' own. `change` may alter the world before it
    runs, as tests do to break it.
    """
    world = _world(spec, replication, plugins or {}, via)
    change(world)
    log = FactLog()
    world.machine.probe.attach(log)
    world.backend = _Told(world.backend, log)
    record = world.run()
    return analyse(log, platform_of(spec, world)), record


def platform_of(spec: Mapping[str, Any], world: World) -> Platform:
    """Return what the analysis must know of the machine and the API besides the facts."""
    machine = spec["machine"]
    return Platform(
        machine["arch"],
        machine.get("features", {}),
        retries=spec["backend"]["params"].get("sync") == "trap-and-retry",
        page=machine["kernel"].get("page_size", 4096),
        cpus=machine["topology"]["cpus"],
        tasks_rcu=world.machine.flavours.tasks is not None,
    )


def _world(spec: dict[str, Any], replication: int, plugins: Mapping[str, str], via: str | None) -> World:
    world = World(spec, replication, plugins)
    if via is not None:
        world.clients = [_Published(client, via) for client in world.clients]
    return world


class _Published:
    """A client whose text is published by a given path."""

    def __init__(self, client: Any, via: str) -> None:
        self._client = client
        self._via = via

    def start(self, setting: Setting) -> None:
        setting.publication = self._via
        self._client.start(setting)


class _Told:
    """A backend whose calls of `write` are facts: what it does not store at its address lies in plain memory."""

    def __init__(self, backend: Any, log: FactLog) -> None:
        self._backend = backend
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def alloc(self, k: Kernel, s: Any, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        return self._backend.alloc(k, s, reqs)  # type: ignore[no-any-return]

    def write(self, k: Kernel, s: Any, region: Region, image: Image) -> Proc[None]:
        self._tell(k, region, True)
        yield from self._backend.write(k, s, region, image)
        self._tell(k, region, False)

    def _tell(self, k: Kernel, region: Region, begins: bool) -> None:
        hear = self._log.verb  # type: ignore[attr-defined]
        k.task.cpu.mark(lambda at: hear(at, k.task, "write", region, begins))
