"""A sink that replays the facts of a run and says where they contradict each other, or what text must keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from execbench.conformance.lockdep import Expect, Lockdep
from execbench.conformance.mappings import EXECUTABLE, NONE, Mappings
from execbench.conformance.places import DATA
from execbench.contract import Region
from execbench.sim.memory import VmArea
from execbench.sim.memory.table import CODE
from execbench.sim.task import Task

USER_TOP: Final = 1 << 47
"""First byte address above user space on all architectures modelled here."""
_BYTE: Final = {"code": b"\1", "site": b"\1", "trap": b"\2"}


@dataclass(slots=True, eq=False)
class _Text:
    """What is known of a live region: what each byte was stored last, and how far its client has come."""

    region: Region
    content: bytearray
    finished: bool = False
    reachable: bool = False
    leaving: bool = False
    whole: bool = False
    """Every byte was code when somebody looked last; nobody has stored there since."""

    @property
    def missing(self) -> int:
        """Bytes that hold no code."""
        self.whole = self.whole or self.content == _BYTE["code"] * len(self.content)
        return 0 if self.whole else len(self.content) - self.content.count(1)


@dataclass(slots=True, eq=False)
class Ledger:
    """Hears the facts and the locks of all tasks in the order of the program; `expect` is told every rule.

    wx: the backend says that its text is writable and executable at once. Who calls the verbs says what they have
    returned: `taken`, `finished`, `changing`, `leaving`, `gone`.
    """

    expect: Expect
    wx: bool
    mappings: Mappings = field(init=False)
    locks: Lockdep = field(init=False)
    _texts: dict[Region, _Text] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing has happened yet."""
        self.mappings = Mappings(self.expect, self.wx)
        self.locks = Lockdep(self.expect)

    # --- what the verbs have returned ---------------------------------------------------------------------------------

    def taken(self, regions: Iterable[Region]) -> None:
        """Alloc has returned these."""
        for region in regions:
            for text in self._texts.values():
                other = text.region
                apart = region.va + region.reserved <= other.va or other.va + other.reserved <= region.va
                apart = apart or text.leaving  # its verb gives it back before it returns
                self.expect("live regions do not overlap", apart, (region, other))
            self._texts[region] = _Text(region, bytearray(region.size))

    def finished(self, regions: Iterable[Region]) -> None:
        """Finalize, or rewrite, has returned: all bytes are there, text executes and data does not."""
        for region in regions:
            text = self._texts[region]
            text.finished = True
            self.expect("every byte of a finished region is stored", not text.missing, (region, text.missing))
            data = region.kind in DATA
            rule = "finished data is not executable" if data else "finished text is executable"
            self.expect(rule, self._executable(region, not data), region)

    def changing(self, region: Region) -> None:
        """Rewrite begins."""
        self._texts[region].finished = False

    def leaving(self, regions: Iterable[Region]) -> None:
        """Free begins."""
        for region in regions:
            self._texts[region].leaving = True

    def gone(self, regions: Iterable[Region]) -> None:
        """Free has returned."""
        for region in regions:
            del self._texts[region]

    def returned(self, task: Task) -> None:
        """A task is in no verb: it holds no lock, and what is finished is still what was written."""
        self.locks.returned(task)
        for text in self._texts.values():
            if text.finished and not text.leaving:
                self.expect("finished text keeps its bytes", not text.missing, (text.region, text.missing))

    @property
    def live(self) -> bool:
        """Whether some text is finished and not being freed."""
        return any(text.finished and not text.leaving for text in self._texts.values())

    def _executable(self, region: Region, wanted: bool) -> bool:
        """Say whether all pages of a region execute, or none does; pages of user space may be absent until used."""
        _, codes = self.mappings.pages(region.va, region.size)
        user = region.va < USER_TOP
        fitting = all((code in EXECUTABLE) == wanted or (user and code == NONE) for code in codes)
        return fitting and (user or bool(codes))

    # --- sinks of the probe -------------------------------------------------------------------------------------------

    def lock(self, at: int, task: Task, name: str, kind: str, taken: bool) -> None:
        """A lock was taken, or is released."""
        self.locks.lock(at, task, name, kind, taken)

    def fact(self, at: int, task: Task, event: str, fields: tuple[Any, ...]) -> None:
        """Something became of it."""
        match event:
            case "map":
                self.mappings.map(*fields)
                self._still_executable(*fields)
            case "freed" | "alias" | "window":
                getattr(self.mappings, event)(*fields)
            case "store":
                self._store(*fields)
            case "reach" | "fetch" | "unreach":
                self._reach(event, fields[0])

    def _reach(self, event: str, region: Region) -> None:
        text = self._texts.get(region)
        ready = text is not None and text.finished and not text.leaving
        self.expect("nothing is reached before it is finalized", ready or event == "unreach", region)
        if text is not None and event != "fetch":
            text.reachable = event == "reach"

    def _still_executable(self, area: VmArea, first: int, pages: int, perm: str) -> None:
        if CODE[perm] in EXECUTABLE:
            return
        low, high = area.at(first), area.at(first + pages)
        for text in self._texts.values():
            region = text.region
            hit = text.reachable and low < region.va + region.size and region.va < high and region.kind not in DATA
            self.expect("text stays executable while it is reachable", not hit, (region, perm))

    def _store(self, va: int, size: int, content: str, through: str) -> None:
        if not va or not size:  # a site of the kernel's own image, which is not modelled; or nothing to fill
            return
        writable = self.mappings.writable(va, size, through)
        self.expect("stores go through an alias that is writable", writable, (hex(va), size, through))
        inside = False
        for text in self._texts.values():
            region = text.region
            low, high = max(va, region.va), min(va + size, region.va + region.size)
            if low < high:
                text.whole = False
                text.content[low - region.va : high - region.va] = _BYTE[content] * (high - low)
            inside = inside or (region.va <= va and va + size <= region.va + region.reserved)
        self.expect("code is stored inside a live region", inside or content != "code", (hex(va), size))

    def close(self) -> None:
        """Nobody does anything any more."""
        self.mappings.close()
        self.locks.close()
