"""Locks that were waited for: who waited how long for whom, summed over replications."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pandas as pd

from execbench.report.locks import contended, explained, in_short, over_points, sentence, waits


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


def test_a_study_with_points_has_a_line_per_arm_and_lock() -> None:
    """text_mutex at two points of three, pack_mutex at all, a little; brief_lock is worth a line nowhere."""
    rows = [
        _row(0, "text_mutex", 3, 400_000_000, 103_000_000, "optimizer") | {"cell": "a2"},
        _row(0, "text_mutex", 1, 2_000, 2_000, "loader") | {"cell": "a8"},
        *(_row(0, "pack_mutex", 1, 2_000_000, 1_000_000 + n, "free") | {"cell": f"a{n}"} for n in (2, 4, 8)),
        *(_row(0, "brief_lock", 1, 1_000, 1_000, "x") | {"cell": f"a{n}"} for n in (2, 4, 8)),
        _row(0, "text_mutex", 1, 900_000, 800_000, "x") | {"cell": "b2"},
    ]
    cells = pd.DataFrame([{"cell": f"{arm}{n}", "arm": arm, "point": f"cpus = {n}", "duration_ns": 1_000_000_000,
                           "refused": ""} for n in (2, 4, 8) for arm in "ab"])  # fmt: skip
    assert over_points(_results(rows), cells) == {"a": [
        "text_mutex: waited for at 2 of 3 points; the longest 103 ms with cpus = 2, mostly for optimizer",
        "pack_mutex: waited for at all 3 points; the longest 1.00 ms with cpus = 8, mostly for free",
    ]}  # fmt: skip


def test_the_text_of_a_study_is_short_and_that_of_a_plain_run_is_not(make_results) -> None:
    for points, said in (((64,), "had to wait"), ((2, 64), "waited for at all 2 points")):
        results = make_results(replications=2, points=points)
        results.frames["locks"] = pd.DataFrame(
            [_row(0, "text_mutex", 3, 400_000_000, 103_000_000, "optimizer") | {"cell": cell}
             for cell in results.cells["cell"]])  # fmt: skip
        short, whole = in_short(results), contended(results)
        assert all(said in one for ones in short.values() for one in ones)
        assert (short == whole) == (len(points) == 1)
        assert len(whole) == 7 * len(points)
