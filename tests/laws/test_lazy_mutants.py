"""Errors planted in the models of CPUs, each of which a test must find; prints how surely each test does.

The exact tests play random schedules on passive CPUs and random programs on whole machines; the statistical ones are
those of test_lazy_plumbing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scipy.stats import ks_2samp

from execbench.sim import cpu, ipi, lazy, stopper
from execbench.sim.chain import Chain
from execbench.sim.passive import AT_ONCE, PREEMPTIBLE, UNMASKED
from execbench.sim.pool import HANDLER
from execbench.stats.chisquare import chi_square
from execbench.stats.laws import ALPHA
from tests.laws import test_lazy_mechanism as mechanism
from tests.laws import test_stopping as stopping
from tests.laws.test_lazy_plumbing import latencies
from tests.laws.two_touches import Touch, counted, explicit_cpus, law_of, lazy_cpus, two_touches


class Wrapped:
    """Draws that pass everything on."""

    def __init__(self, draws: Any) -> None:
        self.draws = draws

    def __getattr__(self, name: str) -> Any:
        return getattr(self.draws, name)


# --- errors of plain touches ------------------------------------------------------------------------------------------


class Forgets(lazy._Pool):
    """Residual forgotten: the next draw starts from the state that the last touch found."""

    def _wait(self, x: int, n: int, known: Any, d: int, *rest: Any) -> int:
        last = super()._wait(x, n, known, d, *rest)
        for i in range(len(self.groups) - n, len(self.groups)):
            self.groups[i] = (d, x, d, *self.groups[i][3:])
        return last


class Thawed(lazy._Pool):
    """The handler does not freeze the background: it goes on while the handler runs."""

    def thaw(self, t: int) -> None:
        self.groups = [(hs if t >= he > hs >= 0 else he, x, hs, *rest) for he, x, hs, *rest in self.groups]

    def send(self, t: int, c: int, d: int) -> int:
        self.thaw(t)
        return super().send(t, c, d)

    def touch(self, t: int, *rest: Any) -> tuple[int, int]:
        self.thaw(t)
        return super().touch(t, *rest)

    def free_at(self, t: int) -> int:
        self.thaw(t)
        return super().free_at(t)

    def gp_start(self, t: int) -> None:
        self.thaw(t)
        super().gp_start(t)

    def scan(self, t: int) -> int:
        self.thaw(t)
        return super().scan(t)


class Separate(lazy._Pool):
    """No coalescing: every call is an interruption of its own."""

    def send(self, t: int, c: int, d: int) -> int:
        self.interruptions += sum(group[-1] for group in self.groups if t < group[2])
        return super().send(t, c, d)


class EndPoints(lazy._Pool):
    """A quiescent state counts only if the CPU is in it at the end of the gap."""

    def __init__(self, chain: Chain, draws: Any, cpu: int, n: int) -> None:
        class Ends(Wrapped):
            def split_watching(
                self, cpu: int, groups: Any, t: int, d: int,
                kept: list[int], moved: list[int], kept_unseen: list[int], moved_unseen: list[int],
            ) -> None:  # fmt: skip
                size = len(chain.states)
                cells = [0] * size, [0] * size
                self.draws.split(cpu, groups, t, d, *cells)
                for x, state in enumerate(chain.states):
                    for found, into, unseen in zip(cells, (kept, moved), (kept_unseen, moved_unseen), strict=True):
                        (into if state.qs else unseen)[x] += found[x]

        super().__init__(chain, Ends(draws), cpu, n)


class Returns(lazy._Pool):
    """Wrong exit state: behind a wait every CPU is in the first state."""

    def _wait(self, x: int, n: int, *rest: Any) -> int:
        last = super()._wait(x, n, *rest)
        for i in range(len(self.groups) - n, len(self.groups)):
            self.groups[i] = (self.groups[i][0], 0, *self.groups[i][2:])
        return last


class Sleeps(lazy._Pool):
    """Kappa missing: the interrupt leaves the CPU in the state that it found."""

    def __init__(self, chain: Chain, draws: Any, cpu: int, n: int) -> None:
        super().__init__(chain, draws, cpu, n)
        self._after = list(range(len(chain.states)))


MUTANTS = {
    "residual forgotten": Forgets,
    "handler does not freeze": Thawed,
    "no coalescing": Separate,
    "end-point QS": EndPoints,
    "wrong exit state": Returns,
    "kappa missing": Sleeps,
}


def share_of_schedules(n: int, kinds: tuple[str, ...]) -> float:
    """Share of random schedules on which the lazy model differs from the explicit walk."""
    found = 0
    for seed in range(n):
        play = 3, mechanism.random_schedule(seed, kinds), seed, 1.0
        try:
            found += mechanism.run("lazy", *play) != mechanism.run("explicit", *play)
        except (AssertionError, ValueError):  # the path was asked for something impossible
            found += 1
    return found / n


@pytest.mark.long
def test_planted_errors_are_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of six errors is found by the exact test and by the chi-square test; prints how surely each test does."""
    n, batch, schedules = 20_000, 500, 200
    law = law_of(Touch())
    reference = latencies(explicit_cpus, "planted errors/reference", 4, 2_000)
    rows = []
    for name, mutant in [("none", lazy._Pool), *MUTANTS.items()]:
        monkeypatch.setattr(lazy, "_Pool", mutant)
        paths = share_of_schedules(schedules, mechanism.PLAIN)
        touched = list(two_touches(lazy_cpus, f"planted errors/{name}", n, Touch()))
        batches = [touched[start : start + batch] for start in range(0, n, batch)]
        rejected = [not chi_square(*counted(law, part), alpha=ALPHA) for part in batches]
        together = chi_square(*counted(law, touched), alpha=ALPHA)
        several = ks_2samp(latencies(lazy_cpus, f"planted errors/{name}", 4, 2_000), reference)
        rows.append((name, paths, sum(rejected) / len(batches), together.p_value, float(several.pvalue)))
    with capsys.disabled():
        print(
            f"\n{'':26}{'schedules: power of':>24}{'two touches: power,':>24}{'p-value':>10}{'3 rounds, 4 CPUs:':>22}"
        )
        print(f"{'planted error':26}{'1':>12}{'600':>12}{f'n = {batch}':>24}{f'n = {n}':>10}{'p-value, 2 x 2000':>22}")
        for name, paths, touches, p, q in rows:
            print(f"{name:26}{paths:12.3f}{1 - (1 - paths) ** 600:12.5f}{touches:24.2f}{p:10.0e}{q:22.0e}")
    _, paths, touches, p, q = rows[0]
    assert (paths, touches) == (0.0, 0.0)
    assert min(p, q) > ALPHA
    for name, paths, _, p, _ in rows[1:]:
        assert 1 - (1 - paths) ** 600 > 0.999, name
        assert p < ALPHA, name


