"""A kworker gets its CPU from a thread that never sleeps: when the thread's slice is over, or when it yields."""

from __future__ import annotations

from functools import partial

from execbench.kernel.facade import Kernel
from execbench.sim.engine import Proc
from tests.kernel.bench import Bench

MS = 1_000_000
JIFFY = MS  # HZ of the bench is 1000


def first_run(step: str, turns: int = 400) -> tuple[int, int, int]:
    """Return when the thread began, when it queued work and when that ran (ns); a turn takes 50 us or less."""
    bench = Bench()
    seen: list[int] = []

    def item(k: Kernel) -> Proc[None]:
        seen.append(k.now)
        yield from ()

    def thread(k: Kernel) -> Proc[None]:
        seen.append(k.now)
        each = 50_000_000 // k.shared.costs["copy_byte"].ps
        for turn in range(turns):
            if turn == 10:
                seen.append(k.now)
                k.queue_work("item", partial(item))
            if step == "compute":
                yield from k.compute("copy_byte", each)
            else:
                k.spend("copy_byte", each)
                yield from getattr(k, step)()

    bench.task(thread)
    bench.run()
    began, queued, ran = seen
    return began, queued, ran


def test_work_runs_when_the_slice_is_over() -> None:
    """Each computation is a twentieth of a slice; where the slice ends inside of one, the rest is done later."""
    began, queued, ran = first_run("compute")
    assert queued - began < JIFFY // 2
    switch = ran - began - JIFFY
    assert 0 <= switch < 10_000
    began, _, ran = first_run("cond_resched")
    assert switch <= ran - began - JIFFY <= switch + 50_000, "at the question behind the slice's end"


def test_work_runs_at_once_when_the_thread_yields() -> None:
    _, queued, ran = first_run("sched_yield")
    assert 0 < ran - queued < 100_000


def test_a_thread_that_never_asks_keeps_the_cpu() -> None:
    began, _, ran = first_run("settle", turns=60)
    assert ran - began > 2 * JIFFY
