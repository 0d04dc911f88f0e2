"""Trampolines, direct calls, dispatcher, tail calls, links: what each architecture and release does for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.contract import Proc, Setting
from execbench.kernel.bpf_dispatcher import Dispatcher
from execbench.kernel.bpf_link import LinkIds
from execbench.kernel.bpf_prog_array import ProgArray
from execbench.kernel.bpf_trampoline import Trampolines, image_size
from execbench.kernel.facade import Kernel
from execbench.kernel.ftrace_direct import DirectFunctions, ops_of
from execbench.kernel.operation import Operation
from execbench.kernel.tracepoint import Tracepoint, Tracepoints
from execbench.sim.task import Task
from tests.kernel.bench import Bench

QUIET = 1_000_000_000
"""Longer than any chain of grace periods on the bench (ns)."""
EVERYWHERE = [
    (arch, release)
    for arch in ("x86_64", "arm64", "riscv64")
    for release in ("6.1", "6.12", "6.18", "7.3")
    if arch == "x86_64" or release != "6.1"
]
each_place = pytest.mark.parametrize(("arch", "release"), EVERYWHERE)


class Attach(Bench):
    """A bench with packs of programs and trampolines in them; `ends` are the deferred ends of images."""

    def __init__(self, arch: str = "x86_64", release: str = "6.18", **more: Any) -> None:
        super().__init__(arch, release, **more)
        backend = BpfProgPack()
        self.setting = Setting(self.shared, backend, backend.start(self.shared), 1 << 60, 0, 0, lambda _: [])
        self.ends: list[Operation] = []
        self.trampolines = Trampolines(self.shared, self.setting, lambda k, size: None, self._end)

    def _end(self) -> Operation:
        operation = self.setting.operation("bench", "image-free", len(self.ends), self.machine.engine.now, "deferred")
        self.ends.append(operation)
        return operation

    def does(self, *bodies: Callable[[Kernel], Proc[Any]]) -> list[dict[str, int]]:
        """Do one thing after the other, each with all that it defers; return what each counted."""
        found: list[dict[str, int]] = []

        def body(k: Kernel) -> Proc[None]:
            for one in bodies:
                self.forget()
                yield from one(k)
                yield from k.settle()
                found.append(dict(self.counts))
                yield from k.sleep_until(k.now + QUIET)

        self.task(body)
        self.run()
        return found

    def link(self, function: int, program: int, at_exit: bool = False) -> Callable[[Kernel], Proc[None]]:
        return lambda k: self.trampolines.link_prog(k, function, program, at_exit)

    def unlink(self, function: int, program: int) -> Callable[[Kernel], Proc[None]]:
        return lambda k: self.trampolines.unlink_prog(k, function, program)


# --- images -----------------------------------------------------------------------------------------------------------


@each_place
def test_every_image_is_given_back_behind_its_grace_periods(arch: str, release: str) -> None:
    bench = Attach(arch, release)
    bench.does(
        bench.link(0, 1), bench.link(0, 2, at_exit=True), bench.link(1, 3), bench.unlink(0, 1), bench.unlink(1, 3),
        bench.unlink(0, 2),
    )  # fmt: skip
    assert len(bench.ends) == 4, "one image of function 1, three of function 0"
    assert bench.setting.backend.usage(bench.setting.state).asked == 0
    assert not any(bench.trampolines.at(function).images for function in (0, 1))
    assert bench.trampolines.direct.entries == 0 and not bench.shared.ftrace.ops


@each_place
def test_only_x86_64_measures_in_a_page_that_its_flush_outlives(arch: str, release: str) -> None:
    bench = Attach(arch, release)
    first, *_ = bench.does(bench.link(0, 1))
    paged = release == "6.1"
    assert first.get("arch_bpf_trampoline_size", 0) == (not paged)
    assert first.get("vmap_purge", 0) >= (arch == "x86_64" and not paged)
    if arch != "x86_64":
        assert "execmem_free" not in first
    assert first.get("bpf_prog_pack_alloc", 0) == (not paged)


@pytest.mark.parametrize(
    ("release", "exits", "chain"),
    [
        ("6.1", False, {"call_rcu_tasks": 1}),
        ("6.18", False, {"call_rcu_tasks": 1}),
        ("6.18", True, {"call_rcu": 1, "call_rcu_tasks": 1}),
        ("7.3", True, {"call_rcu": 1, "call_rcu_tasks": 1}),
    ],
)
def test_an_old_image_waits_for_flavours_in_a_row(release: str, exits: bool, chain: dict[str, int]) -> None:
    bench = Attach("x86_64", release)
    _, last = bench.does(bench.link(0, 1, at_exit=exits), bench.unlink(0, 1))
    assert last["bpf_tramp_image_put"] == 1
    assert last.get("call_rcu_tasks_trace", 0) == (not exits)
    (end,) = bench.ends
    later = {name: n for name, n in end.counts.items() if name.startswith("call_rcu")}
    assert later == chain


def test_an_image_with_exit_programs_is_patched_when_it_is_put_and_on_7_3_a_program_out_of_it() -> None:
    def pokes(release: str, exits: bool) -> int:
        bench = Attach("x86_64", release)
        return bench.does(bench.link(0, 1, exits), bench.link(0, 2), bench.unlink(0, 1))[2].get("bpf_arch_text_poke", 0)

    assert [pokes("6.12", False), pokes("6.12", True)] == [0, 1]
    assert [pokes("7.3", False), pokes("7.3", True)] == [1, 1], "the image before is gone by then"


def test_7_3_patches_a_program_out_of_all_images_that_are_not_free_yet() -> None:
    bench = Attach("x86_64", "7.3")

    def body(k: Kernel) -> Proc[None]:
        for program in (1, 2, 3):
            yield from bench.link(0, program)(k)
        bench.forget()
        yield from bench.unlink(0, 1)(k)

    bench.task(body)
    bench.run()
    assert bench.counts["arch_bpf_trampoline_skip"] == bench.counts["bpf_arch_text_poke"] == 3


def test_images_grow_with_their_programs_and_never_leave_a_page() -> None:
    assert image_size(2, False) - image_size(1, False) == image_size(3, True) - image_size(2, True) > 0
    assert image_size(1, True) > image_size(1, False)
    assert image_size(38, True) < 4096


# --- direct calls -----------------------------------------------------------------------------------------------------


def test_rounds_depend_on_who_else_is_registered() -> None:
    bench = Attach("x86_64", "6.18")
    first, other, second, more = bench.does(
        bench.link(0, 1), bench.link(1, 2), bench.link(0, 3), bench.link(0, 4)
    )  # fmt: skip
    sync = [counts["sync_core"] for counts in (first, other, second, more)]
    assert sync == [9, 3, 6, 9], (
        "the list function once; then sites only; the static ops' trampoline is made, then patched"
    )
    assert second["create_trampoline"] == 1 and "create_trampoline" not in more


def test_one_static_ops_for_all_trampolines_waits_for_nobody_and_changes_the_common_function() -> None:
    bench = Attach("x86_64", "7.3")
    first, other, one, last = bench.does(bench.link(0, 1), bench.link(1, 2), bench.unlink(1, 2), bench.unlink(0, 1))
    assert [counts["sync_core"] - 3 * counts.get("bpf_arch_text_poke", 0) for counts in (first, other, one, last)] == [
        15, 3, 3, 15,
    ]  # fmt: skip
    assert not any({"synchronize_rcu_tasks", "ftrace_shutdown"} & set(counts) for counts in (first, other, one, last))
    assert bench.trampolines.direct.direct_ops.sites == 0


@pytest.mark.parametrize(("release", "waits"), [("6.1", 1), ("6.12", 0)])
def test_the_table_of_direct_calls_is_waited_for_when_it_is_replaced(release: str, waits: int) -> None:
    bench = Attach("x86_64", release)
    first, second, *_ = bench.does(bench.link(0, 1), bench.link(1, 2))
    assert first.get("synchronize_rcu_tasks", 0) == waits
    assert "synchronize_rcu_tasks" not in second, "6.1 has room for 64 more; 6.12 calls back"
    assert second.get("call_rcu_tasks", 0) == (release == "6.12")


def test_the_table_of_6_1_doubles_above_two_entries_a_bucket() -> None:
    bench = Attach("x86_64", "6.1")
    direct = DirectFunctions()
    k = bench.shared.view(Task("idle", bench.machine.active_cpu(0), bench.machine.engine, 0))
    replaced = [n for n in range(300) if direct.grow(k)]
    assert replaced == [0, 65, 129, 257]
    assert ops_of(k, direct) is not ops_of(k, direct)


@pytest.mark.parametrize("arch", ["arm64", "riscv64"])
@pytest.mark.parametrize("release", ["6.12", "7.3"])
def test_other_architectures_switch_a_site_as_ftrace_does(arch: str, release: str) -> None:
    bench = Attach(arch, release)
    (first,) = bench.does(bench.link(0, 1))
    assert "smp_text_poke_batch_finish" not in first
    if arch == "riscv64" and release == "6.12":
        assert first["stop_machine"] == 1
    else:
        assert "stop_machine" not in first


# --- tracepoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "rounds"), [("x86_64", 9), ("arm64", 1)])
def test_a_first_probe_patches_calls_and_key_where_there_are_static_calls(arch: str, rounds: int) -> None:
    bench, state, tp = Attach(arch), Tracepoints(), Tracepoint(1, 1)
    first, second, third, *_ = bench.does(*[lambda k: state.probe_register(k, tp)] * 3)
    assert first["round"] == rounds
    assert second.get("round", 0) == (6 if arch == "x86_64" else 0), "the iterator takes the place of the only probe"
    assert "round" not in third


def test_a_probe_that_comes_back_at_once_waits_for_who_saw_the_old_array() -> None:
    bench, state, tp = Attach(), Tracepoints(), Tracepoint(1, 1)

    def body(k: Kernel) -> Proc[None]:
        yield from state.probe_register(k, tp)
        yield from state.probe_unregister(k, tp)
        yield from state.probe_register(k, tp)

    bench.task(body)
    bench.run()
    assert bench.counts["cond_synchronize_rcu"] == bench.counts["synchronize_rcu"] == 1
    bench = Attach()
    state, tp = Tracepoints(), Tracepoint(1, 1)
    *_, third = bench.does(
        lambda k: state.probe_register(k, tp), lambda k: state.probe_unregister(k, tp),
        lambda k: k.synchronize_rcu(), lambda k: state.probe_register(k, tp),
    )  # fmt: skip
    assert "synchronize_rcu" not in third


# --- dispatcher, tail calls, links ------------------------------------------------------------------------------------


def test_the_dispatcher_writes_the_other_half_and_waits_each_time() -> None:
    bench = Attach()
    dispatcher = Dispatcher(bench.setting, sites=2)
    dispatcher.declare(bench.shared)
    halves = []

    def change(more: int) -> Callable[[Kernel], Proc[None]]:
        def body(k: Kernel) -> Proc[None]:
            yield from dispatcher.change_prog(k, more)
            halves.append(dispatcher.half)

        return body

    first, second, third, last = bench.does(change(1), change(1), change(-1), change(-1))
    assert halves == [0, 1, 0, 1]
    assert all(counts["synchronize_rcu"] == 1 for counts in (first, second, third, last))
    assert [counts["sync_core"] for counts in (first, second, third, last)] == [9] * 4
    assert [counts.get("text_poke_copy", 0) for counts in (first, second, third, last)] == [1, 1, 1, 0]
    assert first["bpf_prog_pack_alloc"] == 1 and "bpf_prog_pack_alloc" not in second


def test_the_dispatcher_s_page_is_finished_once_and_its_halves_are_written_in_turn() -> None:
    bench = Attach()
    dispatcher = Dispatcher(bench.setting, sites=2)
    dispatcher.declare(bench.shared)

    def body(k: Kernel) -> Proc[None]:
        for _ in range(3):
            yield from dispatcher.change_prog(k, 1)

    bench.task(body)
    bench.run()
    copies = [(va, size) for _, va, size, content, *_ in bench.told("store") if content == "code"]
    page = dispatcher.region
    assert page is not None
    assert copies[-2:] == [(page.va + 2048, 2048), (page.va, 2048)], "the first half came with the page"


@pytest.mark.parametrize("arch", ["arm64", "riscv64"])
def test_elsewhere_nothing_is_prepared_and_only_the_last_program_is_waited_for(arch: str) -> None:
    """bpf_dispatcher_update returns when bpf_dispatcher_prepare fails, which is not called for no program at all."""
    bench = Attach(arch)
    dispatcher = Dispatcher(bench.setting, sites=2)
    dispatcher.declare(bench.shared)
    found = bench.does(*[lambda k, more=more: dispatcher.change_prog(k, more) for more in (1, 1, -1, -1)])
    assert [counts.get("synchronize_rcu", 0) for counts in found] == [0, 0, 0, 1]
    assert not any({"text_poke_copy", "static_call_update", "__static_call_update"} & set(counts) for counts in found)
    assert set(found[1]) == {"bpf_dispatcher_change_prog", "bpf_dispatcher_update"}


@pytest.mark.parametrize(("release", "pages"), [("6.1", 1), ("6.12", 1), ("6.18", 1), ("7.3", 0)])
def test_the_dispatcher_s_writable_copy_is_code_until_7_3(release: str, pages: int) -> None:
    """kernel/bpf/dispatcher.c: rw_image by bpf_jit_alloc_exec (6.1, 6.12), vzalloc (7.3)."""
    bench = Attach("arm64" if release != "6.1" else "x86_64", release)
    dispatcher = Dispatcher(bench.setting, sites=2)
    dispatcher.declare(bench.shared)
    bench.does(dispatcher._image)
    areas = {area for event, _, area, *_ in bench.facts if event == "map"}
    assert sum(area.pages == 1 for area in areas) == pages


@pytest.mark.parametrize(("arch", "pokes"), [("x86_64", [2, 1, 2]), ("arm64", [0, 0, 0])])
def test_tail_calls_are_jumps_on_x86_64_alone(arch: str, pokes: list[int]) -> None:
    bench, array = Attach(arch), ProgArray(1)
    array.declare(bench.shared)
    found = bench.does(lambda k: array.update(k, 0), lambda k: array.update(k, 0), lambda k: array.delete(k))
    assert [counts.get("bpf_arch_text_poke", 0) for counts in found] == pokes
    assert found[2].get("synchronize_rcu", 0) == (arch == "x86_64")
    assert "synchronize_rcu" not in found[0] | found[1]


def test_the_last_link_of_a_node_leaves_the_node_behind() -> None:
    bench = Attach()
    links = LinkIds(bench.shared)

    def body(k: Kernel) -> Proc[None]:
        numbers = []
        for _ in range(70):
            number = yield from links.alloc(k)
            numbers.append(number)
        for number in numbers:
            yield from links.remove(k, number)

    bench.task(body)
    bench.run()
    assert bench.counts["call_rcu"] == 2, "1 to 63, 64 to 70"
