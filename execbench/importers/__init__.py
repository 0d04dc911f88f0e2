"""A user's own machine as data: files of real systems read into the data files that workloads name."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from execbench.errors import CannotWrite

__all__ = ["Imported", "What", "imported"]

What: TypeAlias = Literal["modules", "veristat", "ftrace"]
"""What can be imported."""


@dataclass(frozen=True)
class Imported:
    """What one import wrote: rows in all, how many of each sort, and what the reader must know about them.

    `keys` are those of a workload that may name the file; none where no client takes what it holds.
    """

    file: Path
    rows: int
    sorts: Mapping[str, int]
    notes: tuple[str, ...]
    keys: tuple[str, ...]


def imported(what: What, path: Path, out: Path) -> Imported:
    """Read `path` and write the data file `out` (CSV, or .gz); InputError for what cannot be read, CannotWrite."""
    rows, columns, sorts, notes, keys = _READERS[what](path)
    _write(rows, columns, out)
    return Imported(out, len(rows), sorts, notes, keys)


_Read = tuple[list[dict[str, str]], tuple[str, ...], dict[str, int], tuple[str, ...], tuple[str, ...]]
"""Rows, columns, how many of each sort, notes, keys."""


def _modules(path: Path) -> _Read:
    from execbench.importers.modules import COLUMNS, modules_of

    rows = list(modules_of(path))
    with_init = sum(row["exec_init"] != "0" for row in rows)
    sorts = {"modules": len(rows), "with init text": with_init}
    return rows, COLUMNS, sorts, tuple(_missing(rows)), ("client.module.data",)


def _missing(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield what a run would refuse: modules on which others depend and that are not among them."""
    known = {row["name"] for row in rows}
    missing = sorted({name for row in rows for name in row["depends"].split()} - known)
    if missing:
        yield (f"not among them, though others depend on them: {', '.join(missing)}; import a folder that has them "
               "too, or take out of the column depends what is built into the kernel")  # fmt: skip


def _veristat(path: Path) -> _Read:
    from execbench.importers.veristat import COLUMNS, programs_of

    rows, derived = programs_of(path)
    notes = tuple(f"{column}: not in the file, derived (execbench.importers.veristat)" for column in derived)
    return rows, COLUMNS, {"accepted programs": len(rows)}, notes, ("client.bpf.data",)


def _ftrace(path: Path) -> _Read:
    from execbench.importers.ftrace import COLUMNS, arrivals_of, counted, takers

    rows = arrivals_of(path)
    span = f"the last of them begins {int(rows[-1]['at_ns']) / 1e9:.3g} s behind the first event: see --duration"
    sorts = {f"{client} {kind}": n for (client, kind), n in counted(rows).items()}
    taken = takers(rows)
    arriving = {f"{client} {kind}" for client, kinds in taken.items() for kind in kinds}
    left = [sort for sort in sorts if sort not in arriving]
    rest = (f"no client takes its arrivals from {', '.join(left)}: there to compare with",) if left else ()
    return rows, COLUMNS, sorts, (span, *rest), tuple(f"client.{client}.trace" for client in taken)


_READERS = {"modules": _modules, "veristat": _veristat, "ftrace": _ftrace}


def _write(rows: Sequence[Mapping[str, str]], columns: Sequence[str], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise CannotWrite(str(path), error.strerror or str(error), "choose another file with -o") from error
