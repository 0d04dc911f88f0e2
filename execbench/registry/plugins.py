"""Backends and clients by name: those shipped, those of other packages (entry points), and files given by path.

A file travels to worker processes as its source text and is executed there as the module `execbench_plugin_<sha8>` in
`sys.modules`, so that dataclasses, pickling and tracebacks work as in any module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import linecache
import pkgutil
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from execbench.errors import InputError, PluginError, did_you_mean

__all__ = ["Kind", "class_for", "display_name", "load_source", "names", "registered", "sha8", "snake", "source_of"]

Kind: TypeAlias = Literal["backends", "clients"]

_VERBS: Final[dict[Kind, tuple[str, ...]]] = {
    "backends": ("start", "alloc", "write", "finalize", "free", "usage"),
    "clients": ("computing_threads", "cpus", "start"),
}
_KERNEL_SPELLING: Final = ("module_alloc", "bpf_prog_pack", "jit_text_alloc")
"""Backends that are functions of the kernel keep its spelling; all other names are kebab case."""

_FILES: Final[dict[str, str]] = {}
"""Path of each plug-in's file as the user wrote it, by `sha8` of its text; only what this process has read."""


def display_name(name: str) -> str:
    """Return how a backend or client is called: kebab case, or the kernel's spelling where it is the kernel's name."""
    snake = name.replace("-", "_")
    return snake if snake in _KERNEL_SPELLING else snake.replace("_", "-")


@cache
def registered(kind: Kind) -> Mapping[str, type]:
    """Return the classes that need no file, by display name in alphabetical order."""
    found = {display_name(module.__name__.rpartition(".")[2]): cls for module, cls in _shipped(kind)}
    for point in entry_points(group=f"execbench.{kind}"):
        try:
            cls = point.load()
        except Exception as error:
            raise PluginError(f"entry point {point.name} of group execbench.{kind}", f"{type(error).__name__}: {error}",
                              "a class that can be imported", "repair or uninstall the package that declares it",
                              ) from error  # fmt: skip
        found[display_name(point.name)] = _with_verbs(cls, kind, f"entry point {point.name} ({point.value})")
    return {name: found[name] for name in sorted(found)}


def names(kind: Kind) -> list[str]:
    """Return the display names of all registered backends or clients."""
    return list(registered(kind))


def class_for(kind: Kind, name: str, where: str, source: str | None = None) -> type:
    """Return the class called `name`, from `source` where the spec names a plug-in; InputError with a did-you-mean."""
    if source is not None:
        return _class_in(load_source(source, where), kind, name, where)
    found = registered(kind).get(display_name(name))
    if found is None:
        known = names(kind)
        hint = did_you_mean(display_name(name), known) or f"see `execbench list {kind}`, or give ./FILE.py"
        raise InputError(where, name, ", ".join(known) or f"no {kind} are installed", hint)
    return found


def source_of(file: str, where: str) -> str:
    """Return the text of a plug-in file; PluginError if it cannot be read."""
    try:
        source = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PluginError(where, f"{file}, which cannot be read ({reason})", "a readable Python file",
                          "check the path") from error  # fmt: skip
    _FILES[sha8(source)] = file
    return source


def sha8(source: str) -> str:
    """Return the name under which a plug-in's source is known: 8 hex digits of BLAKE2b of its text."""
    return hashlib.blake2b(source.encode()).hexdigest()[:8]


def load_source(source: str, where: str = "plug-in") -> types.ModuleType:
    """Return the module made of a plug-in's source text, executed once per process; PluginError if that fails."""
    name = f"execbench_plugin_{sha8(source)}"
    if name in sys.modules:
        return sys.modules[name]
    file = f"<{name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    module = types.ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        place = _place(where, _FILES.get(sha8(source), ""), _line(error, file))
        own = isinstance(error, SyntaxError) and error.filename == file
        words = getattr(error, "msg", "") if own else str(error)  # the whole would name the module, not the file
        raise PluginError(place, f"{type(error).__name__}: {words}", "a Python file that can be executed",
                          "repair it") from error  # fmt: skip
    return module


def _class_in(module: types.ModuleType, kind: Kind, name: str, where: str) -> type:
    """Return the class that a plug-in file is about: the only one with the verbs, or the one called `name`."""
    defined = [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]
    fitting = [cls for cls in defined if _has_verbs(cls, kind)]
    named = [cls for cls in defined if display_name(snake(cls.__name__)) == display_name(name)]
    if named:
        return _with_verbs(named[0], kind, where)
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(cls.__name__ for cls in fitting or defined) or "none"
    given = f"a file with {len(fitting)} {kind} (classes: {listed})"
    if not fitting and defined:
        _with_verbs(defined[-1], kind, where)
    raise PluginError(where, given, f"one class with the methods {', '.join(_VERBS[kind])}",
                      "choose one with ./FILE.py:Class" if fitting else "define it")  # fmt: skip


def _shipped(kind: Kind) -> Iterator[tuple[types.ModuleType, type]]:
    package = importlib.import_module(f"execbench.{kind}")
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"execbench.{kind}.{info.name}")
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__ and _has_verbs(cls, kind):
                yield module, cls
                break


def _has_verbs(cls: type, kind: Kind) -> bool:
    return dataclasses.is_dataclass(cls) and all(callable(getattr(cls, verb, None)) for verb in _VERBS[kind])


def _with_verbs(cls: Any, kind: Kind, where: str) -> type:
    """Return the class; PluginError that lists what it lacks."""
    missing = [verb for verb in _VERBS[kind] if not callable(getattr(cls, verb, None))]
    if missing:
        raise PluginError(where, f"class {cls.__name__} without {', '.join(missing)}",
                          f"the methods {', '.join(_VERBS[kind])}", "add what is missing")  # fmt: skip
    if not dataclasses.is_dataclass(cls) or not getattr(cls, "__dataclass_params__").frozen:  # noqa: B009
        raise PluginError(where, f"class {cls.__name__}, which is no frozen dataclass", "@dataclass(frozen=True)",
                          "decorate it; its fields are the parameters")  # fmt: skip
    assert isinstance(cls, type)
    return cls


def _line(error: BaseException, file: str) -> int | None:
    """Return the line of a plug-in's own text at which it could not be read or executed, if that is known."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None


def _place(where: str, path: str, line: int | None) -> str:
    """Return where the user finds the mistake: option, path of the file where one is known, and line."""
    named = where if path in where else f"{where} {path}"
    return named if line is None else f"{named}, line {line}"


def snake(name: str) -> str:
    """Return a CamelCase name in snake case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
