"""One point of the parameter space on its way from the tables that users write to the specs of its cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from execbench.errors import InputError, MachineError, PluginError, did_you_mean
from execbench.registry.instances import client
from execbench.registry.params import constructed, fields_of, given_fields, resolved
from execbench.registry.plugins import class_for, display_name, load_source, sha8, snake, source_of
from execbench.study import resolve
from execbench.study.arms import Arm, label, parse_arm, split_arms
from execbench.study.load import Layer, Layers, TomlFile, read
from execbench.study.overrides import ROOTS, apply, merged, parse_set, root_checked
from execbench.study.spec import SCHEMA, Spec, StudyFile, WorkloadFile, cell_id, checked
from execbench.units import show_time, time_ns

__all__ = ["NAMES", "Asked", "Cell", "Point"]

NAMES: Final = ("workload", "machine", "kernel")
"""Keys of a `[study]` table that an axis may vary as well."""


@dataclass(frozen=True)
class Asked:
    """What options or arguments say; None leaves the choice to the study, then to the workload file.

    `settings` are dotted keys with their values and the way the user wrote them, which errors quote.
    """

    workload: str | None = None
    backends: Sequence[str] | None = None
    machine: str | None = None
    kernel: str | None = None
    settings: tuple[tuple[str, Any, str], ...] = ()

    @classmethod
    def of(cls, *, workload: str | None = None, backends: str | Iterable[str] | None = None,
           machine: str | None = None, kernel: str | None = None, cpus: int | None = None,
           duration: str | int | None = None, warmup: str | int | None = None, replications: int | None = None,
           seed: int | None = None, record: Iterable[str] = (),
           set: Iterable[str] | Mapping[str, Any] = (),
           ) -> Asked:  # fmt: skip
        """Return what the options of `run` and `sweep` say; an option is short for its dotted key."""
        short = {"machine.topology.cpus": ("cpus", cpus), "run.duration": ("duration", duration),
                 "run.warmup": ("warmup", warmup), "run.replications": ("replications", replications),
                 "run.seed": ("seed", seed), "run.record": ("record", list(record) or None)}  # fmt: skip
        settings = [(key, value, f"--{option}") for key, (option, value) in short.items() if value is not None]
        if isinstance(set, Mapping):
            for key in set:
                root_checked(key, f"--set {key}")
            settings += [(key, value, f"--set {key}") for key, value in set.items()]
        else:
            for text in [set] if isinstance(set, str) else set:
                key, value = parse_set(text)
                settings.append((key, value, f"--set {key}"))
        arms = split_arms(backends) if backends is not None else None
        if arms == []:
            raise InputError("--backend", "no backend", "at least one", "name one, or leave the choice to the workload")
        return cls(workload, arms, machine, kernel, tuple(settings))


@dataclass(frozen=True)
class Cell:
    """One cell: its resolved spec and how tables call it. A refused cell says why in `refused` and is never run."""

    id: str
    spec: Spec
    arm: str
    point: Mapping[str, Any]
    status: str
    refused: str = ""


class Point:
    """One point of the parameter space on its way from written tables to cells."""

    def __init__(self, asked: Asked, file: TomlFile | None, table: StudyFile, point: Mapping[str, Any]) -> None:
        """Read and check everything that does not depend on the arm."""
        self.asked, self.file, self.table, self.point = asked, file, table, point
        self.plugins: dict[str, str] = {}
        self.plugin_files: dict[str, str] = {}
        self.workload_file = self._workload_file()
        with Layers([Layer.of_file(self.workload_file, self.workload_file.table)]).located():
            self.workload = checked(WorkloadFile, self.workload_file.table)
            self.asks = resolve.asks(self.workload.workload.asks, self.workload.client)
        self.tables = self._tables()
        self._check_window()
        with self.layers.located():
            self._check_names()
            self.run, self.replications = resolve.run(self.tables["run"], self.workload.workload.horizon)
            self.kernel = resolve.kernel(self.tables["kernel"])
            self.clients, self.data = resolve.clients(self.tables["client"], self.workload_file.path.parent)
            explicit = self.run["cpu_model"] == "explicit"
            name = str(self._chosen("machine")[0])
            self.machine = resolve.machine(name, self.tables["machine"], self.clients, explicit)
            self._declared()
            self._threads_fit()

    def _chosen(self, key: str) -> tuple[Any, str]:
        """Return the name that option, axis, study or workload file (in this order) give for a key, and where."""
        label = self.file.label if self.file else ""
        choices = [(getattr(self.asked, key), f"--{key}"), (self.point.get(key), f"{label}: axes {key}"),
                   (getattr(self.table.study, key), f"{label}: study.{key}")]  # fmt: skip
        if key != "workload":
            choices.append((getattr(self.workload.workload, key), f"{self.workload_file.label}: workload.{key}"))
        return next(((value, where) for value, where in choices if value is not None), (None, label or "--workload"))

    def _workload_file(self) -> TomlFile:
        name, where = self._chosen("workload")
        if name is None:
            raise InputError(where, "no workload", "the name of a workload", "name one with -w")
        return read("workload", str(name), where)

    def _tables(self) -> dict[str, Any]:
        """Return the nested tables with every source laid on top of the weaker ones, and note their layers."""
        machine, layers = resolve.machine_tables(*map(str, self._chosen("machine")))
        release, where = self._chosen("kernel")
        tables: dict[str, Any] = {"machine": machine, "kernel": {"release": release}}
        layers.append(Layer.of_options([("kernel.release", where)]))
        sources: list[tuple[TomlFile, WorkloadFile | StudyFile]] = [(self.workload_file, self.workload)]
        if self.file:
            sources.append((self.file, self.table))
        for file, model in sources:
            own = {root: dict(getattr(model, root)) for root in ROOTS}
            tables = merged(tables, own)
            layers.append(Layer.of_file(file, {root: value for root, value in own.items() if value}))
        if self.file:
            tables = apply(tables, [(key, value) for key, value in self.point.items() if "." in key])
            layers.append(Layer.of_options((key, f"{self.file.label}: axes {key}") for key in self.point if "." in key))
        tables = apply(tables, [(key, value) for key, value, _ in self.asked.settings])
        layers.append(Layer.of_options((key, written) for key, _, written in self.asked.settings))
        self.layers = Layers(layers)
        return tables

    def _check_names(self) -> None:
        """Refuse overrides of clients and backends that take no part."""
        for name in self.tables["client"]:
            if name not in self.workload.client:
                known = list(self.workload.client)
                raise InputError(f"client.{name}", name, ", ".join(known), did_you_mean(name, known) or
                                 f"the clients of workload {self.workload_file.name} are meant")  # fmt: skip

    def _check_window(self) -> None:
        """Refuse a warm-up that leaves nothing of the duration; the message names both and where each comes from."""
        try:
            warmup, duration = (time_ns(self.tables["run"][name]) for name in ("warmup", "duration"))
        except (KeyError, InputError):
            return  # resolve.run says what is wrong with it
        if warmup >= duration:
            where = " and ".join(self.layers.where(f"run.{name}") for name in ("duration", "warmup"))
            raise InputError(where, f"a duration of {show_time(duration)} with a warm-up of {show_time(warmup)}",
                             "a duration that is longer than its warm-up, which it includes",
                             "lengthen --duration (run.duration) or shorten --warmup (run.warmup)")  # fmt: skip

    def _declared(self) -> None:
        """Refuse an architecture that the workload says it does not speak of, or a client cannot have."""
        allowed, arch = self.workload.workload.architectures, self.machine["arch"]
        if arch not in allowed:
            raise MachineError("--machine", f"{self.machine['name']}, which is {arch}", f"{', '.join(allowed)}: "
                               f"workload {self.workload_file.name} says nothing of others",
                               "choose another machine with -m")  # fmt: skip
        for name, params in self.clients.items():
            refusal = getattr(client(name, params), "refusal", None)
            if refusal is not None and (reason := refusal(arch, self.kernel["release"])):
                raise InputError(f"client.{name}", f"{arch}, {self.kernel['release']}: {reason}",
                                 "an architecture and a release that have it",
                                 "choose another machine (-m) or release (-k)")  # fmt: skip

    def _threads_fit(self) -> None:
        """Refuse more threads that never sleep than CPUs: each would take turns with another for ever."""
        cpus = self.machine["topology"]["cpus"]
        threads = {name: client(name, params).computing_threads() for name, params in self.clients.items()}
        if sum(threads.values()) > cpus:
            name = max(threads, key=lambda client: threads[client])
            raise InputError(f"client.{name}.threads", f"{sum(threads.values())} computing threads on {cpus} CPUs",
                             f"at most {cpus} threads that never sleep",
                             "use fewer threads or more CPUs (--cpus)")  # fmt: skip

    def cells(self) -> list[Cell]:
        """Return the cells of this point, one for each arm; identical arms once."""
        given = self.asked.backends or self.table.study.backends or self.workload.workload.backends
        where = "--backend" if self.asked.backends else "backends"
        arms = [parse_arm(text, where) for text in split_arms(given)]
        known = {display_name(arm.name) if arm.file is None else arm.name for arm in arms}
        for name in self.tables["backend"]:
            if display_name(name) not in known:
                raise InputError(self.layers.where(f"backend.{name}"), name, ", ".join(sorted(known)),
                                 did_you_mean(display_name(name), known) or "add it to the arms with -b")  # fmt: skip
        return [self._cell(arm, where) for arm in arms]

    def _cell(self, arm: Arm, where: str) -> Cell:
        source = source_of(arm.file, where) if arm.file else None
        name = self._name(arm)
        if source is not None:
            load_source(source, f"{where} {arm.file}")
        cls = class_for("backends", name, where, source)
        common = {key: value for other, table in self.tables["backend"].items()
                  if display_name(other) in (name, display_name(arm.name)) for key, value in table.items()}  # fmt: skip
        root = f"backend.{name}"
        options = Layer.of_options((f"{root}.{key}", f"{where} {arm.text}: {key}") for key in arm.params)
        with Layers([*self.layers.layers, options]).located():
            given = given_fields(cls, {**common, **arm.params}, root)
            params = resolved(cls, given, root)
            made = constructed(cls, {key: value for key, value in params.items() if key in given}, root)
        plugin = sha8(source) if source is not None else None
        if source is not None and plugin is not None:
            self.plugins[plugin], self.plugin_files[plugin] = source, str(arm.file)
        spec = self._spec(name, params, plugin)
        shown = {key: value for key, value in given.items() if value != fields_of(cls)[key].default}
        status, refused = self._support(made)
        return Cell(cell_id(spec), spec, label(name, shown), self.point, status, refused)

    def _name(self, arm: Arm) -> str:
        """Return the display name: of the backend, or of the class or file of a plug-in."""
        if arm.file is None:
            return display_name(arm.name)
        stem = arm.cls or arm.file.replace("\\", "/").rpartition("/")[2].removesuffix(".py")
        return display_name(snake(stem))

    def _spec(self, backend: str, params: Mapping[str, Any], plugin: str | None) -> Spec:
        table = self.workload.workload
        return {
            "schema": SCHEMA,
            "workload": {"name": self.workload_file.name, "question": table.question, "horizon": table.horizon,
                         "clients": self.clients, "data": self.data},
            "machine": self.machine,
            "kernel": self.kernel,
            "backend": {"name": backend, "params": dict(params), "plugin": plugin},
            "run": self.run,
        }  # fmt: skip

    def _support(self, backend: Any) -> tuple[str, str]:
        """Return (shipped, retired or proposed; the reason for a refusal or "")."""
        support = getattr(backend, "support", None)
        if support is None:
            raise PluginError(f"backend {type(backend).__name__}", "a class without `support`",
                              "support: ClassVar[Support]",
                              "say which architectures, kinds and releases it supports")  # fmt: skip
        arch = self.machine["arch"]
        kinds = [kind for name in self.clients for kind in getattr(class_for("clients", name, name), "kinds", ())]
        refused = support.refusal(arch, kinds) or getattr(backend, "refusal", lambda arch: "")(arch)
        return str(support.status(self.kernel["release"], arch)), str(refused)
