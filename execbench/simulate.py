"""The pure function: one resolved spec and a replication number in, one trajectory's record out."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from execbench.contract import Setting
from execbench.costs import CostTable
from execbench.errors import Deadlock, InputError, PluginError, SimulatedFailure
from execbench.kernel.rcu import flavour_rules
from execbench.kernel.releases import Release, release_from
from execbench.kernel.shared import Shared
from execbench.record import layout
from execbench.record.machine import MachineRecorder
from execbench.record.operations import OperationRecorder
from execbench.registry.files import data_path, rows_of
from execbench.registry.instances import backend, client
from execbench.sim.machine import Machine
from execbench.sim.rcu import RcuRules
from execbench.sim.rng import Streams

Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Replication:
    """What one replication leaves: its outcome, totals, and tables without the columns cell and replication."""

    outcome: str
    detail: str
    operations: int
    events: int
    draws: int
    tables: Tables
    digest: str = ""


def simulate(spec: dict[str, Any], replication: int, plugins: Mapping[str, str] | None = None) -> Replication:
    """Run one replication; the same spec and number give the same record in any process on any machine."""
    world = World(spec, replication, plugins or {})
    return world.run()


class World:
    """One replication under construction; tests and replays attach further sinks to `shared.machine.probe`."""

    def __init__(self, spec: dict[str, Any], replication: int, plugins: Mapping[str, str]) -> None:
        """Build machine, kernel, backend and clients; nothing has happened yet."""
        self.spec = spec
        run = spec["run"]
        self.warmup, self.duration, self.drain = run["warmup"], run["duration"], run["drain"]
        costs = CostTable.from_spec(spec["machine"]["costs"])
        release = release_from(spec["kernel"])
        self.clients = _clients(spec, plugins)
        self.backend = backend(spec["backend"], plugins)
        cpus = spec["machine"]["topology"]["cpus"]
        self.places = placed(self.clients, cpus - spec["machine"]["topology"].get("isolated", 0))
        named = sorted({cpu for places in self.places for cpu in places})
        self.streams = Streams(run["seed"], replication)
        self.machine = Machine(spec["machine"], costs, self.streams, named, run)
        self.machine.start_rcu(rcu_rules(spec["machine"]["kernel"], release, costs, cpus, self.machine.arch))
        self.shared = Shared(self.machine, release, costs)
        api = {client.name: client.api_phases for client in self.clients}
        self.recorder = OperationRecorder(self.warmup, self.duration, api, "operations" in run.get("record", ()))
        self.shared.recorder = self.recorder
        self.state = self.backend.start(self.shared)
        self.observer = MachineRecorder(self.shared, self.backend, self.state, self.warmup, self.duration)

    def run(self) -> Replication:
        """Run to the end of the window and the drain; a simulated failure is a named outcome of the record."""
        self.setting = setting = Setting(
            self.shared,
            self.backend,
            self.state,
            self.duration,
            self.warmup,
            self.drain,
            lambda name: rows_of(data_path(name)),
        )
        for one, places in zip(self.clients, self.places, strict=True):
            _start(one, replace(setting, places=places))
        outcome, detail = "ok", ""
        try:
            self.machine.engine.run(self.duration + self.drain)
            self._check_alive()
        except SimulatedFailure as failure:
            outcome, detail = failure.outcome, failure.detail
        except Exception as error:
            if self.spec["backend"].get("plugin") is None:
                raise
            raise _blamed(self.spec["backend"]["name"], error) from error
        self.recorder.close(self.machine.engine.now, setting.untaken)
        return Replication(
            outcome=outcome,
            detail=detail,
            operations=self.recorder.completed,
            events=self.machine.engine.events,
            draws=self.streams.draws,
            tables=self._tables(outcome),
        )

    def _check_alive(self) -> None:
        stuck = [operation for operation in self.recorder.live if operation.mode == "sync"]
        if stuck and self.machine.engine.idle():
            names = ", ".join(f"{operation.client} {operation.kind} {operation.number}" for operation in stuck)
            raise Deadlock("deadlock", f"nothing is due any more, but these wait: {names}", {"waiting": names})

    def _tables(self, outcome: str) -> Tables:
        if outcome != "ok" and len(self.observer.samples) < 2:
            return {"metrics": {name: [] for name in ("metric", "client", "kind", "unit", "value", "n")}}
        tables: Tables = {**self.recorder.tables(), **self.observer.tables()}
        tables["metrics"] = metrics(self)
        return tables


def _start(client: Any, setting: Setting) -> None:
    """Let a client begin; what it cannot begin with (a column that is missing, a set that is not there) is input."""
    try:
        client.start(setting)
    except (ValueError, LookupError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"client.{client.name}", f"data or parameters that it cannot begin with: {said}",
                         "files with the columns and values of workloads/data/README.md",
                         "correct the file or the parameter") from error  # fmt: skip


def _blamed(name: str, error: Exception) -> PluginError:
    """Return what a backend from a file did wrong, with the last line of that file on the way to the error."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "plugin" in frame.filename]
    where = f"plug-in {name}" + (f", line {places[-1].lineno}" if places else "")
    allowed = "verbs that keep the contract of execbench.contract.Backend"
    return PluginError(where, f"{type(error).__name__}: {error}", allowed, "see execbench/docs/extending.md")


