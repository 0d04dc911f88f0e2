"""Every value of every parameter of every backend, one changed at a time: read off the dataclasses, nothing listed."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal

from execbench.registry.plugins import class_for, registered


def arms() -> list[tuple[str, Any]]:
    """(name, backend) of each backend with its defaults, and with each other value of each parameter."""
    found = []
    for name in registered("backends"):
        cls = class_for("backends", name, "test")
        found.append((name, cls()))
        found += [
            (f"{name}[{field}={_written(value)}]", cls(**{field: value}))
            for field, value in others(cls)
        ]  # fmt: skip
    return found


def others(cls: type) -> list[tuple[str, Any]]:
    """(parameter, value) for each value that is listed in the type of a parameter and is not its default."""
    hints = typing.get_type_hints(cls)
    return [
        (field.name, value)
        for field in dataclasses.fields(cls)
        for value in _values(hints[field.name])
        if value != field.default
    ]


def _values(hint: Any) -> tuple[Any, ...]:
    if hint is bool:
        return (False, True)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
