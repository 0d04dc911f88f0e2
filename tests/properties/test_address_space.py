"""Random groups of regions on a kernel and a backend, one task or two at once: no overlap, no leak, all adds up.

Every step runs to its end on the conformance suite's bench, whose ledger replays all facts; after each one the running
totals of memory equal a recount, and usage equals the live regions and the frames that are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from execbench.conformance import Bench, Place
from execbench.conformance.places import kernel_kinds, path_kinds
from execbench.contract import Proc, Region, Request, TextKind, Usage
from execbench.kernel.facade import Kernel
from execbench.kernel.vmalloc import purge_vmap_area_lazy
from tests.contract.arms import arms

BACKENDS = dict(arms())
KIB, MIB = 1 << 10, 1 << 20
SIZES = st.one_of(
    st.sampled_from([1, 15, 16, 17, 64, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 65536, 2 * MIB, 2 * MIB + 1]),
    st.integers(1, 20 * KIB),
    st.integers(1, 200 * KIB),
)
SETUPS = [
    ("execmem", "x86_64", "6.18", 4096),
    ("execmem", "x86_64", "7.3", 4096),
    ("execmem-rox-copy", "x86_64", "6.18", 4096),
    ("bpf_prog_pack", "x86_64", "6.18", 4096),
    ("bpf_prog_pack", "x86_64", "7.3", 4096),
    ("bpf_prog_pack", "arm64", "6.12", 65536),
    ("jitalloc-slab", "x86_64", "6.1", 4096),
    ("jitalloc-slab", "arm64", "7.3", 16384),
    ("alloc-write-map", "x86_64", "6.18", 4096),
    ("alloc-write-map[alias=removed]", "arm64", "6.18", 4096),
    ("alloc-write-map[recycle=flushed]", "riscv64", "6.18", 4096),
    ("jit_text_alloc[update=per-write]", "x86_64", "6.18", 4096),
    ("user-dual-map[alias=temporary]", "x86_64", "6.18", 4096),
    ("user-mmap", "arm64", "6.18", 65536),
]


@dataclass(eq=False)
class Group:
    """Regions that were allocated together, and how far they have come."""

    regions: tuple[Region, ...]
    state: str


class AddressSpace(RuleBasedStateMachine):
    """One backend in one place; subclasses say which."""

    backend: Any
    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(self.backend, self.place, watched=True)
        support = type(self.backend).support
        self.kinds = [kind for kind in kernel_kinds(support) if kind in path_kinds(support)] or [TextKind.USER]
        self.groups: list[Group] = []

    # --- what a task can do -------------------------------------------------------------------------------------------

    def do(self, *bodies: Callable[[Kernel], Proc[Any]]) -> None:
        """Run one body on each CPU, all from now on, to the end; then everything adds up."""
        for cpu, body in enumerate(bodies):
            self.bench.task(cpu, body)
        assert self.bench.run() == []
        self.bench.account([region for group in self.groups for region in group.regions])
        assert self.bench.findings == []

    def requests(self, drawn: list[tuple[int, int]]) -> list[Request]:
        return [Request(size, self.kinds[kind % len(self.kinds)]) for kind, size in drawn]

    def load(self, drawn: list[tuple[int, int]], delay: int = 0) -> Callable[[Kernel], Proc[None]]:
        def body(k: Kernel) -> Proc[None]:
            yield from k.sleep_until(k.now + delay)
            regions = yield from self.bench.install(k, self.requests(drawn), patches=len(drawn))
            self.groups.append(Group(regions, "live"))

        return body

    def unload(self, group: Group, delay: int = 0) -> Callable[[Kernel], Proc[None]]:
        self.groups.remove(group)

        def body(k: Kernel) -> Proc[None]:
            yield from k.sleep_until(k.now + delay)
            yield from self.bench.free(k, group.regions)

        return body

    def chosen(self, number: int, *states: str) -> Group | None:
        fitting = [group for group in self.groups if not states or group.state in states]
        return fitting[number % len(fitting)] if fitting else None

    # --- rules --------------------------------------------------------------------------------------------------------

    drawn = st.lists(st.tuples(st.integers(0, 7), SIZES), min_size=1, max_size=3)
    number = st.integers(0, 99)
    delay = st.integers(0, 300_000)

    @rule(drawn=drawn)
    def alloc(self, drawn: list[tuple[int, int]]) -> None:
        def body(k: Kernel) -> Proc[None]:
            self.groups.append(Group((yield from self.bench.alloc(k, self.requests(drawn))), "allocated"))

        self.do(body)

    @precondition(lambda self: self.chosen(0, "allocated", "written"))
    @rule(number=number, patches=st.integers(0, 3))
    def write(self, number: int, patches: int) -> None:
        group = self.chosen(number, "allocated", "written")
        assert group is not None

        def body(k: Kernel) -> Proc[None]:
            for region in group.regions:
                yield from self.bench.write(k, region, patches)

        self.do(body)
        group.state = "written"

    @precondition(lambda self: self.chosen(0, "written"))
    @rule(number=number)
    def finalize(self, number: int) -> None:
        group = self.chosen(number, "written")
        assert group is not None
        self.do(lambda k: self.bench.finalize(k, group.regions))
        group.state = "live"

    @precondition(lambda self: self.chosen(0, "live") and callable(getattr(self.backend, "rewrite", None)))
    @rule(number=number, patches=st.integers(0, 3))
    def rewrite(self, number: int, patches: int) -> None:
        group = self.chosen(number, "live")
        assert group is not None
        self.do(lambda k: self.bench.rewrite(k, group.regions[0], patches))

    @precondition(lambda self: self.groups)
    @rule(number=number)
    def free(self, number: int) -> None:
        """At any state: a load may have failed."""
        group = self.chosen(number)
        assert group is not None
        self.do(self.unload(group))

    @rule(first=drawn, second=drawn, delay=delay)
    def two_load(self, first: list[tuple[int, int]], second: list[tuple[int, int]], delay: int) -> None:
        self.do(self.load(first), self.load(second, delay))

    @precondition(lambda self: self.groups)
    @rule(number=number, drawn=drawn, delay=delay, earlier=st.booleans())
    def one_loads_one_frees(self, number: int, drawn: list[tuple[int, int]], delay: int, earlier: bool) -> None:
        group = self.chosen(number)
        assert group is not None
        self.do(self.unload(group, 0 if earlier else delay), self.load(drawn, delay if earlier else 0))

    @precondition(lambda self: len(self.groups) > 1)
    @rule(number=number, other=number, delay=delay)
    def two_free(self, number: int, other: int, delay: int) -> None:
        first = self.chosen(number)
        assert first is not None
        body = self.unload(first)
        second = self.chosen(other)
        assert second is not None
        self.do(body, self.unload(second, delay))

    @rule()
    def purge(self) -> None:
        self.do(purge_vmap_area_lazy)
        assert self.bench.shared.vmap.lazy_areas == 0

    # --- the end ------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everything is freed and purged: only what the backend keeps for later remains."""
        while self.groups:
            self.do(self.unload(self.groups[0]))
        self.purge()
        shared, usage, ledger = self.bench.shared, self.bench.backend.usage(self.bench.state), self.bench.ledger
        assert ledger is not None
        if self.place.kind is TextKind.USER:  # spaces stay mapped, or their file stays
            assert usage.asked == 0
            assert ledger.mappings.mapped <= usage.reserved == shared.frames.in_use * self.place.page_size
            return
        assert usage == Usage(0, 0, 0, (0, 0))
        assert (shared.frames.in_use, shared.vmap.busy_areas, ledger.mappings.mapped) == (0, 0, 0)
        assert {shared.direct_map.perm(pfn) for pfn in range(1 << 14)} == {"rw"}  # frames are taken from below


each_setup = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: "-".join(map(str, setup)))


def explore(setup: tuple[str, str, str, int], examples: int, steps: int) -> None:
    """Run random programs on a backend in a place."""
    arm, arch, release, page = setup
    kind = path_kinds(type(BACKENDS[arm]).support)[0]
    machine = type("Here", (AddressSpace,), {"backend": BACKENDS[arm], "place": Place(arch, release, kind, page)})
    phases = (Phase.generate, Phase.shrink)
    program = settings(max_examples=examples, stateful_step_count=steps, phases=phases)
    run_state_machine_as_test(machine, settings=program)


@each_setup
def test_no_overlap_no_leak_and_figures_equal_to_a_recount(setup: tuple[str, str, str, int]) -> None:
    explore(setup, 20, 16)


@pytest.mark.long
@each_setup
def test_the_same_for_many_longer_programs(setup: tuple[str, str, str, int]) -> None:
    explore(setup, 300, 50)
