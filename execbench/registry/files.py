"""Files that travel by name: data that workloads draw from, found by users and by workers in the same way."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from execbench.errors import InputError, did_you_mean

__all__ = ["data_checked", "data_path", "roots", "rows_of", "sha256_of"]


def data_path(name: str, beside: Path | None = None, where: str = "data file") -> Path:
    """Return the data file called `name`: a path, `./workloads/data/NAME`, or a shipped one.

    `beside` is the folder of the workload file that names it, which is looked into first.
    """
    plain = name.removeprefix("data/")
    folders = [beside / "data", beside] if beside is not None else []
    folders += [root / "workloads/data" for root in roots()]
    for path in [Path(name), *(folder / plain for folder in folders)]:
        if path.is_file():
            return path
    known = sorted({path.name for root in roots() for path in (root / "workloads/data").glob("*.csv*")})
    raise InputError(where, name or repr(name), f"a path or one of: {', '.join(known) or 'none found'}",
                     did_you_mean(plain, known) or "put it into ./workloads/data/")  # fmt: skip


def data_checked(spec: Mapping[str, Any]) -> None:
    """Refuse to simulate a spec whose data files are no longer what its hashes say."""
    for key, entry in spec["workload"]["data"].items():
        path = data_path(entry["name"], where=f"client.{key}")
        if sha256_of(path) != entry["sha256"]:
            remedy = "restore the file, or run the study again into another directory"
            allowed = f"the content with SHA-256 {entry['sha256'][:12]}..."
            raise InputError(f"client.{key}", f"{path}, whose content has changed", allowed, remedy)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(path: Path) -> Sequence[Mapping[str, str]]:
    """Return the rows of a CSV file with a header (plain or .gz), read once per process."""
    return _rows(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _rows(path: str, changed_ns: int) -> Sequence[Mapping[str, str]]:
    with gzip.open(path, "rt", newline="") if path.endswith(".gz") else open(path, newline="") as file:
        return tuple(csv.DictReader(file))


def roots() -> list[Path]:
    """Return the folders that hold `workloads/` and `configs/`: the working directory, then what is shipped."""
    package = Path(str(files("execbench")))
    shipped = package / "_data"
    return [Path.cwd(), shipped if shipped.is_dir() else package.parent]
