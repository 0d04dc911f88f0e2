"""Phases of operations that come back to what they did before: verbs of the API inside a loop of something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

T = TypeVar("T")


def verb(k: Kernel, name: str, body: Proc[T]) -> Proc[T]:
    """Run `body` as a phase called `name`, then go on with the phase that was; deferred work has names of its own."""
    operation = k.task.op
    before = operation.names[-1] if operation is not None else ""
    k.phase(name if operation is None or operation.mode == "sync" else f"{name}_deferred")
    result = yield from body
    k.phase(before)
    return result


def end(k: Kernel) -> None:
    """End the task's operation as `k.end` does, all its phases of one name laid together, first begun first."""
    operation, k.task.op = k.task.op, None

    def finish(at: int) -> None:
        operation.names[:], operation.times[:] = together(operation.names, [*operation.times, at])
        operation.finish(operation.times.pop())

    k.task.cpu.mark(finish)


def together(names: Sequence[str], times: Sequence[int]) -> tuple[list[str], list[int]]:
    """Return unique names and their stamps, which begin and end as before; a name's span is the sum of its spans."""
    spans: dict[str, int] = {}
    for name, begin, stop in zip(names, times[:-1], times[1:], strict=True):
        spans[name] = spans.get(name, 0) + stop - begin
    stamps = [times[0]]
    for span in spans.values():
        stamps.append(stamps[-1] + span)
    return list(spans), stamps
