"""The cells of a study as a reader knows them: which arm, at which point of the axes, in what kinds of loop."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from execbench.kernel.text import KERNEL_KINDS, TEXT_KINDS, TextKind
from execbench.registry.plugins import registered
from execbench.report.checks import few_cycles, growth, undone
from execbench.report.setting import is_open

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames


def arms_of(results: Frames) -> pd.DataFrame:
    """Return one row per cell, in the order given: `cell, arm, status, refused, point, axes, loops, window_ns,
    duration_ns, growth, few_cycles, undone, terminating, serves_data`.

    `axes` is the dict of axis values of the cell's point and `point` its words; both are empty for a plain run.
    `loops` says of each client "open" or "closed"; `refused` is '' or the reason why the backend cannot do
    this; `window_ns` the measured time of one replication, `duration_ns` all of it. `growth` is 0 or, where a steady
    state was asked for and there is none, by how many operations per second the backlog grows; `few_cycles` names what
    turned too seldom; `undone` is what a workload that ends had still to do when its window was over; `serves_data` as
    the function says.
    """
    import pandas as pd

    rows = []
    for _, cell in results.cells.iterrows():
        spec = json.loads(cell["spec"])
        axes = json.loads(cell["point"])
        steady = spec["workload"]["horizon"] == "steady-state"
        closed = {name for name, one in spec["workload"]["clients"].items() if not is_open(one)}
        rows.append({
            "cell": cell["cell"], "arm": cell["arm"], "status": cell["status"], "refused": cell["refused"],
            "point": point_words(axes), "axes": axes,
            "loops": {name: "open" if is_open(one) else "closed" for name, one in spec["workload"]["clients"].items()},
            "window_ns": spec["run"]["duration"] - spec["run"]["warmup"], "duration_ns": spec["run"]["duration"],
            "growth": growth(results, cell["cell"], spec["run"], closed) if steady else 0.0,
            "few_cycles": few_cycles(results, cell["cell"]), "undone": undone(results, cell["cell"]),
            "terminating": not steady, "serves_data": serves_data(spec),
        })  # fmt: skip
    return pd.DataFrame(rows)


def serves_data(spec: Mapping[str, Any]) -> bool | None:
    """Return whether a cell's backend is asked for the data of modules beside text.

    None where no client brings modules, or where the backend's class is not installed (a plug-in's file).
    """
    brings = [TextKind.MODULE_TEXT in getattr(registered("clients").get(name), "kinds", ())
              for name in spec["workload"]["clients"]]  # fmt: skip
    backend = spec.get("backend", {"plugin": "", "name": ""})
    support = getattr(registered("backends").get(backend["name"]), "support", None)
    if not any(brings) or backend["plugin"] is not None or support is None:
        return None
    return any(kind in KERNEL_KINDS and kind not in TEXT_KINDS for kind in support.kinds)


def point_words(axes: Mapping[str, Any]) -> str:
    """`cpus = 64, threads = 2`: a point by the last parts of its keys, as many as tell them apart."""
    return ", ".join(f"{short_key(key, axes)} = {value}" for key, value in axes.items())


def short_key(key: str, keys: Iterable[str]) -> str:
    """Return the last parts of a dotted key, as many as no other of `keys` ends in."""
    parts, others = key.split("."), [f".{other}" for other in keys if other != key]
    for n in range(1, len(parts)):
        short = ".".join(parts[-n:])
        if not any(other.endswith(f".{short}") for other in others):
            return short
    return key


def axes_of(words: str) -> dict[str, str]:
    """Return names and values of the axes from the words of a point; empty without axes."""
    parts = re.split(r", (?=[\w.-]+ = )", words) if words else []
    return dict(part.split(" = ", 1) for part in parts)
