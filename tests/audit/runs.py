"""Short replications of the bpf workload on small machines of every architecture, audited."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from execbench.audit import SHORT
from execbench.record.audit import Findings, Judgement, verdicts
from execbench.replay import replay
from execbench.simulate import World
from execbench.study.expand import Asked, expand

MACHINE = {"x86_64": "server-64", "arm64": "arm64-server-128", "riscv64": "riscv64-server-64"}
ARCHITECTURES = tuple(MACHINE)
BRIEF = {**SHORT, "run.duration": "250ms", "run.drain": "50ms"}
OF_WORKLOAD = {
    "bpf": {"client.bpf.loaded": 4, "client.bpf.think": "2ms"},
    "user-jit": {"run.duration": "30ms", "run.warmup": "1ms"},
}


@cache
def _resolved(arm: str, machine: str, kernel: str, workload: str, settings: str) -> str:
    short = {**BRIEF, **OF_WORKLOAD[workload], **json.loads(settings)}
    asked = Asked.of(workload=workload, backends=[arm], machine=machine, kernel=kernel, cpus=8, set=short)
    (cell,) = expand(asked).cells
    assert not cell.refused, cell.refused
    return json.dumps(cell.spec)


def spec_of(
    arm: str, arch: str, *, machine: str | None = None, kernel: str = "6.18", workload: str = "bpf", **settings: Any
) -> dict[str, Any]:
    """A resolved spec: `settings` are dotted keys with double underscores for the dots."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    where = machine or MACHINE[arch]
    return json.loads(_resolved(arm, where, kernel, workload, json.dumps(dotted, sort_keys=True)))


def audited(
    arm: str,
    arch: str,
    via: str = "pointer",
    *,
    replication: int = 0,
    backend: Any = None,
    client: Any = None,
    **how: Any,
) -> Findings:
    """What one replication permits; `backend(made)` and `client(made)` may replace what runs by something else."""

    def change(world: World) -> None:
        if backend is not None:
            world.backend = backend(world.backend)
        if client is not None:
            client(world)

    findings, record = replay(spec_of(arm, arch, **how), replication, via, change=change)
    assert record.outcome == "ok", record.detail
    assert findings.published > 5
    return findings


def judged(arm: str, arch: str, via: str = "pointer", **how: Any) -> dict[int, Judgement]:
    """The judgement on every hazard that one replication met."""
    return verdicts(audited(arm, arch, via, **how))
