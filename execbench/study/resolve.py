"""One point of a study resolved: nested tables as written -> the plain, checked, unit-free parts of a cell's spec.

Every function names its inputs by dotted keys (`machine.topology.cpus`); `Layers.located` turns them into places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from execbench.catalogue import required
from execbench.clients.columns import rows_checked
from execbench.costs import CostTable
from execbench.errors import InputError, MachineError, did_you_mean
from execbench.kernel.releases import RELEASES, Release, release_from
from execbench.registry.files import data_path, sha256_of
from execbench.registry.instances import client_costs
from execbench.registry.params import fields_of, given_fields, resolved
from execbench.registry.plugins import class_for, registered
from execbench.sim.chain import Chain
from execbench.study.load import Layer, TomlFile, read
from execbench.study.overrides import merged
from execbench.study.spec import (
    FEATURES,
    PAGE_SIZES,
    BackgroundTable,
    ChainTable,
    KernelConfigTable,
    MachineFile,
    RunTable,
    TlbTable,
    TopologyTable,
    checked,
)  # fmt: skip
from execbench.units import show_time, size_bytes, time_ns

__all__ = ["asks", "clients", "kernel", "machine", "machine_tables", "run"]


def machine_tables(name: str, where: str = "--machine") -> tuple[dict[str, Any], list[Layer]]:
    """Return a machine file merged over the chain it `extends`, and the layers of that chain, base first."""
    chain: list[TomlFile] = []
    wanted: Any = name
    while wanted is not None:
        if not isinstance(wanted, str):
            raise MachineError(where, wanted, "the name of a machine", "correct extends")
        file = read("machine", wanted, where)
        if any(file.path == known.path for known in chain):
            circle = " -> ".join(known.name for known in [*chain, file])
            raise MachineError(f"{chain[-1].label}: extends", circle, "a chain that ends", "remove one of the links")
        chain.append(file)
        wanted, where = file.table.get("extends"), f"{file.label}: extends"
    tables: dict[str, Any] = {}
    layers = []
    for file in reversed(chain):
        own = {key: value for key, value in file.table.items() if key != "extends"}
        tables = merged(tables, own)
        layers.append(Layer.of_file(file, own, root="machine"))
    return tables, layers


def machine(name: str, tables: Mapping[str, Any], clients: Mapping[str, Any], explicit: bool = False) -> dict[str, Any]:
    """Return the resolved machine with the costs that these clients need; MachineError if it is impossible."""
    known = checked(MachineFile, tables, "machine")
    features = checked(FEATURES[known.arch], known.features, "machine.features")
    own = client_costs()
    costs = CostTable.from_toml(known.costs, "machine.costs", known.arch, own)
    needed = required(known.arch, {name: own.get(name, {}) for name in clients})
    costs = costs.with_estimates(needed, known.code_factor)
    costs.require(needed)
    kept = {cost: row for cost, row in costs.to_spec().items() if _needed(cost, clients)}
    return {
        "name": name,
        "arch": known.arch,
        "topology": _topology(known.topology),
        **({} if known.tlb is None else {"tlb": _tlb(known.tlb)}),
        "features": features.model_dump(),
        "kernel": _configuration(known.kernel, known.arch),
        "background": _background(known.background, costs, explicit, known.topology.isolated),
        "costs": kept,
    }


def _topology(table: TopologyTable) -> dict[str, Any]:
    if table.nodes > table.cpus:
        raise MachineError("machine.topology.nodes", table.nodes, f"1 to {table.cpus}, the CPUs",
                           "give every node a CPU")  # fmt: skip
    if table.isolated >= table.cpus:
        raise MachineError("machine.topology.isolated", table.isolated, f"0 to {table.cpus - 1}: some CPU keeps house",
                           "isolate fewer CPUs")  # fmt: skip
    memory = {} if table.memory is None else {"memory": size_bytes(table.memory, "machine.topology.memory")}
    return {"cpus": table.cpus, "nodes": table.nodes, "isolated": table.isolated, **memory}


def _tlb(table: TlbTable) -> dict[str, Any]:
    """Return `[tlb]` with the longest walk in ns; MachineError for a walk without its source."""
    if (table.walk_at_most is None) != (not table.walk_source):
        raise MachineError("machine.tlb.walk_source", table.walk_source, "where walk_at_most comes from, or neither",
                           "say where it comes from")  # fmt: skip
    plain = table.model_dump(exclude_none=True)
    if table.walk_at_most is not None:
        plain["walk_at_most"] = time_ns(table.walk_at_most, "machine.tlb.walk_at_most")
    return plain


def _configuration(table: KernelConfigTable, arch: str) -> dict[str, Any]:
    """Return `[kernel]` with the base page in bytes; MachineError for one that the architecture does not have."""
    page_size = size_bytes(table.page_size, "machine.kernel.page_size")
    if page_size not in (size_bytes(known) for known in PAGE_SIZES[arch]):
        raise MachineError("machine.kernel.page_size", table.page_size, f"{', '.join(PAGE_SIZES[arch])} on {arch}",
                           "correct the page size")  # fmt: skip
    return {**table.model_dump(), "page_size": page_size}


def _needed(cost: str, clients: Mapping[str, Any]) -> bool:
    return not cost.startswith("client.") or cost.split(".")[1] in clients


def _background(table: BackgroundTable, costs: CostTable, explicit: bool, isolated: int) -> dict[str, Any]:
    """Return the chain with the fractions of the scenario in use; the scenarios themselves are left behind.

    Under `isolated` comes the chain of the isolated CPUs, if there are any.
    """
    for scenario, shares in table.scenario.items():
        for name in shares:
            _one_of(name, table.states, f"machine.background.scenario.{scenario}.{name}")
    if table.use is not None:
        _one_of(table.use, table.scenario, "machine.background.use")
    plain = _chain(table, table.scenario.get(table.use or "", {}), costs, explicit, "machine.background")
    where = "machine.background.isolated"
    if table.isolated is not None:
        other = _chain(table.isolated, {}, costs, explicit, where)
        return {**plain, "isolated": other} if isolated else plain
    if isolated:
        raise MachineError(where, "no table", "the states of the isolated CPUs",
                           "add [background.isolated], or set machine.topology.isolated to 0")  # fmt: skip
    return plain


def _chain(
    table: ChainTable, shares: Mapping[str, float], costs: CostTable, explicit: bool, root: str
) -> dict[str, Any]:
    """Return one chain in ns, with `shares` in place of its fractions; MachineError if there is no such chain."""
    plain = table.model_dump(include=set(ChainTable.model_fields), exclude_none=True)
    for name, state in plain["states"].items():
        state |= {"fraction": shares[name]} if name in shares else {}
        where = f"{root}.states.{name}"
        if "mean" in state:
            state["mean"] = time_ns(state["mean"], f"{where}.mean")
        mixture = state["dist"].get("mixture") if isinstance(state.get("dist"), dict) else None
        if isinstance(mixture, dict) and isinstance(mixture.get("means"), list):
            mixture["means"] = [time_ns(mean, f"{where}.dist.mixture.means") for mean in mixture["means"]]
    try:
        Chain.from_machine(plain, costs.ns, explicit=explicit)
    except MachineError:
        raise
    except InputError as error:
        where = error.where.replace("machine.background", root, 1)
        raise MachineError(where, error.given, error.allowed, error.remedy) from error
    return plain


def _one_of(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise MachineError(where, name, ", ".join(known) or "nothing: none is defined",
                           did_you_mean(name, known) or "correct the name")  # fmt: skip


def kernel(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the release with the fields that differ from it, in base units."""
    fields = {key: value for key, value in tables.items() if key != "release"}
    release = tables.get("release")
    if release not in RELEASES:
        raise InputError("kernel.release", release, ", ".join(RELEASES),
                         did_you_mean(str(release), RELEASES) or "see `execbench list kernels`")  # fmt: skip
    spec = {"release": release, **given_fields(Release, fields, "kernel", hidden=("name", "source"))}
    release_from(spec)
    return spec


