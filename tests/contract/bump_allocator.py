"""A backend outside the package: fresh pages for every region, made executable and then poked, never packed."""

from dataclasses import dataclass, field
from typing import ClassVar

from execbench.contract import Region, Support, Usage, pages_of


@dataclass(slots=True, eq=False)
class State:
    shared: object
    live: list = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class BumpAllocator:
    support: ClassVar[Support] = Support(source="an example")

    def start(self, k):
        return State(k)

    def alloc(self, k, s, reqs):
        areas = []
        for req in reqs:
            area = yield from k.vmalloc_node_range(pages_of(req.size), req.kind)
            areas.append(area)
        made = tuple(Region(0, a.va, r.size, a.pages * 4096, r.kind, a) for a, r in zip(areas, reqs, strict=True))
        s.live += made
        return made

    def write(self, k, s, region, image):
        with k.irqs_off():
            k.spend("copy_byte", image.size)
        yield from k.settle()

    def finalize(self, k, s, regions):
        for region in regions:
            yield from k.set_memory_rox(region.own)
            yield from k.bpf_arch_text_copy(region.va, region.size)

    def free(self, k, s, regions):
        for region in regions:
            yield from k.vfree(region.own)
            s.live.remove(region)

    def usage(self, s):
        asked, reserved = sum(r.size for r in s.live), sum(r.reserved for r in s.live)
        return Usage(asked, reserved, reserved - asked, s.shared.text_map.text_leaves())
