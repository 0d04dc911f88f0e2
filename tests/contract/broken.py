"""Backends that break one rule each, by the rule that must find them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from execbench.backends.alloc_write_map import AllocWriteMap
from execbench.backends.module_alloc import ModuleAlloc
from execbench.contract import Image, Proc, Region, Support, TextKind, Totals, Usage
from execbench.kernel.direct_map import close_alias
from execbench.kernel.facade import Kernel
from execbench.kernel.shared import Shared
from execbench.sim.memory import VmArea

BROKEN: list[tuple[str, Any]] = []
"""(rule, backend)."""


def breaks(rule: str, **fields: Any) -> Callable[[type], type]:
    """Decorate a backend that breaks `rule`."""

    def add(cls: type) -> type:
        made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        BROKEN.append((rule, made(**fields)))
        return made

    return add


class _Plain:
    """Verbs of module_alloc, and nothing that a dataclass has."""

    support = ModuleAlloc.support
    start, write, free, usage = ModuleAlloc.start, ModuleAlloc.write, ModuleAlloc.free, ModuleAlloc.usage
    order = "strict"

    def alloc(self, k: Kernel, s: Totals, reqs: Any) -> Proc[tuple[Region, ...]]:
        return ModuleAlloc().alloc(k, s, reqs)

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        return ModuleAlloc().finalize(k, s, regions)


# --- shape ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class _NotFrozen(_Plain):
    pass


@dataclasses.dataclass(frozen=True)
class _Positional(_Plain):
    slack: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SupportsNothing(_Plain):
    support = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _NoFree(_Plain):
    free = None  # type: ignore[assignment]


BROKEN += [
    ("is a frozen dataclass", _NotFrozen()),
    ("has keyword-only parameters", _Positional()),
    ("declares its support", _SupportsNothing()),
    ("has all verbs", _NoFree()),
]


@breaks("runs")
class _Raises(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        raise ValueError("a bug")


# --- what alloc returns -----------------------------------------------------------------------------------------------


class _Alloc(ModuleAlloc):
    def changed(self, regions: tuple[Region, ...]) -> tuple[Region, ...]:
        raise NotImplementedError

    def alloc(self, k: Kernel, s: Totals, reqs: Any) -> Proc[tuple[Region, ...]]:
        regions = yield from super().alloc(k, s, reqs)
        return self.changed(regions)


@breaks("alloc returns one region per request")
class _OneTooMany(_Alloc):
    def changed(self, regions: tuple[Region, ...]) -> tuple[Region, ...]:
        return (*regions, dataclasses.replace(regions[0], va=regions[0].va + (1 << 30)))


@breaks("a region has the size that was asked")
class _WrongSize(_Alloc):
    def changed(self, regions: tuple[Region, ...]) -> tuple[Region, ...]:
        return tuple(dataclasses.replace(region, size=region.size + 1) for region in regions)


@breaks("a region reserves at least its size")
class _ReservesNothing(_Alloc):
    def changed(self, regions: tuple[Region, ...]) -> tuple[Region, ...]:
        return tuple(dataclasses.replace(region, reserved=0) for region in regions)


@breaks("a region keeps the kind that was asked")
class _WrongKind(_Alloc):
    def changed(self, regions: tuple[Region, ...]) -> tuple[Region, ...]:
        return tuple(dataclasses.replace(region, kind=TextKind.JIT) for region in regions)


@breaks("live regions do not overlap")
class _Overlap(_Alloc):
    def changed(self, regions: tuple[Region, ...]) -> tuple[Region, ...]:
        return tuple(dataclasses.replace(region, va=regions[0].va) for region in regions)


# --- usage ------------------------------------------------------------------------------------------------------------


class _Usage(ModuleAlloc):
    def changed(self, usage: Usage) -> Usage:
        raise NotImplementedError

    def usage(self, s: Totals) -> Usage:
        return self.changed(super().usage(s))


@breaks("usage.asked is the sum of live regions")
class _Forgets(ModuleAlloc):
    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        for region in regions:
            yield from k.vfree(region.own)


@breaks("usage.reserved covers live regions")
class _ReservedTooLittle(_Usage):
    def changed(self, usage: Usage) -> Usage:
        return dataclasses.replace(usage, reserved=usage.reserved // 2)


@breaks("usage.reserved is the memory that is taken")
class _ReservedTooMuch(_Usage):
    def changed(self, usage: Usage) -> Usage:
        return dataclasses.replace(usage, reserved=usage.reserved + 4096)


@breaks("usage.internal_waste is what nobody asked for")
class _NoWaste(_Usage):
    def changed(self, usage: Usage) -> Usage:
        return dataclasses.replace(usage, internal_waste=0)


@breaks("finished text is in the leaves of usage")
class _NoLeaves(_Usage):
    def changed(self, usage: Usage) -> Usage:
        return dataclasses.replace(usage, leaves=(0, 0))


# --- text -------------------------------------------------------------------------------------------------------------


@breaks("every byte of a finished region is stored")
class _WritesHalf(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        return super().write(k, s, region, Image(image.id, image.size // 2))


@breaks("finished text is executable")
class _NeverExecutable(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from k.settle()


@breaks("finished data is not executable")
class _ExecutesData(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        for region in regions:
            yield from k.set_memory_rox(region.own)


@breaks("finished text keeps its bytes")
class _FillsTheNeighbour(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        yield from super().write(k, s, region, image)
        k.tell("window", "mm", region.va - (1 << 14), 1 << 14, True)
        k.tell("store", region.va - (1 << 14), 1 << 14, "trap", "mm")
        k.tell("window", "mm", region.va - (1 << 14), 1 << 14, False)


@breaks("text stays executable while it is reachable")
class _RewritesWhileNx(ModuleAlloc):
    def rewrite(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        yield from k.set_memory_nx(region.own)
        yield from k.set_memory_rw(region.own)
        k.store_text(region.va, image.size)
        yield from k.set_memory_rox(region.own)


@breaks("nothing is reached before it is finalized")
class _ExposesEarly(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        k.expose(regions[0], "pointer")
        yield from super().finalize(k, s, regions)


@breaks("stores go through an alias that is writable")
class _StoresReadOnly(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from super().finalize(k, s, regions)
        k.store_text(regions[0].va, 4)


@breaks("stores go through an alias that is writable")
class _StoresThroughAClosedDirectMap(AllocWriteMap):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        yield from close_alias(k, [region.own], "np")
        yield from super().write(k, s, region, image)


@breaks("stores go through an alias that is writable")
class _StoresOutsideTheWindow(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        k.tell("window", "mm", region.va, image.size, True)
        k.tell("window", "mm", region.va, image.size, False)
        k.store_text(region.va, image.size, through="mm")
        return
        yield


@breaks("code is stored inside a live region")
class _WritesTooMuch(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        k.store_text(region.va, region.reserved + 1)
        return
        yield


# --- mappings ---------------------------------------------------------------------------------------------------------


@breaks("no page is writable and executable")
class _WritableAndExecutable(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        for region in regions:
            yield from k.set_memory_x(region.own)
            yield from k.set_memory_ro(region.own)


@breaks("no page stays writable and executable")
class _KeepsOneOpen(ModuleAlloc):
    def start(self, k: Shared) -> Totals:
        k.text_map.wx_pages += 1
        return super().start(k)


@breaks("text is writable and executable, as declared")
class _DeclaresTooMuch(ModuleAlloc):
    support = Support(wx=True)


@breaks("frames go back when nothing maps them")
class _FreesWhatIsMapped(ModuleAlloc):
    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        k.tell("freed", regions[0].own)
        yield from super().free(k, s, regions)


@breaks("frames go back with a direct map that is writable")
class _LeavesTheAlias(ModuleAlloc):
    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        for region in regions:
            yield from k.vfree_text(region.own, reset_alias=False)
            s.give(region)


@breaks("the mappings that are told are the page tables'")
class _TellsNobody(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from super().finalize(k, s, regions)
        k.text_map.protect(regions[0].own, 0, 1, "ro-nx")


@breaks("temporary aliases are closed")
class _LeavesAWindow(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        k.tell("window", "mm", region.va, image.size, True)
        yield from super().write(k, s, region, image)


@breaks("mappings do not overlap")
class _MapsTwice(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        k.tell("map", VmArea(region.va, 1, 1, "modules"), 0, 1, "ro-x")
        yield from super().write(k, s, region, image)


@breaks("a mapping changes inside its area")
class _ChangesTooMuch(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        k.tell("map", region.own, 0, region.own.pages + 1, "rw-nx")
        yield from super().write(k, s, region, image)


@breaks("no mapping is left but what usage says is kept")
class _KeepsTheMapping(ModuleAlloc):
    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        for region in regions:
            yield from k.settle()
            k.frames.free(region.own.runs)
            s.give(region)


# --- locks, time, totals ----------------------------------------------------------------------------------------------


@breaks("locks are released in reverse order")
class _ReleasesInOrder(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        outer = yield from k.lock("text_mutex")
        inner = yield from k.lock("stop_cpus_mutex")
        outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        yield from super().finalize(k, s, regions)


@breaks("locks are taken in one order")
class _TakesInBothOrders(ModuleAlloc):
    def both(self, k: Kernel, first: str, second: str) -> Proc[None]:
        with (yield from k.lock(first)), (yield from k.lock(second)):
            yield from k.settle()

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from self.both(k, "text_mutex", "stop_cpus_mutex")
        yield from super().finalize(k, s, regions)

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from self.both(k, "stop_cpus_mutex", "text_mutex")
        yield from super().free(k, s, regions)


@breaks("a verb returns without a lock")
class _KeepsTheLock(ModuleAlloc):
    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from k.lock("text_mutex")
        yield from super().finalize(k, s, regions)


BROKEN += [
    ("every task comes to its end", _KeepsTheLock()),  # who takes it again waits for himself
    ("locks are free in the end", _KeepsTheLock()),
]


@breaks("merging costs changes nothing")
class _LooksAtTheEngine(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        if k.task.engine.merge:
            k.spend("kmalloc")
        yield from super().write(k, s, region, image)


@breaks("listening changes nothing")
class _LooksWhoListens(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        if k.probe.told:
            k.spend("kmalloc")
        yield from super().write(k, s, region, image)


@breaks("memory adds up")
class _Miscounts(ModuleAlloc):
    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        yield from super().free(k, s, regions)
        k.vmap.lazy_pages += 1
