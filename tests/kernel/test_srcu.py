"""The SRCU domain of tracepoints: what is expedited, who shares a grace period, what a probe that comes back sees."""

from __future__ import annotations

import pytest

from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from execbench.kernel.srcu import synchronize_srcu
from execbench.kernel.tracepoint import Tracepoint, Tracepoints
from tests.kernel.bench import Bench

JIFFY = 1_000_000
WAKEUP = "task_wakeup"
SWITCH = 10
"""What a bench's task pays when it wakes up."""


def waits(release: str, *pauses: int) -> list[int]:
    """How long one waits, then again behind each pause (ns)."""
    bench, found = Bench(release=release), list[int]()

    def body(k: Kernel) -> Proc[None]:
        for pause in (0, *pauses):
            yield from k.sleep_until(k.now + pause)
            yield from k.settle()
            begin = k.now
            yield from synchronize_srcu(k)
            yield from k.settle()
            found.append(k.now - begin)

    bench.task(body, start=100)
    bench.run()
    return found


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_an_idle_domain_costs_three_wakeups_and_one_that_was_busy_just_now_two_timers(release: str) -> None:
    """exp_holdoff: 25 us from the end of a grace period on, which is two wake-ups before its caller goes on."""
    wakeup = Bench().shared.costs.ns(WAKEUP)
    last = 25_000 - 2 * wakeup - 2 * SWITCH
    first, at_once, late, just_before, just_after = waits(release, 0, 50 * JIFFY, last - 1, 50 * JIFFY)
    assert first == late == just_after == 3 * wakeup + SWITCH
    assert min(at_once, just_before) > JIFFY + 3 * wakeup
    assert max(at_once, just_before) <= 4 * JIFFY + 3 * wakeup
    assert waits(release, last)[1] == 3 * wakeup + SWITCH


def test_srcu_fast_waits_for_two_grace_periods_of_rcu_expedited_only_if_idle() -> None:
    first, at_once, late = waits("7.3", 0, 200 * JIFFY)
    assert max(first, late) < JIFFY < 2 * JIFFY < at_once


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_those_who_come_while_one_runs_share_the_next(release: str) -> None:
    bench, ends = Bench(release=release), list[int]()

    def body(k: Kernel) -> Proc[None]:
        yield from synchronize_srcu(k)
        yield from k.settle()
        ends.append(k.now)

    for cpu, start in ((0, 100), (1, 101), (0, 102)):
        bench.task(body, cpu=cpu, start=start)
    bench.run()
    first, *others = sorted(ends)
    assert others[0] == others[1] > first + JIFFY


@pytest.mark.parametrize(("release", "counts"), [("6.1", 1), ("6.12", 1), ("6.18", 0), ("7.3", 1)])
@pytest.mark.parametrize("pause", [0, 500 * JIFFY])
def test_a_probe_that_comes_back_waits_for_srcu_too_unless_it_has_ended(release: str, counts: int, pause: int) -> None:
    """tp_rcu_cond_sync; RCU's grace period is made to end at once, so that SRCU's is still on its way."""
    bench, state, tp = Bench(release=release), Tracepoints(), Tracepoint(0, 1)

    def body(k: Kernel) -> Proc[None]:
        yield from state.probe_register(k, tp)
        yield from state.probe_unregister(k, tp)
        yield from k.sleep_until(k.now + pause)
        state.snapshots = {name: (0, srcu) for name, (_, srcu) in state.snapshots.items()}
        yield from state.probe_register(k, tp)

    bench.task(body)
    bench.run()
    assert bench.counts["synchronize_srcu"] == (counts if not pause else 0)
    assert bench.counts["synchronize_rcu"] == 0


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
def test_a_grace_period_that_nobody_waits_for_keeps_the_domain_busy_until_it_ends(release: str) -> None:
    bench = Bench(release=release)
    domain, idle = bench.shared.ftrace.tracepoint_srcu, list[bool]()

    def body(k: Kernel) -> Proc[None]:
        yield from k.settle()
        idle.append(domain.idle(k.now))
        cookie = domain.poll(k, 0, k.now)
        idle.append(domain.idle(k.now))
        yield from k.sleep_until(k.now + 500 * JIFFY)
        yield from k.settle()
        assert cookie.end is not None and JIFFY / 2 < cookie.end < k.now
        idle.append(domain.idle(k.now))

    bench.task(body)
    bench.run()
    assert idle == [True, False, True]


@pytest.mark.parametrize(("release", "starts"), [("6.1", True), ("6.12", True), ("6.18", False), ("7.3", True)])
def test_an_array_of_probes_is_freed_behind_srcu_where_there_is_such_a_domain(release: str, starts: bool) -> None:
    """The second probe of a tracepoint replaces the array; nobody removes one, hence nobody else starts a period."""
    bench, state, tp = Bench(release=release), Tracepoints(), Tracepoint(0, 1)

    def body(k: Kernel) -> Proc[None]:
        yield from state.probe_register(k, tp)
        yield from state.probe_register(k, tp)
        yield from k.sleep_until(k.now + 500 * JIFFY)

    bench.task(body)
    bench.run()
    assert (bench.shared.ftrace.tracepoint_srcu.end is not None) == starts
