"""What the studies under configs/module-boot expect, as counts: they follow from code paths and data, not costs."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from execbench.simulate import simulate
from execbench.study.expand import Asked, expand


@cache
def counted(workload: str, kind: str, **settings: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Primitives per operation of one kind, and the tables, of one replication with execmem on server-64."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    release = dotted.pop("kernel", "6.18")
    asked = Asked.of(workload=workload, backends=["execmem"], machine="server-64", kernel=release, set=dotted)
    record = simulate(json.loads(json.dumps(expand(asked).cells[0].spec)), 0)
    assert record.outcome == "ok", record.detail
    table, totals = record.tables["counters"], record.tables["totals"]
    operations = sum(
        n for one, n in zip(totals["kind"], totals["operations"], strict=True) if one == kind
    )  # fmt: skip
    rows = zip(table["kind"], table["primitive"], table["count"], strict=True)
    return {name: count / operations for one, name, count in rows if one == kind}, record.tables


def boot(patching: str, cpus: int) -> dict[str, float]:
    found, _ = counted(
        "module-boot", "load", client__module__patching=patching, client__module__duplicates=0,
        machine__topology__cpus=cpus, run__duration="4s",
    )  # fmt: skip
    return found


def test_nine_tenths_of_the_rounds_of_a_boot_patch_static_calls() -> None:
    rounds = {patching: boot(patching, 4)["round"] for patching in ("per-site", "batched", "before-rox")}
    share = 1 - rounds["before-rox"] / rounds["per-site"]
    assert 0.88 <= share <= 0.95, rounds
    assert 100 <= rounds["per-site"] <= 120
    assert 0 < rounds["batched"] - rounds["before-rox"] <= 3, "three rounds per module that has static calls"


def test_rounds_do_not_depend_on_the_cpus() -> None:
    few, many = boot("per-site", 4), boot("per-site", 64)
    assert few["arch_static_call_transform"] == many["arch_static_call_transform"] > 30
    assert few["round"] == pytest.approx(many["round"], rel=0.02), "purges depend on who frees when"


def test_the_rox_cache_flushes_more_and_maps_with_fewer_leaves() -> None:
    settings = {"client__module__patching": "before-rox", "run__duration": "2s", "run__warmup": "500ms"}
    plain, plain_tables = counted("module-churn", "load", kernel="6.12", **settings)
    cache_, cache_tables = counted("module-churn", "load", kernel="6.18", **settings)
    assert 2 <= cache_["round"] / plain["round"] <= 3.5
    unload = {release: counted("module-churn", "unload", kernel=release, **settings)[0]["round"]
              for release in ("6.12", "6.18")}  # fmt: skip
    assert 1.8 <= unload["6.18"] / unload["6.12"] <= 3
    small, large = (tables["memory"]["text_4k"][-1] for tables in (cache_tables, plain_tables))
    assert large > 1_000
    assert small < large / 20
    assert max(cache_tables["memory"]["text_2m"]) >= 2
