"""Locks that were waited for: who waited how long for whom, summed over replications."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pandas as pd

from execbench.report.locks import explained, sentence, waits


def _results(rows: list[dict[str, Any]]) -> Any:
    columns = [
        "cell",
        "replication",
        "lock",
        "acquisitions",
        "contended",
        "wait_ns",
        "wait_max_ns",
        "hold_ns",
        "holder",
    ]
    return SimpleNamespace(table=lambda name: pd.DataFrame(rows, columns=columns))


def _row(replication: int, lock: str, contended: int, wait: int, longest: int, holder: str) -> dict[str, Any]:
    return {"cell": "c", "replication": replication, "lock": lock, "acquisitions": 100, "contended": contended,
            "wait_ns": wait, "wait_max_ns": longest, "hold_ns": 0, "holder": holder}  # fmt: skip


CELLS = pd.DataFrame([{"cell": "c", "arm": "a", "point": "", "duration_ns": 1_000_000_000}])


def test_waits_are_summed_and_the_holder_is_who_most_waited_for() -> None:
    rows = [
        _row(0, "text_mutex", 3, 400_000_000, 103_000_000, "optimizer"),
        _row(1, "text_mutex", 9, 100_000_000, 20_000_000, "loader"),
        _row(0, "idle_lock", 0, 0, 0, ""),
        _row(1, "brief_lock", 1, 1_000, 1_000, "x"),
        _row(1, "pack_mutex", 2, 900_000_000, 800_000_000, "free"),
    ]
    pack, text = waits(_results(rows), CELLS)
    assert (pack.lock, text.lock) == ("pack_mutex", "text_mutex"), "dearest first, the others are not worth a line"
    assert (text.acquisitions, text.contended, text.wait_ns, text.longest_ns) == (200, 12, 500_000_000, 103_000_000)
    assert text.holder == "optimizer"
    assert text.share == 0.25
    assert sentence(text) == (
        "text_mutex: 12 of 200 had to wait, mostly for optimizer; the longest 103 ms, on average 0.250 threads waiting"
    )


def test_nobody_waited() -> None:
    assert list(waits(_results([_row(0, "text_mutex", 0, 0, 0, "")]), CELLS)) == []


def _compared(share: float) -> tuple[Any, pd.DataFrame]:
    """Two arms; both wait for one lock alike, the dear one half a thread's time for another, and a little for more."""
    run = {"duration": 1_100_000_000, "warmup": 100_000_000}
    own = [_row(0, "pack_mutex", 9, 550_000_000, 300_000_000, "free"), _row(0, "small_lock", 1, 22_000_000, 1, "x")]
    both = [_row(0, "other_mutex", 9, 880_000_000, 700_000_000, "y")]
    rows = [row | {"cell": "dear"} for row in own + both] + [row | {"cell": "cheap"} for row in both]
    results = _results(rows)
    results.cells = pd.DataFrame([{"cell": cell, "spec": json.dumps({"run": run})} for cell in ("dear", "cheap")])
    compared = [{"cell": cell, "arm": arm, "point": "", "operations": 100, "queue": 0.0, "service": 5e6,
                 "replications": 1, "api_share": value}
                for cell, arm, value in (("dear", "packed", share), ("cheap", "mapped", 0.001))]  # fmt: skip
    return results, pd.DataFrame(compared)


def test_the_lock_that_goes_with_a_large_share_is_named_with_its_holder() -> None:
    """100 operations of 5 ms in 1 s are half a thread: 5 % of it is 0.025; small_lock is 0.02, pack_mutex 0.5."""
    assert explained(*_compared(0.4), 0.05) == (
        "With packed, threads wait for pack_mutex (mostly held by free, up to 300 ms); all threads are counted, which "
        "operations waited is not recorded."
    )
    assert "small_lock" in explained(*_compared(0.4), 0.035)
    assert explained(*_compared(0.05), 0.05) == "", "a share like that of the others needs no reason"
