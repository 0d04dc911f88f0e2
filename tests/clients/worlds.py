"""Replications of a workload in little, and what they counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from execbench.contract import Region
from execbench.record.audit import Fact
from execbench.simulate import Replication, World
from execbench.study.expand import Asked, expand


def replication(
    workload: str, backend: str = "bpf_prog_pack", machine: str = "server-64", kernel: str = "6.18",
    duration: str = "1s", warmup: str = "0s", **settings: Any,
) -> Replication:  # fmt: skip
    """One replication; `settings` are dotted keys with "__" in place of the dots."""
    asked = Asked.of(
        workload=workload, backends=backend, machine=machine, kernel=kernel, duration=duration, warmup=warmup,
        set={key.replace("__", "."): value for key, value in settings.items()},
    )  # fmt: skip
    done = World(expand(asked).cells[0].spec, 0, {}).run()
    assert done.outcome == "ok", done.detail
    return done


def counts(done: Replication, client: str, kind: str) -> Mapping[str, int]:
    """How often the operations of one kind used each primitive."""
    table = done.tables["counters"]
    rows = zip(table["client"], table["kind"], table["primitive"], table["count"], strict=True)
    return {primitive: n for of, what, primitive, n in rows if (of, what) == (client, kind)}


def operations(done: Replication) -> Mapping[tuple[str, str], int]:
    """How many operations of each kind were due in the window."""
    table = done.tables["totals"]
    return dict(zip(zip(table["client"], table["kind"], strict=True), table["operations"], strict=True))


def unfinished(done: Replication) -> int:
    """How many operations had not finished when the run ended."""
    return sum(done.tables["totals"]["unfinished"])


def entries(story: Iterable[Fact]) -> int:
    """How often text was entered; each time it must have been reachable."""
    live: set[Region] = set()
    entered = 0
    for fact in story:
        if fact.event == "reach":
            live.add(fact.fields[0])
        elif fact.event == "unreach":
            live.discard(fact.fields[0])
        elif fact.event == "fetch":
            assert fact.fields[0] in live
            entered += 1
    return entered
