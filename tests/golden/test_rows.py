"""How steps become rows: what came of a step stands at it, whatever the order in which a path tells it."""

from __future__ import annotations

from execbench.record.steps.fold import Block, Item, Row, folded
from execbench.record.steps.mappings import Mappings
from execbench.record.steps.sink import Step
from execbench.record.steps.table import path_of, text_of
from execbench.sim.memory import PMD_PAGES, VmArea


def rows(*steps: Step) -> list[tuple[str, str]]:
    """Step and effect of every row."""
    found = [row for row in path_of(steps) if isinstance(row, Row)]
    return [(f"{'  ' * row.depth}{row.verb}{f' x{row.times}' if row.times > 1 else ''}", row.effects) for row in found]


def call(name: str, n: int = 1, depth: int = 0) -> Step:
    return Step(depth, "call", name, n)


def take(name: str, depth: int = 0, irqs_off: bool = False) -> Step:
    return Step(depth, "take", name, irqs_off=irqs_off)


def release(name: str, depth: int = 0, worked: bool = True) -> Step:
    return Step(depth, "release", name, int(worked))


def effect(name: str, text: str, cause: str = "", depth: int = 0, irqs_off: bool = False) -> Step:
    return Step(depth, "effect", name, text=text, cause=cause, irqs_off=irqs_off)


def test_how_comes_before_the_function_and_why_behind_it() -> None:
    ipi = call("flush_tlb_all"), call("cpa_flush"), call("round"), effect("flush", "TLB: all by ipi", "cpa_flush")
    assert rows(*ipi) == [("flush_ipi_all: flush_tlb_all [cpa_flush]", "TLB: all by ipi")]
    broadcast = call("flush_tlb_all"), call("cpa_flush"), call("invlpgb"), call("tlbsync")
    assert rows(*broadcast) == [("invlpgb: flush_tlb_all [cpa_flush]", "")]
    firmware = call("flush_tlb_all"), call("set_memory_flush"), call("sbi_remote_sfence_vma_asid"), call("round")
    assert rows(*firmware) == [("rfence: flush_tlb_all [set_memory]", "")]


def test_a_second_round_behind_a_flush_is_a_row_of_its_own() -> None:
    both = (
        call("flush_tlb_all"),
        call("cpa_flush"),
        call("round"),
        call("round"),
        effect("serialize", "serialized: all"),
    )
    assert rows(*both) == [
        ("flush_ipi_all: flush_tlb_all [cpa_flush]", ""), ("ipi: smp_call_function_many_cond", "serialized: all"),
    ]  # fmt: skip


def test_as_many_instructions_as_equal_flushes_belong_to_them() -> None:
    flushes = [call("flush_tlb_kernel_range"), call("linear_alias_flush")] * 3
    assert rows(*flushes, call("tlbi", 3)) == [("tlbi_bcast(1): flush_tlb_kernel_range(1) [linear alias] x3", "")]
    one, bare = "tlbi_bcast(1): flush_tlb_kernel_range(1) [linear alias]", "flush_tlb_kernel_range(1) [linear alias]"
    assert [verb for verb, _ in rows(*flushes, call("tlbi", 2))] == [bare, f"{one} x2"], "one flush has no instruction"
    assert [verb for verb, _ in rows(*flushes, call("tlbi", 4))] == [f"{bare} x2", f"tlbi_bcast(4): {bare}"]


def test_a_lock_that_is_let_go_at_once_says_so_and_nothing_hangs_on_it() -> None:
    passed = take("cpa_lock"), release("cpa_lock", worked=False), Step(0, "line", "fact:pte_change", 2, "RW NX -> RO X")
    assert rows(*passed) == [("spin(cpa_lock), dropped from leaf to leaf", ""), ("pages(2): RW NX -> RO X", "")]
    held = take("cpa_lock"), release("cpa_lock")
    assert rows(*held) == [("spin(cpa_lock)", "")]


