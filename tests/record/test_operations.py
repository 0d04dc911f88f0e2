"""What is counted of operations that finish late or never, against a count over single records and arrivals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from execbench.kernel.operation import Operation
from execbench.record.operations import OperationRecorder
from execbench.sim.dists import Exponential
from execbench.sim.rng import Streams
from execbench.simulate import Replication, simulate
from execbench.store.digest import digest_of
from execbench.study.expand import Asked, expand


def spec_of(rate: str | None, **run: Any) -> dict[str, Any]:
    """A short open loop; two threads do about 200 loads a second."""
    asked = Asked.of(workload="bpf", backends=["bpf_prog_pack"], cpus=4, duration="300ms", warmup="100ms",
                     set={"client.bpf.rate": rate} if rate else ())  # fmt: skip
    spec: dict[str, Any] = json.loads(json.dumps(expand(asked).cells[0].spec))
    spec["run"].update(run)
    return spec


def totals(record: Replication, kind: str) -> dict[str, int]:
    table = record.tables["totals"]
    at = list(table["kind"]).index(kind)
    return {name: column[at] for name, column in table.items() if name not in ("client", "kind")}


def arrivals(spec: dict[str, Any], replication: int) -> list[int]:
    """When the loads of an open loop are due, up to the end of the window: a Poisson process of its own making."""
    stream = Streams(spec["run"]["seed"], replication).stream("client.bpf/arrivals")
    gaps = Exponential(1e9 / spec["workload"]["clients"]["bpf"]["rate"])
    at, due = 0.0, []
    while True:
        at += gaps.sample((stream.row(len(due), 2)[0],))
        if int(at) >= spec["run"]["duration"]:
            return due
        due.append(int(at))


@pytest.mark.parametrize(("rate", "drain"), [("50/s", 10**9), ("1000/s", 10**8), ("1000/s", 0)])
def test_every_arrival_of_the_window_is_finished_or_unfinished(rate: str, drain: int) -> None:
    spec = spec_of(rate, drain=drain, warmup=0, record=["operations"])
    record = simulate(spec, 0)
    duration, rows, of = spec["run"]["duration"], record.tables["operations"], totals(record, "load")
    ends = [end for kind, end in zip(rows["kind"], rows["end"], strict=True) if kind == "load"]
    due = arrivals(spec, 0)
    assert of["operations"] == len(ends)
    assert of["operations"] + of["unfinished"] == len(due)
    assert (of["unfinished"] > 0) == (rate == "1000/s")
    for name, at in (("in_system_half", duration // 2), ("in_system_end", duration)):
        assert of[name] == sum(one < at for one in due) - sum(end < at for end in ends)


def test_the_form_of_a_plan_changes_no_count_of_what_is_unfinished() -> None:
    for drain in (0, 10**8):
        merged, split = (simulate(spec_of("1000/s", drain=drain, merge=merge), 0) for merge in (True, False))
        assert sum(merged.tables["totals"]["unfinished"]) > 100
        assert digest_of("ok", 0, merged.tables) == digest_of("ok", 0, split.tables)


def test_a_closed_loop_leaves_nothing_behind_its_drain() -> None:
    record = simulate(spec_of(None), 0)
    assert set(record.tables["totals"]["unfinished"]) == {0}
    assert totals(record, "load")["queue_ns"] == 0


def test_begun_waiting_and_untaken_operations_count_by_their_due_time() -> None:
    recorder = OperationRecorder(100, 300, {}, raw=False)

    def operation(due: int, begin: int | None = None, end: int | None = None, kind: str = "load") -> None:
        one = Operation("bpf", kind, due, due, "sync", recorder)
        one.names.append("all")
        if begin is not None:
            one.start(begin)
        if end is not None:
            one.finish(end)

    operation(90, 95, 150)  # not of the cohort, gone before the middle
    operation(120, 130, 200)  # ends at the middle: in the system just before it
    operation(150, 160, 350)  # finished, but after the window
    operation(160, 170)  # begun and never finished
    operation(170)  # waits for its thread
    operation(299)
    operation(300)  # due behind the window
    operation(50)  # due before it, and still there
    operation(180, kind="free")
    recorder.close(1000, {("bpf", "load"): lambda before: [due for due in (99, 100, 250, 299, 300) if due < before]})
    table = recorder.tables()["totals"]
    names = ("operations", "unfinished", "in_system_half", "in_system_end", "queue_ns")
    found = {kind: {name: table[name][i] for name in names} for i, kind in enumerate(table["kind"])}
    assert found["load"] == {"operations": 2, "unfinished": 6, "in_system_half": 7, "in_system_end": 9, "queue_ns": 20}
    assert found["free"] == {"operations": 0, "unfinished": 1, "in_system_half": 1, "in_system_end": 1, "queue_ns": 0}
    assert recorder.littles_residual() == 0


def test_a_replication_that_fails_early_does_not_count_what_was_not_due_yet() -> None:
    recorder = OperationRecorder(100, 300, {}, raw=False)
    Operation("bpf", "load", 0, 150, "sync", recorder)
    Operation("bpf", "load", 1, 151, "sync", recorder)
    recorder.close(150, {})
    assert recorder.tables()["totals"]["unfinished"] == [1]
