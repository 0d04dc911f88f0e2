"""The line of a trace that says who could have fetched, for every hazard."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from execbench.contract import TextKind
from execbench.record.audit import verdicts
from tests.audit.runs import judged
from tests.audit.story import PAGE, Story, retired_and_unmapped

T = SimpleNamespace(name="t", cpu=SimpleNamespace(id=3))
OTHER = SimpleNamespace(name="u", cpu=SimpleNamespace(id=5))


def poked(arch: str, through: str = "mm", publisher=T, kind: TextKind = TextKind.BPF) -> Story:
    """Filled with traps, made executable, written through an alias at t = 70, published."""
    story = Story(arch, cpus=8)
    area = story.area()
    region = story.region(area, kind=kind)
    story.map("a", area, "rw-nx")
    story.store("a", area.va, PAGE, "trap")
    story.map("a", area, "ro-nx")
    story.flush("a")
    story.map("a", area, "ro-x")
    story.flush("a")
    if through == "mm":
        story.tell("window", T, "mm", area.va, 256, True)
    story.store(T, area.va, 256, "code", through)
    if through == "mm":
        story.tell("window", T, "mm", area.va, 256, False)
    story.reach(publisher, region)
    return story


def could(story: Story, hazard: int) -> str:
    """The line of the shortest trace."""
    trace = verdicts(story.end())[hazard].trace
    (line,) = [line for line in trace if line.startswith(("meanwhile", "from then on"))]
    return line


def test_the_writers_cpu_is_spared_once_it_has_synchronized_itself():
    line = could(poked("x86_64"), 1)
    assert line == ("meanwhile, up to +30 ns, any CPU but CPU 3 (7 of 8) could have fetched 0x10000..0x10100 as it was "
                    "before the store (traps), and keep it")  # fmt: skip
    assert "any CPU (of 8) could" in could(poked("x86_64", "direct-map"), 1)


def test_a_publisher_elsewhere_is_not_spared():
    assert "any CPU but CPU 3 (7 of 8)" in could(poked("x86_64", publisher=OTHER), 1)


def test_who_stores_does_not_fetch_it_half_written():
    line = could(poked("x86_64", "direct-map"), 2)
    assert "any CPU but CPU 3 (7 of 8) could have fetched 0x10000..0x10100 half written, and keep it" in line


def test_text_of_a_process_is_fetched_by_those_who_run_it():
    assert "any CPU that runs the process but CPU 3 could" in could(poked("x86_64", kind=TextKind.USER), 1)


def test_only_the_writers_own_cpu():
    story = Story("x86_64", cpus=8)
    area = story.area()
    story.map("a", area, "ro-x")
    story.store(T, area.va, 256, "code", "direct-map")
    story.sync(T, "others")
    story.reach(T, story.region(area))
    assert story.conditions(1) == {"own-cpu"}
    assert "ns, CPU 3 could have fetched" in could(story, 1)


def test_caches_keep_what_a_frame_held():
    line = could(poked("riscv64"), 1)
    assert "any CPU (of 8) could have fetched 0x10000..0x10100 into its instruction cache in an earlier life" in line


def test_hazard_3_names_the_speculative_fetch():
    story = Story("arm64", cpus=8)
    area = story.area()
    story.map(T, area, "rw-nx")
    story.store(T, area.va)
    story.icache(T, area.va, 256)
    story.sync(T, "others")
    story.map(T, area, "ro-x")
    story.flush(T, how="broadcast")
    story.reach(T, story.region(area))
    line = could(story, 3)
    assert "any CPU (of 8) could have fetched 0x10000..0x10100 ahead, speculatively, and keep the fault" in line
    assert line.startswith("meanwhile, up to +10 ns, ")


@pytest.mark.parametrize(("condition", "words"), [
    ("reused", "any CPU that used the old mapping"), ("overlap", "one CPU could fetch what another could still write"),
])  # fmt: skip
def test_hazard_4(condition, words):
    story = Story("x86_64")
    story.map("t", story.area(), "rw-nx")
    if condition == "reused":
        story.map("t", story.area(), "none")
        story.map("u", story.area(pfn=200), "rw-nx")
    else:
        area = story.area(va=0x40000)
        story.map("t", area, "rw-nx")
        story.map("t", area, "ro-x")
    assert story.conditions(4) == {condition}
    judgement = verdicts(story.end())[4]
    assert words in judgement.trace[-1]


def test_hazard_5_names_the_tasks_inside():
    story = retired_and_unmapped()
    assert "any task inside, running or preempted on any CPU" in verdicts(story.end())[5].trace[-1]


def test_every_open_verdict_of_a_run_says_who():
    for arm, arch in (("bpf_prog_pack", "x86_64"), ("module_alloc", "arm64"), ("jit_text_alloc", "riscv64")):
        for judgement in judged(arm, arch).values():
            if not judgement.verdict.excluded and judgement.trace:
                assert any(" could " in line for line in judgement.trace), judgement
