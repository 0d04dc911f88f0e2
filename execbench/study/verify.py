"""Re-simulate what a results directory holds and say which level of sameness it keeps.

Level 1: the digest of a replication's integer records. Level 2: the bytes of the part's files, promised under one set
of library versions and checked where whole parts are re-simulated. Level 3: derived figures to a relative 1e-9.
"""

from __future__ import annotations

import filecmp
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from execbench.errors import ExecbenchError, InputError, NothingMeasured
from execbench.registry.files import data_path, sha256_of
from execbench.store import manifest, parts
from execbench.store.digest import DIGESTED, digest_of, table_digest
from execbench.study.executors import SIMULATE, execute, simulator
from execbench.study.work import code_of

if TYPE_CHECKING:
    from execbench.simulate import Replication

__all__ = ["Checked", "Verification", "verify"]

TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Checked:
    """One re-simulated replication: `differs` names the first table that is not the same, "" if all are."""

    cell: str
    arm: str
    replication: int
    differs: str
    figures_agree: bool
    bytes_agree: bool | None
    problem: str = ""

    @property
    def same(self) -> bool:
        """Whether level 1 held."""
        return not self.differs and not self.problem


@dataclass(frozen=True)
class Verification:
    """What `verify` found; `ok` is level 1 for everything that was re-simulated."""

    directory: Path
    checked: tuple[Checked, ...]
    code_changed: tuple[str, ...]
    data_changed: tuple[str, ...]
    versions_changed: Mapping[str, tuple[str, str]]

    @property
    def ok(self) -> bool:
        """Whether every digest is the same."""
        return all(one.same for one in self.checked)

    @property
    def levels(self) -> dict[int, bool | None]:
        """Level -> held, did not hold, or None where it was not checked."""
        bytes_ = [one.bytes_agree for one in self.checked]
        second = None if None in bytes_ or self.versions_changed else all(bytes_)
        return {1: self.ok, 2: second, 3: all(one.figures_agree for one in self.checked)}

    def __str__(self) -> str:
        """Return the verdict, the levels, and what changed since the results were computed, as text."""
        n = len(self.checked)
        bad = [one for one in self.checked if not one.same]
        said = {True: "held", False: "did NOT hold", None: "not checked"}
        levels = self.levels
        why = " (other library versions)" if self.versions_changed else " (needs --all)"
        lines = [
            f"{self.directory}: {n - len(bad)} of {n} re-simulated replications are the same",
            f"  level 1, digests of integer records: {said[levels[1]]}",
            f"  level 2, bytes of the files: {said[levels[2]]}{why if levels[2] is None else ''}",
            f"  level 3, derived figures to {TOLERANCE:g}: {said[levels[3]]}",
        ]
        for one in bad:
            what = one.problem or f"first differing table: {one.differs}"
            lines.append(f"  {one.arm} (cell {one.cell}), replication {one.replication}: {what}")
        for name, (then, now) in self.versions_changed.items():
            lines.append(f"  {name} was {then}, is {now}")
        lines += [f"  code changed: {name}" for name in self.code_changed]
        lines += [f"  data changed: {name}" for name in self.data_changed]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Job:
    """What a worker re-simulates: replications first..last of a part."""

    part: parts.Part
    arm: str
    spec: str
    plugins: Mapping[str, str]
    first: int
    last: int
    simulate: str


