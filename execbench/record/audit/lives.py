"""Who may be inside: regions from their publication to the end of their bytes, and the grace periods between (5)."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

from execbench.record.audit.facts import Fact
from execbench.record.audit.platform import Platform
from execbench.record.audit.spans import Spans
from execbench.record.audit.translations import Emit

Open = tuple[int, str, int, int]
"""What is open until the end of a publication: hazard, condition, bytes, since when (ns)."""


@dataclass(slots=True, eq=False)
class Life:
    """A published region: who is inside is protected as `inside` says, several ways joined by "+"."""

    region: Any
    reach: Fact
    unreach: Fact | None = None
    open: list[Open] = field(default_factory=list)

    @property
    def inside(self) -> tuple[str, ...]:
        """What protects those inside."""
        return tuple(str(self.reach.fields[2]).split("+"))


@dataclass(slots=True)
class _Periods:
    """Grace periods of one flavour: begins and ends, in order; the last may be running."""

    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def one_since(self, since: int) -> bool:
        """Say whether one began at `since` or later and has ended."""
        return bisect_left(self.begins, since) < len(self.ends)


class Lives:
    """Published regions by byte address."""

    def __init__(self, platform: Platform, emit: Emit) -> None:
        """Nobody is anywhere."""
        self.lives: Spans[Life] = Spans()
        self._platform = platform
        self._emit = emit
        self._periods: dict[str, _Periods] = {}

    def gp(self, fact: Fact) -> None:
        """Take the begin or the end of a grace period."""
        flavour, what = fact.fields
        periods = self._periods.setdefault(flavour, _Periods())
        (periods.begins if what == "start" else periods.ends).append(fact.t)

    def reach(self, fact: Fact) -> Life:
        """Take the publication of a region."""
        region = fact.fields[0]
        life = Life(region, fact)
        self.lives.put(region.va, region.va + region.size, life)
        return life

    def unreach(self, fact: Fact) -> Life | None:
        """Take the end of a region's publication; return its life if it had one."""
        (region,) = fact.fields
        life = self.lives.at(region.va)
        if life is None or life.region is not region:
            return None
        life.unreach = fact
        return life

    def live(self, start: int, end: int) -> bool:
        """Say whether a region in a byte range can be reached."""
        return any(life.unreach is None for _, _, life in self.lives.over(start, end))

    def destroy(self, fact: Fact, start: int, end: int, unmapped: bool) -> list[Life]:
        """Take what makes bytes of a range something else; return the regions that were published until now.

        Text that is overwritten, not `unmapped`, while it can be reached stays published.
        """
        hit = {id(life): life for _, _, life in self.lives.over(start, end)}
        for life in hit.values():
            condition = self._judged(life)
            detail = "" if condition in ("waited", "nobody-inside") else sufficient(life.inside)
            self._emit(5, condition, (life.reach, life.unreach, fact), detail)
            if life.unreach is not None or unmapped:
                self.lives.drop(life.region.va, life.region.va + life.region.size)
        return [life for life in hit.values() if life.unreach is None and unmapped]

    def _judged(self, life: Life) -> str:
        """Return the condition of hazard 5."""
        if life.inside == ("none",):
            return "nobody-inside"
        if life.unreach is None:
            return "reachable"
        since = life.unreach.t
        had = {name for name, periods in self._periods.items() if periods.one_since(since)}
        if all(inside == "none" or had & self._platform.flavours(inside) for inside in life.inside):
            return "waited"
        return "wrong-flavour" if had else "no-grace-period"


def sufficient(inside: tuple[str, ...]) -> str:
    """Return which grace period would have been enough, in words."""
    return " and ".join(f"a grace period of {_WORDS[how]}" for how in inside if how != "none") + " would have sufficed"


_WORDS = {"rcu": "RCU, normal or expedited", "tasks": "Tasks RCU", "rude": "Tasks Rude RCU", "trace": "Tasks Trace RCU"}
