"""Leaves of hot text in words: counts beside entries, a time only as a bound with what it rests on."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pandas as pd

from execbench.record.layout import ASSUMED
from execbench.report.layout import hot_text

TLB = {
    "itlb_4k": 128,
    "itlb_2m": 8,
    "stlb": 1536,
    "source": "a manual",
    "walk_at_most": 100,
    "walk_source": "assumed: L3",
}


def results(tlb: dict[str, Any] | None, *arms: tuple[str, float, float, float, float], points: int = 1) -> Any:
    """Arms with leaves of 4K, of 2M, pages and the bound, two replications each."""
    machine = {"name": "box", **({"tlb": tlb} if tlb else {})}
    run = {"duration": 10, "warmup": 0, "drain": 0}
    spec = json.dumps({"machine": machine, "run": run, "workload": {"horizon": "terminating", "clients": {}}})
    of = [(arm, i, values) for arm, *values in arms for i in range(points)]
    cells = [{"cell": f"{arm}{i}", "arm": arm, "status": "", "refused": "", "spec": spec,
              "point": json.dumps({"cpus": i} if points > 1 else {})} for arm, i, _ in of]  # fmt: skip
    names = ("text_leaves_hot_4k", "text_leaves_hot_2m", "text_pages_hot", "itlb_pass_at_most")[: 4 if tlb else 3]
    rows = [{"cell": f"{arm}{i}", "replication": r, "metric": name, "client": "", "kind": "", "value": value + r - 0.5,
             "n": 1}
            for arm, i, values in of for r in (0, 1) for name, value in zip(names, values, strict=False)]  # fmt: skip
    frames = {"metrics": pd.DataFrame(rows), "totals": pd.DataFrame(columns=["cell", "metric"])}
    return SimpleNamespace(cells=pd.DataFrame(cells), study={}, table=frames.__getitem__)


def test_counts_stand_beside_entries_and_the_bound_beside_its_assumption() -> None:
    counts, reach, bound = hot_text(results(TLB, ("dear", 1024, 1, 1100, 102_400), ("cheap", 22, 2, 600, 0.5)))
    assert counts.endswith(": dear 1024 + 1 on 1100; cheap 22 + 2 on 600.")
    assert reach == "An instruction TLB of box holds 128 of 4K and 8 of 2M, the level behind 1536 (a manual)."
    assert "0 to 102 us (dear)" in bound
    assert "in no figure" in bound
    assert f"assumed: {ASSUMED}" in bound
    assert len(bound) < 320, "three lines or four of a report"
    assert "assumed: L3" in bound


def test_one_array_for_all_sizes() -> None:
    one = {"itlb_4k": 48, "itlb_2m": 0, "source": "a manual"}
    _, reach = hot_text(results(one, ("a", 10, 1, 20, 0)))[:2]
    assert reach == "An instruction TLB of box holds 48 of any size (a manual)."


def test_where_nothing_is_published_there_are_counts_only() -> None:
    counts, reach = hot_text(results(None, ("a", 10, 1, 20, 0)))
    assert "a 10 + 1 on 20" in counts
    assert re.fullmatch("Reach of box's instruction TLBs: n/a, nothing is published.", reach)


def test_nothing_is_said_of_several_points_or_without_kernel_text() -> None:
    assert hot_text(results(TLB, ("a", 10, 1, 20, 0), points=2)) == []
    silent = results(TLB, ("a", 0, 0, 0, 0))
    silent.table("metrics")["value"] = 0.0
    assert hot_text(silent) == []
