"""How much of the machine's reach hot text takes: leaves against the entries of its instruction TLBs, as counts.

Hot is all text that can be reached (execbench.kernel.published): what one pass over all of it touches. Counts say what
does not fit; time they do not say, as who runs what in which order, and what a miss overlaps with, is in no record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from execbench.kernel.shared import Shared

Hot = tuple[int, int, int]
"""Base pages with hot text on them; PTE leaves and PMD leaves that map those."""

ASSUMED: Final = "a whole page walk for every hot leaf of a size that has more of them than entries (LRU, in a circle)"
"""What the bounds of the time of one pass over all hot text rest on.

Less is possible, down to 0: misses are overlapped, the order is another, the level behind holds some (data shares it).
"""


def hot(shared: Shared) -> Hot:
    """Return what live text takes now."""
    return shared.text_map.leaves_over((region.va, region.va + region.size) for region in shared.published.regions)


def mean(samples: Sequence[Hot]) -> tuple[float, float, float]:
    """Return the mean over samples, figure by figure."""
    n = len(samples)
    return sum(s[0] for s in samples) / n, sum(s[1] for s in samples) / n, sum(s[2] for s in samples) / n


def figures(samples: Sequence[Hot], tlb: Mapping[str, Any] | None) -> Iterator[tuple[str, str, float]]:
    """Yield (metric, unit, value): hot pages and leaves, and where the machine states its TLBs their reach.

    itlb_reach, itlb_reach_4k, itlb_reach_2m, stlb_reach: hot leaves for each entry (1: they just fit); the first where
    one array holds leaves of every size, the next two where each size has its own. `tlb`: the machine's `[tlb]`.
    """
    pages, small, large = mean(samples)
    yield "text_pages_hot", "1", pages
    yield "text_leaves_hot_4k", "1", small
    yield "text_leaves_hot_2m", "1", large
    if tlb is None:
        return
    if tlb["itlb_2m"]:
        yield "itlb_reach_4k", "1", small / tlb["itlb_4k"]
        yield "itlb_reach_2m", "1", large / tlb["itlb_2m"]
    else:
        yield "itlb_reach", "1", (small + large) / tlb["itlb_4k"]
    if "stlb" in tlb:
        yield "stlb_reach", "1", (small + large) / tlb["stlb"]
    if "walk_at_most" in tlb:
        yield "itlb_pass_at_most", "ns", pass_at_most(samples, tlb)


def pass_at_most(samples: Sequence[Hot], tlb: Mapping[str, Any]) -> float:
    """Return what iTLB misses add at most (ns) when one CPU passes over all hot text once; see ASSUMED."""
    missed = sum(_missed(small, large, tlb) for _, small, large in samples) / len(samples)
    return missed * float(tlb["walk_at_most"])


def _missed(small: int, large: int, tlb: Mapping[str, Any]) -> int:
    """Return the leaves that a pass may miss: none where all fit, all where not (LRU, met in a circle)."""
    first, own = int(tlb["itlb_4k"]), int(tlb["itlb_2m"])
    if not own:
        return small + large if small + large > first else 0
    return small * (small > first) + large * (large > own)
