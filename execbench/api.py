"""The commands as functions: `run`, `sweep`, `load`, `verify`, `check`, `audit`; the command line is a skin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from execbench.conformance import Conformance, conformance
from execbench.errors import CannotWrite, InputError
from execbench.scaffold import write_backend
from execbench.store import manifest, parts
from execbench.store.schema import TABLES
from execbench.study.expand import Asked, Study, expand
from execbench.study.plan import WorkItem, finished, plan
from execbench.study.verify import Verification
from execbench.study.verify import verify as _verified
from execbench.study.work import Progress, ProgressCall, carry_out, directory_of

if TYPE_CHECKING:
    import pandas as pd

    from execbench.audit import Audit

__all__ = [
    "Conformance", "Plan", "Progress", "Results", "Verification", "audit", "check", "load", "new_backend", "run",
    "sweep", "verify",
]  # fmt: skip

Settings = Iterable[str] | Mapping[str, Any]


def run(
    workload: str, *, backends: str | Iterable[str] | None = None, machine: str | None = None,
    kernel: str | None = None, cpus: int | None = None, duration: str | int | None = None,
    warmup: str | int | None = None, replications: int | None = None, seed: int | None = None, set: Settings = (),
    out: str | Path | None = None, workers: int | None = None, record: Iterable[str] = (), restart: bool = False,
    progress: ProgressCall | None = None, command: str = "",
) -> Results:  # fmt: skip
    """Simulate a workload on every backend and return the results; what `out` already holds is kept and reused.

    Times are text with a unit or integer ns; `set` takes "KEY=VALUE" texts or a mapping of dotted keys; serial unless
    `workers` is above 1. Raises InputError before anything runs, Interrupted after Ctrl-C with what is finished kept.
    """
    asked = Asked.of(workload=workload, backends=backends, machine=machine, kernel=kernel, cpus=cpus,
                     duration=duration, warmup=warmup, replications=replications, seed=seed, record=record,
                     set=set)  # fmt: skip
    return _computed(expand(asked), out, workers, restart, progress, command)


def sweep(
    study: str, *, workload: str | None = None, backends: str | Iterable[str] | None = None,
    machine: str | None = None, kernel: str | None = None, cpus: int | None = None, duration: str | int | None = None,
    warmup: str | int | None = None, replications: int | None = None, seed: int | None = None, set: Settings = (),
    out: str | Path | None = None, workers: int | None = None, record: Iterable[str] = (), restart: bool = False,
    progress: ProgressCall | None = None, command: str = "", dry_run: bool = False,
) -> Results | Plan:  # fmt: skip
    """Simulate every cell of a study file (name or path); with `dry_run` only say what would be computed.

    The other arguments are those of `run` and win over the file; one that names an axis pins it to that value.
    """
    asked = Asked.of(workload=workload, backends=backends, machine=machine, kernel=kernel, cpus=cpus,
                     duration=duration, warmup=warmup, replications=replications, seed=seed, record=record,
                     set=set)  # fmt: skip
    expanded = expand(asked, study)
    if dry_run:
        return _planned(expanded, Path(out) if out is not None else directory_of(expanded))
    return _computed(expanded, out, workers, restart, progress, command)


def load(directory: str | Path) -> Results:
    """Return the results that a directory holds; StoreError if it holds none."""
    root = Path(directory)
    return Results(root, manifest.read(root))


def verify(directory: str | Path, all: bool = False, workers: int | None = None) -> Verification:
    """Simulate one replication of each cell again (every one with `all`) and say which level of sameness held."""
    return _verified(Path(directory), all, workers)


def check(backend: str, architectures: Iterable[str] | None = None) -> Conformance:
    """Run the conformance suite on `NAME`, `NAME[field=value,...]` or `./FILE.py[:Class]`; InputError if unknown.

    On every architecture and release that the backend declares, or on these architectures only.
    """
    return conformance(backend, architectures)


def audit(
    workload: str, *, backends: str | Iterable[str] | None = None, machines: str | Iterable[str] | None = None,
    paths: str | Iterable[str] | None = None, kernel: str | None = None, replications: int = 1,
    seed: int | None = None, set: Settings = (), out: str | Path | None = None, workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:  # fmt: skip
    """Judge whether text is safe: six hazards for every backend, machine (one per architecture) and publication path.

    `out`: a directory that gets the verdicts as `text_safety.parquet` and `text_safety.json` (docs/audit.md).
    progress(done, total) counts runs. Raises InputError before anything runs, CannotWrite.
    """
    from execbench.audit import audit as judged
    from execbench.study.arms import split_arms

    found = judged(workload, backends=split_arms(backends) if backends is not None else None,
                   machines=_several(machines), paths=_several(paths), kernel=kernel, replications=replications,
                   seed=seed, settings=set, workers=workers or 1, progress=progress)  # fmt: skip
    if out is not None:
        _write_text_safety(found, Path(out))
    return found


def _several(names: str | Iterable[str] | None) -> list[str] | None:
    return names.split(",") if isinstance(names, str) else list(names) if names is not None else None


def _write_text_safety(found: Audit, directory: Path) -> None:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from execbench.audit import COLUMNS, text_safety

    rows = text_safety(found)
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema), directory / "text_safety.parquet")
        (directory / "text_safety.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CannotWrite(str(directory), f"cannot be written ({error.strerror})", "choose another -o") from error


def new_backend(file: str | Path) -> None:
    """Write a backend that conforms as it stands into a new file; InputError if it exists or cannot be written."""
    write_backend(Path(file))


def _computed(study: Study, out: str | Path | None, workers: int | None, restart: bool,
              progress: ProgressCall | None, command: str) -> Results:  # fmt: skip
    if workers is not None and workers < 1:
        raise InputError("workers", workers, "None (serial), or at least 1", "leave it out for a serial run")
    root = Path(out) if out is not None else directory_of(study)
    carry_out(study, root, workers=workers, restart=restart, progress=progress, command=command)
    return load(root)


def _planned(study: Study, root: Path) -> Plan:
    done = finished(parts.committed(root)) if (root / "study.json").is_file() else {}
    running = [cell.id for cell in study.cells if not cell.refused]
    return Plan(study, root, tuple(plan(running, study.replications, done)))


@dataclass(frozen=True)
class Plan:
    """What a study would compute: its cells, and the work items that are not on disk yet."""

    study: Study
    dir: Path
    items: tuple[WorkItem, ...]

    def __repr__(self) -> str:
        cells = self.study.cells
        missing = sum(item.size for item in self.items)
        total = sum(not cell.refused for cell in cells) * self.study.replications
        lines = [f"Plan {self.study.name}: {len(cells)} cells x {self.study.replications} replications, "
                 f"{missing} of {total} to compute in {len(self.items)} parts -> {self.dir}"]  # fmt: skip
        for cell in cells:
            point = ", ".join(f"{key}={value}" for key, value in cell.point.items())
            note = f"n/a ({cell.refused})" if cell.refused else cell.status
            lines.append("  ".join(part for part in (f"  {cell.id}", cell.arm, point, note) if part))
        return "\n".join(lines)


class Results:
    """The results in a directory: `study` (the manifest) and one pandas frame per table, read when first asked for.

    Every frame has the columns `cell`, `arm` and `replication` in front, in the order of the study's cells.
    """

    def __init__(self, directory: Path, held: manifest.Manifest) -> None:
        """Wrap a results directory whose manifest is read already."""
        self.dir = directory
        self._held = held
        self._frames: dict[str, pd.DataFrame] = {}

    @property
    def study(self) -> Mapping[str, Any]:
        """What `study.json` says: question, expectation, cells, versions, code fingerprint."""
        return self._held.to_json()

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per cell: `cell, arm, backend, workload, machine, kernel, cpus, point, status, refused, spec`."""
        frame: pd.DataFrame = manifest.cells_table(self._held.cells).to_pandas()
        return frame

    @property
    def replications(self) -> pd.DataFrame:
        """Outcome, operations, events, draws and digest of every replication."""
        return self.table("replications")

    @property
    def metrics(self) -> pd.DataFrame:
        """Tidy figures of every replication: `metric, client, kind, unit, value, n`."""
        return self.table("metrics")

    @property
    def totals(self) -> pd.DataFrame:
        """Integer sums over each class of operations: `operations, completed, latency_ns, api_ns, ...`."""
        return self.table("totals")

    @property
    def histograms(self) -> pd.DataFrame:
        """Log-linear histograms of latencies by client, kind and phase: `bucket, count`."""
        return self.table("histograms")

    @property
    def counters(self) -> pd.DataFrame:
        """Counts of kernel primitives by client, kind and mode (sync or deferred)."""
        return self.table("counters")

    @property
    def locks(self) -> pd.DataFrame:
        """Acquisitions, waits and holds (ns) by lock, and the site that was waited for most."""
        return self.table("locks")

    @property
    def cpus(self) -> pd.DataFrame:
        """Interruptions and stolen time (ns) by group of CPUs."""
        return self.table("cpus")

    @property
    def disturbance(self) -> pd.DataFrame:
        """Interruptions and stolen time (ns) by time bin and group of CPUs."""
        return self.table("disturbance")

    @property
    def memory(self) -> pd.DataFrame:
        """Bytes asked, reserved and wasted, and leaves that map text, over time."""
        return self.table("memory")

    @property
    def extremes(self) -> pd.DataFrame:
        """Addresses of the worst operations: `client, kind, rank, op, t_ns, latency_ns`."""
        return self.table("extremes")

    @property
    def peaks(self) -> pd.DataFrame:
        """The largest latency of each time bin that had operations: `client, kind, bin, latency_ns`."""
        return self.table("peaks")

    @property
    def operations(self) -> pd.DataFrame:
        """Every single operation; empty unless the run recorded them."""
        return self.table("operations")

    def table(self, name: str) -> pd.DataFrame:
        """Return one table of all finished replications of this study; StoreError if a part is damaged."""
        if name not in self._frames:
            if name not in TABLES:
                raise KeyError(name)
            order = {row.cell: row.arm for row in self._held.cells}
            frame = parts.read_table(self.dir, name, order, self._held.replications).to_pandas()
            frame.insert(1, "arm", frame["cell"].map(order))
            self._frames[name] = frame
        return self._frames[name]

    @property
    def unexpected(self) -> pd.DataFrame:
        """The replications that ended in a simulated failure: rows whose outcome is not `ok`."""
        frame = self.replications
        return frame[frame["outcome"] != "ok"]

    def comparison(self) -> pd.DataFrame:
        """Return the table that compares the backends, each figure with its 95 % interval."""
        from execbench.report.comparison import comparison

        return comparison(self)

    def __repr__(self) -> str:
        held = self._held
        counts = self.replications.groupby("cell").size()
        n = len(self.replications)
        lines = [f"Results of {held.workload}: {len(held.cells)} cells, {n} replications in {self.dir}"]
        lines += [f"  {held.question}"] if held.question else []
        for row in held.cells:
            point = ", ".join(f"{key}={value}" for key, value in row.point.items())
            have = f"{counts.get(row.cell, 0)} of {held.replications} replications"
            have = f"n/a ({row.refused})" if row.refused else have
            lines.append("  ".join(part for part in (f"  {row.arm}", point, row.status, have) if part))
        return "\n".join(lines)
