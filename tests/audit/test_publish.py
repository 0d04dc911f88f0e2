"""What each path of publication forces, and that a run can ask for another than its clients take."""

from __future__ import annotations

import pytest

from execbench.contract import Region, Setting, TextKind
from execbench.kernel.publish import PASSIVE, PATHS, publish
from execbench.replay import replay
from tests.audit.runs import spec_of
from tests.kernel.bench import Bench

FORCED = {
    ("text-poke", "x86_64"): ["serialize", "serialize", "serialize"],
    ("ftrace", "x86_64"): ["serialize", "serialize", "serialize"],
    ("text-poke", "arm64"): ["serialize"],
    ("ftrace", "arm64"): [],
    ("text-poke", "riscv64"): ["icache"],
    ("ftrace", "riscv64"): ["icache", "icache"],
}
"""What reaches other CPUs before the publication."""


def told(arch: str, via: str) -> list[str]:
    bench = Bench(arch)
    region = Region(1, 0x1000, 100, 100, TextKind.BPF)
    bench.task(lambda k: publish(k, region, via, "tasks"))
    bench.run()
    *before, last = [fact for fact in bench.facts if fact[0] in ("serialize", "icache", "reach", "flush")]
    assert last[0] == "reach"
    assert last[2:] == (region, via, "tasks")
    return [
        event
        for event, _, *fields in before
        if (event == "serialize" and fields[1] != "self") or (event == "icache" and fields[3] == "fence.i-all")
    ]


@pytest.mark.parametrize("arch", ["x86_64", "arm64", "riscv64"])
@pytest.mark.parametrize("via", list(PATHS))
def test_what_a_path_forces(via, arch):
    assert told(arch, via) == ([] if via in PASSIVE else FORCED[via, arch])


def test_passive_paths_do_nothing_at_all():
    for via in PASSIVE:
        bench = Bench()
        bench.task(lambda k, via=via: publish(k, Region(1, 0x1000, 100, 100, TextKind.BPF), via))
        bench.run()
        assert [event for event, *_ in bench.facts] == ["reach"]
        assert not bench.spent


def test_unknown_paths_are_refused():
    bench = Bench()
    bench.task(lambda k: publish(k, Region(1, 0, 1, 1, TextKind.BPF), "carrier pigeon"))
    with pytest.raises(ValueError, match="carrier pigeon"):
        bench.run()


def test_a_run_may_ask_for_another_path():
    bench = Bench()
    region = Region(1, 0x1000, 100, 100, TextKind.BPF)
    for asked, taken in ((None, "fd-only"), ("text-poke", "text-poke")):
        bench.forget()
        setting = Setting(bench.shared, None, None, 1, 0, 0, lambda name: [], publication=asked)
        bench.task(lambda k, setting=setting: setting.publish(k, region, "fd-only"))
        bench.run()
        assert bench.facts[-1][2:] == (region, taken, "rcu")


def test_clients_publish_and_retire_what_they_load():
    findings, _ = replay(spec_of("bpf_prog_pack", "x86_64"), 0)
    assert findings.paths == {"fd-only"}
    assert findings.conditions(5) == {"waited"}
    asked, _ = replay(spec_of("bpf_prog_pack", "x86_64"), 0, "ftrace")
    assert asked.paths == {"ftrace"}