# --- errors of calls to threads, to busy CPUs and of stopping ---------------------------------------------------------


class Wakes(lazy._Pool):
    """An idle CPU is touched by a call to busy ones."""

    def touch(self, t: int, c: int, d: int, who: Any, level: int) -> tuple[int, int]:
        return super().touch(t, c, d, "all", level)


class Preempts(lazy._Pool):
    """A thread gets a CPU that is in a reader, as an interrupt does."""

    def __init__(self, chain: Chain, draws: Any, cpu: int, n: int) -> None:
        super().__init__(chain, draws, cpu, n)
        self._waits = (*self._waits[:2], list(self._waits[UNMASKED]))


class Mixes(lazy._Pool):
    """A thread's call is taken together with interrupts that wait."""

    def touch(self, t: int, c: int, d: int, who: Any, level: int) -> tuple[int, int]:
        self.groups = [(*group[:7], PREEMPTIBLE, group[8]) if t < group[2] else group for group in self.groups]
        return super().touch(t, c, d, who, level)


class Idles(lazy._Pool):
    """Whether a CPU was idle is forgotten while it has a call waiting: it is taken for busy."""

    def _split(self, t: int, who: Any) -> Any:
        self.groups = [
            (*group[:4], HANDLER, (), (), *group[7:]) if t < group[2] else group for group in self.groups
        ]  # fmt: skip
        return super()._split(t, who)


class Lives(lazy._Pool):
    """A stopped CPU lives on: its background moves, and it passes quiescent states."""

    def halt(self, t: int, c: int, d: int, stop: Any) -> int:
        arrived = super().halt(t, c, d, stop)
        self.groups = [(arrived, *group[1:]) for group in self.groups]
        return arrived


class Early(lazy._Pool):
    """A CPU counts as stopped when its stopper starts, not when it is in its loop."""

    def halt(self, t: int, c: int, d: int, stop: Any) -> int:
        return super().halt(t, c, d, stop) - c


class Listens(lazy._Pool):
    """A stopped CPU takes interrupts although all have arrived."""

    def deliver(self, t: int, call: Any) -> None:
        class Waiting:
            def all_arrived(self, t: int) -> bool:
                return False

        stop, self.stop = self.stop, self.stop and Waiting()
        super().deliver(t, call)
        self.stop = stop


