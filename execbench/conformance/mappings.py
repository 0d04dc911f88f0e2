"""The mappings of a run as its facts tell them: protections by page, the direct map, temporary aliases."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from execbench.conformance.lockdep import Expect
from execbench.sim.memory import KernelMap, VmArea
from execbench.sim.memory.table import CODE, NAMES

NONE: Final = CODE["none"]
WRITABLE: Final = frozenset((CODE["rw-nx"], CODE["rw-x"]))
EXECUTABLE: Final = frozenset((CODE["ro-x"], CODE["rw-x"]))


@dataclass(slots=True, eq=False)
class Mappings:
    """Replays `map`, `freed`, `alias` and `window`; `expect` is told every rule.

    wx: the backend says that its text is writable and executable at once.
    """

    expect: Expect
    wx: bool
    seen_wx: bool = False
    _areas: dict[VmArea, bytearray] = field(default_factory=dict)
    _line: list[tuple[int, VmArea]] = field(default_factory=list)
    """Areas by address."""
    _closed: dict[int, str] = field(default_factory=dict)
    """Frames whose direct map is not writable."""
    _windows: Counter[tuple[str, int, int]] = field(default_factory=Counter)

    def map(self, area: VmArea, first: int, pages: int, perm: str) -> None:
        """Pages of an area have this protection now."""
        if area not in self._areas:
            self._add(area)
        self.expect("a mapping changes inside its area", first >= 0 and 0 < pages <= area.pages - first, (first, pages))
        codes = self._areas[area]
        present = any(codes)
        codes[first : first + pages] = bytes([CODE[perm]]) * pages
        if perm == "rw-x":
            self.seen_wx = True
            self.expect("no page is writable and executable", self.wx, area)
        if area.window == "user" and present and not any(codes):
            self._forget(area)  # frames of a file stay, so nobody tells that they go

    def _add(self, area: VmArea) -> None:
        """Know an area; where nothing is present an address may be another's before the frames go back."""
        for va, other in [*self._line]:
            if va < area.end and area.va < other.end:
                absent = not any(self._areas[other])
                self.expect("mappings do not overlap", absent, (area, other))
                self._line.remove((va, other))
                if absent and area.window == "user":  # nobody tells that such an address is given back
                    del self._areas[other]
        insort(self._line, (area.va, area), key=lambda placed: placed[0])
        self._areas[area] = bytearray(area.pages)

    def _forget(self, area: VmArea) -> None:
        del self._areas[area]
        if (area.va, area) in self._line:
            self._line.remove((area.va, area))

    def freed(self, area: VmArea) -> None:
        """The frames of an area went back."""
        if area.window == "user":
            return
        absent = not any(self._areas.get(area, b"\1"))
        self.expect("frames go back when nothing maps them", absent, area)
        closed = [pfn for run in area.runs for pfn in range(run.pfn, run.pfn + run.n) if pfn in self._closed]
        self.expect("frames go back with a direct map that is writable", not closed, closed[:3])
        if area in self._areas:
            self._forget(area)

    def alias(self, kind: str, pfn: int, pages: int, perm: str) -> None:
        """Frames have this protection in the direct map now."""
        if perm.startswith("rw"):
            for page in range(pfn, pfn + pages):
                self._closed.pop(page, None)
        else:
            self._closed.update(dict.fromkeys(range(pfn, pfn + pages), perm))

    def window(self, kind: str, va: int, size: int, opened: bool) -> None:
        """A temporary alias of text was made, or is gone."""
        self._windows[kind, va, size] += 1 if opened else -1

    def writable(self, va: int, size: int, through: str) -> bool:
        """Say whether text at `va` can be written through an alias of this kind."""
        if through in ("mm", "fixmap", "user"):
            return any(
                n and kind == through and low <= va and va + size <= low + length
                for (kind, low, length), n in self._windows.items()
            )
        area, codes = self.pages(va, size)
        if through == "text":
            return bool(codes) and all(code in WRITABLE for code in codes)
        if area is None or area.window == "user":  # the kernel's own map of a file that need not be mapped
            return True
        runs = area.frames((va - area.va) // area.page, len(codes))
        return not any(pfn in self._closed for run in runs for pfn in range(run.pfn, run.pfn + run.n))

    def pages(self, va: int, size: int) -> tuple[VmArea | None, bytearray]:
        """Return the area that holds an address range, and the protections of its pages; none if there is none."""
        at = bisect_right(self._line, va, key=lambda placed: placed[0])
        area = self._line[at - 1][1] if at else None
        if area is None or va + size > area.va + area.size:
            return None, bytearray()
        first, last = (va - area.va) // area.page, (va + size - 1 - area.va) // area.page
        return area, self._areas[area][first : last + 1]

    @property
    def mapped(self) -> int:
        """Bytes of all areas; those of user space count while a page of them is present."""
        return sum(area.size for area, codes in self._areas.items() if area.window != "user" or any(codes))

    def agrees(self, text_map: KernelMap) -> None:
        """The protections that were told are those of the kernel's page tables."""
        for area, codes in self._areas.items():
            if area.window == "user":
                continue
            held = area in text_map
            pairs = [(NAMES[code], text_map.perm(area, page) if held else "none") for page, code in enumerate(codes)]
            differ = [(page, *pair) for page, pair in enumerate(pairs) if pair[0] != pair[1]]
            self.expect("the mappings that are told are the page tables'", not differ, (area, differ[:3]))

    def close(self) -> None:
        """Nobody does anything any more."""
        opened = [(kind, va) for (kind, va, _), n in self._windows.items() if n and kind != "user"]
        self.expect("temporary aliases are closed", not opened, opened)
