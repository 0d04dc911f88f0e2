"""What happened to the machine: interruptions, stolen time, memory, locks; sampled on a grid that changes nothing."""

from __future__ import annotations

from typing import Any

from execbench.kernel.shared import Shared
from execbench.record import layout
from execbench.sim.engine import Class, event_key

BINS = 100
"""Samples over the window of measurement."""
GROUPS = ("loader", "passive", "isolated")
"""Groups of CPUs: those that may host tasks, those that never do, and those kept free of the kernel's work."""
_OBSERVER = event_key(Class.OBSERVER, 0)

Columns = dict[str, list[Any]]


class MachineRecorder:
    """Reads cumulative counters at the ends of equal bins of [warmup, duration)."""

    def __init__(self, shared: Shared, backend: Any, state: Any, warmup: int, duration: int) -> None:
        """Schedules its own observer events: class OBSERVER comes after everything else of the same nanosecond."""
        self.shared = shared
        self._backend = backend
        self._state = state
        step = max((duration - warmup) // BINS, 1)
        self._times = [warmup + step * i for i in range((duration - warmup) // step + 1)]
        self.samples: list[tuple[int, list[tuple[int, int]], tuple[int, ...]]] = []
        self.hot: list[layout.Hot] = []
        self._cycles: list[dict[str, int]] = []
        self._longest: list[int] = []  # of the isolated CPUs, since the sample before
        engine = shared.machine.engine
        for at in self._times:
            engine.call_at(at, _OBSERVER, self._sample)

    def _sample(self) -> None:
        machine = self.shared.machine
        usage = self._backend.usage(self._state)
        dm4k, dm2m, dm1g = self.shared.direct_map.leaves()
        memory = (usage.asked, usage.reserved, usage.internal_waste, *usage.leaves, dm4k, dm2m, dm1g)
        isolated = machine.isolated_cpus
        groups = [self._hosts(), self._others()]
        if isolated is not None:
            groups.append((isolated.interruptions(None), isolated.stolen_ns(None)))
            self._longest.append(isolated.take_longest(machine.engine.now))
        self.samples.append((machine.engine.now, groups, memory))
        self.hot.append(layout.hot(self.shared))
        self._cycles.append({"grace_period": machine.rcu.completed, **self.shared.cycles})

    def _hosts(self) -> tuple[int, int]:
        """Return interruptions and stolen ns of the CPUs that may host tasks."""
        machine = self.shared.machine
        interruptions = stolen = 0
        for cpu in machine.active_cpus:
            interruptions += cpu.interruptions + machine.background.interruptions(cpu.id)
            stolen += cpu.stolen + machine.background.stolen_ns(cpu.id)
        return interruptions, stolen

    def _others(self) -> tuple[int, int]:
        """Return the same for all CPUs that never host one and are not isolated."""
        machine = self.shared.machine
        background, hosts, isolated = machine.background, machine.active_cpus, machine.isolated_cpus
        interruptions = background.interruptions(None) - sum(background.interruptions(cpu.id) for cpu in hosts)
        stolen = background.stolen_ns(None) - sum(background.stolen_ns(cpu.id) for cpu in hosts)
        if isolated is not None:
            interruptions -= isolated.interruptions(None)
            stolen -= isolated.stolen_ns(None)
        return interruptions, stolen

    def stolen(self) -> dict[str, tuple[int, int, int]]:
        """Return per group its CPUs, and interruptions and stolen ns inside the window."""
        machine = self.shared.machine
        hosts = len(machine.active_cpus)
        first, last = self.samples[0][1], self.samples[-1][1]
        sizes = (hosts, machine.cpus - hosts - machine.isolated, machine.isolated)
        return {
            group: (n, after[0] - before[0], after[1] - before[1])
            for group, n, before, after in zip(GROUPS, sizes, first, last, strict=False)
        }

    def isolated(self) -> tuple[float, int] | None:
        """Return the interruptions per isolated CPU and hour, and the longest (ns), in the window; None without any.

        One that began in the window and lasts beyond its end counts with what is known of it then.
        """
        if not self._longest:
            return None
        cpus, interruptions, _ = self.stolen()["isolated"]
        window = self.samples[-1][0] - self.samples[0][0]
        return interruptions / cpus / (window / 3.6e12), max(self._longest[1:], default=0)

    def cycles(self) -> dict[str, int]:
        """Return how many turns each slow process made inside the window."""
        first, last = self._cycles[0], self._cycles[-1]
        return {process: count - first.get(process, 0) for process, count in sorted(last.items())}

    def memory_mean(self, column: int) -> float:
        """Return the time average of one figure over the samples."""
        return sum(sample[2][column] for sample in self.samples) / len(self.samples)

    def tables(self) -> dict[str, Columns]:
        """Return cpus, disturbance, memory and locks."""
        tables = {"cpus": self._cpus(), "disturbance": self._disturbance()}
        return tables | {"memory": self._memory(), "locks": self._locks()}

    def _cpus(self) -> Columns:
        columns: Columns = {"group": [], "cpus": [], "interruptions": [], "stolen_ns": []}
        for group, figures in self.stolen().items():
            for column, value in zip(columns.values(), (group, *figures), strict=True):
                column.append(value)
        return columns

    def _disturbance(self) -> Columns:
        columns: Columns = {"t_ns": [], "group": [], "interruptions": [], "stolen_ns": []}
        for (at, before, _), (_, after, _) in zip(self.samples, self.samples[1:], strict=False):
            for group, old, new in zip(GROUPS, before, after, strict=False):
                for column, value in zip(columns.values(), (at, group, new[0] - old[0], new[1] - old[1]), strict=True):
                    column.append(value)
        return columns

    def _memory(self) -> Columns:
        names = ("asked", "reserved", "internal_waste", "text_4k", "text_2m", "leaves_4k", "leaves_2m", "leaves_1g")
        columns: Columns = {"t_ns": [at for at, _, _ in self.samples]}
        for i, name in enumerate(names):
            columns[name] = [memory[i] for _, _, memory in self.samples]
        return columns

    def _locks(self) -> Columns:
        names = ("lock", "acquisitions", "contended", "wait_ns", "wait_max_ns", "hold_ns", "holder")
        columns: Columns = {name: [] for name in names}
        for name, lock in sorted(self.shared.locks.items()):
            lock.sync()
            if not lock.acquisitions:
                continue
            holder = max(sorted(lock.blame), key=lock.blame.__getitem__, default="")
            row = (name, lock.acquisitions, lock.contended, lock.wait_ns, lock.wait_max_ns, lock.hold_ns, holder)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
        return columns
