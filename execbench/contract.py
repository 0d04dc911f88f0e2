"""All that backends, clients and recorders share: the verbs under discussion and what a client is given.

A backend is one frozen keyword-only dataclass in one file: its fields are its parameters, its verbs generators of
kernel primitives, its state whatever `start` returns. Verbs never touch shared state while the plan holds unsettled
work: acquiring a lock settles, `yield from k.settle()` does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from execbench.kernel.operation import Operation
from execbench.kernel.text import Image, Region, Request, TextKind, Usage
from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind
from execbench.sim.memory import PAGE, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

__all__ = [
    "Backend", "Client", "Image", "LockKind", "Proc", "Region", "Request", "Setting", "Support", "TextKind",
    "Totals", "Usage",
]  # fmt: skip

S = TypeVar("S")
Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Support:
    """What a backend can express, and whether releases ship it."""

    architectures: tuple[str, ...] = ("x86_64",)
    kinds: tuple[TextKind, ...] = tuple(TextKind)
    sub_page: bool = False
    """Several regions may share one page."""
    writable_in_place: bool = False
    """Between alloc and finalize the text is writable at its final address."""
    shipped: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    source: str = ""

    def status(self, release: str) -> str:
        """Return shipped, retired or proposed for a release."""
        return "shipped" if release in self.shipped else "retired" if release in self.retired else "proposed"


class Backend(Protocol[S]):
    """A way to get code into the kernel; every verb is a generator, so `yield from` it.

    alloc takes one group (a module's regions, a program's functions) and returns as many regions; write comes zero or
    more times before finalize, which makes the regions executable, synchronized as this API promises; free is called
    when the client has waited until nobody can reach them. usage may be asked at any time and takes none.
    """

    support: ClassVar[Support]

    def start(self, k: Shared) -> S:
        """Return boot-time state and declare locks; takes no simulated time."""

    def alloc(self, k: Kernel, s: S, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Hand out one region per request; nothing may execute there yet."""

    def write(self, k: Kernel, s: S, region: Region, image: Image) -> Proc[None]:
        """Write an image whose patches count at the region's final address."""

    def finalize(self, k: Kernel, s: S, regions: Sequence[Region]) -> Proc[None]:
        """Make regions executable, synchronized as this API promises."""

    def free(self, k: Kernel, s: S, regions: Sequence[Region]) -> Proc[None]:
        """Take back regions that nobody can reach any more."""

    def usage(self, s: S) -> Usage:
        """Return the memory held now."""


@dataclass(slots=True, eq=False)
class Totals:
    """Running totals (bytes) of a backend that gives every region whole pages of its own; its state, or part of it."""

    shared: Shared
    asked: int = 0
    reserved: int = 0
    regions: int = 0

    def take(self, req: Request, area: VmArea) -> Region:
        """Return the region of `area` that a request got."""
        self.regions += 1
        self.asked += req.size
        self.reserved += area.pages * PAGE
        return Region(self.regions, area.va, req.size, area.pages * PAGE, req.kind, area)

    def give(self, region: Region) -> None:
        """Take a region out of the totals."""
        self.asked -= region.size
        self.reserved -= region.reserved

    def usage(self) -> Usage:
        """Return the memory held; waste is what rounding to pages adds."""
        return Usage(self.asked, self.reserved, self.reserved - self.asked, self.shared.text_map.text_leaves())


@dataclass(slots=True)
class Setting:
    """What a client finds when it starts: the kernel, the backend under test, its data and the run's horizon (ns)."""

    shared: Shared
    backend: Any
    state: Any
    duration: int
    warmup: int
    drain: int
    data: Callable[[str], Sequence[Row]]
    untaken: dict[tuple[str, str], Callable[[int], Iterable[int]]] = field(default_factory=dict)
    """Open loop: per client and kind, when arrivals are due before a given time (ns) that no thread has taken."""

    def stream(self, name: str) -> Any:
        """Return a named random stream of this replication."""
        return self.shared.machine.streams.stream(name)

    def operation(self, client: str, kind: str, number: int, due: int, mode: str = "sync") -> Operation:
        """Return a fresh operation that reports to this run's sinks."""
        return Operation(client, kind, number, due, mode, self.shared.recorder)

    def alloc(self, k: Kernel, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Call the backend's alloc as part of the API under test."""
        return self._verb(k, self.backend.alloc(k, self.state, reqs))

    def write(self, k: Kernel, region: Region, image: Image) -> Proc[None]:
        """Call the backend's write as part of the API under test."""
        return self._verb(k, self.backend.write(k, self.state, region, image))

    def finalize(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """Call the backend's finalize as part of the API under test."""
        return self._verb(k, self.backend.finalize(k, self.state, regions))

    def free(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """Call the backend's free as part of the API under test."""
        return self._verb(k, self.backend.free(k, self.state, regions))

    def _verb(self, k: Kernel, body: Proc[Any]) -> Proc[Any]:
        k.task.verbs += 1
        try:
            return (yield from body)
        finally:
            k.task.verbs -= 1


class Client(Protocol):
    """Who makes code: a frozen dataclass whose fields are the workload's parameters for it."""

    name: ClassVar[str]
    api_phases: ClassVar[frozenset[str]]
    arrivals: ClassVar[frozenset[str]]
    """Kinds of operation that arrive from outside: in an open loop they are due at their intended arrival."""

    def computing_threads(self) -> int:
        """Return how many threads need a CPU of their own."""

    def cpus(self, machine_cpus: int) -> tuple[int, ...]:
        """Return the CPUs that host the client's tasks."""

    def start(self, setting: Setting) -> None:
        """Declare locks and spawn tasks at time 0."""


def pages_of(size: int) -> int:
    """Return the 4 KiB pages that `size` bytes take."""
    return -(-size // PAGE)
