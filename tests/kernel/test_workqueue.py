"""Kworkers of one CPU: items in order, one runs at a time, and one that waits lets the next begin."""

from __future__ import annotations

from functools import partial

import pytest

from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from tests.truth.bench import Bench

MS = 1_000_000


class Items:
    """Items of one pool that say when they begin and end."""

    def __init__(self, name: str) -> None:
        self.bench = Bench(f"workqueue/{name}", cpus=2)
        self.said: list[tuple[int, str]] = []

    def run(self, *items: tuple[str, str, int]) -> list[str]:
        """Queue items (name, "waits" or "works", ms) at once; return what they said in order."""

        def body(k: Kernel) -> Proc[None]:
            yield from k.settle()
            for name, how, ms in items:
                k.queue_work(name, partial(self._item, name=name, how=how, ms=ms))

        self.bench.task("queuer", body)
        self.bench.run()
        return [what for _, what in self.said]

    def _item(self, k: Kernel, name: str, how: str, ms: int) -> Proc[None]:
        self.said.append((k.now, f"{name} begins"))
        if how == "waits":
            yield from k.sleep_until(k.now + ms * MS)
        else:
            k.task.cpu.spend(ms * MS)
        yield from k.settle()
        self.said.append((k.now, f"{name} ends"))


def test_items_that_work_come_one_after_the_other() -> None:
    found = Items("work").run(("a", "works", 2), ("b", "works", 1), ("c", "works", 1))
    assert found == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]


def test_an_item_that_waits_lets_the_next_begin() -> None:
    found = Items("wait").run(("a", "waits", 5), ("b", "works", 1), ("c", "waits", 1))
    assert found == ["a begins", "b begins", "b ends", "c begins", "c ends", "a ends"]


def test_who_is_ready_but_does_not_run_counts_for_nothing() -> None:
    found = Items("back").run(("a", "waits", 1), ("b", "works", 3), ("c", "works", 1))
    # nr_running counts a again when it has the CPU (wq_worker_running), so that b's worker goes on with c
    assert found == ["a begins", "b begins", "b ends", "c begins", "c ends", "a ends"]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_as_many_workers_as_items_wait(n: int) -> None:
    items = Items(f"many-{n}")
    items.run(*[(f"w{i}", "waits", 4) for i in range(n)])
    (pool,) = items.bench.shared.workers.values()
    assert pool._workers == n
    assert len(pool._idle) == n
    assert pool._running == 0
    begins = [at for at, what in items.said if what.endswith("begins")]
    assert max(begins) - min(begins) < MS, "nobody waited for the others"


def test_an_idle_worker_is_used_again() -> None:
    items = Items("again")
    items.run(("a", "works", 1))
    items.run(("b", "works", 1))
    (pool,) = items.bench.shared.workers.values()
    assert pool._workers == 1
