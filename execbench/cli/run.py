"""`execbench run`: one workload on several backends, from options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    with Watch() as watch, _fitting(workload):
        results = api.run(
            workload, backends=backend, machine=machine, kernel=kernel, cpus=cpus, duration=duration, warmup=warmup,
            replications=replications, seed=seed, set=set_ or (), out=out, workers=options.jobs_or_all(jobs),
            record=record or (), restart=restart, progress=watch.tell, command=command_line(),
        )  # fmt: skip
    return finish(results)


@contextmanager
def _fitting(workload: str) -> Iterator[None]:
    """Inside, an error about backends that serve nothing of what the workload asks for says which would fit it."""
    from execbench.errors import InputError
    from execbench.registry.plugins import registered
    from execbench.study import load

    try:
        yield
    except InputError as error:
        if error.where != "backends":
            raise
        serves = {name: set(cls.support.kinds)  # type: ignore[attr-defined]
                  for name, cls in registered("backends").items()}  # fmt: skip
        asked = _kinds(workload)
        given = [arm.partition("[")[0] for arm in error.given.split(", ")]
        if any(asked <= serves.get(name, asked) for name in given):
            raise  # it is the machine that cannot, or a file whose parameters say so
        fitting = [name for name, kinds in serves.items() if asked <= kinds]
        asks = {name: _kinds(name) for name in load.names("workload")}
        other = [name for name, kinds in asks.items() if kinds and any(kinds <= serves[one] for one in given)]
        raise InputError(
            "--backend", f"{error.given}, which cannot serve workload {workload} (it asks for {_words(asked)} text)",
            f"backends that can: {', '.join(fitting)}",
            f"choose one of them with -b, or a workload for yours with -w: {', '.join(other) or 'none is shipped'}",
        ) from error  # fmt: skip


def _words(kinds: set[str]) -> str:
    return " and ".join(sorted(kinds))


def _kinds(workload: str) -> set[str]:
    """Return the kinds of text that the clients of a workload ask for."""
    from execbench.registry.plugins import class_for
    from execbench.study import load

    clients = load.read("workload", workload).table.get("client", {})
    return {kind for name in clients for kind in getattr(class_for("clients", name, "--workload"), "kinds", ())}
