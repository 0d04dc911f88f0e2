"""Facts told by hand: a tiny world of areas, regions and tasks, and a clock that ticks with every fact."""

from __future__ import annotations

from typing import Any

from execbench.contract import Region, TextKind
from execbench.record.audit import Fact, Findings, Platform, analyse
from execbench.sim.memory import PAGE, Run, VmArea


class Story:
    """Each method tells one fact at the next nanosecond; `end` returns what the facts permit."""

    def __init__(self, arch: str = "x86_64", **platform: Any) -> None:
        self.platform = Platform(arch, **platform)
        self.facts: list[Fact] = []
        self.now = 0
        self.regions = 0

    def tell(self, event: str, task: Any, *fields: Any) -> int:
        self.now += 10
        self.facts.append(Fact(self.now, len(self.facts), event, task, fields))
        return self.now

    def area(self, va: int = 0x10000, pages: int = 1, pfn: int = 100) -> VmArea:
        return VmArea(va, pages, 0, "w", (Run(pfn, pages),))

    def region(self, area: VmArea, offset: int = 0, size: int = 256, kind: TextKind = TextKind.BPF) -> Region:
        self.regions += 1
        return Region(self.regions, area.va + offset, size, size, kind, area)

    def map(self, task: str, area: VmArea, perm: str, first: int = 0, pages: int | None = None) -> None:
        self.tell("map", task, area, first, area.pages if pages is None else pages, perm)

    def alias(self, task: str, area: VmArea, perm: str) -> None:
        for pfn, n in area.runs:
            self.tell("alias", task, "direct", pfn, n, perm)

    def store(self, task: str, va: int, size: int = 256, content: str = "code", through: str = "text") -> None:
        self.tell("store", task, va, size, content, through)

    def flush(self, task: str, va: int = 0, pages: int = 0, how: str = "ipi", caller: str = "cpa_flush") -> None:
        begin = self.now + 1
        self.tell("flush", task, begin, va, pages, how, caller)

    def sync(self, task: str, cpus: str = "all", why: str = "sync_core") -> None:
        begin = self.now + 1
        self.tell("serialize", task, begin, cpus, why)

    def icache(self, task: str, va: int = 0, size: int = 0, how: str = "ic-ivau") -> None:
        begin = self.now + 1
        self.tell("icache", task, begin, va, size, how)
        if how == "ic-ivau":
            self.tell("serialize", task, self.now, "self", "isb")

    def reach(self, task: str, region: Region, via: str = "pointer", inside: str = "rcu") -> None:
        self.tell("reach", task, region, via, inside)

    def unreach(self, task: str, region: Region) -> None:
        self.tell("unreach", task, region)

    def gp(self, flavour: str = "rcu") -> None:
        self.tell("gp", None, flavour, "start")
        self.tell("gp", None, flavour, "end")

    def end(self) -> Findings:
        return analyse(self.facts, self.platform)

    def conditions(self, hazard: int) -> set[str]:
        return self.end().conditions(hazard)


__all__ = ["PAGE", "Story"]


def retired_and_unmapped() -> Story:
    """Text that was published, retired, and unmapped at once: nothing waited for who was inside."""
    story = Story("x86_64")
    area = story.area()
    region = story.region(area)
    story.map("t", area, "ro-x")
    story.store("t", area.va)
    story.reach("t", region)
    story.unreach("t", region)
    story.map("t", area, "none")
    return story
