"""What all commands print alike: progress on stderr, the comparison on stdout, the path of the report last."""

from __future__ import annotations

import shlex
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from execbench.api import Results
    from execbench.report.setting import Setting
    from execbench.study.work import Progress

EVERY_S = 5.0  # between lines of progress where there is no terminal
NARROW, WIDE = 60, 200


class Watch:
    """Shows how far a study is: a bar on a terminal, an occasional line elsewhere; always on stderr."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._said_at = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            arm = TextColumn("{task.description}", style="dim", markup=False)
            self._bar = Progress(TextColumn("simulating"), BarColumn(), MofNCompleteColumn(),
                                 TextColumn("replications"), TimeRemainingColumn(), arm,
                                 console=Console(stderr=True), transient=True)  # fmt: skip

    def __enter__(self) -> Watch:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def tell(self, progress: Progress) -> None:
        """Take one report of progress."""
        if self._bar:
            if self._task is None:
                self._task = self._bar.add_task("", total=progress.total)
            self._bar.update(self._task, completed=progress.done, description=progress.arm)
        elif progress.last is None:
            kept = f", {progress.done} of them finished before" if progress.done else ""
            _note(f"simulating {progress.total} replications{kept}")
        elif time.monotonic() - self._said_at > EVERY_S or progress.done == progress.total:
            self._said_at = time.monotonic()
            _note(f"{progress.done} of {progress.total} replications after {progress.elapsed_s:.0f} s")


def command_line() -> str:
    """Return the command as typed, so that a report can say how to reproduce it."""
    return shlex.join(["execbench", *sys.argv[1:]])


def finish(results: Results) -> int:
    """Print the comparison, write the report, print its path last; return the exit code."""
    from execbench.report.html import write_report

    frame, setting, said = _compared(results)
    if sys.stdout.isatty():
        import shutil

        from rich.console import Console

        from execbench.report.locks import in_short
        from execbench.report.text import show

        width = min(max(shutil.get_terminal_size().columns, NARROW), WIDE)
        show(frame, setting, Console(width=width, highlight=False, emoji=False), said, in_short(results))
    else:
        print(_plain(results, frame, setting, said))
    print(write_report(results, frame, setting))
    return _code(results)


def plain(results: Results) -> int:
    """Print the comparison as 78 columns of plain text, whatever the terminal; return the exit code."""
    print(_plain(results, *_compared(results)), end="")
    return _code(results)


def _compared(results: Results) -> tuple[pd.DataFrame, Setting, list[str]]:
    from execbench.errors import NothingMeasured
    from execbench.report.answer import summary
    from execbench.report.layout import hot_text
    from execbench.report.setting import setting_of

    if results.replications.empty:
        raise NothingMeasured(f"{results.dir} holds no finished replication", "run the study again")
    totals = results.totals
    if (results.replications["outcome"] == "ok").any() and not (
        totals["operations"].sum() + totals["unfinished"].sum()
    ):
        raise NothingMeasured(
            f"no operation was due between warm-up and end of any replication in {results.dir}",
            "lengthen run.duration, or load fewer programs at the start",
        )
    frame, setting = results.comparison(), setting_of(results)
    return frame, setting, [*summary(results, frame, setting), *hot_text(results)]


def _plain(results: Results, frame: pd.DataFrame, setting: Setting, said: list[str]) -> str:
    from execbench.report.locks import in_short
    from execbench.report.text import render

    return render(frame, setting, said=said, locks=in_short(results))


def _code(results: Results) -> int:
    """Return 1 if a replication ended in a simulated failure, and say so; else 0."""
    failed = results.unexpected
    for arm, outcome, detail in failed[["arm", "outcome", "detail"]].drop_duplicates().itertuples(index=False):
        _note(f"{arm}: {outcome}: {detail}")
    return 1 if len(failed) else 0


def _note(words: str) -> None:
    print(f"execbench: {words}", file=sys.stderr, flush=True)
