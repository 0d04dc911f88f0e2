"""`execbench run`: one workload on several backends, from options."""

from __future__ import annotations

from execbench.cli import options


def run(
    workload: options.Workload = None, backend: options.Backends = None, machine: options.Machine = None,
    kernel: options.Kernel = None, cpus: options.Cpus = None, duration: options.Duration = None,
    warmup: options.Warmup = None, replications: options.Replications = None, seed: options.Seed = None,
    set_: options.Settings = None, out: options.Out = None, jobs: options.Jobs = None,
    record: options.Record = None, restart: options.Restart = False,
) -> int:  # fmt: skip
    """Simulate a workload on several backends and compare them."""
    from execbench import api
    from execbench.cli.render import Watch, command_line, finish
    from execbench.errors import InputError
    from execbench.study import load

    if workload is None:
        names = ", ".join(load.names("workload"))
        raise InputError("--workload", "nothing", f"a workload file (path) or one of: {names}", "name one with -w")
    with Watch() as watch:
        results = api.run(
            workload, backends=backend, machine=machine, kernel=kernel, cpus=cpus, duration=duration, warmup=warmup,
            replications=replications, seed=seed, set=set_ or (), out=out, workers=options.jobs_or_all(jobs),
            record=record or (), restart=restart, progress=watch.tell, command=command_line(),
        )  # fmt: skip
    return finish(results)
