"""Speed: what is deterministic is asserted, times are printed as ratios (`pytest tests/performance -s -m ''`).

Unit: one plain `yield env.timeout(1)` of the same process, timed beside each run; medians of interleaved pairs. A cycle
is one load, its unload and its deferred free.
"""

from __future__ import annotations

import json
import statistics
import time
import tracemalloc
from typing import Any

import pytest
import simpy

from execbench.simulate import World
from execbench.study.expand import expand
from execbench.study.point import Asked

# A server's rules that depend on the number of CPUs, held at their values for 4 of them.
AS_WITH_4 = {"kernel.jiffies_till_first_fqs": 1, "kernel.jiffies_till_next_fqs": 1, "kernel.lazy_max_pages": 3 * 8192}


def world_of(arm: str, cpus: int, duration: str, **changes: Any) -> World:
    """Return a world of the bpf workload on a server with so many CPUs."""
    asked = Asked.of(
        workload="bpf", machine="server-64", backends=[arm], cpus=cpus, duration=duration, warmup="100ms",
        set=changes.pop("set", {}),
    )  # fmt: skip
    spec = json.loads(json.dumps(expand(asked).cells[0].spec))
    spec["run"].update(changes)
    return World(spec, 0, {})


def cycles_of(record: Any) -> int:
    """Return how many programs were loaded and freed."""
    totals = record.tables["totals"]
    done = dict(zip(totals["kind"], totals["operations"], strict=True))
    assert record.outcome == "ok"
    return int(done["load"])


def per_cycle(arm: str, cpus: int, duration: str, **changes: Any) -> tuple[float, float]:
    """Return engine events per cycle, and process time per cycle (s), of one run."""
    world = world_of(arm, cpus, duration, **changes)
    begin = time.process_time()
    record = world.run()
    took = time.process_time() - begin
    cycles = cycles_of(record)
    return record.events / cycles, took / cycles


def one_timeout(n: int = 100_000) -> float:
    """Return the process time of one plain timeout (s)."""
    env = simpy.Environment()

    def ticking() -> Any:
        for _ in range(n):
            yield env.timeout(1)

    env.process(ticking())
    begin = time.process_time()
    env.run()
    return (time.process_time() - begin) / n


def in_timeouts(arm: str, cpus: int, duration: str, pairs: int = 3, **changes: Any) -> float:
    """Return the median cost of a cycle in plain timeouts."""
    return statistics.median(
        per_cycle(arm, cpus, duration, **changes)[1] / one_timeout() for _ in range(pairs)
    )  # fmt: skip


def test_events_per_cycle_are_few_and_do_not_grow_with_cpus() -> None:
    few, _ = per_cycle("bpf_prog_pack", 64, "10s")
    assert few <= 6  # about two programs are freed per grace period: loads are long beside one
    small, _ = per_cycle("bpf_prog_pack", 4, "10s")
    large, _ = per_cycle("bpf_prog_pack", 4096, "10s")
    print(f"\nevents per cycle on bpf_prog_pack: {few:.2f} at 64 CPUs, {small:.2f} at 4, {large:.2f} at 4096")
    assert large <= 1.05 * small
    for arm in ("bpf_prog_pack", "module_alloc"):
        held = [world_of(arm, cpus, "2s", set=AS_WITH_4).run() for cpus in (4, 4096)]
        counts = [record.events / cycles_of(record) for record in held]
        print(f"{arm}, rules of 4 CPUs: {counts[0]:.3f} events per cycle at 4, {counts[1]:.3f} at 4096")
        if arm == "bpf_prog_pack":  # rounds that last longer meet each other more often: waits, not CPUs, cost events
            assert counts[1] == pytest.approx(counts[0], rel=0.05)


@pytest.mark.long
def test_memory_does_not_grow_with_the_run() -> None:
    def peak(duration: str, **changes: Any) -> tuple[int, int]:
        world = world_of("bpf_prog_pack", 64, duration, **changes)
        tracemalloc.start()
        record = world.run()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most, sum(record.tables["totals"]["operations"])

    peak("1s")  # tables that are built once per process
    (short, _), (long, _) = peak("12s"), peak("48s")
    print(f"\npeak {short / 1e6:.2f} MB after 12 s of simulated time, {long / 1e6:.2f} MB after 48 s")
    assert long < short + 1_000_000  # histograms and blocks of draws fill up; both have an end
    (raw_short, few), (raw_long, many) = peak("12s", record=["operations"]), peak("48s", record=["operations"])
    extra = ((raw_long - long) - (raw_short - short)) / (many - few)
    print(f"recorded operations: {extra:.0f} bytes each for 7 columns")
    assert extra <= 10 * 7 + 20


@pytest.mark.long
def test_memory_is_level_once_histograms_are_full() -> None:
    def kept(duration: str) -> int:
        world = world_of("bpf_prog_pack", 64, duration)
        tracemalloc.start()
        world.run()
        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return now

    kept("1s")
    after_6, after_18 = kept("360s"), kept("1080s")
    print(f"\nkept {after_6 / 1e6:.2f} MB after 6 minutes of simulated time, {after_18 / 1e6:.2f} MB after 18")
    assert after_18 < after_6 + 400_000  # 100,000 operations more; blocks of draws have grown to their end


@pytest.mark.long
def test_speed_is_printed() -> None:
    print(f"\none plain timeout: {one_timeout() * 1e9:.0f} ns")
    print(f"{'':34}{'measured':>10}{'to be met':>11}")
    packs, modules = in_timeouts("bpf_prog_pack", 64, "10s"), in_timeouts("module_alloc", 64, "5s")
    print(f"{'bpf_prog_pack, timeouts per cycle':34}{packs:10.0f}{75:11}")
    print(f"{'module_alloc, timeouts per cycle':34}{modules:10.0f}{150:11}")
    for arm, goal, duration in (("bpf_prog_pack", 1.2, "10s"), ("module_alloc", 4.0, "3s")):
        growth = in_timeouts(arm, 4096, duration) / in_timeouts(arm, 4, duration)
        print(f"{arm + ', 4096 CPUs against 4':34}{growth:9.1f}x{goal:10}x")
    for cpus, goal, duration in ((256, 30, "600ms"), (1024, 100, "600ms")):
        short: dict[str, Any] = {"drain": 20_000_000}  # explicit CPUs go on walking until the very end
        lazy = in_timeouts("module_alloc", cpus, duration, **short)
        explicit = in_timeouts("module_alloc", cpus, duration, pairs=1, cpu_model="explicit", merge=False, **short)
        print(f"{f'explicit over lazy at {cpus} CPUs':34}{explicit / lazy:9.0f}x{goal:10}x")
