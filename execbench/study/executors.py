"""Run work items here or in spawned processes: text goes to the workers, finished parts come to disk.

A worker gets the canonical JSON of a spec and the source of its plug-ins, nothing pickled that needs a module of the
caller; the same call would work under fork, forkserver or on another machine that sees the directory.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from execbench.errors import ExecbenchError
from execbench.registry.files import data_checked

__all__ = ["SIMULATE", "Done", "Interrupted", "Task", "WorkerDied", "compute", "execute", "simulator"]

SIMULATE: Final = "execbench.simulate:simulate"
"""The pure function, by name: workers import it themselves."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Interrupted(ExecbenchError):
    """The user stopped a study: `done` of its `total` replications are on disk in `directory`."""

    exit_code: ClassVar[int] = 130

    def __init__(self, done: int, total: int, directory: str) -> None:
        super().__init__(done, total, directory)
        self.done, self.total, self.directory = done, total, directory

    def __str__(self) -> str:
        kept = f"{self.done} of {self.total} replications are finished and kept in {self.directory}"
        return f"interrupted; {kept}; the same command goes on from there"


class WorkerDied(ExecbenchError):
    """A worker process ended without a result: killed, out of memory, or started from an unguarded script."""

    exit_code: ClassVar[int] = 70

    def __str__(self) -> str:
        return (
            "a worker process died (finished parts are kept): it was killed, ran out of memory, or a script without "
            '`if __name__ == "__main__":` started it; run again with fewer jobs (-j 1)'
        )


@dataclass(frozen=True)
class Task:
    """What a worker is told: everything is text or a number."""

    name: str
    spec: str
    cell: str
    first: int
    last: int
    plugins: Mapping[str, str]
    directory: str
    simulate: str = SIMULATE


@dataclass(frozen=True)
class Done:
    """What a worker reports: `outcomes` counts the replications by outcome, `fresh` is False if the part was there."""

    name: str
    cell: str
    first: int
    last: int
    wall_s: float
    events: int
    operations: int
    outcomes: Mapping[str, int]
    fresh: bool
    pid: int


def simulator(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def compute(task: Task) -> Done:
    """Simulate the replications of a work item and commit its part."""
    from execbench.store import parts

    began = time.perf_counter()
    simulate, spec = simulator(task.simulate), json.loads(task.spec)
    data_checked(spec)
    recorded = [(number, simulate(spec, number, task.plugins)) for number in range(task.first, task.last + 1)]
    fresh = parts.write(Path(task.directory), task.cell, recorded)
    outcomes: dict[str, int] = {}
    for _, one in recorded:
        outcomes[one.outcome] = outcomes.get(one.outcome, 0) + 1
    return Done(task.name, task.cell, task.first, task.last, time.perf_counter() - began,
                sum(one.events for _, one in recorded), sum(one.operations for _, one in recorded), outcomes, fresh,
                os.getpid())  # fmt: skip


def execute(
    work: Callable[[_In], _Out], items: Sequence[_In], workers: int | None, on_done: Callable[[_Out], None],
    on_stop: Callable[[list[int]], None] = lambda pids: None,
    interrupted: Callable[[], BaseException] = KeyboardInterrupt,
) -> None:  # fmt: skip
    """Call `work` on every item, serially unless `workers` is above 1, and `on_done` with each result as it comes.

    After Ctrl-C no process is left and what `interrupted` makes is raised; WorkerDied if a process ends without a
    result. Errors of `work` come through. `on_stop` is always called with the numbers of the processes that have ended.
    """
    pids = [os.getpid()]
    try:
        if workers is None or workers <= 1 or len(items) <= 1:
            for item in items:
                on_done(work(item))
        else:
            with _pool(min(workers, len(items)), pids) as pool:
                _drain(pool, work, items, on_done)
    except KeyboardInterrupt:
        raise interrupted() from None
    except BrokenProcessPool as error:
        raise WorkerDied from error
    finally:
        on_stop(pids)


def _drain(pool: ProcessPoolExecutor, work: Callable[[_In], _Out], items: Sequence[_In],
           note: Callable[[_Out], None]) -> None:  # fmt: skip
    """Hand out the items in order and take the results as they come; the first error ends it."""
    with _shielded():
        pending: set[Future[_Out]] = {pool.submit(work, item) for item in items}
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            note(future.result())


@contextmanager
def _pool(workers: int, pids: list[int]) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of spawned processes that leave Ctrl-C to us; on an error they are stopped at once."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    processes: list[Any] = []
    try:
        yield pool
    except BaseException:
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        raise
    finally:
        pids += [process.pid for process in processes or (getattr(pool, "_processes", None) or {}).values()]
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _shielded() -> Iterator[None]:
    """Hold Ctrl-C back while workers start: they inherit the mask, so that only this process acts on it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
