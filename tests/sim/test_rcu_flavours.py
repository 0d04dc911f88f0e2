"""Expedited RCU, Tasks, Tasks Rude and Tasks Trace on small timelines, to the nanosecond."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from execbench.sim.rcu_kthread import Wheel
from tests.sim.rcu_world import HZ, RULES, J, World, rules

F = RULES.flavours
EXPEDITED = F.exp_gp_ns + F.flight_ns + F.exp_handler_ns
"""An expedited grace period whose targets answer at once."""
GP = 2 * J + RULES.cleanup_ns
"""Until the end of a normal grace period that starts in the jiffy after a tick."""


# --- the timer wheel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jiffies", "granularity"), [(0, 1), (1, 1), (25, 1), (62, 1), (63, 8), (100, 8), (503, 8), (504, 64), (1000, 64)]
)
def test_timeouts_are_never_early_and_coarser_the_longer_they_are(jiffies: int, granularity: int) -> None:
    world = World()
    timer, late = Wheel(world.rcu, 5), set()
    for i in range(2_000):
        at = i * J // 3
        fires = timer.timeout(at, jiffies)
        ticks = (fires - world.rcu.next_tick(-1)) // J
        assert fires == world.rcu.next_tick(fires - 1), "at a tick"
        assert (ticks + 5) % granularity == 0, "of its level"
        late.add(ticks - (at - world.rcu.next_tick(-1)) // J - jiffies)
    assert late == set(range(1, granularity + 1))


# --- expedited --------------------------------------------------------------------------------------------------------


def test_an_expedited_grace_period_interrupts_busy_cpus_and_waits_for_the_slowest() -> None:
    world = World(rules=rules(wake_ns=200), cpus=5, idle=2, delay=lambda cpu: 1_000 * cpu, switch_in=500)
    world.caller(world.of("expedited"), 100)
    end = 100 + EXPEDITED + 4_000
    assert world.run() == [(100, end + 200 + 500)]
    assert world.log("expedited") == [(100, end)]
    (sent,) = world.interrupts.sent
    assert (sent.at - world.zero, sent.who, sent.until) == (100 + F.exp_gp_ns, "busy", "preemptible")
    assert sent.handler_ns == F.exp_handler_ns
    assert world.heard == [
        (100, "expedited", 1, "request", 1),
        (100, "expedited", 1, "start", 0),
        (100 + F.exp_gp_ns, "expedited", 1, "scan", 3),
        (end, "expedited", 1, "end", 1),
    ]
    assert not world.rcu.log, "no normal grace period"


def test_who_comes_during_an_expedited_grace_period_shares_the_next() -> None:
    world = World(rules=rules(wake_ns=200), switch_in=500)
    world.caller(world.of("expedited"), 0, 10, 20, 30)
    ends = dict(world.run())
    first = EXPEDITED + 200 + 500
    assert ends[0] == first
    start = first + 500  # exp_mutex goes to the first of them, who must get on its CPU
    assert world.log("expedited") == [(0, EXPEDITED), (start, start + EXPEDITED)]
    assert [ends[at] - start - EXPEDITED - 500 for at in (30, 20, 10)] == [200, 400, 600], "the latest is woken first"


def test_a_request_before_the_next_one_starts_joins_it() -> None:
    world = World(rules=rules(wake_ns=200), switch_in=500)
    between = EXPEDITED + 300
    world.caller(world.of("expedited"), 0, 10, between)
    ends = dict(world.run())
    assert len(world.log("expedited")) == 2
    assert ends[between] < ends[10], "the latest is woken first"


def test_an_idle_machine_needs_no_interrupts() -> None:
    world = World(cpus=3, idle=3)
    world.caller(world.of("expedited"), 0)
    assert world.run() == [(0, F.exp_gp_ns)]


def test_where_expediting_is_forbidden_grace_periods_are_normal() -> None:
    world = World(rules=rules(expedited=False))
    world.caller(world.flavours.expedited, 0)
    assert world.run() == [(0, GP)]
    assert not world.interrupts.sent
    assert {flavour for _, flavour, *_ in world.heard} == {"rcu"}


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_tasks_rcu_scans_between_two_grace_periods() -> None:
    world = World(rules=rules(holdout=0.0, wakeup_ns=700, wake_ns=300), switch_in=500)
    world.caller(world.of("tasks"), 100)
    first = 2 * J + RULES.cleanup_ns + 300  # the kthread is woken by plain RCU
    scan = first + 700 + F.scan_ns
    second = 4 * J + RULES.cleanup_ns + 300
    end = second + 700
    assert world.run() == [(100, end + 300 + 500)]
    assert world.log("tasks") == [(800, end)]
    assert world.rcu.log is not None
    normal = [(start - world.zero, stop - world.zero) for start, stop in world.rcu.log]
    assert normal == [(800 + RULES.init_ns, first - 300), (scan + RULES.init_ns, second - 300)]
    assert list(world.what("tasks")) == [(100, "request", 1), (800, "start", 0), (scan, "scan", 0), (end, "end", 1)]


def test_a_holdout_is_looked_for_again_after_ever_longer_sleeps() -> None:
    world = World(rules=rules(holdout=1.0))
    world.caller(world.of("tasks"), 0)
    world.run(until=300 * HZ * J)
    scans = [t for t, what, n in world.what("tasks") if what == "scan"]
    for i, (scan, following) in enumerate(pairwise(scans)):
        assert following == world.tick(scan, min(HZ // 10 + i, HZ)) + F.scan_ns
    assert len(scans) > HZ
    assert not world.waits


def test_requests_during_a_tasks_grace_period_share_the_next_one_after_a_rest() -> None:
    world = World(rules=rules(holdout=0.0))
    at = (0, 10, J, 3 * J, 10 * J)
    world.caller(world.of("tasks"), *at)
    ends = dict(world.run())
    (first, second) = world.log("tasks")
    assert second[0] == world.tick(first[1], HZ // 10)
    assert ends[0] == first[1] and [ends[t] for t in at[1:]] == [second[1]] * 4


@pytest.mark.parametrize("lazy", [True, False])
def test_callbacks_wait_for_company_where_they_are_lazy(lazy: bool) -> None:
    world = World(rules=rules(holdout=0.0, lazy=lazy))
    world.call(world.of("tasks"), 100, 200)
    world.run()
    starts = [start for start, _ in world.log("tasks")]
    if lazy:
        assert starts == [world.tick(100, 63)], "one timer for both: a quarter of a second"
    else:
        assert starts[0] == 100 and len(starts) == 2, "the first starts at once, the second waits for the next"


@pytest.mark.parametrize("callbacks", [32, 33])
def test_the_33rd_lazy_callback_wakes_the_kthread(callbacks: int) -> None:
    world = World(rules=rules(holdout=0.0))
    world.call(world.of("tasks"), *range(callbacks))
    world.run()
    starts = [start for start, _ in world.log("tasks")]
    assert starts == ([32] if callbacks == 33 else [world.tick(0, 63)])


def test_a_synchronous_request_takes_lazy_callbacks_along_and_two_grace_periods_more_are_not_lazy() -> None:
    world = World(rules=rules(holdout=0.0))
    tasks = world.of("tasks")
    world.call(tasks, 0)
    world.caller(tasks, 100)
    periods = [J]
    for _ in range(3):  # one callback inside each following grace period or rest
        world.call(tasks, periods[-1])
        periods.append(periods[-1] + 40 * J)
    world.run()
    log = world.log("tasks")
    assert log[0][0] == 100 and dict(world.waits)[0] == log[0][1]
    assert [log[i + 1][0] for i in (0, 1)] == [world.tick(log[i][1], HZ // 10) for i in (0, 1)]
    assert log[3][0] > world.tick(log[2][1], HZ // 10), "the last waits for its timer"


def test_a_kthread_without_direct_wake_ups_waits_for_callbacks_at_ticks() -> None:
    world = World(rules=rules(holdout=0.0, wake_from_gp=False))
    world.caller(world.of("tasks"), 0)
    world.run()
    assert world.rcu.log is not None
    first, second = (world.rcu.next_tick(end) - world.zero for _, end in world.rcu.log)
    assert world.log("tasks") == [(0, second)]
    assert [t for t, what, _ in world.what("tasks") if what == "scan"] == [first + F.scan_ns]
    assert [what for _, what, _ in world.what("rcu")].count("request") == 2, "noticed at a tick"


# --- rude -------------------------------------------------------------------------------------------------------------


def test_tasks_rude_switches_tasks_on_every_cpu() -> None:
    world = World(cpus=6, idle=4, delay=lambda cpu: 100 * (6 - cpu))
    world.caller(world.of("rude"), 0, 10)
    ends = dict(world.run())
    length = F.flight_ns + F.switch_ns + 600
    (first, second) = world.log("rude")
    assert first == (0, length), "the slowest is an idle one"
    assert second[0] == world.tick(length, HZ // 10) and ends == {0: first[1], 10: second[1]}
    assert {(sent.who, sent.until, len(sent.extra)) for sent in world.interrupts.sent} == {("all", "preemptible", 6)}
    assert [n for _, what, n in world.what("rude") if what == "scan"] == [6, 6]


# --- trace ------------------------------------------------------------------------------------------------------------


def test_tasks_trace_asks_every_cpu_once_behind_a_grace_period() -> None:
    world = World(cpus=3, idle=1)
    world.caller(world.of("trace"), 100)
    first = world.tick(GP, 1)
    end = world.tick(first, 2)
    assert world.run() == [(100, end)]
    (sent,) = world.interrupts.sent
    assert (sent.at - world.zero, sent.who, sent.until, sent.handler_ns) == (first, "all", "unmasked", F.handler_ns)
    assert list(world.what("trace")) == [
        (100, "request", 1), (100, "start", 0), (first, "scan", 3), (end, "scan", 0), (end, "end", 1),
    ]  # fmt: skip


def test_tasks_trace_looks_again_while_an_answer_is_missing() -> None:
    world = World(delay=lambda cpu: 8 * J if cpu == 2 else 0)
    world.caller(world.of("trace"), 0)
    first = world.tick(GP, 1)
    second = world.tick(first, 2)
    third = world.tick(second, 3)
    last = world.tick(third, 4)
    assert world.run() == [(0, last)]
    assert [n for _, what, n in world.what("trace") if what == "scan"] == [4, 1, 1, 0]


# --- trace as SRCU ----------------------------------------------------------------------------------------------------


def test_an_idle_srcu_domain_expedites_who_waits() -> None:
    world = World(rules=rules(trace="srcu", wakeup_ns=700, worker_ns=300, wake_ns=50), switch_in=500)
    world.caller(world.of("trace"), 0)
    one = EXPEDITED + 50 + 700  # the kworker is woken at the end of each
    end = 700 + 2 * one
    assert world.run() == [(0, end + 300 + 50 + 500)]
    assert world.log("trace") == [(0, end)]
    assert not world.rcu.log and len(world.interrupts.sent) == 2


def test_callbacks_and_company_get_normal_grace_periods() -> None:
    world = World(rules=rules(trace="srcu"))
    trace = world.of("trace")
    world.call(trace, 100)
    world.caller(trace, 200)
    ends = dict(world.run())
    work = world.tick(100, 1)
    first = work + 2 * J + RULES.cleanup_ns
    end = first + 2 * J
    assert (first - RULES.cleanup_ns) % J == 0
    assert world.log("trace") == [(100, end), (end, end + 4 * J)], "who came later needs the next, which starts at once"
    assert ends == {100: world.tick(end, 1), 200: world.tick(end + 4 * J, 1)}
    assert not world.interrupts.sent


def test_soon_after_a_grace_period_nothing_is_expedited() -> None:
    world = World(rules=rules(trace="srcu"))
    end = 2 * EXPEDITED
    world.caller(world.of("trace"), 0, end + 24_999)
    world.run()
    assert len(world.interrupts.sent) == 2
    world = World(rules=rules(trace="srcu"))
    world.caller(world.of("trace"), 0, end + 25_000)
    world.run()
    assert len(world.interrupts.sent) == 4


def test_with_preempt_rt_nothing_is_expedited() -> None:
    world = World(rules=rules(trace="srcu", expedited=False))
    world.caller(world.of("trace"), 0)
    world.run()
    assert world.rcu.log is not None and len(world.rcu.log) == 2


# --- all --------------------------------------------------------------------------------------------------------------


def test_a_flavour_that_nobody_asks_for_costs_nothing() -> None:
    world = World()
    tasks, draws = world.engine.tasks, world.streams.draws
    world.caller(world.rcu, 0)
    world.run()
    assert (world.engine.tasks - tasks, world.streams.draws - draws) == (1, 1), "the caller; the scan's chance"


def test_flavours_that_a_configuration_lacks_are_none() -> None:
    world = World(rules=rules(tasks=False, rude=False))
    assert world.flavours.tasks is None and world.flavours.rude is None


def test_merging_and_splitting_costs_give_the_same_grace_periods() -> None:
    found = []
    for merge in (True, False):
        made = replace(rules(wake_ns=100, worker_ns=200, wakeup_ns=300), second_scan=0.3)
        world = World("merge", made, delay=lambda cpu: 500 * cpu, switch_in=400, merge=merge)
        for flavour in ("expedited", "tasks", "rude", "trace"):
            machinery = world.of(flavour)
            world.caller(machinery, *range(0, 40 * J, J // 2 + 1))
            if flavour in ("tasks", "trace"):
                world.call(machinery, *range(7, 60 * J, J))
        found.append((world.run(), world.heard, [(sent.at, sent.extra) for sent in world.interrupts.sent]))
    assert found[0] == found[1]
    assert len(found[0][0]) > 400