def test_an_effect_behind_a_block_stands_at_its_end() -> None:
    stop = (
        call("stop_machine"), take("stop_cpus_mutex"), call("patch_insn_write", 8, 1), release("stop_cpus_mutex"),
        effect("serialize", "serialized: all (stop_machine)", "stop_machine"),
    )  # fmt: skip
    assert [verb for verb, _ in rows(*stop)][-2:] == ["  patch_insn_write(8 B)", "end of stop_machine"]
    assert rows(*stop)[-1][1] == "serialized: all (stop_machine)"


def test_a_writable_alias_shows_when_it_outlives_its_store() -> None:
    opened, gone = effect("window", "W alias (mm)"), effect("window", "W alias (mm) gone")
    store = effect("store", "8 B code through mm", irqs_off=True)
    assert rows(call("text_poke", 8), opened, store, gone) == [
        ("poke_local(8 B): __text_poke", "8 B code through mm, irqs off")
    ]
    late = rows(
        call("patch_map"),
        effect("window", "W alias (fixmap)"),
        store,
        call("tlbi"),
        effect("window", "W alias (fixmap) gone"),
    )
    assert [effects for _, effects in late] == [
        "W alias (fixmap); 8 B code through mm, irqs off",
        "W alias (fixmap) gone",
    ]


def test_locks_taken_with_interrupts_off_say_so() -> None:
    assert rows(take("patch_lock", irqs_off=True)) == [("raw_spin(patch_lock), irqs off", "")]
    assert rows(take("patch_lock")) == [("raw_spin(patch_lock)", "")]


def row(verb: str, depth: int = 0, behind: bool = False) -> Row:
    return Row(depth, verb, 1, "", "vfree", behind)


def test_repetitions_are_counted_and_blocks_begin_where_something_begins() -> None:
    poke, flush = row("poke"), row("flush", behind=True)
    assert folded([poke] * 3) == (poke._replace(times=3),)
    twice: tuple[Item, ...] = (poke, flush, poke, flush)
    assert folded(twice) == twice, "two rows twice are no longer than what would be written instead"
    first = row("first")
    assert folded([first, flush, *[poke, flush] * 3]) == (first, flush, Block(0, 3, (poke, flush)))
    inside = row("inside", 1)
    assert folded([inside, poke] * 4)[0] == inside, "a block does not begin under a lock that it does not take"


def test_a_path_of_blocks_in_blocks_is_indented() -> None:
    inner = Block(0, 5, (row("poke"), row("flush")))
    lines = text_of((Block(0, 2, (inner, row("sync"))),), ("x86_64",), ("6.1",))
    assert [line.split("  mm/")[0].rstrip() for line in lines] == [
        "2 times:", "  5 times:", "    poke", "    flush", "  sync"
    ]  # fmt: skip


def test_changes_say_from_what_to_what() -> None:
    maps, area = Mappings(), VmArea(1 << 40, 4, 1, "modules")
    assert maps.map(area, 0, 4, "none").entries == (("reserve", 4),)
    assert maps.map(area, 0, 4, "rw-nx") == ((("pte_set", 4),), "none -> RW NX")
    assert maps.map(area, 1, 2, "ro-x") == ((("pte_change", 2),), "RW NX -> RO X")
    assert maps.map(area, 0, 4, "ro-x").text == "RW NX/RO X -> RO X"
    assert maps.map(area, 0, 4, "ro-x").text == "RO X as before"
    assert maps.map(area, 0, 4, "none") == ((("pte_clear", 4),), "RO X -> none")
    assert maps.map(area, 0, 4, "none").entries == ()
    maps.forget(area)
    assert maps.map(area, 0, 4, "none").entries == (("reserve", 4),), "the address is another's"
    huge = VmArea(1 << 41, PMD_PAGES, 1, "modules", huge=True)
    assert maps.map(huge, 0, PMD_PAGES, "rw-nx").entries == (("pmd_set", 1),)
    assert [maps.alias(7, 2, perm) for perm in ("ro", "ro-x", "np")] == ["RW -> RO", "RO -> RO X", "RO X -> none"]
