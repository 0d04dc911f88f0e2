"""The report as one self-contained HTML page: question, answer, table, plots, how it was run, costs, assumptions."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from execbench.errors import CannotWrite
from execbench.report.answer import sentences
from execbench.report.arms import arms_of
from execbench.report.checks import FEW_CYCLES
from execbench.report.comparison import Frames, records
from execbench.report.locks import contended
from execbench.report.numbers import number
from execbench.report.page_plots import run_plots, sweep_plots
from execbench.report.page_tables import blocks
from execbench.units import show_time

if TYPE_CHECKING:
    import pandas as pd

    from execbench.report.setting import Setting

DOCS = Path(__file__).parents[1] / "docs"


class Directory(Frames, Protocol):
    """Results that have a place on disk."""

    @property
    def dir(self) -> Path:
        """The results directory."""


def write_report(results: Directory, frame: pd.DataFrame, setting: Setting) -> Path:
    """Write `report.html` into the results directory and return its path; CannotWrite if that fails."""
    path = results.dir / "report.html"
    temporary = path.with_name(f".report.{os.getpid()}")
    try:
        temporary.write_text(page(results, frame, setting, str(results.dir)), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise CannotWrite(str(path), f"cannot be written ({error.strerror or error})", "make room") from error
    return path


def page(results: Frames, frame: pd.DataFrame, setting: Setting, directory: str = "DIR") -> str:
    """Return the whole page; text from files and plug-ins is escaped, plots are inline SVG."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    cells = arms_of(results)
    swept = cells["point"].nunique() > 1
    return environment.get_template("report.html.j2").render(
        setting=setting,
        answers=list(sentences(results, frame, setting)),
        blocks=list(blocks(results, frame, setting)),
        sweep_plots=list(sweep_plots(cells, frame)) if swept else [],
        plots=[] if swept else list(run_plots(results, cells, frame)),
        primitives=_primitives(results, frame) if not swept else {"rows": [], "arms": []},
        locks=contended(results),
        times=f"{show_time(setting.duration_ns)} simulated, the first {show_time(setting.warmup_ns)} not measured",
        versions=results.study.get("versions", {}),
        evidence=setting.evidence(),
        assumptions=assumptions(),
        pages=shipped_pages(),
        few=FEW_CYCLES,
        directory=directory,
        folded_costs=True,
    )


def assumptions() -> list[tuple[str, list[str]]]:
    """Return the numbered assumptions under their sections: the headings of docs/assumptions.md, so that both agree."""
    found: list[tuple[str, list[str]]] = []
    for level, words in re.findall(r"^(##|###) (.*)$", (DOCS / "assumptions.md").read_text("utf-8"), re.MULTILINE):
        if level == "##":
            found.append((words, []))
        else:
            found[-1][1].append(words.replace("`", ""))
    return found


def shipped_pages() -> list[tuple[str, str]]:
    """Return title and place of every page of documentation inside the package."""
    return [(path.read_text("utf-8").partition("\n")[0].removeprefix("# "), f"execbench/docs/{path.name}")
            for path in sorted(DOCS.glob("*.md"))]  # fmt: skip


def _primitives(results: Frames, frame: pd.DataFrame) -> dict[str, Any]:
    """Return counts of kernel primitives per operation: a row per class and primitive, a column per arm."""
    measured = frame[frame["refused"] == ""]
    arms = list(dict.fromkeys(measured["arm"]))
    counters = results.table("counters")
    sums = counters.groupby(["client", "kind", "primitive", "cell"], sort=False)["count"].sum()
    rows = []
    for (client, kind), own in measured.groupby(["client", "kind"], sort=False):
        here = counters[(counters["client"] == client) & (counters["kind"] == kind)]
        for primitive in sorted(here["primitive"].unique()):
            values = [number(float(sums.get((client, kind, primitive, row["cell"]), 0)) / max(row["operations"], 1))
                      for row in records(own)]  # fmt: skip
            rows.append({"operation": f"{client} {kind}", "primitive": primitive, "counts": values})
    return {"arms": arms, "rows": rows}
