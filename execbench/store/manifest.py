"""The manifest of a results directory: what was asked (`study.json`, `cells.parquet`) and by which code.

`study.json` holds the canonical cells, the seed, versions and the code fingerprint; `log.jsonl` holds wall times, which
no digest and no comparison sees.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from execbench.errors import CannotWrite, StoreError
from execbench.store.schema import SCHEMA_VERSION

__all__ = ["CellRow", "Manifest", "cells_table", "changed_code", "code_of", "fingerprint", "hash_of", "read",
           "versions", "write", "write_log"]  # fmt: skip

_CODE: Final = ("catalogue.py", "costs.py", "contract.py", "simulate.py", "sim", "kernel", "record")
"""What every simulation runs, beside the backends and clients that it uses."""
_LIBRARIES: Final = ("numpy", "simpy", "pyarrow", "pandas", "scipy")


@dataclass(frozen=True)
class CellRow:
    """One cell as stored: `spec` is its canonical JSON, `point` the values of the axes."""

    cell: str
    arm: str
    point: Mapping[str, Any]
    status: str
    refused: str
    spec: str


@dataclass(frozen=True)
class Manifest:
    """All of `study.json`, plus the sources of the plug-ins (by sha8)."""

    name: str
    kind: str
    workload: str
    question: str
    reading: str
    sha8: str
    replications: int
    cells: tuple[CellRow, ...]
    code: Mapping[str, str]
    versions: Mapping[str, str]
    plugin_files: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    asks: tuple[str, ...] = ()
    """What the question is about: classes of operation, "CLIENT KIND", or all of a client."""

    def to_json(self) -> dict[str, Any]:
        """Return the plain data of `study.json`."""
        specs = [json.loads(cell.spec) for cell in self.cells]
        return {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "kind": self.kind,
            "workload": self.workload,
            "question": self.question,
            "asks": list(self.asks),
            "expect": {"reading": self.reading},
            "command": self.command,
            "sha8": self.sha8,
            "replications": self.replications,
            "seeds": sorted({spec["run"]["seed"] for spec in specs}),
            "cells": [
                {"cell": cell.cell, "arm": cell.arm, "point": dict(cell.point), "status": cell.status,
                 "refused": cell.refused, "spec": spec}
                for cell, spec in zip(self.cells, specs, strict=True)
            ],
            "plugins": dict(self.plugin_files),
            "fingerprint": fingerprint(self.code),
            "code": dict(self.code),
            "versions": dict(self.versions),
        }  # fmt: skip


def write(root: Path, manifest: Manifest) -> None:
    """Write `study.json`, `cells.parquet` and the plug-ins; each file appears whole or not at all."""
    try:
        (root / "plugins").mkdir(parents=True, exist_ok=True)
        for sha, source in manifest.plugins.items():
            _replace(root / "plugins" / f"{sha}.py", source.encode())
        if not manifest.plugins:
            (root / "plugins").rmdir()
        temporary = root / f".cells.{os.getpid()}"
        pq.write_table(cells_table(manifest.cells), temporary, write_page_checksum=True)
        os.replace(temporary, root / "cells.parquet")
        text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False) + "\n"
        _replace(root / "study.json", text.encode())
    except OSError as error:
        raise CannotWrite(str(root), f"cannot be written ({error.strerror or error})",
                          "choose another directory with -o") from error  # fmt: skip


def read(root: Path) -> Manifest:
    """Return the manifest of a results directory; StoreError if it is none or is damaged."""
    file = root / "study.json"
    if not file.is_file():
        problem = "no results: study.json is missing" if root.is_dir() else "no such directory"
        raise StoreError(str(root), problem, "give a directory that `execbench run` or `execbench sweep` made")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA_VERSION:
            raise StoreError(str(file), f"schema {data['schema']} instead of {SCHEMA_VERSION}",
                             "read it with the version of execbench that wrote it")  # fmt: skip
        cells = tuple(
            CellRow(cell["cell"], cell["arm"], cell["point"], cell["status"], cell["refused"], _text(cell["spec"]))
            for cell in data["cells"]
        )
        plugins = {sha: (root / "plugins" / f"{sha}.py").read_text(encoding="utf-8") for sha in data["plugins"]}
        return Manifest(
            data["name"], data["kind"], data["workload"], data["question"], data["expect"]["reading"], data["sha8"],
            data["replications"], cells, data["code"], data["versions"], data["plugins"], plugins, data["command"],
            tuple(data.get("asks", ())),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StoreError(str(file), f"damaged ({type(error).__name__}: {error})", "run the study again") from error


def write_log(root: Path, **entry: Any) -> None:
    """Append one line of wall-clock facts to `log.jsonl`."""
    line = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **entry}) + "\n"
    try:
        with (root / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise CannotWrite(str(root / "log.jsonl"), f"cannot be written ({error.strerror or error})",
                          "make room; finished parts are kept") from error  # fmt: skip


def code_of(specs: Sequence[Mapping[str, Any]], plugins: Mapping[str, str]) -> dict[str, str]:
    """Return the hash of every source file that these specs run, by its path inside the package."""
    package = Path(str(files("execbench")))
    used = [*_CODE]
    for spec in specs:
        if spec["backend"]["plugin"] is None:
            used.append(f"backends/{spec['backend']['name'].replace('-', '_')}.py")
        used += [f"clients/{name.replace('-', '_')}.py" for name in spec["workload"]["clients"]]
    code = {}
    for name in sorted(_with_siblings(package, used)):
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []:
            code[file.relative_to(package).as_posix()] = hash_of(file.read_text(encoding="utf-8"))
    return code | {f"plugin {sha}": sha for sha in sorted(plugins)}


def _with_siblings(package: Path, names: Sequence[str]) -> set[str]:
    """Return these paths and the modules beside a backend or client that it imports, and those that they import."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        folder, slash, _ = name.partition("/")
        if slash and (package / name).is_file():
            text = (package / name).read_text(encoding="utf-8")
            beside = re.findall(rf"^from execbench\.{folder}\.(\w+) import", text, re.MULTILINE)
            left += [f"{folder}/{module}.py" for module in beside]
    return found


def fingerprint(code: Mapping[str, str]) -> str:
    """Return one hash over all files of the code."""
    return hash_of(json.dumps(dict(code), sort_keys=True))


def changed_code(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the files that differ, were added or were removed, in alphabetical order."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def versions() -> dict[str, str]:
    """Return the versions of execbench, Python and the libraries that results can depend on."""
    found = {"execbench": _version("execbench"), "python": platform.python_version()}
    return found | {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def cells_table(cells: Iterable[CellRow]) -> pa.Table:
    """Return `cells.parquet`: identity, readable arm, point, and the figures by which people select."""
    rows = []
    for cell in cells:
        spec = json.loads(cell.spec)
        rows.append({
            "cell": cell.cell, "arm": cell.arm, "backend": spec["backend"]["name"],
            "workload": spec["workload"]["name"], "machine": spec["machine"]["name"],
            "kernel": spec["kernel"]["release"], "cpus": spec["machine"]["topology"]["cpus"],
            "point": json.dumps(dict(cell.point)), "status": cell.status, "refused": cell.refused, "spec": cell.spec,
        })  # fmt: skip
    return pa.Table.from_pylist(rows)


def _text(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_of(source: str) -> str:
    """Return the short hash of a source text, whatever its line ends."""
    return hashlib.blake2b(source.replace("\r\n", "\n").encode(), digest_size=8).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
