"""A study, from a file or from options, expanded into its cells: points of the parameter space times arms."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from execbench.errors import InputError, did_you_mean
from execbench.study.fitting import nothing_left
from execbench.study.load import Layer, Layers, TomlFile, read
from execbench.study.overrides import ROOTS, root_checked
from execbench.study.point import NAMES, Asked, Cell, Point
from execbench.study.spec import StudyFile, checked

__all__ = ["Asked", "Cell", "Study", "expand"]


@dataclass(frozen=True)
class Study:
    """What one command computes: cells times replications, with the plug-ins they need as source text by sha8."""

    name: str
    kind: str
    workload: str
    question: str
    reading: str
    replications: int
    cells: tuple[Cell, ...]
    plugins: Mapping[str, str] = field(default_factory=dict)
    plugin_files: Mapping[str, str] = field(default_factory=dict)
    asks: tuple[str, ...] = ()
    """What the workloads' questions are about (WorkloadTable)."""

    @property
    def sha8(self) -> str:
        """Identity of the study: its cells, whatever the number of replications."""
        text = "\n".join(sorted(f"{cell.id} {cell.arm}" for cell in self.cells))
        return hashlib.blake2b(text.encode()).hexdigest()[:8]


def expand(asked: Asked, study: str | None = None) -> Study:
    """Return the study that the options (and the study file, if one is named) describe; all input is checked here.

    Raises InputError, MachineError or PluginError before anything runs.
    """
    file, table = _study_file(study)
    base = Layers([Layer.of_file(file, {k: v for k, v in file.table.items() if k != "axes"})] if file else [])
    with base.located():
        axes = _axes(table, asked, file)
    cells: list[Cell] = []
    plugins: dict[str, str] = {}
    plugin_files: dict[str, str] = {}
    asks: dict[str, None] = {}
    replications, question, workload = 0, table.study.question, ""
    for point in _points(axes):
        one = Point(asked, file, table, point)
        cells += one.cells()
        plugins |= one.plugins
        plugin_files |= one.plugin_files
        asks |= dict.fromkeys(one.asks)
        replications, workload = one.replications, one.workload_file.name
        question = question or one.workload.workload.question
    unique = {cell.id: cell for cell in reversed(cells)}
    kept = tuple(cell for cell in cells if unique.pop(cell.id, None) is not None)
    if all(cell.refused for cell in kept):
        raise nothing_left(kept)
    return Study(file.name if file else workload, "sweep" if file else "run", workload, question,
                 table.expect.reading, replications, kept, plugins, plugin_files, tuple(asks))  # fmt: skip


def _study_file(name: str | None) -> tuple[TomlFile | None, StudyFile]:
    if name is None:
        return None, StudyFile.model_validate({"study": {}})
    file = read("study", name, "STUDY")
    with Layers([Layer.of_file(file, file.table)]).located():
        return file, checked(StudyFile, file.table)


def _axes(table: StudyFile, asked: Asked, file: TomlFile | None) -> list[dict[str, list[Any]]]:
    """Return the axes: tables of keys that vary together; an option for a key of an axis pins it to that value."""
    pinned = {key: value for key, value, _ in asked.settings}
    pinned |= {key: value for key in NAMES if (value := getattr(asked, key)) is not None}
    axes = []
    for number, axis in enumerate(table.axes):
        lengths = {}
        for key, values in axis.items():
            where = f"{file.label if file else ''}: axes[{number}].{key}"
            if key not in NAMES:
                if "." not in key:
                    hint = did_you_mean(key, NAMES) or 'write it in quotes: "machine.topology.cpus" = [2, 4]'
                    raise InputError(where, key, f"{', '.join(NAMES)} or a dotted key under {', '.join(ROOTS)}", hint)
                root_checked(key, where)
            if not isinstance(values, list) or not values:
                raise InputError(where, repr(values), "a list with at least one value", "write it in square brackets")
            lengths[key] = len(values)
        if len(set(lengths.values())) > 1:
            raise InputError(f"{file.label if file else ''}: axes[{number}]", str(lengths),
                             "lists of one length: the keys of one [[axes]] table vary together",
                             "write separate [[axes]] tables for a product")  # fmt: skip
        held = [key for key in axis if key in pinned]
        if held and len(axis) > len(held):
            raise InputError(f"--set {held[0]}", str(pinned[held[0]]), "a key that varies alone",
                             f"{', '.join(axis)} vary together in this study: set all of them")  # fmt: skip
        axes.append({key: [pinned[key]] if key in pinned else list(values) for key, values in axis.items()})
    return axes


def _points(axes: Sequence[Mapping[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the points of the product, the last axis fastest."""
    steps = [[dict(zip(axis, values, strict=True)) for values in zip(*axis.values(), strict=True)] for axis in axes]
    for choice in itertools.product(*steps):
        yield {key: value for step in choice for key, value in step.items()}
