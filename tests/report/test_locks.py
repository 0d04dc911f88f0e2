"""Locks that were waited for: who waited how long for whom, summed over replications."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd

from execbench.report.locks import sentence, waits


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
