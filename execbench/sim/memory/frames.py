"""Physical page frames."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple

from execbench.sim.memory.pages import FOUR_KIB, Geometry, equal, lowest_run, pieces, span

_PCP_BYTES = 256 << 10
"""A per-CPU list gives pages back by that many bytes less one page, zones of 1 GiB and more (mm/page_alloc.c:
zone_batchsize), and keeps at least four such batches (zone_highsize, its lower bound)."""


class Run(NamedTuple):
    """Physically contiguous frames: the first frame number and how many."""

    pfn: int
    n: int


class OutOfFrames(Exception):
    """Fewer frames are free than were asked for; args: asked, free."""


class Frames:
    """Frames as the buddy allocator and its per-CPU lists hand them out, as far as it decides direct-map splits.

    What is kept of mm/page_alloc.c: a freed page goes to the hot end of a per-CPU list and the next order-0 request
    takes it from there (rmqueue_pcplist, LIFO); when the list exceeds its high mark, its oldest batch goes back to the
    buddy (free_pcppages_bulk); order-0 pages come out of PMD blocks (2M with 4K pages) that are already broken before a
    free one is broken (rmqueue takes the smallest order that serves); a block whose pages are all back in the buddy is
    whole again (merging); a request for a block that finds none drains the per-CPU lists and tries once more
    (drain_all_pages).
    What is simplified: one list for all CPUs and one zone; no reclaim, compaction or migrate types; within an order
    the lowest address wins where the kernel takes the head of a list; orders between page and block, and above it, do
    not exist.

    `fragmented=True` is the opposite extreme of a fresh machine: one page of every block belongs to somebody else
    for ever, and free pages are in no address order, so successive fresh pages come from successive blocks,
    alloc_pmd never succeeds, and nothing merges. A machine with uptime lies between the two.

    Deterministic: the same calls give the same frames.
    """

    __slots__ = (
        "_batch", "_blocks", "_fragmented", "_fresh", "_free", "_full", "_hot", "_partial", "_pmd", "_used", "_whole",
        "in_use", "total",
    )  # fmt: skip

    def __init__(self, total_pages: int, fragmented: bool = False, geometry: Geometry = FOUR_KIB) -> None:
        """Start with every frame free (but one per block if fragmented)."""
        if total_pages <= 0:
            raise ValueError(f"total_pages is {total_pages}")
        self.total = total_pages
        self.in_use = 0
        self._fragmented = fragmented
        self._pmd = geometry.pmd_pages
        self._full = span(0, self._pmd)
        self._batch = max(_PCP_BYTES // geometry.page - 1, 1)
        self._blocks, tail = divmod(total_pages, self._pmd)
        self._hot: deque[int] = deque()
        self._used: dict[int, int] = {}  # block -> frames handed out
        self._free: dict[int, int] = {}  # broken block -> its frames in the buddy
        self._partial: list[int] = []  # broken blocks with frames in the buddy, sorted
        self._whole: list[int] = []  # heap of merged blocks, all below _fresh
        self._fresh = 0  # lowest block (fragmented: count of pages) never touched
        if tail and not fragmented:
            self._set_free(self._blocks, span(0, tail))

    @property
    def available(self) -> int:
        """Pages that can still be allocated."""
        foreign = -(-self.total // self._pmd) if self._fragmented else 0
        return self.total - foreign - self.in_use

    def alloc(self, n: int) -> tuple[Run, ...]:
        """Return n order-0 pages in the order in which they would be mapped; OutOfFrames takes none."""
        if n <= 0:
            raise ValueError(f"cannot allocate {n} pages")
        if n > self.available:
            raise OutOfFrames(n, self.available)
        runs: list[Run] = []
        left = n
        while left:
            if self._hot:
                pfn, count = self._hot.pop(), 1
            elif self._fragmented:
                pfn, count = self._scattered(), 1
            else:
                pfn, count = self._lowest(left)
            self._take(runs, pfn, count)
            left -= count
        return tuple(runs)

    def alloc_pmd(self, k: int) -> tuple[Run, ...] | None:
        """Return k aligned PMD blocks, neighbours joined into one run, or None if there are not so many."""
        if k <= 0:
            raise ValueError(f"cannot allocate {k} blocks")
        if self._fragmented:
            return None
        if len(self._whole) + self._blocks - self._fresh < k:
            self._drain(len(self._hot))
        if len(self._whole) + self._blocks - self._fresh < k:
            return None
        runs: list[Run] = []
        for _ in range(k):
            self._take(runs, self._lowest_block() * self._pmd, self._pmd)
        return tuple(runs)

    def free(self, runs: Iterable[Run]) -> None:
        """Take pages back one by one, as vfree does for huge mappings too; ValueError for a page not handed out."""
        for pfn, n in runs:
            for block, offset, count in pieces(pfn, n, self._pmd):
                bits = span(offset, count)
                held = self._used.get(block, 0)
                if held & bits != bits:
                    raise ValueError(f"pages {pfn} + {n} are not all allocated")
                if held == bits:
                    del self._used[block]
                else:
                    self._used[block] = held ^ bits
                self.in_use -= count
                self._hot.extend(range(block * self._pmd + offset, block * self._pmd + offset + count))
            excess = len(self._hot) - 4 * self._batch
            if excess > 0 and not self._fragmented:
                self._drain(-(-excess // self._batch) * self._batch)

    def check(self) -> None:
        """Raise AssertionError unless every frame is in exactly one place and in_use equals a recount."""
        equal("in_use", self.in_use, sum(mask.bit_count() for mask in self._used.values()))
        hot: dict[int, int] = {}
        for pfn in self._hot:
            block, offset = divmod(pfn, self._pmd)
            hot[block] = hot.get(block, 0) | 1 << offset
        equal("hot pages", len(self._hot), sum(mask.bit_count() for mask in hot.values()))
        for block in self._used.keys() | hot.keys():
            used, idle, buddy = self._used.get(block, 0), hot.get(block, 0), self._free.get(block, 0)
            if used & idle or (used | idle) & buddy:
                raise AssertionError(f"block {block}: a frame is in two places")
        if self._fragmented:
            equal("pages ever handed out", self._fresh, self.in_use + len(self._hot))
            return
        equal("partial blocks", self._partial, sorted(self._free))
        if not all(block < self._fresh and block not in self._free for block in self._whole):
            raise AssertionError(f"whole blocks {sorted(self._whole)} are not all free")
        whole = len(set(self._whole)) + self._blocks - self._fresh
        buddy = sum(mask.bit_count() for mask in self._free.values()) + whole * self._pmd
        equal("frames", self.total, buddy + len(self._hot) + self.in_use)

    def _take(self, runs: list[Run], pfn: int, count: int) -> None:
        """Mark pages as handed out and join them to the last run if they follow it."""
        used = self._used
        if count == 1:
            block, offset = divmod(pfn, self._pmd)
            used[block] = used.get(block, 0) | 1 << offset
        else:
            for block, offset, n in pieces(pfn, count, self._pmd):
                used[block] = used.get(block, 0) | span(offset, n)
        self.in_use += count
        if runs and runs[-1].pfn + runs[-1].n == pfn:
            pfn, count = runs[-1].pfn, runs.pop().n + count
        runs.append(Run(pfn, count))

    def _lowest(self, most: int) -> tuple[int, int]:
        """Take up to `most` adjacent pages from the lowest broken block, breaking a new one if there is none."""
        if not self._partial:
            self._partial.append(self._lowest_block())
            self._free[self._partial[0]] = self._full
        block = self._partial[0]
        offset, count = lowest_run(self._free[block])
        count = min(count, most)
        self._set_free(block, self._free[block] ^ span(offset, count))
        return block * self._pmd + offset, count

    def _lowest_block(self) -> int:
        if self._whole:
            return heappop(self._whole)
        self._fresh += 1
        return self._fresh - 1

    def _scattered(self) -> int:
        """Return the next never-used page of a fragmented machine: one block after the other, then the next round."""
        blocks, tail = divmod(self.total, self._pmd)
        every = blocks + (1 if tail else 0)
        in_tail = max(0, tail - 1)  # rounds in which the cut-off last block still has a page
        i = self._fresh
        self._fresh += 1
        if i < every * in_tail:
            turn, block = divmod(i, every)
        else:
            turn, block = divmod(i - every * in_tail, blocks)
            turn += in_tail
        return block * self._pmd + 1 + turn

    def _drain(self, count: int) -> None:
        """Give the oldest `count` hot pages back to the buddy."""
        back: dict[int, int] = {}
        for _ in range(min(count, len(self._hot))):
            block, offset = divmod(self._hot.popleft(), self._pmd)
            back[block] = back.get(block, 0) | 1 << offset
        for block, mask in back.items():
            self._set_free(block, self._free.get(block, 0) | mask)

    def _set_free(self, block: int, mask: int) -> None:
        """Record which frames of a broken block the buddy holds; all of them make it whole again."""
        known = block in self._free
        if mask and mask != self._full:
            if not known:
                insort(self._partial, block)
            self._free[block] = mask
            return
        if known:
            del self._free[block]
            del self._partial[bisect_left(self._partial, block)]
        if mask == self._full:
            heappush(self._whole, block)
