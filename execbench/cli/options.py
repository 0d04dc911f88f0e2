"""Options that several commands share, with their help; the names are the same in every command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Workload = Annotated[str | None, typer.Option("-w", "--workload", help="Workload file or name.", metavar="NAME")]
Backends = Annotated[
    list[str] | None,
    typer.Option("-b", "--backend", metavar="ARM",
                 help="Arm to compare: NAME, 'NAME\\[field=value,...]' or ./FILE.py\\[:Class]; repeat for more."),
]  # fmt: skip
Machine = Annotated[str | None, typer.Option("-m", "--machine", help="Machine file or name.", metavar="NAME")]
Kernel = Annotated[str | None, typer.Option("-k", "--kernel", help="Kernel release.", metavar="RELEASE")]
Cpus = Annotated[int | None, typer.Option("--cpus", help="CPUs of the machine.", metavar="N")]
Duration = Annotated[
    str | None, typer.Option("-d", "--duration", help="Simulated time of a replication, with warm-up.", metavar="TIME")
]
Warmup = Annotated[str | None, typer.Option("--warmup", help="Simulated time that is not measured.", metavar="TIME")]
Replications = Annotated[int | None, typer.Option("-r", "--replications", help="Replications.", metavar="N")]
Seed = Annotated[int | None, typer.Option("--seed", help="Root of all random streams.", metavar="N")]
Settings = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE",
                 help="Set any key below machine. kernel. run. client.NAME. or backend.NAME.; repeat for more."),
]  # fmt: skip
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Results directory.", metavar="DIR")]
Jobs = Annotated[int | None, typer.Option("-j", "--jobs", help="Worker processes (default: all CPUs).", metavar="N")]
Record = Annotated[
    list[str] | None, typer.Option("--record", help="Also keep these raw records: operations.", metavar="WHAT")
]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away finished parts in the results directory.")]
Wide = Annotated[bool, typer.Option("--wide", help="All columns, one line for each row, whatever its length.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def jobs_or_all(jobs: int | None) -> int:
    """Return the number of worker processes: as asked, or one per CPU this process may use."""
    from execbench.errors import InputError

    if jobs is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs < 1:
        raise InputError("--jobs", jobs, "a number of worker processes from 1 on", "leave it out to use all CPUs")
    return jobs
