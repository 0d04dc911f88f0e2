"""Columns of the data files that clients read: what may stand in each, held against the whole file before a run.

A parameter that names such a file says so beside it: `field(metadata={"kind": "data", "columns": COLUMNS})`.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

from execbench.errors import InputError

U32: Final = (1 << 32) - 1
"""The kernel counts instructions, states and bytes of one object in 32 bits (bpf_prog_aux.verified_insns,
module_memory.size)."""
S64: Final = (1 << 63) - 1

Line: TypeAlias = tuple[int, list[str]]
"""Number in the file, counted from 1, and fields."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column that a client reads, and what may stand in it.

    text: anything but nothing; whole: a whole number from `least` to `most`; wholes: several, blank-separated; names:
    several, each of them in the column `of` of the same file; release: numbers with points between.
    """

    name: str
    holds: Literal["text", "whole", "wholes", "names", "release"] = "whole"
    least: int = 0
    most: int = U32
    needed: bool = True
    """The file must have the column."""
    filled: bool = True
    """Every row must have something in it."""
    once: bool = False
    """No two rows have the same in it."""
    ascending: bool = False
    """No row has less in it than the row before."""
    of: str = ""

    @property
    def allowed(self) -> str:
        """What may stand there, in words."""
        whole = f"from {self.least:d} to {self.most:d}"
        words = {"text": "text", "whole": f"a whole number {whole}",
                 "wholes": f"whole numbers {whole}, blank-separated",
                 "names": f"names of the column {self.of}, blank-separated",
                 "release": 'numbers with points between, such as "6.12"'}  # fmt: skip
        return words[self.holds] + ("" if self.filled else ", or nothing")

    def fits(self, field: str) -> bool:
        """Whether this may stand there, whatever stands in other rows."""
        if not field.strip():
            return not self.filled
        if self.holds == "whole":
            return self._whole(field)
        if self.holds == "release":
            return all(map(_digits, field.split(".")))
        return self.holds != "wholes" or all(map(self._whole, field.split()))

    def _whole(self, text: str) -> bool:
        return _digits(text) and len(text) < 20 and self.least <= int(text) <= self.most


def _digits(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def rows_checked(path: Path, columns: Sequence[Column], where: str) -> int:
    """Return how many rows a data file (CSV with a header, plain or .gz) has, all of which hold what `columns` say.

    InputError names `where` (the key that names the file), the file, its line and column, and what is allowed.
    """
    try:
        return _checked(str(path), path.stat().st_mtime_ns, tuple(columns))
    except _Unfit as error:
        given, allowed, remedy = error.args
        raise InputError(where, f"{path}{given}", allowed, remedy) from None


class _Unfit(Exception):
    """What is wrong with a file: what comes behind its name, what is allowed, what to do."""


@lru_cache(maxsize=32)
def _checked(path: str, changed_ns: int, columns: tuple[Column, ...]) -> int:
    header, lines = _read(path)
    missing = [column.name for column in columns if column.needed and column.name not in header]
    if missing:
        raise _Unfit(f" with the columns {', '.join(header)}", f"columns for {', '.join(missing)} too",
                     "see workloads/data/README.md, or write it with `execbench import`")  # fmt: skip
    if not lines:
        raise _Unfit(", which has no row below its header", "at least one row", "name a file with rows")
    for number, fields in lines:
        if len(fields) != len(header):
            raise _Unfit(f", line {number}: {len(fields)} fields", f"{len(header)}, as many as the header has",
                         "correct the line")  # fmt: skip
    for column in columns:
        if column.name in header:
            _check(column, header, lines)
    return len(lines)


def _read(path: str) -> tuple[list[str], list[Line]]:
    """Return header and rows; lines with nothing in them are none."""
    try:
        with (
            gzip.open(path, "rt", newline="", encoding="utf-8")
            if path.endswith(".gz")
            else open(path, newline="", encoding="utf-8") as file
        ):
            reader = csv.reader(file)
            lines = [(reader.line_num, fields) for fields in reader if fields]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise _Unfit(f", which cannot be read ({error})", "a CSV file with a header, in UTF-8, plain or .gz",
                     "write it again") from error  # fmt: skip
    if not lines:
        raise _Unfit(", which is empty", "a CSV file with a header", "name a file with rows")
    return lines[0][1], lines[1:]


def _check(column: Column, header: Sequence[str], lines: Sequence[Line]) -> None:
    """Hold one column against all rows."""
    place = header.index(column.name)
    known = {fields[header.index(column.of)] for _, fields in lines} if column.holds == "names" else set()
    seen: dict[str, int] = {}
    before = column.least
    for number, fields in lines:
        field = fields[place]
        here = f", line {number}: {column.name} = {field!r}"
        if not column.fits(field):
            raise _Unfit(here, column.allowed, "correct the line")
        if column.once and seen.setdefault(field, number) != number:
            raise _Unfit(f"{here}, as in line {seen[field]}", "each once", "take one of the lines out")
        if column.ascending and int(field) < before:
            raise _Unfit(f"{here} below {before}", "in ascending order", f"sort the lines by {column.name}")
        before = int(field) if column.ascending else before
        if strangers := [name for name in names(field) if name not in known] if column.holds == "names" else []:
            raise _Unfit(f", line {number}: {column.name} names {', '.join(strangers)}, without a row of its own",
                         column.allowed, "add the rows that are missing (import the folder that has all of them), or "
                         "take out of the line what is built into the kernel")  # fmt: skip


def names(field: str) -> list[str]:
    """Return the names in a field, between blanks or commas."""
    return field.replace(",", " ").split()
