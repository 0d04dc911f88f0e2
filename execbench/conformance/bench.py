"""A backend on a toy machine, its verbs called as a client calls them and checked for what they promise."""

from __future__ import annotations

from collections.abc import Sequence

from execbench.conformance.machine import ToyMachine
from execbench.contract import Image, Proc, Region, Request, Setting, TextKind
from execbench.kernel.facade import Kernel


class Bench(ToyMachine):
    """A toy machine with one backend started on it, and a client of its verbs."""

    def install(self, k: Kernel, requests: Sequence[Request], patches: int = 0) -> Proc[tuple[Region, ...]]:
        """Allocate, write, finalize and expose one group."""
        regions = yield from self.alloc(k, requests)
        for region in regions:
            yield from self.write(k, region, patches)
        yield from self.finalize(k, regions)
        return regions

    def alloc(self, k: Kernel, requests: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Allocate a group, checking what is returned."""
        regions: tuple[Region, ...] = yield from self.backend.alloc(k, self.state, requests)
        yield from self._returned(k, "alloc")
        self.expect("alloc returns one region per request", len(regions) == len(requests), len(regions))
        for region, request in zip(regions, requests, strict=False):
            sizes = region.size, request.size
            self.expect("a region has the size that was asked", sizes[0] == sizes[1], sizes)
            self.expect("a region reserves at least its size", region.reserved >= region.size, region)
            self.expect("a region keeps the kind that was asked", region.kind == request.kind, region.kind)
        if self.ledger is not None:
            self.ledger.taken(regions)
        return regions

    def write(self, k: Kernel, region: Region, patches: int = 0) -> Proc[None]:
        """Write all of a region."""
        yield from self.backend.write(k, self.state, region, Image(region.id, region.size, patches))
        yield from self._returned(k, "write")

    def finalize(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """Finalize a group and make it reachable."""
        yield from self.backend.finalize(k, self.state, regions)
        yield from self._returned(k, "finalize")
        if self.ledger is not None:
            self.ledger.finished(regions)
            exposed = self.ledger.mappings.seen_wx or not self.wx
            self.expect("text is writable and executable, as declared", exposed, self.wx)
        for region in regions:
            k.expose(region, "pointer")

    def rewrite(self, k: Kernel, region: Region, patches: int = 0) -> Proc[None]:
        """Write all of a live region again."""
        if self.ledger is not None:
            self.ledger.changing(region)
        yield from self.backend.rewrite(k, self.state, region, Image(region.id, region.size, patches))
        yield from self._returned(k, "rewrite")
        if self.ledger is not None:
            self.ledger.finished([region])

    def seal(self, k: Kernel, region: Region) -> Proc[None]:
        """Make data read-only, as a client's setting does."""
        setting = Setting(self.shared, self.backend, self.state, 1, 0, 0, lambda name: ())
        yield from setting.seal(k, region)
        yield from self._returned(k, "seal")

    def free(self, k: Kernel, regions: Sequence[Region]) -> Proc[None]:
        """Make regions unreachable and free them; whoever was inside has left."""
        if self.ledger is not None:
            self.ledger.leaving(regions)
        for region in regions:
            k.retire(region)
        yield from self.backend.free(k, self.state, regions)
        yield from self._returned(k, "free")
        if self.ledger is not None:
            self.ledger.gone(regions)

    def _returned(self, k: Kernel, verb: str) -> Proc[None]:
        yield from k.settle()
        self.times.append((k.cpu, verb, k.now))
        if self.ledger is not None:
            self.ledger.returned(k.task)

    def account(self, live: Sequence[Region]) -> None:
        """Compare usage with the regions that are live and with the memory that is taken, nobody being in a verb."""
        usage = self.backend.usage(self.state)
        asked, reserved = sum(region.size for region in live), sum(region.reserved for region in live)
        held = self.shared.frames.in_use * self.page
        self.expect("usage.asked is the sum of live regions", usage.asked == asked, (usage.asked, asked))
        self.expect("usage.reserved covers live regions", usage.reserved >= reserved, (usage.reserved, reserved))
        self.expect("usage.reserved is the memory that is taken", usage.reserved == held, (usage.reserved, held))
        waste = (reserved - asked, usage.internal_waste, usage.reserved - asked)
        self.expect("usage.internal_waste is what nobody asked for", waste[0] <= waste[1] <= waste[2], waste)
        finished = self.ledger is not None and self.ledger.live
        user = self.kind is TextKind.USER  # pages of a process are not in the kernel's map
        leaves = self.shared.text_map.text_leaves()
        counted = not finished or (sum(usage.leaves) > 0 if user else usage.leaves == leaves)
        self.expect("finished text is in the leaves of usage", counted, (usage.leaves, leaves))

    def record(self) -> dict[str, object]:
        """Return what a run leaves behind, by name: the same for the same run, however it is carried out."""
        shared = self.shared
        return {
            "times": self.times,
            "rounds": self.machine.interrupts.rounds,
            "locks": {name: (lock.acquisitions, lock.wait_ns, lock.hold_ns) for name, lock in shared.locks.items()},
            "usage": self.backend.usage(self.state),
            "memory": (shared.frames.in_use, shared.direct_map.splits, shared.vmap.lazy_pages, shared.cycles),
            "draws": self.machine.streams.draws,
        }