def placed(clients: Sequence[Any], cpus: int) -> list[tuple[int, ...]]:
    """Lay the places of several clients side by side on the CPUs that keep house; beyond the last one they wrap."""
    first, all_places = 0, []
    for one in clients:
        places = one.cpus(cpus)
        all_places.append(tuple((first + place) % cpus for place in places))
        first += max(places, default=-1) + 1
    return all_places


def metrics(world: World) -> dict[str, list[Any]]:
    """Return the tidy scalars of a replication, one row per figure and class of operation."""
    rows = [*_of_operations(world), *_of_the_machine(world)]
    names = ("metric", "client", "kind", "unit", "value", "n")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


_Row = tuple[str, str, str, str, float, int]


def _of_operations(world: World) -> Iterator[_Row]:
    """Yield what each class of operations did in the window."""
    seconds = (world.duration - world.warmup) / 1e9
    for of_client, kind, of in world.recorder.classes():
        yield "throughput", of_client, kind, "op/s", of.completed / seconds, of.completed
        yield "unfinished", of_client, kind, "1", float(of.unfinished), of.cohort + of.unfinished
        n = of.cohort
        if not n:
            continue
        share = "api_share" if of.mode == "sync" else "api_share_free"
        yield "latency_mean", of_client, kind, "ns", of.latency_ns / n, n
        yield "queue_mean", of_client, kind, "ns", of.queue_ns / n, n
        yield "service_mean", of_client, kind, "ns", (of.latency_ns - of.queue_ns) / n, n
        yield "latency_sum", of_client, kind, "ns", float(of.latency_ns), n
        yield "api_sum", of_client, kind, "ns", float(of.api_ns), n
        yield share, of_client, kind, "1", of.api_ns / max(of.latency_ns, 1), n
        for metric, primitive in _PER_OPERATION:
            yield metric, of_client, kind, "1", of.counts.get(primitive, 0) / n, n


def _of_the_machine(world: World) -> Iterator[_Row]:
    """Yield what happened to CPUs and memory, and the identities that must hold."""
    observer, recorder = world.observer, world.recorder
    for group, (cpus, interruptions, stolen) in observer.stolen().items():
        yield f"interruptions_{group}", "", "", "1", float(interruptions), cpus
        yield f"stolen_ns_{group}", "", "", "ns", float(stolen), cpus
    if (isolated := observer.isolated()) is not None:
        hourly, longest = isolated
        yield "isolated_interruptions_per_hour", "", "", "1/h", hourly, world.machine.isolated
        yield "isolated_longest_ns", "", "", "ns", float(longest), world.machine.isolated
    for i, name in enumerate(_MEMORY):
        unit = "1" if "leaves" in name else "bytes"
        yield name, "", "", unit, observer.memory_mean(i), len(observer.samples)
    for name, unit, value in layout.figures(observer.hot, world.spec["machine"].get("tlb")):
        yield name, "", "", unit, value, len(observer.hot)
    for name, left in world.setting.undone.items():
        yield "undone", name, "", "1", float(left), left
    yield "littles_law_residual", "", "", "ns", float(recorder.littles_residual()), recorder.completed
    for process, cycles in observer.cycles().items():
        yield f"cycles_{process}", "", "", "1", float(cycles), cycles


_PER_OPERATION = (
    ("rounds_per_op", "round"),
    ("flushes_per_op", "flush_tlb_all"),
    ("pokes_per_op", "text_poke"),
    ("gps_per_op", "synchronize_rcu"),
    ("purges_per_op", "vmap_purge"),
    ("splits_per_op", "cpa_split"),
)
_MEMORY = ("asked_bytes", "reserved_bytes", "waste_bytes", "text_leaves_4k", "text_leaves_2m")


def rcu_rules(
    config: Mapping[str, Any], release: Release, costs: CostTable, cpus: int, arch: str = "x86_64"
) -> RcuRules:
    """Combine a machine's configuration, a release and its costs into the rules of grace periods."""
    hz = config["hz"]
    second = config.get("rcu_second_scan", 0.0)
    return RcuRules(
        jiffy_ns=1_000_000_000 // hz,
        first_fqs=release.fqs_jiffies(True, hz, cpus),
        next_fqs=release.fqs_jiffies(False, hz, cpus),
        wake_from_gp=release.wakes_from_gp(cpus, config.get("rcu_normal_wake_from_gp")),
        direct_wakes=release.direct_wakes,
        init_ns=costs.ns("rcu_gp_init"),
        cleanup_ns=costs.ns("rcu_gp_cleanup"),
        wake_ns=costs.ns("rcu_wake"),
        worker_ns=costs.ns("context_switch"),
        second_scan=second["value"] if isinstance(second, Mapping) else second,
        flavours=flavour_rules(config, release, costs, arch),
    )


def _clients(spec: Mapping[str, Any], plugins: Mapping[str, str]) -> list[Any]:
    return [client(name, params, plugins) for name, params in sorted(spec["workload"]["clients"].items())]
