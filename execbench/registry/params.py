"""Parameters of backends and clients: the fields of their frozen dataclasses, given as text, TOML or Python values.

A field's type decides what is allowed; `metadata={"unit": "time" | "size" | "rate" | "count"}` says how text with a
unit is read. An integer field without a unit accepts a time or a size as text, since both resolve to integers.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, cast

from execbench.errors import InputError, did_you_mean
from execbench.sim import dists
from execbench.units import rate_per_s, size_bytes, time_ns

__all__ = ["constructed", "fields_of", "given_fields", "resolved"]

_DISTRIBUTIONS: Final = (dists.Constant, dists.Uniform, dists.Exponential, dists.Mixture, dists.Erlang,
                         dists.Lognormal, dists.Empirical, dists.Dist)  # fmt: skip
_LARGEST: Final = (1 << 63) - 1
"""Tables store int64."""
_WIDEST: Final = sys.float_info.max
"""Nothing compares with NaN, and no number above this is finite."""
_READ: Final[dict[str, Callable[[Any, str], Any]]] = {"time": time_ns, "size": size_bytes, "rate": rate_per_s}


def fields_of(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """Return the parameters of a dataclass by name; a class that is none has no parameters."""
    if not dataclasses.is_dataclass(cls):
        return {}
    return {field.name: field for field in dataclasses.fields(cls) if field.init and not field.name.startswith("_")}


def resolved(cls: type, given: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Return all parameters of `cls` as plain data: the given ones checked and in base units, defaults for the rest.

    `root` is the dotted key that errors name (`backend.execmem`). Defaults that are no plain data stay out.
    """
    values = given_fields(cls, given, root)
    missing = []
    for name, field in fields_of(cls).items():
        if name in values:
            continue
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            missing.append(name)
            continue
        plain = _as_written(default)
        if _plain(plain):
            values[name] = plain
    if missing:
        raise InputError(root, f"no {', '.join(missing)}", f"the keys {', '.join(fields_of(cls))}",
                         f"add {', '.join(missing)}")  # fmt: skip
    return values


def given_fields(cls: type, given: Mapping[str, Any], root: str, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return only the given parameters of `cls`, checked and in base units; InputError for unknown or wrong ones."""
    known = {name: field for name, field in fields_of(cls).items() if name not in hidden}
    hints = _hints(cls)
    values = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            allowed = ", ".join(known) or "no parameters at all"
            hint = did_you_mean(name, known) or "remove it"
            raise InputError(f"{root}.{key}", f"the unknown parameter {key!r}", allowed, hint)
        values[name] = _value(hints[name], known[name].metadata.get("unit"), value, f"{root}.{key}")
    return values


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except Exception:  # a plug-in may annotate with names that exist only while type checking
        return {name: field.type for name, field in fields_of(cls).items()}


def _value(hint: Any, unit: str | None, value: Any, where: str) -> Any:
    """Return one value as its annotation wants it, as plain data."""
    if _is_dist(hint):
        return dists.resolve(value, cast(dists.Unit, unit or "time"), where)
    arms = _members(hint)
    if types.NoneType in arms and (value is None or (value in ("none", "null") and str not in arms)):
        return None
    if unit in _READ and not isinstance(value, bool):
        return _READ[unit](value, where)
    for arm in arms:
        ok, plain = _as(arm, value)
        if ok:
            return plain
    if int in arms and isinstance(value, str):
        return _quantity(value, where)
    raise _refused(arms, unit, value, where)


def _as(arm: Any, value: Any) -> tuple[bool, Any]:
    """Try one member of an annotation: (whether the value fits, its plain form)."""
    if typing.get_origin(arm) is Literal:
        return value in typing.get_args(arm), value
    if isinstance(arm, type) and issubclass(arm, Enum):
        wanted = {str(member.value): member.value for member in arm}
        text = str(value).replace("_", "-")
        text = text if text in wanted else str(value)
        return text in wanted, wanted.get(text)
    if arm is bool:
        return isinstance(value, bool), value
    if arm is int:
        return type(value) is int and abs(value) <= _LARGEST, value
    if arm is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _WIDEST, value
    if arm is str:
        return isinstance(value, str), value
    if typing.get_origin(arm) in (list, tuple) or arm in (list, tuple):
        fits = [of for of in typing.get_args(arm) if of is not Ellipsis] or [Any]
        return isinstance(value, list | tuple) and all(any(_as(of, item)[0] for of in fits) for item in value), value
    return arm is Any and _plain(value), value


def _quantity(text: str, where: str) -> int:
    """Return a size or a time, whichever the text is."""
    for read in (size_bytes, time_ns):
        try:
            return read(text, where)
        except InputError:
            continue
    allowed = 'a whole number, a size such as "2MiB" or a time such as "3us"'
    raise InputError(where, repr(text), allowed, "correct the value")


def _refused(arms: tuple[Any, ...], unit: str | None, value: Any, where: str) -> InputError:
    choices = [str(choice) for arm in arms for choice in _choices(arm)]
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: '"none"'}
    others = [words.get(arm, getattr(arm, "__name__", str(arm))) for arm in arms if not _choices(arm)]
    allowed = ", ".join([*choices, *others]) + (f" ({unit})" if unit else "")
    return InputError(where, repr(value), allowed, did_you_mean(str(value), choices) or "correct the value")


def _choices(arm: Any) -> tuple[Any, ...]:
    if typing.get_origin(arm) is Literal:
        return typing.get_args(arm)
    return tuple(member.value for member in arm) if isinstance(arm, type) and issubclass(arm, Enum) else ()


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(member for arm in typing.get_args(hint) for member in _members(arm))
    return (hint,)


def _is_dist(hint: Any) -> bool:
    return any(member in _DISTRIBUTIONS for member in _members(hint))


def _as_written(default: Any) -> Any:
    """Return a default as a file would say it: the value of an enum, the table of a distribution."""
    if isinstance(default, Enum):
        return default.value
    if type(default) in _DISTRIBUTIONS and not isinstance(default, dists.Lognormal | dists.Empirical):
        table = {field.name: getattr(default, field.name) for field in dataclasses.fields(default) if field.init}
        return {"dist": type(default).__name__.lower()} | {key: _whole(value) for key, value in table.items()}
    return default


def _whole(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> bool:
    """Whether JSON can hold the value."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def constructed(cls: type, values: Mapping[str, Any], root: str, find: Callable[[str], Path] = Path) -> Any:
    """Return `cls(**values)`, distributions built, so that its own checks speak: ValueErrors become InputErrors.

    `find` maps the name of a data file to its path.
    """
    hints, built = _hints(cls), {}
    for name, value in values.items():
        unit = fields_of(cls)[name].metadata.get("unit", "time")
        is_dist = _is_dist(hints[name]) and value is not None
        built[name] = dists.dist_from(value, unit, f"{root}.{name}", find) if is_dist else value
    try:
        return cls(**built)
    except (TypeError, ValueError) as error:
        field, colon, rule = str(error).partition(": ")
        if colon and field in values:
            raise InputError(f"{root}.{field}", repr(values[field]), rule, f"correct {field}") from error
        raise InputError(root, repr(dict(values)), str(error), "correct the parameters") from error
