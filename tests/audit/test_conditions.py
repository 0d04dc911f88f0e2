"""Every condition of every hazard from a handful of facts, and what one missing step makes of it."""

from __future__ import annotations

import pytest

from execbench.contract import TextKind
from tests.audit.story import PAGE, Story

ARCHITECTURES = ("x86_64", "arm64", "riscv64")
OTHERS = {"x86_64": ("all", "sync_core"), "arm64": ("others", "kick_all_cpus_sync")}


def synchronize(story: Story, va: int, size: int, task: str = "t") -> None:
    """What makes stores visible everywhere: maintenance, and an event on every CPU."""
    if story.platform.arch == "riscv64":
        story.icache(task, how="fence.i-all")
        return
    if story.platform.arch == "arm64":
        story.icache(task, va, size)
    story.sync(task, *OTHERS[story.platform.arch])


def sealed(arch: str, *skip: str, **platform: object) -> Story:
    """Written while NX, made visible, read-only, flushed, executable, flushed, published; steps may be left out."""
    story = Story(arch, **platform)
    area = story.area()
    steps = {
        "map": lambda: story.map("t", area, "rw-nx"),
        "store": lambda: story.store("t", area.va),
        "clean": lambda: synchronize(story, area.va, 256),
        "alias": lambda: story.alias("t", area, "ro"),
        "ro": lambda: story.map("t", area, "ro-nx"),
        "flush-ro": lambda: story.flush("t", how="broadcast"),
        "x": lambda: story.map("t", area, "ro-x"),
        "flush-x": lambda: story.flush("t", how="broadcast"),
        "sync": lambda: story.sync("t", *OTHERS.get(arch, ("self", "isb"))),
        "reach": lambda: story.reach("t", story.region(area)),
    }
    for name, step in steps.items():
        if name not in skip:
            step()
    return story


def poked(arch: str, *skip: str, content: str = "trap", through: str = "mm", **platform: object) -> Story:
    """Filled with `content` while NX, made executable, written by another task through an alias, published."""
    story = Story(arch, **platform)
    area = story.area()
    region = story.region(area)
    story.map("a", area, "rw-nx")
    story.store("a", area.va, PAGE, content)
    if "fill" not in skip:
        synchronize(story, area.va, PAGE, "a")
    story.map("a", area, "ro-nx")
    story.flush("a")
    story.map("a", area, "ro-x")
    story.flush("a")
    if "store" not in skip:
        story.store("t", area.va, 256, "code", through)
    story.tell("window", "t", "mm", area.va, 256, True)
    story.tell("window", "t", "mm", area.va, 256, False)
    if arch == "arm64" and "clean" not in skip:
        story.icache("t", area.va, 256)
    if "sync" not in skip:
        if arch == "riscv64":
            story.icache("t", how="fence.i-all")
        else:
            story.sync("t", *OTHERS[arch])
    story.reach("t", region)
    return story


# --- 1 and 2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_text_written_while_nobody_could_fetch_it(arch):
    assert sealed(arch).conditions(1) == {"not-fetchable"}
    assert sealed(arch).conditions(2) == {"not-fetchable"}


@pytest.mark.parametrize(
    ("arch", "condition"), [("x86_64", "not-fetchable"), ("arm64", "icache"), ("riscv64", "icache")]
)
def test_without_maintenance_of_the_instruction_cache(arch, condition):
    assert sealed(arch, "clean").conditions(1) == {condition}


def test_caches_that_need_no_invalidation():
    assert sealed("arm64", "clean", features={"dic": True}).conditions(1) == {"not-fetchable"}


def test_maintenance_of_half_the_text_is_not_enough():
    story = Story("arm64")
    area = story.area()
    story.map("t", area, "rw-nx")
    story.store("t", area.va, 256)
    story.icache("t", area.va, 128)
    story.map("t", area, "ro-x")
    story.reach("t", story.region(area))
    assert story.conditions(1) == {"not-fetchable", "icache"}


def test_maintenance_that_began_before_the_store_does_not_count():
    for arch, how in (("arm64", "ic-ivau"), ("riscv64", "fence.i-all")):
        for early in (True, False):
            story = Story(arch)
            area = story.area()
            story.map("t", area, "rw-nx")
            begin = story.now + 1
            story.store("t", area.va, 256)
            whole = how == "fence.i-all"
            story.tell("icache", "t", begin if early else story.now, 0 if whole else area.va, 0 if whole else 256, how)
            story.map("t", area, "ro-x")
            story.reach("t", story.region(area))
            assert story.conditions(1) == {"icache" if early else "not-fetchable"}


