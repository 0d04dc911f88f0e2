"""All that backends, clients and recorders share: the verbs under discussion and what a client is given.

A backend is one frozen keyword-only dataclass in one file: its fields are its parameters, its verbs generators of
kernel primitives, its state whatever `start` returns. Verbs never touch shared state while the plan holds unsettled
work: acquiring a lock settles, `yield from k.settle()` does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from execbench.catalogue import Entry, Estimate
from execbench.errors import InputError
from execbench.kernel.operation import Operation
from execbench.kernel.publish import publish
from execbench.kernel.text import KERNEL_KINDS, TEXT_KINDS, Image, Region, Request, TextKind, Usage
from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind
from execbench.sim.memory import PAGE, VmArea
from execbench.sim.task import Task

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared

__all__ = [
    "KERNEL_KINDS", "TEXT_KINDS", "Backend", "Client", "Entry", "Estimate", "Image", "LockKind", "Proc", "Region",
    "Request", "Setting", "Support", "TextKind", "Totals", "Usage",
]  # fmt: skip

S = TypeVar("S")
Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Support:
    """What a backend can express, and whether releases ship it."""

    architectures: tuple[str, ...] = ("x86_64",)
    kinds: tuple[TextKind, ...] = TEXT_KINDS
    """Kinds served: kernel text unless told; a module's data and user space only by who says so."""
    sub_page: bool = False
    """Several regions may share one page."""
    writable_in_place: bool = False
    """Between alloc and finalize the text is writable at its final address."""
    wx: bool = False
    """Its text is writable and executable at once; a property `wx` of the backend says so where it depends on
    parameters, and then counts instead."""
    shipped: tuple[str, ...] = ()
    """Releases that have it: "6.12", or "6.1/x86_64" where only that architecture does."""
    retired: tuple[str, ...] = ()
    """Releases that had it before, written alike."""
    source: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Why an architecture that is not in `architectures` cannot express it."""

    def status(self, release: str, arch: str = "x86_64") -> str:
        """Return shipped, retired or proposed for a release on an architecture."""
        names = {release, f"{release}/{arch}"}
        return "shipped" if names & {*self.shipped} else "retired" if names & {*self.retired} else "proposed"

    def refusal(self, arch: str, kinds: Iterable[TextKind] = ()) -> str:
        """Return why this cannot be expressed on an architecture for these kinds of text; "" if it can."""
        if arch not in self.architectures:
            return self.absent.get(arch, f"not on {arch}: only {', '.join(self.architectures)}")
        missing = [kind for kind in kinds if kind not in self.kinds]
        return f"serves {', '.join(self.kinds)} only, not {', '.join(missing)}" if missing else ""


class Backend(Protocol[S]):
    """A way to get code into the kernel; every verb is a generator, so `yield from` it.

    alloc takes one group (a module's regions, a program's functions) and returns as many regions; write comes zero or
    more times before finalize, which makes the regions executable, synchronized as this API promises; free is called
    when the client has waited until nobody can reach them. usage may be asked at any time and takes none. seal and
    rewrite may be left out.
    A backend whose parameters cannot be expressed everywhere has a method `refusal(arch) -> str` that says why, or "".
    One whose text is writable and executable at once with some parameters only has a property `wx -> bool`; without it
    `support.wx` counts. The conformance suite holds both against the mappings.
    """

    support: ClassVar[Support]

    def start(self, k: Shared) -> S:
        """Return boot-time state and declare locks; takes no simulated time."""

    def alloc(self, k: Kernel, s: S, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Hand out one region per request; nobody executes there yet, though pages may be executable already."""

    def write(self, k: Kernel, s: S, region: Region, image: Image) -> Proc[None]:
        """Write an image whose patches count at the region's final address."""

    def finalize(self, k: Kernel, s: S, regions: Sequence[Region]) -> Proc[None]:
        """Make regions executable, synchronized as this API promises."""

    def seal(self, k: Kernel, s: S, region: Region) -> Proc[None]:
        """Make a finished region of data read-only; without this verb a region of its own area is (set_memory_ro)."""

    def rewrite(self, k: Kernel, s: S, region: Region, image: Image) -> Proc[None]:
        """Write over live text that CPUs may execute; a backend without this verb refuses."""

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
        self.reserved += area.size
        return Region(self.regions, area.va, req.size, area.size, req.kind, area)

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
    undone: dict[str, int] = field(default_factory=dict)
    """What a terminating workload's clients had still to do when the window was over."""
    places: tuple[int, ...] = ()
    """CPU of each place that the client's `cpus` named; empty: as named."""
    publication: str | None = None
    """The path by which all text is published (execbench.kernel.publish), whatever path the client would take."""

    def stream(self, name: str) -> Any:
        """Return a named random stream of this replication."""
        return self.shared.machine.streams.stream(name)

    def cpu(self, place: int) -> int:
        """Return the CPU of one of the client's places: several clients are laid side by side."""
        return self.places[place % len(self.places)] if self.places else place

    def spawn(self, name: str, place: int, body: Callable[[Kernel], Proc[None]], at: int = 0) -> Task:
        """Start a thread that runs `body(k)` at one of the client's places from `at` (ns) on."""
        machine = self.shared.machine
        task = Task(name, machine.active_cpu(self.cpu(place)), machine.engine, self.shared.costs.ns("task_wakeup"))
        machine.engine.spawn(task.run(body(self.shared.view(task))), at, task.cpu.key)
        return task

    def serves(self, kind: TextKind) -> bool:
        """Whether the backend under test hands out this kind; what it does not serve is the release's own business."""
        return kind in self.backend.support.kinds

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

    def seal(self, k: Kernel, region: Region) -> Proc[None]:
        """Make a finished region of data read-only: the backend's way, or set_memory_ro on the area that it has."""
        own = getattr(self.backend, "seal", None)
        if own is None and not isinstance(region.own, VmArea):
            raise TypeError(f"{type(self.backend).__name__} has no seal, and its regions are no areas of their own")
        return self._verb(k, own(k, self.state, region) if own else k.set_memory_ro(region.own))

    @property
    def rewrites(self) -> bool:
        """Whether the backend can write over live text: ask before the run, as `rewrite` refuses in the middle."""
        return callable(getattr(self.backend, "rewrite", None))

    def rewrite(self, k: Kernel, region: Region, image: Image) -> Proc[None]:
        """Write over live text as part of the API under test; InputError if the backend has no such verb."""
        if not self.rewrites:
            raise InputError("backend", type(self.backend).__name__, "a backend that can write over live text",
                             "choose one with a rewrite verb, such as jit_text_alloc")  # fmt: skip
        return self._verb(k, self.backend.rewrite(k, self.state, region, image))

    def free(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """Call the backend's free as part of the API under test."""
        return self._verb(k, self.backend.free(k, self.state, regions))

    def publish(self, k: Kernel, region: Region, via: str, inside: str = "rcu") -> Proc[None]:
        """Make a finished region reachable by the client's path, unless the run asks for another; not the API's work.

        `inside` is what protects who executes it: "rcu", "tasks", "rude", "trace", several joined by "+", or "none".
        """
        return publish(k, region, self.publication or via, inside)

    def retire(self, k: Kernel, region: Region) -> None:
        """Make a region unreachable for newcomers, before the grace period that outlasts those inside."""
        k.retire(region)

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
    kinds: ClassVar[tuple[TextKind, ...]]
    """Kinds of text that the client asks of the backend; one that does not serve them all is refused."""
    arrivals: ClassVar[frozenset[str]]
    """Kinds of operation that arrive from outside: in an open loop they are due at their intended arrival."""
    costs: ClassVar[Mapping[str, Entry]]
    """What its own work costs, by the name under `[costs.client.NAME]`; spent as `client.NAME.COST`."""

    # a method `refusal(arch: str, release: str) -> str`, if there is one, says why there is no such client there;
    # a text `caveat`, if there is one, stands under every table: what a reader must not take it for

    def computing_threads(self) -> int:
        """Return how many threads need a CPU of their own, because they never sleep; others may share CPUs."""

    def cpus(self, machine_cpus: int) -> tuple[int, ...]:
        """Return the places that host the client's tasks, as if it were alone on the machine; more than CPUs wrap."""

    def start(self, setting: Setting) -> None:
        """Declare locks and spawn tasks at time 0."""


def pages_of(size: int) -> int:
    """Return the 4 KiB pages that `size` bytes take."""
    return -(-size // PAGE)
