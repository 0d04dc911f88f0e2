"""Why no backend of a study can serve its workload, and which could: text of the kernel's is not that of user space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from execbench.errors import InputError
from execbench.kernel.text import TextKind
from execbench.registry.plugins import class_for, registered
from execbench.study.load import names, read
from execbench.study.point import Cell

__all__ = ["nothing_left"]


def nothing_left(cells: Sequence[Cell]) -> InputError:
    """Return the error of a study all of whose cells are refused: no backend serves a workload, or another reason."""
    for workload in dict.fromkeys(cell.spec["workload"]["name"] for cell in cells):
        if error := _misfit(workload, [cell for cell in cells if cell.spec["workload"]["name"] == workload]):
            return error
    arms = ", ".join(dict.fromkeys(cell.arm for cell in cells))
    return InputError("backends", arms, "at least one backend that this machine can express", cells[0].refused)


def _misfit(workload: str, cells: Sequence[Cell]) -> InputError | None:
    """Return the error if none of these cells' backends serves what their workload asks for, else None.

    Backends from files count as such that do: their own refusal says more.
    """
    serves = {name: set(cls.support.kinds) for name, cls in registered("backends").items()}  # type: ignore[attr-defined]
    asked = _kinds(cells[0].spec["workload"]["clients"])
    given = {cell.spec["backend"]["name"] for cell in cells}
    if any(cell.spec["backend"]["plugin"] is not None for cell in cells) or any(asked <= serves[one] for one in given):
        return None
    fitting = [name for name, kinds in serves.items() if asked <= kinds]
    asks = {name: _kinds(read("workload", name).table.get("client", {})) for name in names("workload")}
    other = [name for name, kinds in asks.items() if kinds and any(kinds <= serves[one] for one in given)]
    return InputError(
        "--backend", f"{', '.join(dict.fromkeys(cell.arm for cell in cells))}, which cannot serve workload {workload} "
        f"(it asks for {' and '.join(sorted(asked))} text)",
        f"backends that can: {', '.join(fitting)}",
        f"choose one of them with -b, or a workload for yours with -w: {', '.join(other) or 'none is shipped'}",
    )  # fmt: skip


def _kinds(clients: Iterable[str]) -> set[TextKind]:
    """Return the kinds of text that clients ask for."""
    return {kind for name in clients for kind in getattr(class_for("clients", name, "--workload"), "kinds", ())}
