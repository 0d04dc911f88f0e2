"""Times on the calibration host: simulated against measured (configs/truth/host_*.csv), and what each mechanism adds.

Rows marked `input` are what costs of host-2cpu were derived from; all others are predictions. `pytest -s` prints all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, median
from typing import Any

import pytest

from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from tests.truth.bench import Bench, phase_ns, straight_line, truth

LOADS = (2, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)
CALLERS = (1, 2, 4, 8, 16, 32, 64)
CALLS = 100  # of each caller, as measured
RUNS = 5  # of the callers: a grace period is either 8 or 16 ms, so 100 of them still leave 3 %
SITES = 65

Simulated = dict[str, float]
Without = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One row of a truth table beside what the model makes of it; limit None: shown, not asserted."""

    id: str
    use: str
    unit: str
    measured: float
    simulated: float
    limit: float | None

    @property
    def error(self) -> float:
        return self.simulated / self.measured - 1

    @property
    def met(self) -> bool:
        return self.limit is None or abs(self.error) <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"{self.limit:.0%}" + ("" if self.met else "  MISSED")
        figures = f"{self.measured:12_.0f} {self.simulated:12_.0f} {self.unit:3}"
        return f"{self.id:22} {self.use:9} {figures} {self.error:+7.1%}  {limit}"


def loads(without: Without, kernel: Mapping[str, Any]) -> Simulated:
    """Medians of back-to-back loads, each closed at once; what the closes defer runs on the loader's CPU."""
    found: Simulated = {}
    for insns in LOADS:
        row = truth("host_bpf_load.csv")[f"alu-{insns}"]
        bench = Bench(f"truth/times/alu-{insns}", without=without, kernel=kernel)
        _back_to_back(bench, insns, int(row["n"]))
        ops = bench.recorder.of("load")
        found[f"alu-{insns}"] = median(op.end - op.begin for op in ops)
        found[f"alu-{insns}-rest"] = median(op.end - op.begin - phase_ns(op, "verify") for op in ops)
        found[f"alu-{insns}-close"] = median(op.end - op.begin for op in bench.recorder.of("unload"))
    return found


def _back_to_back(bench: Bench, insns: int, n: int) -> None:
    def body(k: Kernel) -> Proc[None]:
        for _ in range(n):
            loaded = yield from bench.load(k, straight_line(insns))
            yield from bench.close(k, loaded)
            yield from k.sleep_until(k.now + 1)  # lets the kworker in: there are no time slices

    bench.task("loader", body)
    bench.run()


def flips(without: Without, kernel: Mapping[str, Any]) -> Simulated:
    """Medians of flips of a static key, on and off in turn, twice."""
    found: Simulated = {}
    for scenario in ("spinning", "halted"):
        for run in (1, 2):
            bench = Bench(f"truth/times/{scenario}-{run}", scenario=scenario, without=without, kernel=kernel)
            n = int(truth("host_text_poke.csv")[f"key-on-{scenario}-{run}"]["n"])
            _flip(bench, n)
            for kind in ("on", "off"):
                ops = bench.recorder.of(kind)
                found[f"key-{kind}-{scenario}-{run}"] = median(op.end - op.begin for op in ops)
    return found


def _flip(bench: Bench, n: int) -> None:
    def body(k: Kernel) -> Proc[None]:
        for _ in range(n):
            for kind in ("on", "off"):
                k.begin(bench.operation(kind), "patch")
                yield from k.patch_text(SITES)
                k.end()
                yield from k.settle()

    bench.task("flip", body)
    bench.run()


def callers(without: Without, kernel: Mapping[str, Any]) -> Simulated:
    """Means, medians and calls per second of callers of synchronize_rcu in a closed loop, on both CPUs."""
    found: Simulated = {}
    for n in CALLERS:
        waits: list[int] = []
        rates = []
        for run in range(RUNS):
            bench = Bench(f"truth/times/callers-{n}/{run}", hosts=(0, 1), without=without, kernel=kernel)
            begin, end = _call(bench, n, waits)
            rates.append(1e9 * n * CALLS / (end - begin))
        found |= {f"idle-{n}": fmean(waits), f"idle-{n}-median": median(waits), f"idle-{n}-rate": fmean(rates)}
    return found


