"""Carry out a study: compute what is missing, keep finished parts, write down what the directory holds."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from execbench.errors import StoreError
from execbench.registry.plugins import registered
from execbench.store import manifest, parts
from execbench.study.executors import SIMULATE, Done, Interrupted, Task, compute, execute
from execbench.study.expand import Study
from execbench.study.plan import finished, plan
from execbench.study.spec import canonical

__all__ = ["Progress", "ProgressCall", "carry_out", "code_of", "described", "directory_of"]


@dataclass(frozen=True)
class Progress:
    """How far a study is: replications on disk of all, and the part that was finished last (None at the start)."""

    done: int
    total: int
    elapsed_s: float
    last: Done | None = None
    arm: str = ""


ProgressCall: TypeAlias = Callable[[Progress], None]


def directory_of(study: Study) -> Path:
    """Return where results go unless the user says otherwise: `./results/<workload>-<sha8 of the study>`."""
    return Path("results") / f"{study.workload}-{study.sha8}"


def described(study: Study, command: str = "") -> manifest.Manifest:
    """Return the manifest of a study under today's code and libraries."""
    specs = [cell.spec for cell in study.cells]
    rows = tuple(
        manifest.CellRow(cell.id, cell.arm, dict(cell.point), cell.status, cell.refused, canonical(cell.spec))
        for cell in study.cells
    )
    return manifest.Manifest(
        study.name, study.kind, study.workload, study.question, study.reading, study.sha8, study.replications, rows,
        code_of(specs, study.plugins), manifest.versions(), dict(study.plugin_files), dict(study.plugins),
        command, study.asks,
    )  # fmt: skip


def code_of(specs: Sequence[Mapping[str, Any]], plugins: Mapping[str, str]) -> dict[str, str]:
    """Return the hash of every source that these specs run: ours, the plug-ins', and those of other packages."""
    code = manifest.code_of(specs, plugins)
    used = {("backends", spec["backend"]["name"]) for spec in specs if spec["backend"]["plugin"] is None}
    used |= {("clients", name) for spec in specs for name in spec["workload"]["clients"]}
    for kind, name in sorted(used):
        cls = registered("backends" if kind == "backends" else "clients").get(name)
        if cls is not None and not cls.__module__.startswith("execbench."):
            code[f"{kind} {cls.__module__}"] = manifest.hash_of(inspect.getsource(inspect.getmodule(cls) or cls))
    return code


def carry_out(
    study: Study, root: Path, *, workers: int | None = None, restart: bool = False,
    progress: ProgressCall | None = None, command: str = "", simulate: str = SIMULATE,
) -> None:  # fmt: skip
    """Compute every replication of the study that is not in `root` yet; serially unless `workers` is above 1.

    StoreError if the directory holds something else, CannotWrite, Interrupted or WorkerDied as the executor says.
    """
    described_now = described(study, command)
    _checked(root, described_now, restart)
    if restart:
        parts.discard(root)
    manifest.write(root, described_now)
    running = {cell.id: cell for cell in study.cells if not cell.refused}
    done = finished(parts.committed(root))
    items = plan(list(running), study.replications, done)
    total = len(running) * study.replications
    count = total - sum(item.size for item in items)
    began = time.perf_counter()
    specs = {cell: canonical(one.spec) for cell, one in running.items()}
    tasks = [Task(item.name, specs[item.cell], item.cell, item.first, item.last, study.plugins, str(root), simulate)
             for item in items]  # fmt: skip
    code = manifest.fingerprint(described_now.code)
    manifest.write_log(root, event="start", replications=total, finished=count, workers=workers or 1,
                       versions=dict(described_now.versions), code=code)  # fmt: skip
    tell = progress or (lambda _: None)
    tell(Progress(count, total, 0.0))

    def on_done(part: Done) -> None:
        nonlocal count
        count += part.last - part.first + 1
        manifest.write_log(root, event="part", task=part.name, wall_s=round(part.wall_s, 6), events=part.events,
                           operations=part.operations, outcomes=dict(part.outcomes), pid=part.pid)  # fmt: skip
        tell(Progress(count, total, time.perf_counter() - began, part, running[part.cell].arm))

    def interrupted() -> Interrupted:
        missing = sum(item.size for item in items if not (root / "parts" / item.name).is_dir())
        return Interrupted(total - missing, total, str(root))

    execute(compute, tasks, workers, on_done, lambda pids: parts.sweep_tmp(root, pids), interrupted)


def _checked(root: Path, now: manifest.Manifest, restart: bool) -> None:
    """Refuse a directory whose contents are not the finished parts of this very study under this very code."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    if not root.is_dir() or not (root / "study.json").is_file():
        raise StoreError(str(root), "exists and holds no execbench study", "choose another directory with -o")
    if restart:
        return
    before = manifest.read(root)
    if before.sha8 != now.sha8:
        raise StoreError(str(root), f"holds another study ({before.name}, {before.sha8}; this one is {now.sha8})",
                         "choose another directory with -o, or replace it with --restart")  # fmt: skip
    changed = manifest.changed_code(before.code, now.code)
    if changed and parts.committed(root):
        few = ", ".join(changed[:4]) + (", ..." if len(changed) > 4 else "")
        remedy = "recompute them with --restart, or keep them and choose another directory with -o"
        raise StoreError(str(root), f"its parts were computed by other code ({few} changed)", remedy)
