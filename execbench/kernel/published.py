"""Which text can be reached now: what readers enter, and what layout figures are about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.text import TEXT_KINDS

if TYPE_CHECKING:
    from execbench.kernel.text import Region

UNGUARDED = "none"
"""What `inside` says where only the publisher's own locks keep text alive: nobody else may enter it."""


class Published:
    """Live text of the kernel from its publication to its retirement; costs no simulated time and makes no event.

    regions: all of it. enterable: what code outside its owner may enter, because a grace period outlasts who is
    inside; its order depends on nothing but what was published and retired before.
    """

    __slots__ = ("_coming", "_place", "enterable", "regions")

    def __init__(self) -> None:
        """Nothing is published at boot."""
        self.regions: dict[Region, None] = {}
        self.enterable: list[Region] = []
        self._place: dict[Region, int] = {}
        self._coming: set[Region] = set()

    def expect(self, region: Region) -> bool:
        """Say whether a region that is about to be published counts here; its time is told by `add`."""
        if region.kind not in TEXT_KINDS:
            return False
        self._coming.add(region)
        return True

    def add(self, region: Region, inside: str) -> None:
        """Reachable from now on, unless it was retired in the same breath."""
        if region not in self._coming:
            return
        self._coming.remove(region)
        if region not in self.regions and inside != UNGUARDED:
            self._place[region] = len(self.enterable)
            self.enterable.append(region)
        self.regions[region] = None

    def discard(self, region: Region) -> None:
        """No newcomer gets there any more."""
        self._coming.discard(region)
        self.regions.pop(region, None)
        place = self._place.pop(region, None)
        if place is None:
            return
        last = self.enterable.pop()
        if last is not region:
            self.enterable[place] = last
            self._place[last] = place