def asks(given: str | Sequence[str], clients: Collection[str]) -> tuple[str, ...]:
    """Return what a workload's question is about, each "CLIENT KIND" or "CLIENT"; InputError for another's client.

    Which kinds a client's operations have is known when they have happened: the report says which never came.
    """
    found = tuple(" ".join(one.split()) for one in ([given] if isinstance(given, str) else given))
    for one in found:
        name, _, kind = one.partition(" ")
        if name not in clients or " " in kind:
            known = [f'"{client} {first}"' for client in clients
                     for first in sorted(getattr(registered("clients").get(client), "arrivals", ()))]  # fmt: skip
            such = f", such as {', '.join(known)}" if known else ""
            raise InputError("workload.asks", f'"{one}"', f'"CLIENT KIND" or "CLIENT" of {", ".join(clients)}{such}',
                             did_you_mean(name, clients) or "name a class as the report does")  # fmt: skip
    return found


def run(tables: Mapping[str, Any], horizon: str) -> tuple[dict[str, Any], int]:
    """Return the `run` part of the spec, times in ns, and the number of replications."""
    known = checked(RunTable, tables, "run")
    times = {name: time_ns(getattr(known, name), f"run.{name}") for name in ("duration", "warmup", "drain")}
    if not times["warmup"] < times["duration"]:
        raise InputError("run.warmup", str(known.warmup), f"less than the duration, {show_time(times['duration'])}",
                         "lengthen the run or shorten its warm-up")  # fmt: skip
    if horizon == "terminating" and times["warmup"]:
        raise InputError("run.warmup", str(known.warmup), '"0s": a terminating workload has no steady state to reach',
                         "set run.warmup to 0s")  # fmt: skip
    rest = known.model_dump(include={"seed", "cpu_model", "merge", "record"})
    return {**times, **rest, "record": sorted(set(known.record))}, known.replications


def clients(tables: Mapping[str, Mapping[str, Any]], beside: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the clients' parameters and the data files they draw from, by the key that names each file.

    `beside` is the folder of the workload file. Data files are read once here, and held against the columns that their
    clients read: their hash is part of a cell's identity.
    """
    resolved_clients: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for name, given in tables.items():
        cls = class_for("clients", name, f"client.{name}")
        values = resolved(cls, given, f"client.{name}")
        for field, file in list(_files(cls, values)):
            path = data_path(file, beside, f"client.{name}.{field}")
            rows = rows_checked(path, fields_of(cls)[field].metadata.get("columns", ()), f"client.{name}.{field}")
            portable = file if _found_without(file, path) else str(path)
            _replace_file(values, field, portable)
            data[f"{name}.{field}"] = {"name": portable, "sha256": sha256_of(path), "rows": rows}
        resolved_clients[name] = values
    return resolved_clients, data


def _files(cls: type, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield `(parameter, file)` of every data file a client draws from."""
    for field, value in values.items():
        if isinstance(value, dict) and value.get("dist") == "empirical":
            yield field, value["file"]
        elif isinstance(value, str) and fields_of(cls)[field].metadata.get("kind") == "data":
            yield field, value


def _found_without(file: str, path: Path) -> bool:
    """Whether a worker, which does not know the workload file, finds the same file by this name."""
    try:
        return data_path(file).resolve() == path.resolve()
    except InputError:
        return False


def _replace_file(values: dict[str, Any], field: str, name: str) -> None:
    values[field] = {**values[field], "file": name} if isinstance(values[field], dict) else name
