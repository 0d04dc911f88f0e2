"""What the mappings and the direct map were before a change, so that a path can say from what to what it goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from execbench.sim.memory import PMD_PAGES, VmArea

WORDS: Final = {
    "none": "none", "rw-nx": "RW NX", "ro-nx": "RO NX", "ro-x": "RO X", "rw-x": "RW X",
    "rw": "RW", "ro": "RO", "np": "none", "np-x": "none",
}  # fmt: skip
"""Protections of text, and of the direct map, which is NX where nothing is said."""


class Change(NamedTuple):
    """Which entries are written, (name of the step, how many), and from what to what."""

    entries: tuple[tuple[str, int], ...]
    text: str


@dataclass(slots=True)
class Mappings:
    """Protections by page of every area that is known, and of the direct map, which is RW and NX at boot."""

    _areas: dict[int, list[str]] = field(default_factory=dict)
    _direct: dict[int, str] = field(default_factory=dict)

    def map(self, area: VmArea, first: int, pages: int, perm: str) -> Change:
        """Note that pages of `area` have a protection now; an area that was unknown and is absent is reserved."""
        if perm == "none" and area.va not in self._areas:
            self._areas[area.va] = ["none"] * area.pages
            return Change((("reserve", pages),), "")
        held = self._areas.setdefault(area.va, ["none"] * area.pages)
        before = held[first : first + pages]
        held[first : first + pages] = [perm] * pages
        present = sum(one != "none" for one in before)
        if perm == "none":
            if area.window == "user" and pages == area.pages:
                self.forget(area)  # nobody tells that frames of a memfd go, for they stay
            return Change((("pte_clear", present),) if present else (), arrow(before, perm))
        if present:
            return Change((("pte_change", pages),), arrow(before, perm))
        huge = area.huge and pages % PMD_PAGES == 0
        return Change((("pmd_set", pages // PMD_PAGES) if huge else ("pte_set", pages),), arrow(before, perm))

    def alias(self, pfn: int, pages: int, perm: str) -> str:
        """Note the protection of pages of the direct map; return from what to what it went."""
        before = [self._direct.get(at, "rw") for at in range(pfn, pfn + pages)]
        self._direct.update(dict.fromkeys(range(pfn, pfn + pages), perm))
        return arrow(before, perm)

    def forget(self, area: VmArea) -> None:
        """The area is gone: its address may be another's."""
        self._areas.pop(area.va, None)


def arrow(before: Iterable[str], after: str) -> str:
    """Say from what to what pages go; several protections before are named in the order of the pages."""
    held = "/".join(dict.fromkeys(WORDS[one] for one in before))
    now = WORDS[after]
    return f"{now} as before" if held == now else f"{held} -> {now}"
