"""veristat's CSV (tools/testing/selftests/bpf/veristat.c): programs as a verifier saw them, as rows that bpf draws.

veristat says how many instructions the verifier processed, and newer ones the program's size. What it does not say is
derived from what production programs show (workloads/data/README.md): `execbench import veristat` says so.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from execbench.clients.columns import Column
from execbench.errors import InputError

COLUMNS: Final = (
    "source", "object", "prog", "type", "insns", "processed", "total_states", "xlated", "jited", "nfuncs", "func_lens",
)  # fmt: skip
"""Columns of the data file, those of bpf_loaded.csv without the tag."""
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "object": ("file_name", "filename", "file"),
    "prog": ("prog_name", "progname", "prog"),
    "verdict": ("verdict",),
    "processed": ("total_insns", "insns"),
    "total_states": ("total_states", "states"),
    "insns": ("prog_size",),
    "jited": ("prog_size_jited", "jited_size"),
    "type": ("prog_type",),
}
"""Our column: veristat's names for it (stat_defs), over its releases."""
REQUIRED: Final = ("object", "prog", "verdict", "processed", "total_states")
_LINE: Final = "line of the file"
JITED: Final = (98.6, 4.612, 30.3)
"""Bytes of machine code = a + b instructions + c functions: least squares over 844 production programs, R2 0.99."""


def programs_of(path: Path) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Return the rows of the accepted programs, and the columns that were derived because the file has none of them.

    InputError for a file that is not veristat's CSV or holds no accepted program.
    """
    rows, columns = _read(path)
    accepted = [row for row in rows if row[columns["verdict"]] == "success" and _int(row, columns["processed"], path)]
    if not accepted:
        raise InputError("PATH", f"{path}: none of its {len(rows)} programs was accepted", "verdict = success",
                         "run veristat where the programs load")  # fmt: skip
    derived = tuple(name for name in ("insns", "jited") if name not in columns)
    return [_program(row, columns, path) for row in accepted], derived


def _read(path: Path) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Return the rows, and veristat's name of each of our columns that it has."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, header = [row | {_LINE: str(reader.line_num)} for row in reader], reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("PATH", f"{path}, which cannot be read ({error})", "the output of veristat -o csv",
                         "check the path") from error  # fmt: skip
    if not header:
        raise InputError("PATH", f"{path}, which is empty", "the output of veristat -o csv",
                         "write it with: veristat -o csv FILE.o")  # fmt: skip
    columns = {ours: name for ours, names in ALIASES.items() for name in names if name in header}
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError("PATH", f"{path} with the columns {', '.join(header) or 'none'}",
                         f"columns for {', '.join(missing)} too, with commas between them",
                         "write it with: veristat -o csv FILE.o")  # fmt: skip
    return rows, columns


def _program(row: Mapping[str, str], columns: Mapping[str, str], path: Path) -> dict[str, str]:
    processed = _int(row, columns["processed"], path)
    insns = _int(row, columns["insns"], path, 1) if "insns" in columns else instructions(processed)
    fixed, each, function = JITED
    jited = _int(row, columns["jited"], path, 1) if "jited" in columns else int(fixed + each * insns + function + 0.5)
    return {
        "source": "veristat",
        "object": row[columns["object"]],
        "prog": row[columns["prog"]],
        "type": row[columns["type"]] if "type" in columns else "",
        "insns": str(insns),
        "processed": str(processed),
        "total_states": str(_int(row, columns["total_states"], path)),
        "xlated": str(insns),
        "jited": str(jited),
        "nfuncs": "1",
        "func_lens": str(jited),
    }


def instructions(processed: int) -> int:
    """Return the instructions of a program by those that the verifier processed, where nobody counted them.

    processed = 0.183 insns^1.408 over 844 production programs (residual sd 1.56 of the logarithm), turned round; never
    more than were processed, as each is at least once.
    """
    return max(1, min(processed, int((processed / 0.183) ** (1 / 1.408) + 0.5)))


def _int(row: Mapping[str, str], column: str, path: Path, least: int = 0) -> int:
    known = Column(column, least=least)
    if not known.fits(row[column] or ""):
        raise InputError("PATH", f"{path}, line {row[_LINE]}: {column} = {row[column] or ''!r}", known.allowed,
                         "correct the line, or write the file again with veristat -o csv")  # fmt: skip
    return int(row[column])
