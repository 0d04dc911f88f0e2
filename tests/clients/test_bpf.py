"""Programs that sleep, and programs that were in a trampoline."""

from __future__ import annotations

import pytest

from execbench.clients.bpf import Bpf
from tests.clients.worlds import counts, operations, replication, unfinished

LONG = {"duration": "2s", "run__drain": "4s", "client__bpf__think": "20ms"}


@pytest.mark.parametrize(
    ("release", "sleepable", "linked", "sync", "deferred"),
    [
        ("6.12", 0.0, 1.0, "call_rcu", None),
        ("6.12", 1.0, 1.0, "call_rcu_tasks_trace", None),
        ("6.18", 1.0, 0.0, "call_rcu_tasks_trace", None),
        ("7.3", 0.0, 0.0, "call_rcu", None),
        ("7.3", 1.0, 0.0, "call_rcu_tasks_trace", None),
        ("7.3", 0.0, 1.0, "call_rcu_tasks", "call_rcu"),
        ("7.3", 1.0, 1.0, "call_rcu_tasks", "call_rcu_tasks_trace"),
    ],
)
def test_a_program_waits_for_its_readers(
    release: str, sleepable: float, linked: float, sync: str, deferred: str | None
) -> None:
    done = replication("bpf", kernel=release, client__bpf__sleepable=sleepable, client__bpf__linked=linked, **LONG)
    of = operations(done)
    unload, free = counts(done, "bpf", "unload"), counts(done, "bpf", "free")
    assert {name: n for name, n in unload.items() if name.startswith("call_rcu")} == {sync: of["bpf", "unload"]}
    later = {name: n for name, n in free.items() if name.startswith("call_rcu")}
    assert later == ({deferred: of["bpf", "free"]} if deferred else {})
    assert unfinished(done) == 0


def test_shares_are_shares() -> None:
    done = replication("bpf", client__bpf__sleepable=0.25, duration="2s", run__drain="4s")
    unload = counts(done, "bpf", "unload")
    share = unload["call_rcu_tasks_trace"] / (unload["call_rcu_tasks_trace"] + unload["call_rcu"])
    assert 0.18 < share < 0.32
    with pytest.raises(ValueError, match="linked: a share"):
        Bpf(data="", linked=1.1)


def test_no_share_draws_what_was_drawn_before() -> None:
    plain = replication("bpf").tables["totals"]
    other = replication("bpf", client__bpf__linked=0.5).tables["totals"]
    again = replication("bpf", client__bpf__sleepable=0.0).tables["totals"]
    assert plain == again
    assert plain != other