def verify(directory: Path, every: bool = False, workers: int | None = None, simulate: str = SIMULATE) -> Verification:
    """Re-simulate one replication of each cell, or every one, and compare; StoreError if the results are damaged."""
    held = manifest.read(directory)
    rows = {row.cell: row for row in held.cells}
    chosen: dict[str, list[parts.Part]] = {}
    for part in parts.committed(directory):
        if part.cell in rows:
            chosen.setdefault(part.cell, []).append(part)
    if not chosen:
        raise NothingMeasured(f"{directory} holds no finished replication", "run the study first")
    jobs = [
        _Job(part, rows[cell].arm, rows[cell].spec, held.plugins, part.first,
             part.last if every else part.first, simulate)
        for cell, found in chosen.items() for part in (found if every else found[:1])
    ]  # fmt: skip
    results: list[Checked] = []
    execute(_check, jobs, workers, results.extend)
    order = list(rows)
    results.sort(key=lambda one: (order.index(one.cell), one.replication))
    specs = [json.loads(rows[cell].spec) for cell in chosen]
    now, code = manifest.versions(), code_of([json.loads(row.spec) for row in held.cells], held.plugins)
    changed = {name: (then, now.get(name, "unknown")) for name, then in held.versions.items() if now.get(name) != then}
    return Verification(directory, tuple(results), tuple(manifest.changed_code(held.code, code)),
                        tuple(_changed_data(specs)), changed)  # fmt: skip


def _check(job: _Job) -> list[Checked]:
    """Simulate again and compare with what is stored."""
    run, spec = simulator(job.simulate), json.loads(job.spec)
    numbers = range(job.first, job.last + 1)
    try:
        fresh = [(number, run(spec, number, job.plugins)) for number in numbers]
    except ExecbenchError as error:
        return [Checked(job.part.cell, job.arm, number, "", False, None, f"cannot be simulated again: {error}")
                for number in numbers]  # fmt: skip
    whole = (job.first, job.last) == (job.part.first, job.part.last)
    same_bytes = _same_bytes(job.part, fresh) if whole else None
    return [_compared(job, number, one, same_bytes) for number, one in fresh]


def _compared(job: _Job, number: int, fresh: Replication, same_bytes: bool | None) -> Checked:
    stored = {name: parts.read_columns(job.part, name, number) for name in (*DIGESTED, "metrics")}
    [row] = parts.rows(job.part, "replications", number)
    tables = fresh.tables
    differs = next((name for name in DIGESTED if table_digest(stored[name]) != table_digest(tables.get(name, {}))), "")
    now = digest_of(fresh.outcome, fresh.operations, fresh.tables)
    if not differs and now != row["digest"]:
        differs = "replications"
    agree = _figures_agree(stored["metrics"], fresh.tables.get("metrics", {}))
    return Checked(job.part.cell, job.arm, number, differs, agree, same_bytes)


def _figures_agree(stored: Mapping[str, Sequence[Any]], fresh: Mapping[str, Any]) -> bool:
    """Whether the same figures were derived, each to the tolerance."""

    def keyed(table: Mapping[str, Sequence[Any]]) -> dict[tuple[str, ...], float]:
        columns = [table.get(name, []) for name in ("metric", "client", "kind", "value")]
        return {(metric, client, kind): float(value) for metric, client, kind, value in zip(*columns, strict=True)}

    then, now = keyed(stored), keyed(fresh)
    return then.keys() == now.keys() and all(
        (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=TOLERANCE)
        for a, b in ((then[key], now[key]) for key in then)
    )


def _same_bytes(part: parts.Part, fresh: Sequence[tuple[int, Replication]]) -> bool:
    """Write the part once more elsewhere and compare the files."""
    with tempfile.TemporaryDirectory() as folder:
        parts.write(Path(folder), part.cell, fresh)
        again = Path(folder) / "parts" / part.path.name
        names = sorted(file.name for file in part.path.iterdir())
        return names == sorted(file.name for file in again.iterdir()) and not any(
            filecmp.cmpfiles(part.path, again, names, shallow=False)[1:]
        )


def _changed_data(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the data files whose content is no longer what the specs say."""
    files = {entry["name"]: entry["sha256"] for spec in specs for entry in spec["workload"]["data"].values()}
    changed = []
    for name, sha in sorted(files.items()):
        try:
            if sha256_of(data_path(name)) != sha:
                changed.append(name)
        except InputError:
            changed.append(f"{name} (missing)")
    return changed
