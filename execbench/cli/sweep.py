"""`execbench sweep`: every point of a study file's parameter space."""

from __future__ import annotations

from typing import Annotated

import typer

from execbench.cli import options

Study = Annotated[str, typer.Argument(help="Study file or name, such as ipi/cpus.", metavar="STUDY")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be computed.")]


def sweep(
    study: Study, workload: options.Workload = None, backend: options.Backends = None,
    machine: options.Machine = None, kernel: options.Kernel = None, cpus: options.Cpus = None,
    duration: options.Duration = None, warmup: options.Warmup = None, replications: options.Replications = None,
    seed: options.Seed = None, set_: options.Settings = None, out: options.Out = None, jobs: options.Jobs = None,
    record: options.Record = None, restart: options.Restart = False, dry_run: DryRun = False,
) -> int:  # fmt: skip
    """Simulate a study file: the product of its parameters by its backends. Options win over the file."""
    from execbench import api
    from execbench.cli.render import Watch, command_line, finish

    with Watch() as watch:
        results = api.sweep(
            study, workload=workload, backends=backend, machine=machine, kernel=kernel, cpus=cpus, duration=duration,
            warmup=warmup, replications=replications, seed=seed, set=set_ or (), out=out,
            workers=options.jobs_or_all(jobs), record=record or (), restart=restart, progress=watch.tell,
            command=command_line(), dry_run=dry_run,
        )  # fmt: skip
    if isinstance(results, api.Plan):
        print(results)
        return 0
    return finish(results)
