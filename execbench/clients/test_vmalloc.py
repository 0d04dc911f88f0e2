"""test_vmalloc: the loops of the kernel's own module that measures vmalloc (lib/test_vmalloc.c), same names and shapes.

Data has no addresses in the model (execbench.kernel.vmalloc.vmalloc_data), so what the tests lay out beforehand and
the alignment they ask for change no search; the areas are allocated and freed all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import ClassVar

from execbench.clients.limits import PID_MAX_LIMIT, at_least, shares
from execbench.contract import Entry, Estimate, Proc, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.kvfree_rcu import Krc, kvfree_rcu
from execbench.kernel.vmalloc import vm_map_ram, vm_unmap_ram
from execbench.sim.rng import Stream

COSTS = {
    "loop": Entry("loop", "a test's loop without its calls: counter, test of the pointer, one store to a fresh page",
                  estimate=Estimate("10ns", "3ns", "100ns", "assumed: some instructions and a TLB miss")),
}  # fmt: skip
"""What a test does besides its calls, one row per name under `[costs.client.test-vmalloc]`."""

NAMES = (
    "fix_size_alloc_test", "full_fit_alloc_test", "long_busy_list_alloc_test", "random_size_alloc_test",
    "fix_align_alloc_test", "random_size_align_alloc_test", "align_shift_alloc_test", "pcpu_alloc_test",
    "kvfree_rcu_1_arg_vmalloc_test", "kvfree_rcu_2_arg_vmalloc_test", "vm_map_ram_test", "no_block_alloc_test",
    "vrealloc_test",
)  # fmt: skip
"""test_case_array: test i is bit i of run_test_mask."""
LEFT_OUT = {
    "pcpu_alloc_test": "allocates inside chunks of per-CPU memory, which is mapped once and which no text goes through",
    "no_block_alloc_test": "asks what may fail without waiting for memory, and the model's memory never makes one wait",
}
"""Tests that are not modelled, and why."""
MODELLED = sum(1 << i for i, name in enumerate(NAMES) if name not in LEFT_OUT)
SHIFTS = 45
"""align_shift_alloc_test asks for 1, 2, 4, ... bytes of alignment until it fails, as it is meant to: 2^44 still fits
somewhere in the 2^45 bytes of x86_64's range."""
BUSY = 15_000
"""long_busy_list_alloc_test: areas that stay allocated meanwhile."""


