"""Programs that sleep, programs that were in a trampoline, and the kernel's test_tag."""

from __future__ import annotations

import pytest

from execbench.clients.bpf import Bpf
from execbench.clients.test_tag import TestTag, imm_program, map_program
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


def test_test_tag_is_the_kernels_forty_thousand_programs() -> None:
    programs = list(TestTag().programs())
    assert len(programs) == 40_945, "what it prints: test_tag: OK (40945 tests)"
    assert [min(p.insns for p in programs), max(p.insns for p in programs)] == [2, 4096]
    assert imm_program(2).functions == (19,) and imm_program(2).processed == 2
    assert [map_program(n).processed for n in (3, 4, 5)] == [2, 3, 3], "an address is two instructions, verified as one"


@pytest.mark.parametrize("machine", ["server-64", "arm64-server-128", "riscv64-server-64"])
def test_test_tag_loads_and_closes_until_the_window_is_over(machine: str) -> None:
    done = replication("test_tag", machine=machine, duration="20ms", run__drain="1s")
    of = operations(done)
    assert of["test-tag", "load"] - of["test-tag", "unload"] in (0, 1), "the last may be closed behind the window"
    assert of["test-tag", "unload"] > 50
    assert counts(done, "test-tag", "load")["bpf_prog_pack_alloc"] == of["test-tag", "load"]
    assert unfinished(done) == 0
