"""Arms: which backends a study compares, each with its parameters, written `NAME[field=value,...]`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from execbench.errors import InputError
from execbench.study.overrides import parse_value

__all__ = ["Arm", "label", "parse_arm", "split_arms"]


@dataclass(frozen=True)
class Arm:
    """One arm as written: a backend's name, or the file (and class) it is defined in, and the parameters given."""

    text: str
    name: str
    file: str | None
    cls: str | None
    params: Mapping[str, Any]


_ARM = re.compile(r"\s*(?P<name>[^\[\]]+?)\s*(?:\[(?P<params>.*)\])?\s*", re.DOTALL)
_FILE = re.compile(r"(?P<file>.*\.py)(?::(?P<cls>\w+))?")


def parse_arm(text: str, where: str = "--backend") -> Arm:
    """Return the arm that `NAME`, `NAME[field=value,...]` or `./file.py[:Class]` describes; InputError otherwise."""
    match = _ARM.fullmatch(text)
    if match is None:
        raise InputError(where, text, "NAME, NAME[field=value,...] or ./FILE.py[:Class]",
                         "for example 'rw-inplace-finalize[sync=rcu]'")  # fmt: skip
    params = {}
    for part in _split(match["params"] or ""):
        field, equals, value = part.partition("=")
        if not equals or not field.strip() or not value.strip():
            raise InputError(where, text, "field=value pairs between the brackets, separated by commas",
                             f"correct {part.strip()!r}")  # fmt: skip
        params[field.strip().replace("-", "_")] = parse_value(value.strip())
    file = _FILE.fullmatch(match["name"])
    if file is not None:
        return Arm(text.strip(), match["name"], file["file"], file["cls"], params)
    return Arm(text.strip(), match["name"], None, None, params)


def split_arms(given: str | Iterable[str]) -> list[str]:
    """Return the arms of a list, or of one text in which commas outside brackets separate them."""
    texts = [given] if isinstance(given, str) else list(given)
    return [part.strip() for text in texts for part in _split(text) if part.strip()]


def label(name: str, params: Mapping[str, Any]) -> str:
    """Return how tables call an arm: its name, with the parameters that were given."""
    if not params:
        return name
    return f"{name}[{','.join(f'{key}={_shown(params[key])}' for key in sorted(params))}]"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _split(text: str) -> list[str]:
    """Split at commas that no bracket, brace or quote encloses."""
    parts, depth, start, quote = [], 0, 0, ""
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{(":
            depth += 1
        elif char in "]})":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]
