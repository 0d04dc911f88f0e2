"""Counts of live patching: kprobes and static keys, as traced on real kernels (configs/truth/counts_patching.csv).

The function tracer that counted was itself one of ftrace's ops: the model registers it too. Which rounds an entry takes
then comes out of ftrace's state alone: 19 and 16 untraced, 12 and 10 traced (12 and 16 on 6.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest

from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from execbench.kernel.ftrace import FtraceOps, register_ftrace_function
from execbench.kernel.jump_label import jump_label_update
from execbench.kernel.kprobes import (
    Kprobe,
    Kprobes,
    disable_kprobe,
    enable_kprobe,
    register_kprobe,
    unregister_kprobes,
)
from execbench.kernel.operation import Operation
from execbench.kernel.srcu import tracepoint_synchronize_unregister
from execbench.sim.task import Task
from tests.kernel.bench import Bench
from tests.truth.bench import truth

ROWS = truth("counts_patching.csv")
COUNTED = {
    "rounds": "round",
    "pokes": "text_poke",
    "batches": "smp_text_poke_batch_finish",
    "slots taken": "get_insn_slot",
    "slots freed": "free_insn_slot",
    "grace periods waited for": "synchronize_rcu",
    "SRCU grace periods waited for": "synchronize_srcu",
    "Tasks grace periods waited for": "synchronize_rcu_tasks",
    "trace grace periods waited for": "synchronize_rcu_tasks_trace",
    "passes of the optimizer": "kprobe_optimizer",
    "machine stopped": "stop_machine",
    "writes": "patch_map",
    "kicks": "kick_all_cpus_sync",
}
"""Traced quantity: counter of the model."""
MARKS = {
    **dict.fromkeys(COUNTED, ("exact", "the code fixes it, given what is registered with ftrace already")),
    "synchronizing rounds": (
        "exact",
        "3 for the trampoline's call, 6 for each change of function, 3 for the site",
    ),
    "empty rounds": ("exact", "ftrace_sync_ipi, where the new function is not the list's"),
    "slots freed by anybody": ("exact", "two; whether caller or optimizer frees them is a race: not compared"),
    "interrupts": (
        "bounded",
        "rounds times others; interrupts of single CPUs (wake-ups, perf's) on top",
    ),
    "sites": ("exact", "an input: how often this kernel's code asks the key"),
}
"""How each quantity binds the model, and why."""
EMPTY_FINISH = "6.18"
"""smp_text_poke_batch_finish is entered once more with nothing queued (ftrace_arch_code_modify_post_process)."""
SINGLES = 9
"""Interrupts of single CPUs in one operation: most in a detach, with its three grace periods and wake-ups."""


class Traced(Bench):
    """Counts the primitives of the calling task and those of others apart."""

    def __init__(self, arch: str, release: str, cpus: int = 4) -> None:
        super().__init__(arch, release, cpus=cpus)
        self.own: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.why: Counter[str] = Counter()
        self.kprobes = Kprobes.of(
            arch, lambda n: Operation("kprobes", "optimize", n, 0, "deferred", self.shared.recorder)
        )

    def call(self, at: int, task: Task, primitive: str, units: int) -> None:
        (self.own if task.name.startswith("bench") else self.others)[primitive] += 1

    def ipi(self, begin: int, end: int, task: Task, why: str, targets: int) -> None:
        self.why[why] += 1

    def do(self, step: Callable[[Kernel], Proc[Any]]) -> None:
        """Do one thing, and all that it sets off."""
        for counter in (self.own, self.others, self.why):
            counter.clear()
        self.task(step, start=self.machine.engine.now)
        self.run()

    def attach(self, k: Kernel, p: Kprobe) -> Proc[None]:
        """perf_event_open registers it disabled, then enables it (perf_kprobe_init)."""
        yield from register_kprobe(k, self.kprobes, p, disabled=True)
        yield from enable_kprobe(k, self.kprobes, p)

    def detach(self, k: Kernel, p: Kprobe) -> Proc[None]:
        """close: perf_trace_event_unreg, then unregister_kprobe."""
        yield from disable_kprobe(k, self.kprobes, p)
        yield from tracepoint_synchronize_unregister(k)
        yield from unregister_kprobes(k, self.kprobes, [p])


Found = Mapping[str, float]


@cache
def simulated(arch: str, release: str, where: str, traced: bool, cpus: int = 4) -> dict[str, dict[str, float]]:
    """What attaching and detaching one probe counts, neither for the first time: {"attach": .., "detach": ..}."""
    bench = Traced(arch, release, cpus)
    bench.kprobes.optimize = where != "inside-no-jump"
    tracer = FtraceOps("function_trace_call", 1, dynamic=False)
    if traced:
        bench.do(lambda k: register_ftrace_function(k, tracer))
    found: dict[str, dict[str, float]] = {}
    for _ in range(2):
        p = Kprobe(entry=where == "entry")
        for way, step in (("attach", bench.attach), ("detach", bench.detach)):
            bench.do(lambda k, step=step, p=p: step(k, p))  # type: ignore[misc]
            found[way] = _quantities(bench)
    return found


def _quantities(bench: Traced) -> dict[str, float]:
    found: dict[str, float] = {}
    for quantity, counter in COUNTED.items():
        found[quantity] = bench.own[counter]
        found[f"{quantity} deferred"] = bench.others[counter]
    found["slots freed by anybody"] = bench.own["free_insn_slot"] + bench.others["free_insn_slot"]
    found["empty rounds"] = bench.why["ftrace_sync_ipi"]
    found["synchronizing rounds"] = bench.own["round"] - bench.why["ftrace_sync_ipi"]
    found["synchronizing rounds deferred"] = bench.others["round"]
    return found


def release_of(row: Mapping[str, str]) -> str:
    return ".".join(row["release"].split(".")[:2])


def of(operation: str, **wanted: str) -> list[dict[str, str]]:
    """Rows of an operation whose columns begin as told."""
    found = [row for row in ROWS.values() if row["operation"].startswith(operation)]
    return [row for row in found if all(row[column].startswith(begin) for column, begin in wanted.items())]


def test_every_row_is_compared_and_marked() -> None:
    for row in ROWS.values():
        assert row["quantity"].removesuffix(" deferred") in MARKS, row["id"]
    assert len(of("kprobe")) + len(of("static-key")) == len(ROWS)


@pytest.mark.parametrize(
    "row", [row for row in of("kprobe") if row["quantity"] != "interrupts"], ids=lambda row: row["id"]
)
def test_a_kprobe_counts_as_traced(row: dict[str, str]) -> None:
    """In a stopped arm64 machine a stopper writes: outside the calling task there, in it here."""
    where, _, how = row["parameter"].partition(", ")
    arch = "arm64" if "-arm64-" in row["id"] else "x86_64"
    found = simulated(arch, release_of(row), where, traced=not how)[row["operation"].removeprefix("kprobe ")]
    value, quantity = float(row["value"]), row["quantity"]
    if quantity == "batches" and release_of(row) == EMPTY_FINISH and where == "entry":
        value -= 1
    if arch == "arm64" and quantity.startswith("writes"):
        rows = of(row["operation"], id="6.1-arm64", parameter=where, quantity="writes")
        assert sum(float(one["value"]) for one in rows) == found["writes"], row["id"]
        return
    assert found[quantity] == value, row["id"]


@pytest.mark.parametrize("release", ["6.1", "6.12", "6.18"])
def test_nothing_happens_that_was_not_traced(release: str) -> None:
    """What has no row was traced as never: rounds of detaching a jump in the call, grace periods of attaching."""
    for where in ("entry", "inside", "inside-no-jump"):
        for way, found in simulated("x86_64", release, where, traced=True).items():
            rows = of(f"kprobe {way}", id=f"{release}-{where}-{way}")
            seen = {row["quantity"] for row in rows}
            for quantity in ("rounds", "rounds deferred", "pokes", "pokes deferred", "grace periods waited for",
                             "Tasks grace periods waited for", "passes of the optimizer deferred"):  # fmt: skip
                assert (found[quantity] == 0) == (quantity not in seen), (release, where, way, quantity)


@pytest.mark.parametrize("row", of("kprobe", quantity="interrupts"), ids=lambda row: row["id"])
def test_interrupts_of_6_1_are_its_rounds_and_a_few_of_single_cpus(row: dict[str, str]) -> None:
    cpus = int(row["parameter"].split()[-2])
    found = simulated("x86_64", "6.1", "entry", traced=False, cpus=cpus)[row["operation"].removeprefix("kprobe ")]
    assert 0 <= float(row["value"]) - found["rounds"] * (cpus - 1) <= SINGLES, row["id"]


@pytest.mark.parametrize("key", ["bpf_stats", "sched_schedstats"])
@pytest.mark.parametrize("way", ["on", "off"])
def test_a_static_key_of_arm64_is_a_write_per_site_and_one_kick(key: str, way: str) -> None:
    rows = {row["quantity"]: int(row["value"]) for row in of(f"static-key {way}") if row["parameter"] == key}
    bench = Traced("arm64", "6.1")
    bench.do(lambda k: jump_label_update(k, rows["sites"]))
    assert {quantity: bench.own[COUNTED[quantity]] for quantity in ("writes", "kicks", "rounds")} == {
        quantity: rows[quantity] for quantity in ("writes", "kicks", "rounds")
    }