def test_maintenance_takes_whole_lines():
    story = Story("arm64")
    area = story.area()
    story.map("t", area, "rw-nx")
    story.store("t", area.va, 256)
    story.icache("t", area.va + 63, 130)
    story.map("t", area, "ro-x")
    story.reach("t", story.region(area))
    assert story.conditions(1) == {"not-fetchable"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_poked_and_synchronized(arch):
    assert poked(arch).conditions(1) == {"synchronized"}
    assert poked(arch).conditions(2) == {"torn-then-synchronized"}


@pytest.mark.parametrize("content", ["trap", "code"])
@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_poked_without_synchronization(arch, content):
    assert poked(arch, "sync", content=content).conditions(1) == {f"stale-{content}"}
    assert poked(arch, "sync", content=content).conditions(2) == {f"torn-{content}"}


def test_a_fill_that_no_cache_let_go_for_is_no_trap():
    assert poked("x86_64", "sync", "fill").conditions(1) == {"stale-trap"}
    assert poked("arm64", "sync", "fill").conditions(1) == {"stale-code"}
    assert poked("riscv64", "sync", "fill", retries=True).conditions(1) == {"icache"}
    assert poked("riscv64", "sync", retries=True).conditions(1) == {"retried"}


def test_poked_without_fence():
    assert poked("riscv64", "sync").conditions(1) == {"icache"}
    assert poked("riscv64", "sync").conditions(2) == {"torn-trap"}


def test_a_kick_before_the_maintenance_does_not_count():
    story = poked("arm64", "clean")
    region = story.facts.pop().fields[0]
    story.icache("t", region.va, 256)
    story.reach("t", region)
    assert story.conditions(1) == {"stale-trap"}


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_rounds_of_others_do_not_count(arch):
    story = poked(arch, "sync")
    region = story.facts.pop().fields[0]
    story.sync("somebody else", *OTHERS[arch])
    story.reach("t", region)
    assert story.conditions(1) == {"stale-trap"}


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_the_round_of_who_publishes_counts(arch):
    story = poked(arch, "sync")
    region = story.facts.pop().fields[0]
    story.sync("publisher", *OTHERS[arch])
    if arch == "arm64":  # its kick leaves itself out
        assert_published(story, region, "own-cpu")
        story.sync("publisher", "self", "isb")
    assert_published(story, region, "synchronized")


def assert_published(story, region, condition):
    story.reach("publisher", region)
    assert story.conditions(1) == {condition}
    story.facts.pop()


def test_a_round_that_began_before_the_store_does_not_count():
    story = poked("x86_64", "sync")
    region = story.facts.pop().fields[0]
    story.tell("serialize", "t", 5, "all", "sync_core")
    story.reach("t", region)
    assert story.conditions(1) == {"stale-trap"}


@pytest.mark.parametrize(
    ("how", "caller", "features", "condition"),
    [
        ("ipi", "cpa_flush", {}, "synchronized"),
        ("ipi", "cpa_flush", {"fred": True}, "stale-trap"),
        ("broadcast", "cpa_flush", {}, "stale-trap"),
        ("ipi", "purge_flush", {}, "stale-trap"),
        ("ipi", "split_flush", {}, "stale-trap"),
        ("ipi", "collapse_flush", {}, "stale-trap"),
    ],
)
def test_which_flushes_synchronize(how, caller, features, condition):
    story = poked("x86_64", "sync", features=features)
    region = story.facts.pop().fields[0]
    story.flush("t", how=how, caller=caller)
    story.reach("t", region)
    assert story.conditions(1) == {condition}


@pytest.mark.parametrize("how", ["ipi", "rfence"])
def test_no_flush_is_a_fence(how):
    story = poked("riscv64", "sync")
    region = story.facts.pop().fields[0]
    story.flush("t", how=how)
    story.icache("t", how="fence.i-local")
    story.reach("t", region)
    assert story.conditions(1) == {"icache"}


def test_unmapped_and_flushed_text_is_in_no_pipeline():
    for flush in (True, False):
        story = poked("x86_64", "sync")
        region = story.facts.pop().fields[0]
        story.map("t", region.own, "none")
        if flush:
            story.flush("t", how="broadcast")
        story.map("t", region.own, "ro-x")
        story.reach("t", region)
        assert story.conditions(1) == {"not-fetchable" if flush else "stale-trap"}


def test_promises_on_entry():
    story = poked("x86_64", "sync")
    region = story.facts.pop().fields[0]
    story.tell("entry", "t")
    story.reach("t", region)
    assert story.conditions(1) == {"entry"}
    assert story.conditions(2) == {"torn-then-synchronized"}


def test_traps_that_are_retried():
    assert poked("x86_64", "sync", retries=True).conditions(1) == {"retried"}
    assert poked("x86_64", "sync", retries=True, content="code").conditions(1) == {"stale-code"}


def test_the_writers_own_cpu():
    story = Story("x86_64")
    area = story.area()
    story.map("t", area, "ro-x")
    story.store("t", area.va, through="direct-map")
    story.sync("t", "others", "round")
    story.reach("t", story.region(area))
    assert story.conditions(1) == {"own-cpu"}


@pytest.mark.parametrize("skip", [set(), {"first"}, {"middle"}, {"order"}])
def test_the_trap_protocol(skip):
    story = Story("x86_64")
    area = story.area()
    story.map("t", area, "rw-nx")
    story.store("t", area.va, PAGE, "trap")
    story.map("t", area, "ro-x")
    story.store("t", area.va, 1, "trap", "mm")
    if "first" not in skip:
        story.sync("t")
    if "order" in skip:
        story.store("t", area.va, 1, "code", "mm")
    story.store("t", area.va + 1, 255, "code", "mm")
    if "middle" not in skip:
        story.sync("t")
    if "order" not in skip:
        story.store("t", area.va, 1, "code", "mm")
    story.tell("window", "t", "mm", area.va, 1, True)
    story.tell("window", "t", "mm", area.va, 1, False)
    story.sync("t")
    story.reach("t", story.region(area))
    assert story.conditions(1) == {"synchronized"}
    assert story.conditions(2) == {"atomic", "torn-then-synchronized" if skip else "kept-out"}


def test_writing_while_everybody_is_stopped():
    story = poked("x86_64", "store", "sync")
    region = story.facts.pop().fields[0]
    begin = story.now + 1
    story.store("t", region.va, 256, "code", "mm")
    story.tell("serialize", "t", begin, "all", "stop_machine")
    story.reach("t", region)
    assert story.conditions(1) == {"synchronized"}
    assert story.conditions(2) == {"kept-out"}


def test_live_text():
    story = poked("x86_64")
    region = story.facts[-1].fields[0]
    story.store("t", region.va, 256, "code", "mm")
    story.unreach("t", region)
    assert "torn-live" in story.conditions(2)
    assert "stale-code" in story.conditions(1)
    assert story.conditions(5) == {"reachable"}


# --- 3 ----------------------------------------------------------------------------------------------------------------


def mapped(arch: str, *, was: str, sync: bool, flush: bool, kind: TextKind = TextKind.BPF) -> set[str]:
    """A page that was absent, or not executable, becomes executable and is published."""
    story = Story(arch)
    area = story.area()
    if was == "nx":
        story.map("t", area, "ro-nx")
    story.map("t", area, "ro-x")
    if flush:
        story.flush("t", area.va, 1, "broadcast")
    if sync:
        story.sync("t", "others", "kick_all_cpus_sync")
    story.reach("t", story.region(area, kind=kind))
    return story.conditions(3)


def test_absent_entries():
    assert mapped("x86_64", was="none", sync=False, flush=False) == {"none"}
    assert mapped("riscv64", was="none", sync=False, flush=False) == {"none"}
    assert mapped("arm64", was="none", sync=False, flush=False) == {"none-fault"}
    assert mapped("arm64", was="none", sync=True, flush=False) == {"synchronized"}
    assert mapped("arm64", was="none", sync=False, flush=False, kind=TextKind.USER) == {"user"}


def test_entries_that_forbade_execution():
    assert mapped("x86_64", was="nx", sync=False, flush=True) == {"nx"}
    assert mapped("x86_64", was="nx", sync=False, flush=False) == {"nx-not-flushed"}
    assert mapped("riscv64", was="nx", sync=False, flush=True) == {"nx"}
    assert mapped("riscv64", was="nx", sync=False, flush=False) == {"nx-not-flushed"}
    assert mapped("arm64", was="nx", sync=True, flush=True) == {"synchronized"}
    assert mapped("arm64", was="nx", sync=False, flush=True) == {"nx-fault"}
    assert mapped("arm64", was="nx", sync=True, flush=False) == {"nx-not-flushed"}


def test_a_kick_before_the_text_is_executable_leaves_the_fault():
    assert sealed("arm64", "sync").conditions(3) == {"nx-fault"}
    assert sealed("arm64").conditions(3) == {"synchronized"}


# --- 4 ----------------------------------------------------------------------------------------------------------------


def reused(*flushes: str) -> set[str]:
    story = Story()
    old, new = story.area(pfn=1), story.area(pfn=2)
    story.map("a", old, "ro-x")
    if "before" in flushes:
        story.flush("a", how="broadcast")
    story.map("a", old, "none")
    if "begun before" in flushes:
        story.tell("flush", "a", story.now - 5, 0, 0, "ipi", "x")
    if "there, begun before" in flushes:
        story.tell("flush", "a", story.now - 5, old.va, 1, "ipi", "x")
    if "elsewhere" in flushes:
        story.flush("a", old.va + PAGE, 4)
    if "local" in flushes:
        story.flush("a", how="local")
    if "there" in flushes:
        story.flush("b", old.va, 1)
    if "all" in flushes:
        story.flush("b")
    story.map("a", new, "none")
    story.map("a", new, "rw-nx")
    return story.conditions(4)


@pytest.mark.parametrize(
    "flushes", [(), ("before",), ("begun before",), ("there, begun before",), ("elsewhere",), ("local",)]
)
def test_an_address_used_again_too_early(flushes):
    assert reused(*flushes) == {"reused"}


@pytest.mark.parametrize("flushes", [("there",), ("all",)])
def test_an_address_used_again_behind_a_flush(flushes):
    assert reused(*flushes) == set()


def test_one_step_from_writable_to_executable():
    story = sealed("x86_64", "ro", "flush-ro")
    assert story.conditions(4) == {"overlap", "flushed"}
    assert sealed("x86_64").conditions(4) == {"flushed"}


def test_one_translation_that_allows_both_is_no_overlap():
    story = Story()
    area = story.area()
    for perm in ("rw-x", "none", "rw-x", "none"):
        story.map("t", area, perm)
    assert story.conditions(4) == set()


def test_writable_again_before_the_flush_of_execution():
    for flush in (True, False):
        story = sealed("x86_64")
        area = story.facts[0].fields[0]
        story.map("t", area, "ro-nx")
        if flush:
            story.flush("t")
        story.map("t", area, "rw-nx")
        assert ("overlap" in story.conditions(4)) is not flush


def test_published_before_the_flush():
    assert sealed("x86_64", "ro", "flush-ro", "flush-x").conditions(4) == {"overlap", "downgrade"}


def test_direct_map_read_only_without_a_flush():
    story = Story()
    area = story.area()
    story.alias("t", area, "ro")
    story.map("t", area, "ro-x")
    story.reach("t", story.region(area))
    assert story.conditions(4) == {"downgrade", "flushed"}


# --- 5 ----------------------------------------------------------------------------------------------------------------


def freed(*between: str, inside: str = "rcu", how: str = "store", **platform: object) -> set[str]:
    story = poked("x86_64", **platform)
    region = story.facts.pop().fields[0]
    story.reach("t", region, inside=inside)
    if "early" in between:
        story.tell("gp", None, "rcu", "start")
    if "reachable" not in between:
        story.unreach("t", region)
    if "early" in between:
        story.tell("gp", None, "rcu", "end")
    for flavour in between:
        if flavour not in ("early", "reachable"):
            story.gp(flavour)
    if how == "store":
        story.store("t", region.va + 10, 8, "trap", "mm")
    elif how == "map":
        story.map("t", region.own, "ro-nx")
    else:
        story.tell("freed", "t", region.own)
    return story.conditions(5)


@pytest.mark.parametrize("how", ["store", "map", "freed"])
def test_frees(how):
    assert freed("rcu", how=how) == {"waited"}
    assert freed(how=how) == {"no-grace-period"}
    assert freed("early", how=how) == {"no-grace-period"}
    assert freed("reachable", "rcu", how=how) == {"reachable"}


def test_flavours():
    assert freed("expedited") == {"waited"}
    assert freed("rcu", inside="tasks") == {"wrong-flavour"}
    assert freed("tasks", inside="tasks") == {"waited"}
    assert freed("tasks", inside="tasks+trace") == {"wrong-flavour"}
    assert freed("tasks", "trace", inside="tasks+trace") == {"waited"}
    assert freed("rude", inside="rude") == {"waited"}
    assert freed(inside="none") == {"nobody-inside"}
    assert freed("rcu", inside="tasks", tasks_rcu=False) == {"waited"}


def test_the_flavour_that_would_have_sufficed_is_named():
    story = poked("x86_64")
    region = story.facts.pop().fields[0]
    story.reach("t", region, inside="tasks+trace")
    story.unreach("t", region)
    story.gp("rcu")
    story.store("t", region.va, 8, "trap", "mm")
    (found,) = [found for found in story.end().found.values() if found.hazard == 5]
    assert found.detail == "a grace period of Tasks RCU and a grace period of Tasks Trace RCU would have sufficed"


def test_what_was_never_published_may_be_freed_at_once():
    story = poked("x86_64")
    region = story.facts.pop().fields[0]
    story.map("t", region.own, "none")
    assert story.conditions(5) == set()


# --- 6 ----------------------------------------------------------------------------------------------------------------


def statuses(story: Story) -> dict[str, str]:
    return {kind: one.status for kind, one in story.end().exposures.items() if one.status != "never"}


def test_windows_of_a_private_mm():
    found = poked("x86_64").end().exposures["mm"]
    assert (found.status, found.windows, found.longest) == ("windows", 1, 10)


def test_a_window_on_what_nobody_can_fetch_is_none():
    story = sealed("x86_64")
    story.facts[:] = story.facts[:1]
    story.tell("window", "t", "fixmap", 0x10000, 64, True)
    story.tell("window", "t", "fixmap", 0x10000, 64, False)
    assert statuses(story) == {}


def test_direct_map():
    assert statuses(sealed("x86_64")) == {}
    assert statuses(sealed("x86_64", "alias")) == {"direct": "permanent"}
    story = sealed("x86_64", "alias")
    region = story.facts.pop().fields[0]
    story.alias("t", region.own, "ro")
    story.flush("t")
    story.reach("t", region)
    assert statuses(story) == {"direct": "windows"}
    assert story.end().exposures["direct"].windows == 1


def test_direct_map_read_only_counts_from_its_flush():
    story = Story("arm64")
    area = story.area()
    linear = 0xFFFF_0000_0000_0000 + 100 * PAGE
    for flush in (True, False):
        story = Story("arm64")
        area = story.area()
        story.alias("t", area, "ro")
        if flush:
            story.flush("t", linear, 1, "broadcast", "linear_alias_flush")
        story.map("t", area, "ro-x")
        story.reach("t", story.region(area))
        assert statuses(story) == ({} if flush else {"direct": "windows"})


def test_its_own_mapping():
    story = Story()
    area = story.area()
    story.map("t", area, "rw-x")
    story.alias("t", area, "ro")
    story.flush("t")
    story.reach("t", story.region(area))
    assert statuses(story) == {"text": "permanent", "direct": "windows"}
    story = sealed("x86_64")
    region = story.facts[-1].fields[0]
    story.map("t", region.own, "rw-x")
    story.map("t", region.own, "ro-x")
    assert statuses(story) == {"text": "windows"}
    story = sealed("x86_64")
    region = story.facts[-1].fields[0]
    story.map("t", region.own, "rw-x")
    story.unreach("t", region)
    story.map("t", region.own, "ro-x")
    assert statuses(story) == {"text": "windows"}


def test_an_alias_that_stays():
    for closed in (True, False):
        story = Story()
        area = story.area()
        story.alias("t", area, "ro")
        story.flush("t")
        story.tell("window", "t", "user", area.va, PAGE, True)
        story.map("t", area, "ro-x")
        region = story.region(area)
        story.reach("t", region)
        if closed:
            story.tell("window", "t", "user", area.va, PAGE, False)
        story.unreach("t", region)
        if not closed:
            story.tell("window", "t", "user", area.va, PAGE, False)
        assert statuses(story) == {"user": "windows" if closed else "permanent"}


def test_future_text():
    assert sealed("x86_64").end().future == ("text",)
    assert poked("x86_64").end().future == ()
    assert poked("arm64", through="fixmap").end().future == ("fixmap",)
    story = poked("x86_64")
    region = story.facts[-1].fields[0]
    story.tell("verb", "t", "write", region, True)
    story.tell("verb", "t", "write", region, False)
    assert story.end().future == ("scratch",)
    story.tell("verb", "t", "write", region, True)
    story.store("t", region.va, 256, "code", "mm")
    story.tell("verb", "t", "write", region, False)
    assert story.end().future == ("scratch",)