class Masks(lazy._Pool):
    """Masked states delay a call that nothing masks."""

    def __init__(self, chain: Chain, draws: Any, cpu: int, n: int) -> None:
        super().__init__(chain, draws, cpu, n)
        self._waits = (self._waits[UNMASKED], *self._waits[1:])


class Passes(lazy._Pool):
    """An interrupt that finds a call waiting which nothing masks joins it, and starts with interrupts off."""

    def send(self, t: int, c: int, d: int) -> int:
        self._mistake(t)
        return super().send(t, c, d)

    def touch(self, t: int, c: int, d: int, who: Any, level: int) -> tuple[int, int]:
        if level == UNMASKED:
            self._mistake(t)
        return super().touch(t, c, d, who, level)

    def _mistake(self, t: int) -> None:
        self.groups = [
            (*group[:7], UNMASKED, group[8]) if t < group[2] and group[7] == AT_ONCE else group for group in self.groups
        ]


class Queues(lazy._Pool):
    """A call that nothing masks joins interrupts that wait for them to be on."""

    def touch(self, t: int, c: int, d: int, who: Any, level: int) -> tuple[int, int]:
        if level == AT_ONCE:
            self.groups = [(*group[:7], AT_ONCE, group[8]) if t < group[2] else group for group in self.groups]
        return super().touch(t, c, d, who, level)


PASSIVE = {
    "idle CPU touched by busy": Wakes,
    "reader ignored by preemptible": Preempts,
    "thread joins interrupts": Mixes,
    "waiting idle CPU is busy": Idles,
    "stopped CPU lives on": Lives,
    "arrives as it starts": Early,
    "interrupted when all stopped": Listens,
    "masked states delay all": Masks,
    "interrupt joins what is not masked": Passes,
    "what is not masked joins interrupts": Queues,
}


def lives_on(self: stopper.Stopper) -> None:
    """The stopper keeps no CPU that runs a task."""
    started(self)
    self.cpu.held, self._stop = False, None


def without_active(self: ipi.Interrupts, sender: Any, switch_ns: int, flight_ns: int) -> ipi.Round:
    """The machine counts as stopped, and is released, before the last CPU has arrived."""
    round_ = stopped(self, sender, switch_ns, flight_ns)
    if round_.targets > 1:
        round_.waiting -= 1
    return round_


started, stopped = stopper.Stopper._start, ipi.Interrupts.stop
ACTIVE: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "held CPU lives on": (stopper.Stopper, "_start", lives_on),
    "released before the last arrives": (ipi.Interrupts, "stop", without_active),
    "spinlock holder preempted": (stopper.Stopper, "_spinlocks_until", lambda self: 0),
    "bound of the hold kept": (cpu.Cpu, "stop_earlier", lambda self: None),
    "masked task preempted": (cpu.Cpu, "first_unmasked", lambda self, at: at),
}


def share_of_programs(seeds: range) -> float:
    """Share of random programs in which forms or models differ, a task acts while stopped or comes to no end."""
    found = 0
    for seed in seeds:
        try:
            found += bool(stopping.wrong(seed))
        except (AssertionError, IndexError, ValueError):
            found += 1
    return found / len(seeds)


@pytest.mark.long
def test_errors_of_threads_and_stops_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By schedules on passive CPUs, or by programs on whole machines."""
    schedules, programs = 200, 100
    rows = []
    for name, mutant in [("none", lazy._Pool), *PASSIVE.items()]:
        with monkeypatch.context() as patch:
            patch.setattr(lazy, "_Pool", mutant)
            rows.append((name, share_of_schedules(schedules, mechanism.KINDS), share_of_programs(range(programs))))
    for name, (owner, attribute, mutant) in ACTIVE.items():
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, mutant)
            rows.append((name, 0.0, share_of_programs(range(programs))))
    with capsys.disabled():
        print(f"\n{'planted error':34}{'schedules: 1':>14}{'900':>10}{'programs: 1':>14}{'1500':>10}")
        for name, paths, machines in rows:
            print(f"{name:34}{paths:14.3f}{1 - (1 - paths) ** 900:10.5f}", end="")
            print(f"{machines:14.3f}{1 - (1 - machines) ** stopping.SEEDS:10.5f}")
    assert rows[0][1:] == (0.0, 0.0)
    for name, paths, machines in rows[1:]:
        assert max(1 - (1 - paths) ** 900, 1 - (1 - machines) ** stopping.SEEDS) > 0.999, name