@dataclass(frozen=True, kw_only=True)
class TestVmalloc:
    """Threads that run the selected tests one after the other, and again until the run is over.

    One operation is one test: its phases are setup, loop and teardown; `latency / loops` is what the kernel's module
    prints as average. As there, the order is shuffled unless `sequential`.
    """

    __test__: ClassVar[bool] = False  # no test case, whatever its name looks like
    name: ClassVar[str] = "test-vmalloc"
    api_phases: ClassVar[frozenset[str]] = frozenset()
    """None: vmalloc of data is no business of an API for text."""
    """vmalloc is what is asked about here."""
    arrivals: ClassVar[frozenset[str]] = frozenset()
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = ()

    threads: int = 1
    mask: int = MODELLED
    """run_test_mask."""
    loops: int = 1000
    """test_loop_count; the kernel's default is a million."""
    pages: int = 1
    """nr_pages, of fix_size_alloc_test and vm_map_ram_test."""
    sequential: bool = False
    """sequential_test_order."""
    layout: float = 1.0
    """Share of the areas that full_fit and long_busy_list lay out before their loops."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        at_least(self, 1, "threads", most=PID_MAX_LIMIT)
        at_least(self, 1, "loops", "pages", "mask")
        if self.mask >= 1 << len(NAMES):
            raise ValueError(f"mask: at most {(1 << len(NAMES)) - 1}, the sum of all tests")
        missing = [f"{name} ({why})" for name, why in LEFT_OUT.items() if self.mask >> NAMES.index(name) & 1]
        if missing:
            raise ValueError(f"mask: not modelled are {'; '.join(missing)}")
        shares(self, "layout")

    def computing_threads(self) -> int:
        """Return the threads: none of them sleeps."""
        return self.threads

    def cpus(self, machine_cpus: int) -> tuple[int, ...]:
        """Place thread i on CPU i."""
        return tuple(range(self.threads))

    def start(self, setting: Setting) -> None:
        """Let the threads go at time 0, as do_concurrent_test does."""
        run = _Run(self, setting)
        for i in range(self.threads):
            setting.spawn(f"test-vmalloc/{i}", i, partial(run.test_func, i))


Area = int
"""Pages of an allocation: all that is known of plain data."""


class _Run:
    """One replication: what the threads share."""

    def __init__(self, params: TestVmalloc, setting: Setting) -> None:
        self.params, self.setting = params, setting
        self.krcs: dict[int, Krc] = {}
        self.blocks: dict[int, int] = {}
        self.numbers = count()
        self.selected = [name for i, name in enumerate(NAMES) if params.mask >> i & 1]
        self.loops: dict[str, Callable[[Kernel, Stream], Proc[None]]] = {
            "fix_size_alloc_test": lambda k, s: self._once(k, params.pages),
            "full_fit_alloc_test": lambda k, s: self._once(k, 1),
            "long_busy_list_alloc_test": self._long_busy_list,
            "random_size_alloc_test": lambda k, s: self._once(k, 1 + int(s.u() * 100)),
            "fix_align_alloc_test": lambda k, s: self._once(k, 5, zero=True),
            "random_size_align_alloc_test": lambda k, s: self._once(k, 1 + int(s.u() * 256) % 10, zero=True),
            "align_shift_alloc_test": lambda k, s: self._once(k, 1, zero=True),
            "kvfree_rcu_1_arg_vmalloc_test": self._kvfree_rcu,
            "kvfree_rcu_2_arg_vmalloc_test": self._kvfree_rcu,
            "vm_map_ram_test": self._vm_map_ram,
            "vrealloc_test": self._vrealloc,
        }

    def test_func(self, thread: int, k: Kernel) -> Proc[None]:
        """Run all selected tests, shuffled anew each time."""
        stream: Stream = self.setting.stream(f"client.test-vmalloc/{thread}")
        while True:
            order = list(self.selected)
            if not self.params.sequential:
                for i in range(len(order) - 1, 0, -1):  # shuffle_array, which leaves no element in its place
                    j = int(stream.u() * i)
                    order[i], order[j] = order[j], order[i]
            for name in order:
                yield from k.settle()
                if k.now >= self.setting.duration:
                    return
                yield from self._test(k, name, stream)

    def _test(self, k: Kernel, name: str, stream: Stream) -> Proc[None]:
        k.begin(self.setting.operation("test-vmalloc", name, next(self.numbers), k.now), "setup")
        k.task.site = name
        laid_out: list[Area] = []
        yield from self._lay_out(k, name, laid_out)
        k.phase("loop")
        body = self.loops[name]
        turns = min(SHIFTS, self.params.loops) if name == "align_shift_alloc_test" else self.params.loops
        for _ in range(turns):
            k.spend("client.test-vmalloc.loop")
            yield from body(k, stream)
            yield from k.cond_resched()  # as vmalloc and vfree ask (might_sleep)
        k.phase("teardown")
        for area in laid_out:
            yield from k.vfree_data(area)
            yield from k.cond_resched()
        k.end()

    def _lay_out(self, k: Kernel, name: str, into: list[Area]) -> Proc[None]:
        """What a test allocates before its loop and frees behind it; the junk between goes at once."""
        params, pages_of = self.params, k.pages_of
        if name == "long_busy_list_alloc_test":
            n, junk = int(BUSY * params.layout), 0
        elif name == "full_fit_alloc_test":
            n = int(self.setting.shared.cpus.bit_length() * pages_of(32 << 20) * params.layout)
            junk = n
            into.append((yield from k.vmalloc_data(max(8 * junk, 1))))
        else:
            return
        into.append((yield from k.vmalloc_data(max(8 * n, 1))))
        for _ in range(n):
            into.append((yield from k.vmalloc_data(1)))
            if junk:
                yield from k.vmalloc_data(1)
            yield from k.cond_resched()
        for _ in range(junk):
            yield from k.vfree_data(1)
            yield from k.cond_resched()

    # --- one turn of each loop --------------------------------------------------------------------------------------

    def _once(self, k: Kernel, pages: int, zero: bool = False) -> Proc[None]:
        area = yield from self._vmalloc(k, pages, zero)
        yield from k.vfree_data(area)

    def _vmalloc(self, k: Kernel, pages: int, zero: bool = False) -> Proc[Area]:
        area = yield from k.vmalloc_data(pages * k.page_size)
        if zero:
            k.spend("fill_byte", pages * k.page_size)  # __GFP_ZERO
        return area

    def _long_busy_list(self, k: Kernel, stream: Stream) -> Proc[None]:
        large = yield from self._vmalloc(k, 100)
        small = yield from self._vmalloc(k, 1)
        yield from k.vfree_data(large)
        yield from k.vfree_data(small)

    def _kvfree_rcu(self, k: Kernel, stream: Stream) -> Proc[None]:
        """With one argument or two: both put the pointer into the CPU's block; the head matters only without memory."""
        area = yield from self._vmalloc(k, 1)
        yield from kvfree_rcu(k, self.krcs, area)

    def _vm_map_ram(self, k: Kernel, stream: Stream) -> Proc[None]:
        yield from vm_map_ram(k, self.blocks, self.params.pages)
        yield from vm_unmap_ram(k, self.blocks, self.params.pages)

    def _vrealloc(self, k: Kernel, stream: Stream) -> Proc[None]:
        """One page; grown to four, which copies; shrunk to one, to half of it, grown to one again; freed."""
        one = yield from self._vmalloc(k, 1)
        four = yield from self._vmalloc(k, 4)
        k.spend("copy_byte", k.page_size)
        yield from k.vfree_data(one)
        k.spend("pte_set", 3)  # the tail goes, its addresses stay with the area
        k.spend("page_free", 3)
        k.spend("fill_byte", k.page_size // 2)  # vrealloc_node_align: what is given up is cleared, or grown into
        yield from k.vfree_data(four - 3)
