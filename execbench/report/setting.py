"""How a study was run, in words: machine, release, loop, replications, and the evidence of the costs behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from execbench.catalogue import catalogue
from execbench.costs import Evidence
from execbench.registry.instances import client_costs
from execbench.registry.plugins import class_for
from execbench.units import show_time

if TYPE_CHECKING:
    from execbench.report.comparison import Frames

SAMPLING_ONLY = "Intervals: 95 % over replications, sampling only: cost uncertainty not explored."


@dataclass(frozen=True)
class CostLine:
    """One cost that entered a study, as a reader has to see it: value, range, unit, evidence, source."""

    name: str
    value: str
    low: str
    high: str
    per: str
    evidence: Evidence
    source: str
    meaning: str


@dataclass(frozen=True)
class Setting:
    """The frame of a study: what all its cells share, and the lists of what they do not share."""

    workload: str
    question: str
    asks: tuple[tuple[str, str], ...]
    """Client and kind of each class of operation that the question is about, kind "" for all of a client; none where
    the workload names none."""
    horizon: str
    machines: tuple[str, ...]
    architectures: tuple[str, ...]
    cpus: tuple[int, ...]
    releases: tuple[str, ...]
    duration_ns: int
    warmup_ns: int
    seed: int
    replications: int
    loops: tuple[str, ...]
    data: tuple[str, ...]
    costs: tuple[CostLine, ...]
    command: str
    expected: str
    caveats: tuple[str, ...] = ()
    """What a reader must not take a client for."""

    @property
    def weakest(self) -> Evidence:
        """The weakest evidence among the costs that were used."""
        return max((cost.evidence for cost in self.costs), key=lambda evidence: evidence.rank)

    def machine_words(self) -> str:
        """`server-64 (x86_64, 64 CPUs), kernel 6.18`."""
        return (f"{_listed(self.machines)} ({_listed(self.architectures)}, {_listed(self.cpus)} CPUs), "
                f"kernel {_listed(self.releases)}")  # fmt: skip

    def evidence(self) -> str:
        """The weakest evidence among the costs used, and which costs have no better."""
        weak = [cost.name for cost in self.costs if cost.evidence is self.weakest]
        share = f"{len(weak)} of {len(self.costs)}"
        return f"Weakest evidence among the costs used: {self.weakest} ({share}: {_few(weak)})."

    def footer(self) -> list[str]:
        """What stands under every table: what was simulated, how often, on what evidence, and what is not known."""
        measured = show_time(self.duration_ns - self.warmup_ns)
        return [
            f"Simulated: {self.machine_words()}; {self.workload} for {measured} after {show_time(self.warmup_ns)} of "
            f"warm-up, {self.replications} replications, seed {self.seed}.",
            *(f"{loop}." for loop in self.loops),
            *(f"{caveat}." for caveat in self.caveats),
            *([f"Expected before it ran: {self.expected}"] if self.expected else []),
            self.evidence(),
            SAMPLING_ONLY,
        ]


def setting_of(results: Frames) -> Setting:
    """Return the setting of the study behind `results`."""
    specs = [json.loads(text) for text in results.cells["spec"].dropna().unique()]
    run = [spec["run"] for spec in specs]
    clients = {(name, is_open(client)): client
               for spec in specs for name, client in spec["workload"]["clients"].items()}  # fmt: skip
    study, replications = results.study, results.table("replications")
    return Setting(
        workload=specs[0]["workload"]["name"],
        question=str(study.get("question") or specs[0]["workload"]["question"]),
        asks=_unique((client, kind) for client, _, kind in (one.partition(" ") for one in study.get("asks", ()))),
        horizon=specs[0]["workload"]["horizon"],
        machines=_unique(spec["machine"]["name"] for spec in specs),
        architectures=_unique(spec["machine"]["arch"] for spec in specs),
        cpus=_unique(spec["machine"]["topology"]["cpus"] for spec in specs),
        releases=_unique(spec["kernel"]["release"] for spec in specs),
        duration_ns=max(int(r["duration"]) for r in run),
        warmup_ns=max(int(r["warmup"]) for r in run),
        seed=int(run[0]["seed"]),
        replications=int(replications.groupby("cell").size().max() if len(replications) else 0),
        loops=tuple(loop_words(name, client) for (name, _), client in clients.items()),
        data=_unique(_data_words(key, entry) for spec in specs for key, entry in spec["workload"]["data"].items()),
        costs=_costs(specs, {name for name, _ in clients}),
        command=str(study.get("command", "")),
        caveats=tuple(_caveats(sorted({name for name, _ in clients}))),
        expected=str(study.get("expect", {}).get("reading", "") if isinstance(study.get("expect"), Mapping) else ""),
    )


def _caveats(clients: Sequence[str]) -> Iterator[str]:
    """Yield what clients say of themselves that stands under every table."""
    for name in clients:
        caveat = getattr(class_for("clients", name, "report"), "caveat", "")
        if caveat:
            yield f"{name} is {caveat}"


def is_open(client: Mapping[str, Any]) -> bool:
    """Whether arrivals do not wait for completions."""
    return client.get("rate") not in (None, 0) or client.get("trace") is not None


def loop_words(name: str, client: Mapping[str, Any]) -> str:
    """`Closed loop: 2 bpf threads, think time 1 ms`: how operations arrive, and from when their latency counts.

    A client without pauses has no field `think`, or says so by `thinks(fields)`.
    """
    kinds = _kinds(name, client)
    threads = _threads(name, client) + (f" for each of {kinds} kinds" if kinds > 1 else "")
    if is_open(client):
        burst = f", {client['burst']} at once" if client.get("burst", 1) != 1 else ""
        trace = client.get("trace")
        pace = f"at {client['rate']:g}/s{burst}" if trace is None else f"as recorded in {trace}"
        return f"Open loop: {name} {pace} on {threads}; latency counts from the intended arrival"
    thinks = getattr(class_for("clients", name, "report"), "thinks", lambda fields: "think" in fields)
    think = f", think time {dist_words(client['think'])}" if thinks(client) else ", one operation behind the other"
    think += " divided by its kind's share of the weights" if kinds > 1 and thinks(client) else ""
    return f"Closed loop: {threads}{think}; latency counts from the begin of an operation"


def _threads(name: str, client: Mapping[str, Any]) -> str:
    """`2 bpf threads`, `one test-tag thread`."""
    number = client.get("threads", 1)
    return f"one {name} thread" if number == 1 else f"{number} {name} threads"


def _kinds(name: str, client: Mapping[str, Any]) -> int:
    """How many kinds of operation a client weights, each of which has threads of its own (`threads_for`)."""
    return sum(bool(client.get(key)) for key in getattr(class_for("clients", name, "report"), "threads_for", ()))


def dist_words(value: Any) -> str:
    """A distribution of times as it stands in a spec: `1 ms`, or `exponential, mean 3 ms`."""
    if isinstance(value, int):
        return show_time(value)
    if isinstance(value, Mapping):
        parts = [f"{key} {show_time(item) if type(item) is int and key != 'k' else item}"
                 for key, item in sorted(value.items()) if key != "dist"]  # fmt: skip
        return ", ".join([str(value.get("dist", "")), *parts])
    return str(value)


def _costs(specs: Sequence[Mapping[str, Any]], clients: set[str]) -> tuple[CostLine, ...]:
    """The input costs of all specs; a client's costs only when the client took part. Machines may differ in value."""
    lines: dict[tuple[str, int], CostLine] = {}
    known = catalogue(client_costs())
    for spec in specs:
        for name, cost in spec["machine"]["costs"].items():
            other_client = name.startswith("client.") and name.split(".")[1] not in clients
            if cost["use"] != "input" or other_client:
                continue
            meaning = known[name].meaning if name in known else ""
            low, value, high = (show_time(cost[key] / 1000) for key in ("low_ps", "ps", "high_ps"))
            lines[name, cost["ps"]] = CostLine(name, value, low, high, cost["per"], Evidence(cost["evidence"]),
                                               cost["source"], meaning)  # fmt: skip
    return tuple(lines[key] for key in sorted(lines))


def _data_words(key: str, entry: Mapping[str, Any]) -> str:
    return f"{key}: {entry['rows']} rows of {entry['name']} (SHA-256 {entry['sha256'][:12]})"


def _unique(values: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


def _few(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
