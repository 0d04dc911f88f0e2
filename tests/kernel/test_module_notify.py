"""Whom modules' notifiers wait for: each takes its mutex for every module, at every event, in the kernel's order."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.contract import Proc
from execbench.kernel.facade import Kernel
from execbench.kernel.module_notify import KPROBE_TABLE_SIZE, module_coming, module_going, module_live
from tests.kernel.bench import Bench

LIVE = ["jump_label_mutex", "event_mutex", "static_call_mutex", "kprobe_mutex"]
"""On x86_64, in the order of priority and registration (module_notify_list)."""
EVENTS = {
    "coming": (lambda k: module_coming(k, (), 0, "per-site"), ["klp_mutex", *LIVE]),
    "live": (module_live, LIVE),
    "going": (module_going, [*LIVE, "klp_mutex"]),
}


def locks_of(event: str, arch: str, release: str) -> list[str]:
    bench = Bench(arch, release)
    taken: list[str] = []

    class Ear:
        def lock(self, t: int, task: Any, name: str, kind: str, taken_: bool) -> None:
            if taken_:
                taken.append(name)

    bench.machine.probe.attach(Ear())
    bench.task(EVENTS[event][0])
    bench.run()
    assert bench.counts["smp_text_poke_batch_finish"] == 0  # nothing to patch
    return taken


@pytest.mark.parametrize("event", EVENTS)
def test_each_takes_its_mutex_for_every_module(event: str) -> None:
    for release in ("6.1", "6.12", "6.18", "7.3"):
        assert locks_of(event, "x86_64", release) == EVENTS[event][1]


@pytest.mark.parametrize("event", EVENTS)
def test_architectures_without_inline_static_calls_or_live_patching_take_fewer(event: str) -> None:
    fewer = [name for name in EVENTS[event][1] if name not in ("static_call_mutex", "klp_mutex")]
    assert locks_of(event, "riscv64", "7.3") == fewer
    assert locks_of(event, "arm64", "6.12") == fewer
    with_live_patching = [name for name in EVENTS[event][1] if name != "static_call_mutex"]
    assert locks_of(event, "arm64", "7.3") == with_live_patching


def test_a_module_waits_for_who_holds_kprobe_mutex() -> None:
    """The optimizer of kprobes holds it over a grace period of Tasks RCU."""
    bench = Bench()
    at: dict[str, int] = {}

    def optimizer(k: Kernel) -> Proc[None]:
        with (yield from k.lock("kprobe_mutex")):
            yield from k.sleep_until(50_000_000)

    def loader(k: Kernel) -> Proc[None]:
        yield from module_live(k)
        yield from k.settle()
        at["live"] = k.now

    bench.task(optimizer, 0)
    bench.task(loader, 1, start=1_000)
    bench.run()
    assert at["live"] > 50_000_000


def test_all_lists_of_kprobes_are_walked_once_a_module_is_live() -> None:
    bench = Bench()
    bench.task(module_live)
    bench.run()
    assert ("list_walk", KPROBE_TABLE_SIZE) in bench.spent
