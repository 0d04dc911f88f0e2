"""The backend and the clients that a resolved spec describes, built from its plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from execbench.catalogue import Entry
from execbench.registry.files import data_path
from execbench.registry.params import constructed
from execbench.registry.plugins import class_for, registered

__all__ = ["backend", "client", "client_costs"]


def backend(spec: Mapping[str, Any], plugins: Mapping[str, str]) -> Any:
    """Return the backend of a spec's `backend` part; `plugins` maps sha8 to source text.

    Raises InputError or PluginError if it cannot be found, loaded or constructed.
    """
    root = f"backend.{spec['name']}"
    source = None if spec["plugin"] is None else plugins[spec["plugin"]]
    return constructed(class_for("backends", spec["name"], root, source), spec["params"], root)


def client(name: str, params: Mapping[str, Any], plugins: Mapping[str, str] | None = None) -> Any:
    """Return the client of this name with resolved parameters; its distributions are built, its data files found."""
    root = f"client.{name}"
    return constructed(class_for("clients", name, root), params, root, data_path)


def client_costs() -> dict[str, Mapping[str, Entry]]:
    """Return what every client that needs no file says of its own costs, by the client's name."""
    return {cls.name: getattr(cls, "costs", {}) for cls in registered("clients").values()}  # type: ignore[attr-defined]
