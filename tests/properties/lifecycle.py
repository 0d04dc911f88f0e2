"""What one task counts in each verb of a backend's life, on a toy machine without randomness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from execbench.conformance import Bench, Place
from execbench.contract import Proc, Request
from execbench.costs import CostTable
from execbench.kernel.facade import Kernel
from execbench.sim.task import Task

SIZES = (6000, 60, 300)
"""Bytes of a group: two pages of 4 KiB, and two small ones."""
IDLE = {
    "rule": "symmetric-flux", "restart": "idle-shallow",
    "states": {"idle-shallow": {"fraction": 1.0, "mean": 1_000_000, "masked": False, "qs": True}},
}  # fmt: skip
"""CPUs without tasks are idle for ever."""

Counts = dict[str, dict[str, tuple[int, int]]]
"""Verb -> primitive -> (how often, units)."""


class _Counter:
    """Counts primitives for the verb that is under way; what other tasks do is the workers'."""

    def __init__(self) -> None:
        self.verb = ""
        self.times: dict[str, Counter[str]] = {}
        self.units: dict[str, Counter[str]] = {}

    def call(self, at: int, task: Task, primitive: str, units: int) -> None:
        verb = self.verb if task.name.startswith("check/") else "worker"
        self.times.setdefault(verb, Counter())[primitive] += 1
        self.units.setdefault(verb, Counter())[primitive] += units


def counted(
    backend: Any, place: Place, costs: CostTable | None = None, features: Mapping[str, Any] | None = None,
    kernel: Mapping[str, Any] | None = None,
) -> Counts:  # fmt: skip
    """Two groups are loaded one after the other, live text is rewritten if it can be, then both groups are freed."""
    bench = Bench(backend, place, features=features, costs=costs, background=IDLE, kernel=kernel)
    counter = _Counter()
    bench.machine.probe.attach(counter)

    def body(k: Kernel) -> Proc[None]:
        live = []
        for _ in range(2):
            counter.verb = "alloc"
            regions = yield from bench.alloc(k, [Request(size, place.kind) for size in SIZES])
            counter.verb = "write"
            for region in regions:
                yield from bench.write(k, region, patches=3)
            counter.verb = "finalize"
            yield from bench.finalize(k, regions)
            live.append(regions)
        counter.verb = "rewrite"
        if callable(getattr(backend, "rewrite", None)):
            yield from bench.rewrite(k, live[0][0], patches=3)
        counter.verb = "free"
        for regions in live:
            yield from bench.free(k, regions)

    bench.task(0, body)
    assert bench.run() == []
    return {
        verb: {name: (n, counter.units[verb][name]) for name, n in sorted(times.items())}
        for verb, times in sorted(counter.times.items())
    }