def _call(bench: Bench, n: int, waits: list[int]) -> tuple[int, int]:
    """Let n callers begin at random phases of a grace period; return when the first began and the last ended."""
    begins, ends = [], []
    phases = bench.machine.streams.stream("phases")

    def body(k: Kernel) -> Proc[None]:
        begins.append(k.now)
        for _ in range(CALLS):
            before = k.now
            yield from k.synchronize_rcu()
            yield from k.settle()
            waits.append(k.now - before)
        ends.append(k.now)

    for i in range(n):
        bench.task(f"caller/{i}", body, cpu=i % 2, start=int(phases.u() * 8e6))
    bench.run()
    return min(begins), max(ends)


def _limit(id_: str) -> float | None:
    if id_.startswith("alu-"):
        return None if id_.endswith("-close") else 0.25 if id_.endswith("-rest") else 0.15
    return None if id_.endswith("-median") else 0.25


@cache
def rows(without: Without = (), kernel: tuple[tuple[str, int], ...] = ()) -> tuple[Row, ...]:
    """Simulate everything on a machine without some costs, or with other rules of the release."""
    simulated: Simulated = {}
    for family in (loads, flips, callers):
        simulated |= family(without, dict(kernel))
    measured = truth("host_bpf_load.csv") | truth("host_text_poke.csv") | truth("host_rcu.csv")
    return tuple(
        Row(id_, row["use"], row["unit"], float(row["value"]), simulated[id_], _limit(id_))
        for id_, row in measured.items()
        if id_ in simulated
    )


def table(of: Sequence[Row]) -> str:
    """The rows as text."""
    head = f"{'row':22} {'use':9} {'measured':>12} {'simulated':>12}     {'error':>7}  limit"
    return "\n".join(["", head, *map(str, of)])


@pytest.mark.parametrize("family", ["alu-", "key-", "idle-"])
def test_simulated_times_meet_the_measured_ones(family: str) -> None:
    mine = [row for row in rows() if row.id.startswith(family)]
    print(table(mine))
    assert len(mine) == {"alu-": 3 * len(LOADS), "key-": 8, "idle-": 3 * len(CALLERS)}[family]
    assert not [str(row) for row in mine if not row.met]


def test_the_chance_of_a_second_scan_gives_back_the_row_it_comes_from() -> None:
    (row,) = [row for row in rows() if row.id == "idle-16"]
    assert abs(row.error) < 0.03


def test_most_rows_are_predictions() -> None:
    held = [row for row in rows() if row.limit is not None]
    assert sum(row.use == "predicted" for row in held) > len(held) / 2


IPI = ("ipi_send", "ipi_enqueue", "ipi_flight", "ipi_handler", "ipi_ack")
NEXT_JIFFY = (("jiffies_till_first_fqs", 0), ("jiffies_till_next_fqs", 0))
"""A timer set for n jiffies fires at the (n + 1)th tick; so set, it fires at the next one."""


@pytest.mark.parametrize(
    ("without", "kernel", "missed"),
    [
        pytest.param(("text_poke",), (), "key-on-spinning-1", id="no-poke"),
        pytest.param(IPI, (), "key-on-spinning-1", id="no-ipi", marks=pytest.mark.long),
        pytest.param(("idle_exit_deep",), (), "key-on-halted-1", id="no-wake-up", marks=pytest.mark.long),
        pytest.param((), NEXT_JIFFY, "idle-1", id="no-second-jiffy", marks=pytest.mark.long),
    ],
)
def test_a_model_without_one_mechanism_misses_rows(
    without: Without, kernel: tuple[tuple[str, int], ...], missed: str
) -> None:
    wrong = [row for row in rows(without, kernel) if not row.met]
    print(table(wrong))
    assert missed in [row.id for row in wrong]
