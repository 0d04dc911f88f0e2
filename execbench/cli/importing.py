"""`execbench import`: a user's own modules, programs and traces as data files that workloads name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from execbench.importers import What

app = typer.Typer(help="Read files of a real system into data files for workloads.", no_args_is_help=True)

Out = Annotated[Path | None, typer.Option("-o", "--out", help="Data file to write (default: see below).")]
Modules = Annotated[Path, typer.Argument(help="A module or a folder of them.", metavar="PATH")]
Veristat = Annotated[Path, typer.Argument(help="Output of `veristat -o csv`.", metavar="FILE.csv")]
Trace = Annotated[Path, typer.Argument(help="Output of `trace-cmd report`, or the kernel's `trace`.", metavar="FILE")]


@app.command()
def modules(path: Modules, out: Out = None) -> None:
    """Kernel modules (.ko, .xz, .zst, .gz): regions, relocations, static calls, ... (default: ./modules.csv)."""
    _import("modules", path, out)


@app.command()
def veristat(path: Veristat, out: Out = None) -> None:
    """Programs that a verifier accepted (default: ./bpf.csv)."""
    _import("veristat", path, out)


@app.command()
def ftrace(path: Trace, out: Out = None) -> None:
    """Loads, unloads, probes and flips of a text trace as arrivals (default: ./arrivals.csv)."""
    _import("ftrace", path, out)


def _import(what: What, path: Path, out: Path | None) -> None:
    from execbench.importers import imported

    defaults = {"modules": "modules.csv", "veristat": "bpf.csv", "ftrace": "arrivals.csv"}
    done = imported(what, path, out or Path(defaults[what]))
    for sort, n in done.sorts.items():
        print(f"{n:8,d}  {sort}")
    for note in done.notes:
        print(note)
    for key in done.keys:
        print(f"use it:  execbench run -w WORKLOAD -s {key}={done.file}")
    print(done.file)
