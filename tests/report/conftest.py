"""Made-up results of the shape that a real study has: frames, a spec per cell, a refused arm, two close arms."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from execbench.costs import CostTable
from execbench.record.histogram import Histogram
from execbench.registry.instances import client_costs
from execbench.report.comparison import comparison
from execbench.report.setting import Setting, setting_of
from execbench.store.schema import KEYS
from execbench.store.schema import TABLES as STORED

ROOT = Path(__file__).parents[2]
ARMS = ("module_alloc", "bpf_prog_pack", "execmem", "alloc-write-map", "rw-inplace-finalize[sync=none]",
        "rw-inplace-finalize[sync=merged-flush]", "rw-inplace-finalize[sync=rcu]")  # fmt: skip
STATUS = ("retired", "shipped", "shipped", "proposed", "proposed", "proposed", "proposed")
MEDIANS = (620e3, 312e3, 355e3, 410e3, 331e3, 333e3, 9.4e6)
PHASES = {"copy": 0.02, "verify": 0.55, "jit": 0.18, "alloc": 0.06, "write": 0.05, "finalize": 0.1, "publish": 0.04}
TABLES = ("cells", "replications", "metrics", "totals", "histograms", "counters", "cpus", "disturbance", "extremes",
          "peaks")  # fmt: skip
MEMORY = {
    "asked_bytes": 1.9e6,
    "reserved_bytes": 3.4e6,
    "waste_bytes": 1.5e6,
    "text_leaves_4k": 834.0,
    "text_leaves_2m": 0.0,
}


@dataclass
class Synthetic:
    """Frames with the columns of the store."""

    study: dict[str, Any]
    cells: pd.DataFrame
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        if name == "locks" and name not in self.frames:  # nobody waited
            return pd.DataFrame(columns=[*KEYS, *STORED["locks"]])
        return self.frames[name]


def machine(cpus: int = 64) -> dict[str, Any]:
    """The machine part of a spec, with the real cost table of server-64."""
    table = tomllib.loads((ROOT / "configs/machines/server-64.toml").read_text())
    costs = CostTable.from_toml(table["costs"], "server-64", clients=client_costs()).to_spec()
    return {"name": "server-64", "arch": "x86_64", "topology": {"cpus": cpus, "nodes": 1}, "features": {}, "kernel": {},
            "background": {}, "costs": costs}  # fmt: skip


def spec(arm: str, cpus: int = 64) -> dict[str, Any]:
    """A resolved spec of one cell."""
    return {
        "schema": 1,
        "workload": {"name": "bpf", "question": "What do loads cost, <who> pays, and what can the allocator change?",
                     "horizon": "steady-state",
                     "clients": {"bpf": {"threads": 2, "rate": None,
                                         "think": {"dist": "exponential", "mean": 3_000_000}}},
                     "data": {"bpf.data": {"name": "bpf_loaded.csv", "sha256": "ab" * 32, "rows": 834}}},
        "machine": machine(cpus),
        "kernel": {"release": "6.18"},
        "backend": {"name": arm.partition("[")[0], "params": {}, "plugin": None},
        "run": {"duration": 5_000_000_000, "warmup": 500_000_000, "drain": 0, "seed": 1, "cpu_model": "lazy",
                "merge": True, "record": []},
    }  # fmt: skip


def synthetic(replications: int = 10, points: tuple[int, ...] = (64,)) -> Synthetic:
    """Results of all ARMS (execmem refused) at each number of CPUs; one axis when there is more than one point."""
    rng = np.random.Generator(np.random.Philox(7))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for cpus in points:
        for number, arm in enumerate(ARMS):
            cell = f"{cpus:06d}{number:06d}"
            refusal = "needs arm64: <sub-page> permissions" if arm == "execmem" else ""
            rows["cells"].append({"cell": cell, "arm": arm, "status": STATUS[number], "refused": refusal,
                                  "point": json.dumps({"machine.topology.cpus": cpus} if len(points) > 1 else {}),
                                  "spec": json.dumps(spec(arm, cpus))})  # fmt: skip
            for replication in range(replications) if not refusal else ():
                _replication(rows, rng, cell, replication, number, cpus)
    study = {"command": "execbench run --workload bpf", "expect": {"reading": "Rounds cost more with more CPUs."}}
    frames = {name: pd.DataFrame(table) for name, table in rows.items()}
    return Synthetic(study, frames.pop("cells"), frames)


def _replication(rows: dict[str, list[dict[str, Any]]], rng: np.random.Generator, cell: str, r: int, number: int,
                 cpus: int) -> None:  # fmt: skip
    key = {"cell": cell, "replication": r}
    mine = {**key, "client": "bpf", "kind": "load"}
    n = int(rng.integers(500, 600))
    median = MEDIANS[number] * (1 + cpus / 256 * (number == 0))
    latency = (median * np.exp(rng.normal(rng.normal(0, 0.01), 0.9, n))).astype(np.int64)
    rows["replications"].append({**key, "outcome": "ok", "detail": "", "operations": n, "events": 9 * n, "draws": 4 * n,
                                 "digest": f"{r:032x}"})  # fmt: skip
    rows["totals"] += [{**mine, "kind": kind, "operations": n, "unfinished": 0, "in_system_half": 2, "in_system_end": 2}
                       for kind in ("free", "load")]  # fmt: skip
    free = {"queue": 0.4, "bpf_jit_free": 0.5, "bpf_prog_free": 0.1}
    for kind, phases in (("free", free), ("load", PHASES)):
        for phase, share in [("total", 1.0), *phases.items()]:
            histogram = Histogram()
            histogram.add_all((latency * share).astype(np.int64))
            rows["histograms"] += [{**mine, "kind": kind, "phase": phase, "bucket": b, "count": c}
                                   for b, c in sorted(histogram.items())]  # fmt: skip
    rounds = (2.4, 0.0, 1.0, 2.0, 0.0, 1.0, 0.0)[number]
    others = rounds * (cpus - 1)
    total = float(latency.sum())
    scalar = {"throughput": n / 4.5, "latency_sum": total, "api_sum": total * (0.21 + 0.01 * number),
              "rounds_per_op": rounds, "flushes_per_op": rounds * 0.9, "queue_mean": total / n * 0.1,
              "service_mean": total / n * 0.9}  # fmt: skip
    machine_wide = MEMORY | {"interruptions_loader": 0.0, "interruptions_passive": others * 0.97 * n,
                             "stolen_ns_passive": others * 1430.0 * n}  # fmt: skip
    rows["metrics"].append({**mine, "kind": "free", "metric": "api_share_free", "unit": "1", "value": 0.2, "n": n})
    rows["metrics"] += [{**mine, "kind": kind, "metric": m, "unit": "1", "value": v * (1 + rng.normal(0, 0.01)), "n": n}
                        for m, v in scalar.items() for kind in ("free", "load")]  # fmt: skip
    rows["metrics"] += [{**key, "metric": m, "client": "", "kind": "", "unit": "B", "value": v, "n": n}
                        for m, v in machine_wide.items()]  # fmt: skip
    rows["counters"] += [{**mine, "kind": kind, "mode": mode, "primitive": p, "count": int(c * n), "units": int(c * n)}
                         for kind, mode, p, c in (("free", "deferred", "text_poke_set", 1.2),
                                                  ("load", "sync", "on_each_cpu", rounds),
                                                  ("load", "sync", "text_poke_copy", 1.2))]  # fmt: skip
    each = int(rounds * n)
    rows["cpus"] += [{**key, "group": group, "cpus": c, "interruptions": each * c, "stolen_ns": each * 1430 * c,
                      "interruptions_max": each, "stolen_max_ns": each * 1430}
                     for group, c in (("loader", 2), ("passive", cpus - 2))]  # fmt: skip
    for t in range(0, 5_000_000_000, 100_000_000):
        hits = int(rng.poisson(rounds * n / 50 * (cpus - 2)))
        rows["disturbance"].append({**key, "t_ns": t, "group": "passive", "interruptions": hits,
                                    "stolen_ns": hits * 1430})  # fmt: skip
    top = np.sort(latency)[::-1][:5]
    rows["peaks"] += [{**mine, "kind": kind, "bin": b, "latency_ns": int(v)}
                      for b, v in enumerate(latency) for kind in ("free", "load")]  # fmt: skip
    rows["extremes"] += [{**mine, "kind": kind, "rank": k, "op": k, "t_ns": 10**9, "latency_ns": int(v)}
                         for k, v in enumerate(top) for kind in ("free", "load")]  # fmt: skip


def isolated(results: Synthetic) -> None:
    """Give made-up results the two figures of a machine with isolated CPUs."""
    metrics = results.frames["metrics"]
    keys = metrics[["cell", "replication"]].drop_duplicates()
    extra = [{"client": "", "kind": "", "cell": cell, "replication": r, "metric": name, "unit": unit, "n": 24,
              "value": value * (1 + (r == 3))}
             for cell, r in keys.itertuples(index=False)
             for name, unit, value in (("isolated_interruptions_per_hour", "1/h", 1_200_000.0),
                                       ("isolated_longest_ns", "ns", 7_000.0))]  # fmt: skip
    results.frames["metrics"] = pd.concat([metrics, pd.DataFrame(extra)], ignore_index=True)


@pytest.fixture(scope="session")
def add_isolated() -> Callable[[Synthetic], None]:
    """Give results isolated CPUs: nine replications of 1,200,000 interruptions an hour, one of twice as many."""
    return isolated


@pytest.fixture(scope="session")
def make_results() -> Callable[..., Synthetic]:
    """Make results of the size a test needs."""
    return synthetic


@pytest.fixture(scope="session")
def results() -> Synthetic:
    """A plain run: seven arms on one machine."""
    return synthetic()


@pytest.fixture(scope="session")
def compared(results: Synthetic) -> tuple[pd.DataFrame, Setting]:
    """The comparison and the setting of the plain run."""
    return comparison(results), setting_of(results)


@pytest.fixture(scope="session")
def swept(make_results: Callable[..., Synthetic]) -> tuple[Synthetic, pd.DataFrame, Setting]:
    """A study with three numbers of CPUs: results, comparison, setting."""
    results = make_results(replications=2, points=(2, 64, 256))
    return results, comparison(results), setting_of(results)
