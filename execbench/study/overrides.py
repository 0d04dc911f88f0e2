"""`--set KEY=VALUE`: dotted keys under the roots machine, kernel, run, client.<name> and backend.<name>."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from execbench.errors import InputError, did_you_mean
from execbench.units import time_ps

__all__ = ["ROOTS", "apply", "merged", "parse_set", "parse_value", "root_checked"]

ROOTS: Final = ("machine", "kernel", "run", "client", "backend")
_EXAMPLE: Final = "for example machine.topology.cpus=8, kernel.release=6.12, run.seed=2 or client.bpf.threads=4"


def parse_set(text: str) -> tuple[str, Any]:
    """Return `(dotted key, value)` of one `KEY=VALUE`; the value is read as TOML where it is TOML, else as text."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or not value.strip():
        raise InputError(f"--set {text}", text, "KEY=VALUE", _EXAMPLE)
    root_checked(key, f"--set {text}")
    return key, parse_value(value.strip(), as_text=key == "kernel.release")


def parse_value(text: str, as_text: bool = False) -> Any:
    """Return a TOML value, or the text itself where it is none (`3us` needs no quotes)."""
    if as_text:
        return text.strip("'\"")
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def root_checked(key: str, where: str) -> None:
    """Refuse a key that is under no root, or is a root without a name and field below it."""
    root, _, rest = key.partition(".")
    if root not in ROOTS:
        near = [name for name in ROOTS if name.startswith(root[:3])]
        hint = did_you_mean(root, ROOTS) or (f"did you mean '{near[0]}'?" if near else _EXAMPLE)
        raise InputError(where, key, f"a dotted key that begins with {', '.join(ROOTS)}", hint)
    if not rest or not all(key.split(".")) or (root in ("client", "backend") and "." not in rest):
        raise InputError(where, key, f"{root}.{'NAME.' if root in ('client', 'backend') else ''}FIELD", _EXAMPLE)


def apply(tree: Mapping[str, Any], changes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a copy of the nested tables with dotted keys set; a table that is missing on the way is made.

    A bare value for a cost or another estimate (a table with `value`) becomes that estimate's value, known exactly and
    by assumption; a p99 keeps its ratio to the value.
    """
    changed = merged(tree, {})
    for key, value in changes:
        *parents, last = [part.strip("\"' ") for part in key.split(".")]
        here = changed
        for part in parents:
            below = here.get(part)
            if not isinstance(below, dict):
                below = here[part] = {}
            here = below
        old = here.get(last)
        if isinstance(value, Mapping):
            here[last] = merged({}, value)
        elif isinstance(old, dict) and "value" in old:
            here[last] = _assumed(old, value, key)
        else:
            here[last] = value
    return changed


def _assumed(old: Mapping[str, Any], value: Any, key: str) -> dict[str, Any]:
    new = {**old, "value": value, "range": [value, value], "evidence": "assumed", "source": "set by the user"}
    if "p99" in old:
        new["p99"] = f"{round(time_ps(old['p99'], key) * time_ps(value, key) / time_ps(old['value'], key))}ps"
    new.pop("n", None)
    return new


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on top, table by table; a cost (a table with `value`) is replaced whole."""
    out = {key: merged(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in over.items():
        below = out.get(key)
        if isinstance(value, Mapping):
            whole = "value" in value or not isinstance(below, dict)
            out[key] = merged({}, value) if whole else merged(below or {}, value)
        else:
            out[key] = value
    return out
