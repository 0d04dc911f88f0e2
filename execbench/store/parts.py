"""Parts: what one work item computed, written atomically as `parts/<task>/<table>.parquet`.

A part is written as `tmp/<task>.<pid>/`, flushed to disk and renamed: the rename is the commit, and a target that
exists means that somebody else did the same work. Pages carry checksums, so a damaged part is noticed on reading.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from execbench.errors import CannotWrite, StoreError
from execbench.store.digest import digest_of
from execbench.store.schema import TABLES, arrow_schema, arrow_table

if TYPE_CHECKING:
    from execbench.simulate import Replication

__all__ = ["Part", "committed", "discard", "read_columns", "read_table", "rows", "sweep_tmp", "task_name",
           "write"]  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A committed part: the replications first..last of one cell."""

    cell: str
    first: int
    last: int
    path: Path


_TASK = re.compile(r"(?P<cell>[0-9a-f]{12})-r(?P<first>\d+)-(?P<last>\d+)")


def task_name(cell: str, first: int, last: int) -> str:
    """Return the name of a work item and of the folder of its part."""
    return f"{cell}-r{first}-{last}"


def committed(root: Path) -> list[Part]:
    """Return the parts in a results directory, in the order of their names; StoreError for what is none."""
    folder = root / "parts"
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _TASK.fullmatch(path.name)
        if match is None:
            raise StoreError(str(path), "not a part of an execbench study", "remove it")
        found.append(Part(match["cell"], int(match["first"]), int(match["last"]), path))
    return found


def write(root: Path, cell: str, recorded: Sequence[tuple[int, Replication]]) -> bool:
    """Commit the replications (numbers and records, ascending) of one cell; False if somebody else already had.

    CannotWrite if the directory does not take it; nothing half-written is ever found under `parts/`.
    """
    task = task_name(cell, recorded[0][0], recorded[-1][0])
    temporary, target = root / "tmp" / f"{task}.{os.getpid()}", root / "parts" / task
    try:
        if target.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, table in _tables(cell, recorded):
            file = temporary / f"{name}.parquet"
            pq.write_table(table, file, write_page_checksum=True, compression="zstd")
            _flush(file)
        _flush(temporary)
        os.rename(temporary, target)
        _flush(target.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.is_dir():  # another process was faster: its part is as good
            return False
        remedy = "make room or choose another directory with -o; finished parts are kept"
        raise CannotWrite(str(target), f"cannot be written ({error.strerror or error})", remedy) from error
    return True


def _tables(cell: str, recorded: Sequence[tuple[int, Replication]]) -> Iterator[tuple[str, pa.Table]]:
    """Yield `(name, table)` of everything the replications recorded."""
    rows = [
        (number, {"outcome": [one.outcome], "detail": [one.detail], "operations": [one.operations],
                  "events": [one.events], "draws": [one.draws],
                  "digest": [digest_of(one.outcome, one.operations, one.tables)]})
        for number, one in recorded
    ]  # fmt: skip
    yield "replications", arrow_table("replications", cell, rows)
    for name in TABLES:
        pieces = [(number, dict(one.tables[name])) for number, one in recorded if name in one.tables]
        if pieces:
            yield name, arrow_table(name, cell, pieces)


def read_table(root: Path, table: str, cells: Iterable[str] = (), replications: int | None = None) -> pa.Table:
    """Return one table of all parts (of these cells, and of replications below a number), cells in the given order.

    StoreError names the part that is damaged or incomplete.
    """
    order = {cell: place for place, cell in enumerate(cells)}
    parts = [part for part in committed(root) if not order or part.cell in order]
    parts.sort(key=lambda part: (order.get(part.cell, 0), part.cell, part.first))
    pieces = [piece for part in parts if (piece := _read(part, table)) is not None]
    whole = pa.concat_tables(pieces) if pieces else arrow_schema(table).empty_table()
    return whole if replications is None else whole.filter(pc.less(whole["replication"], replications))


def read_columns(part: Part, table: str, replication: int) -> dict[str, list[Any]]:
    """Return the columns that one replication recorded in one table, without the keys; empty if it has none."""
    whole = _read(part, table)
    if whole is None:
        return {}
    mine = whole.filter(pc.equal(whole["replication"], replication))
    return {name: mine[name].to_pylist() for name in TABLES[table]}


def rows(part: Part, table: str, replication: int) -> list[dict[str, Any]]:
    """Return the rows that one replication recorded in one table, without the keys."""
    columns = read_columns(part, table, replication)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _read(part: Part, table: str) -> pa.Table | None:
    file = part.path / f"{table}.parquet"
    remedy = f"remove {part.path} and run again: only this part is computed anew"
    if not file.exists():
        if table == "replications":
            raise StoreError(str(file), "missing", remedy)
        return None
    try:
        found = pq.read_table(file, page_checksum_verification=True, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(str(file), f"damaged ({reason})", remedy) from error
    if not found.schema.equals(arrow_schema(table)):
        raise StoreError(str(file), "columns that this version does not know", "recompute with --restart")
    return found


def discard(root: Path) -> None:
    """Remove the parts and what was half-written; CannotWrite if that fails."""
    for folder in (root / "parts", root / "tmp"):
        try:
            if folder.is_dir():
                shutil.rmtree(folder)
        except OSError as error:
            raise CannotWrite(str(folder), f"cannot be removed ({error.strerror})", "remove it by hand") from error


def sweep_tmp(root: Path, pids: Iterable[int]) -> None:
    """Remove what these processes, which have ended, left half-written; other processes keep theirs."""
    for pid in pids:
        for path in (root / "tmp").glob(f"*.{pid}"):
            shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty: somebody else is writing
        (root / "tmp").rmdir()


def _flush(path: Path) -> None:
    """Force a file or the entries of a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
