"""One work item frees what modules' inits needed: never twice at once, the last module's first."""

from __future__ import annotations

from execbench.clients.init_free import InitFree
from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from execbench.kernel.operation import Operation
from tests.kernel.bench import Bench


def test_what_comes_meanwhile_is_freed_by_one_further_run_behind_the_first() -> None:
    """Three modules come at once, two more while the first run frees: two runs, one behind the other."""
    bench = Bench(hosts=(0, 1))
    freed: list[tuple[str, str]] = []
    inside = runs = 0

    def free(k: Kernel, name: str) -> Proc[None]:
        nonlocal inside
        inside += 1
        assert inside == 1, "never twice at once"
        freed.append((name, k.task.name))
        if len(freed) == 1:  # two more come from another CPU's task while this one frees
            bench.task(lambda other: add(other, "de"), 1, start=k.now)
        yield from k.sleep_until(k.now + 1_000_000)
        inside -= 1

    def operation(k: Kernel, number: int) -> Operation:
        nonlocal runs
        runs = number
        return Operation("module", "free_init", number, k.now, "deferred", k.shared.recorder)

    queue: InitFree[str] = InitFree(free, operation)

    def add(k: Kernel, names: str) -> Proc[None]:
        for name in names:
            queue.add(k, name)
        return
        yield

    bench.task(lambda k: add(k, "abc"))
    bench.run()
    assert [name for name, _ in freed] == ["c", "b", "a", "e", "d"], "of each run the last one's first"
    assert len({worker for _, worker in freed}) == 1, "the worker that ran it runs it again"
    assert runs == 2


def test_a_list_that_is_empty_again_queues_the_work_again() -> None:
    bench = Bench()
    freed: list[str] = []
    numbers: list[int] = []

    def free(k: Kernel, name: str) -> Proc[None]:
        freed.append(name)
        return
        yield

    def operation(k: Kernel, number: int) -> Operation:
        numbers.append(number)
        return Operation("module", "free_init", number, k.now, "deferred", k.shared.recorder)

    queue: InitFree[str] = InitFree(free, operation)

    def body(k: Kernel) -> Proc[None]:
        queue.add(k, "a")
        yield from k.sleep_until(500_000_000)
        queue.add(k, "b")

    bench.task(body)
    bench.run()
    assert (freed, numbers) == (["a", "b"], [1, 2])
