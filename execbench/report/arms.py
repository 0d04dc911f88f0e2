"""The cells of a study as a reader knows them: which arm, at which point of the axes, in what kinds of loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from execbench.report.setting import is_open

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.comparison import Frames


def arms_of(results: Frames) -> pd.DataFrame:
    """Return one row per cell, in the order given: `cell, arm, status, refused, point, axes, loops, window_ns`.

    `axes` is the dict of axis values of the cell's point and `point` its words; both are empty for a plain run.
    `loops` says of each client "open" or "closed"; `refused` is '' or the reason why the backend cannot do
    this; `window_ns` the measured time of one replication.
    """
    import pandas as pd

    rows = []
    for _, cell in results.cells.iterrows():
        spec = json.loads(cell["spec"])
        axes = json.loads(cell["point"])
        rows.append({
            "cell": cell["cell"], "arm": cell["arm"], "status": cell["status"], "refused": cell["refused"],
            "point": point_words(axes), "axes": axes,
            "loops": {name: "open" if is_open(one) else "closed" for name, one in spec["workload"]["clients"].items()},
            "window_ns": spec["run"]["duration"] - spec["run"]["warmup"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def point_words(axes: Mapping[str, Any]) -> str:
    """`cpus = 64, threads = 2`: a point by the last parts of its keys."""
    return ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in axes.items())
