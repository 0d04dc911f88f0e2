"""Find and read the files that a study is made of, and say where in them something stands.

Names resolve in this order: a path; `./workloads/NAME.toml` or `./configs/.../NAME.toml`; the files shipped with the
package. `Layers` remembers which file or option set which key, so that an error deep inside can name the place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from execbench.errors import InputError, did_you_mean
from execbench.registry.files import roots

__all__ = [
    "Layer",
    "Layers",
    "TomlFile",
    "find",
    "leaves",
    "line_of",
    "names",
    "read",
]

_FOLDERS: Final = {"workload": ("workloads",), "machine": ("configs/machines", "configs"), "study": ("configs",)}
"""Kind of file: the folders that hold it, best first; the first part is what the package ships as `_data/<part>`."""
_PLURAL: Final = {"workload": "workloads", "machine": "machines", "study": "studies"}


@dataclass(frozen=True)
class TomlFile:
    """One TOML file as read: `label` is its path as the user would write it, `text` is kept to find lines in it."""

    name: str
    path: Path
    text: str
    table: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The path relative to the working directory where that is shorter."""
        try:
            return str(self.path.relative_to(Path.cwd()))
        except ValueError:
            return str(self.path)


def find(kind: str, name: str, where: str = "") -> Path:
    """Return the file called `name` of `kind` workload, machine or study; InputError with a did-you-mean if none is."""
    for candidate in (Path(name), Path(f"{name}.toml")):
        if candidate.suffix == ".toml" and candidate.is_file():
            return candidate.resolve()
    for root in roots():
        for folder in _FOLDERS[kind]:
            path = root / folder / f"{name}.toml"
            if path.is_file():
                return path
    raise InputError(where or kind, name, f"a {kind} file (path) or one of: {', '.join(names(kind)) or 'none found'}",
                     did_you_mean(name, names(kind)) or f"see `execbench list {_PLURAL[kind]}`")  # fmt: skip


def names(kind: str) -> list[str]:
    """Return the names of this kind that resolve here, sorted: those of the working directory and the shipped ones."""
    found: set[str] = set()
    for root in roots():
        folder = root / _FOLDERS[kind][0]
        if kind != "study":
            found |= {path.stem for path in folder.glob("*.toml")}
            continue
        for path in folder.rglob("*.toml"):
            relative = path.relative_to(folder)
            if relative.parts[0] != "machines":
                found.add(relative.with_suffix("").as_posix())
    return sorted(found)


def read(kind: str, name: str, where: str = "") -> TomlFile:
    """Return the file called `name`, parsed; InputError if it is missing, unreadable or no TOML."""
    path = find(kind, name, where)
    try:
        text = path.read_text(encoding="utf-8")
        return TomlFile(path.stem, path, text, tomllib.loads(text))
    except OSError as error:
        raise InputError(str(path), f"a file that cannot be read ({error.strerror})", "a readable file",
                         "check its permissions") from error  # fmt: skip
    except UnicodeDecodeError as error:
        raise InputError(str(path), "bytes that are not UTF-8", "a TOML file in UTF-8", "re-encode it") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(str(path), f"text that is not TOML: {error}", "a TOML file", "correct that line") from error


# --- where a key stands -----------------------------------------------------------------------------------------------

_HEADER = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")


def line_of(text: str, key: str) -> int | None:
    """Return the number of the line that sets the dotted `key` in TOML text, or that of its nearest parent."""
    wanted = _plain(key)
    best: tuple[int, int] | None = None  # length of the match, line
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            full = table = _plain(header[1])
        elif found := _KEY.match(line):
            full = f"{table}.{_plain(found[1])}".lstrip(".")
        else:
            continue
        if (wanted == full or wanted.startswith(full + ".")) and (best is None or len(full) > best[0]):
            best = (len(full), number)
    return best[1] if best else None


def _plain(key: str) -> str:
    """Return a dotted key without quotes, blanks and list indices."""
    return re.sub(r"\[\d+\]", "", re.sub(r"\s*\.\s*", ".", key.replace('"', "").replace("'", ""))).strip()


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(dotted key, value)` for every value of nested tables that is not itself a table with entries."""
    for key, value in table.items():
        full = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, full)
        else:
            yield full, value


@dataclass(frozen=True)
class Layer:
    """Keys that one source has set: `keys` maps the dotted key of the study to the key inside the source."""

    label: str
    keys: Mapping[str, str]
    text: str = ""

    @classmethod
    def of_file(cls, file: TomlFile, table: Mapping[str, Any], root: str = "", inside: str = "") -> Layer:
        """Return the layer of (a part of) a file whose key `inside.x` sets the study's key `root.x`."""
        keys = {_join(root, key): _join(inside, key) for key, _ in leaves(table)}
        return cls(file.label, keys, file.text)

    @classmethod
    def of_options(cls, options: Iterable[tuple[str, str]]) -> Layer:
        """Return the layer of command-line options: pairs of the dotted key and how the user wrote the option."""
        return cls("", dict(options))

    def where(self, key: str) -> str | None:
        """Return the place that set `key`, one of its children or one of its parents; None if this source did not."""
        plain = _plain(key)
        hits = [known for known in self.keys if known == plain or plain.startswith(known + ".")]
        hits = hits or [known for known in self.keys if known.startswith(plain + ".")]
        if not hits:
            return None
        known = max(hits, key=len) if plain.startswith(hits[0]) else hits[0]
        inside = self.keys[known]
        if not self.text:
            return inside
        below = plain.startswith(known)
        shown = inside + key[len(known) :] if below else inside[: max(len(inside) - len(known) + len(plain), 0)]
        line = line_of(self.text, shown) if shown else None
        return f"{self.label}{f':{line}' if line else ''}{f': {shown}' if shown else ''}"


@dataclass
class Layers:
    """All sources of one cell, weakest first."""

    layers: list[Layer] = field(default_factory=list)

    def where(self, key: str) -> str:
        """Return the place of the strongest source that set `key`; the key itself if none did.

        A key that is missing is placed in the file that has its nearest parent.
        """
        files = [layer for layer in self.layers if layer.text]
        parent, rest, layers = key, "", self.layers
        while parent:
            for layer in reversed(layers):
                if (place := layer.where(parent)) is not None:
                    return place + rest
            parent, dot, last = parent.rpartition(".")
            rest, layers = dot + last + rest, files
        return key

    @contextmanager
    def located(self) -> Iterator[None]:
        """Inside, an InputError whose `where` is a dotted key leaves with the file, line and key instead."""
        try:
            yield
        except InputError as error:
            raise type(error)(self.where(error.where), error.given, error.allowed, error.remedy) from None


def _join(root: str, key: str) -> str:
    return f"{root}.{key}".strip(".") if root else key
