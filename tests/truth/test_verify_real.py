"""What verifying real programs costs on the calibration host: simulated against measured (host_bpf_verify.csv).

Of the programs of one function, in the order of their tags, every second is an input of the fit; the rest are held out.
`pytest -s` prints the ratios.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from math import log
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from execbench.clients.bpf import Program
from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from tests.truth.bench import Bench, phase_ns, straight_line, truth

DATA = Path(__file__).parents[2] / "workloads" / "data" / "bpf_loaded.csv"
FITTED = ("verify_fixed", "verify_program_insn", "verify_insn", "verify_state")


class Verified(NamedTuple):
    """A real program: the verifier's time, measured and simulated (ns)."""

    tag: str
    use: str
    program: Program
    measured: float
    simulated: float
    steps: float
    """What of `simulated` is the modelled steps around the verifier, and none of the fitted costs."""

    @property
    def ratio(self) -> float:
        return self.simulated / self.measured


def programs() -> dict[str, Program]:
    with DATA.open(newline="", encoding="utf-8") as rows:
        return {row["tag"]: Program.from_row(row) for row in csv.DictReader(rows)}


def fitted_ns(program: Program, costs: Iterable[float]) -> float:
    """The four fitted costs (ns) times what they are counted by."""
    counts = (1, program.insns, program.processed, program.total_states)
    return sum(cost * n for cost, n in zip(costs, counts, strict=True))


@cache
def host_costs() -> tuple[float, ...]:
    costs = Bench("truth/verify/costs").shared.costs
    return tuple(costs[f"client.bpf.{name}"].ps / 1e3 for name in FITTED)


@cache
def verified() -> tuple[Verified, ...]:
    """Load every program alone on the host; of several functions the JIT counts too: the verifier calls it for them."""
    rows, known = truth("host_bpf_verify.csv"), programs()
    bench = Bench("truth/verify")

    def body(k: Kernel) -> Proc[None]:
        yield from bench.load(k, straight_line(2))  # stays, and with it the pack
        for tag in rows:
            loaded = yield from bench.load(k, known[tag])
            yield from bench.close(k, loaded)
            yield from k.sleep_until(k.now + 50_000_000)  # the close is done: nobody takes the CPU from the next

    bench.task("loader", body)
    bench.run()
    found = []
    for (tag, row), load in zip(rows.items(), bench.recorder.of("load")[1:], strict=True):
        phases = ("verify", "jit", "alloc", "write", "finalize")[: 5 if len(known[tag].functions) > 1 else 1]
        ns = sum(phase_ns(load, phase) for phase in phases)
        steps = ns - fitted_ns(known[tag], host_costs())
        found.append(Verified(tag, row["use"], known[tag], 1e3 * float(row["value"]), ns, steps))
    return tuple(found)


def single(use: str) -> list[Verified]:
    return [row for row in verified() if row.use == use and len(row.program.functions) == 1]


def quantiles(rows: list[Verified]) -> tuple[float, float, float, float]:
    """5 %, median and 95 % of the ratios simulated / measured, and the ratio of the sums."""
    low, middle, high = np.quantile([row.ratio for row in rows], [0.05, 0.5, 0.95])
    return float(low), float(middle), float(high), sum(r.simulated for r in rows) / sum(r.measured for r in rows)


def test_the_rows_are_the_programs_of_the_workload_and_every_second_is_fitted() -> None:
    rows, known = truth("host_bpf_verify.csv"), programs()
    assert rows.keys() == known.keys()
    for tag, row in rows.items():
        program = known[tag]
        assert row["parameter"] == (
            f"insns={program.insns} processed={program.processed} total_states={program.total_states} "
            f"nfuncs={len(program.functions)}"
        )
    one = sorted(tag for tag, program in known.items() if len(program.functions) == 1)
    assert {tag for tag, row in rows.items() if row["use"] == "input"} == set(one[::2])


def test_real_programs_that_were_held_out_take_as_long_as_measured() -> None:
    several = [row for row in verified() if len(row.program.functions) > 1]
    print("\n| programs | n | 5 % | median | 95 % | sum |\n|---|---|---|---|---|---|")
    groups = {"fitted": single("input"), "held out": single("predicted"), "of several functions": several}
    for name, rows in groups.items():
        low, middle, high, total = quantiles(rows)
        print(f"| {name} | {len(rows)} | {low:.2f} | {middle:.2f} | {high:.2f} | {total:.2f} |")
    low, middle, high, total = quantiles(groups["held out"])
    assert len(groups["held out"]) == 375
    assert 0.85 < middle < 1.15
    assert 0.75 < total < 1.25
    assert low > 0.35 and high < 2
    assert len(several) == 83
    assert 0.75 < quantiles(several)[1] < 1.25
    # no size of programs is off: the costs are linear over five orders of magnitude
    for least, most in ((0, 50), (50, 200), (200, 1000), (1000, 10_000), (10_000, 1_000_000)):
        rows = [row for row in groups["held out"] if least <= row.program.processed < most]
        assert len(rows) > 40
        assert 0.75 < quantiles(rows)[1] < 1.25, (least, most)


def test_the_costs_are_the_fit_to_the_rows_marked_input() -> None:
    rows = single("input")

    def misfit(costs: Iterable[float]) -> float:
        costs = tuple(costs)
        return sum(abs(log((row.steps + fitted_ns(row.program, costs)) / row.measured)) for row in rows)

    best = misfit(host_costs())
    for i, name in enumerate(FITTED):
        for factor in (0.9, 1.1):
            moved = [cost * (factor if i == j else 1) for j, cost in enumerate(host_costs())]
            assert misfit(moved) > best, (name, factor)


@pytest.mark.parametrize("insns", [2, 3_000])
def test_straight_line_programs_pay_for_their_instructions_alone(insns: int) -> None:
    """Constants and arithmetic: the rows of host_bpf_load.csv (tests/truth/test_times.py) rest on this cost alone."""
    bench = Bench(f"truth/verify/alu-{insns}")
    spent: dict[str, int] = {}

    class Ear:
        def spend(self, t: int, task: object, cost: str, n: int, ns: int) -> None:
            if cost.startswith("client.bpf.verify"):
                spent[cost] = spent.get(cost, 0) + ns

    bench.machine.probe.attach(Ear())

    def body(k: Kernel) -> Proc[None]:
        yield from bench.load(k, straight_line(insns))

    bench.task("loader", body)
    bench.run()
    assert spent == {"client.bpf.verify_alu_insn": insns * 301 // 2}
