"""What is done with a backend: each scenario runs it on a fresh toy machine and returns what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from execbench.conformance.bench import Bench
from execbench.conformance.machine import Finding
from execbench.conformance.places import Place, kernel_kinds, path_kinds
from execbench.contract import Proc, Region, Request, TextKind
from execbench.kernel.facade import Kernel

Scenario = Callable[[Any, Place], list[Finding]]


_HUGE: Final = (2 << 20) + 1
"""Bytes that no leaf of 2 MiB holds."""


def sizes(page: int) -> tuple[int, ...]:
    """Return sizes (bytes) around every boundary."""
    return (1, 63, 64, 65, page - 1, page, page + 1, 2 * page, 5 * page - 480)


def one_by_one(backend: Any, place: Place) -> list[Finding]:
    """Sizes around every boundary, each freed again: nothing is left but what the backend keeps for later."""
    bench = Bench(backend, place, watched=True)
    kinds_differ = place.arch == "x86_64" or place.kind is path_kinds(type(backend).support)[0]

    def body(k: Kernel) -> Proc[None]:
        live: list[Region] = []
        for size in (*sizes(place.page_size), *((_HUGE,) if kinds_differ else ())):
            live += yield from bench.install(k, [Request(size, place.kind)])
            bench.account(live)
        bench.recount()
        for region in live[::2]:
            yield from bench.free(k, [region])
        bench.account(live[1::2])
        for region in live[1::2]:
            yield from bench.free(k, [region])

    bench.task(0, body)
    return _emptied(bench)


def groups(backend: Any, place: Place) -> list[Finding]:
    """A group of several regions is handed out, written with patches, finished and freed as one."""
    bench = Bench(backend, place, watched=True)

    def body(k: Kernel) -> Proc[None]:
        requests = [Request(size, place.kind) for size in sizes(place.page_size)[:6]]
        regions = yield from bench.install(k, requests, patches=3)
        bench.account(regions)
        bench.recount()
        yield from bench.free(k, regions)

    bench.task(0, body)
    return _emptied(bench)


def every_kind(backend: Any, place: Place) -> list[Finding]:
    """A module: text and data of all kinds that the backend serves, as one group; what is read-only after init is."""
    kinds = kernel_kinds(type(backend).support)
    if len(kinds) < 2 or place.kind is not path_kinds(type(backend).support)[0]:
        return []
    bench = Bench(backend, place, watched=True)

    def body(k: Kernel) -> Proc[None]:
        regions = yield from bench.install(k, [Request(5000, kind) for kind in kinds], patches=1)
        bench.account(regions)
        for region in regions:
            if region.kind is TextKind.RO_AFTER_INIT:
                yield from bench.seal(k, region)
        bench.recount()
        yield from bench.free(k, regions)

    bench.task(0, body)
    return _emptied(bench)


def rewritten(backend: Any, place: Place) -> list[Finding]:
    """Live text is written again, between neighbours that stay as they are."""
    if not callable(getattr(backend, "rewrite", None)):
        return []
    bench = Bench(backend, place, watched=True)

    def body(k: Kernel) -> Proc[None]:
        regions = yield from bench.install(k, [Request(size, place.kind) for size in (100, 700, 9000)], patches=2)
        for region in regions:
            yield from bench.rewrite(k, region, patches=2)
        bench.account(regions)
        yield from bench.free(k, regions)

    bench.task(0, body)
    return _emptied(bench)


def never_finalized(backend: Any, place: Place) -> list[Finding]:
    """A load that fails after alloc, or after write, is freed without ever having been executable."""
    bench = Bench(backend, place, watched=True)

    def body(k: Kernel) -> Proc[None]:
        for write in (False, True):
            regions = yield from bench.alloc(k, [Request(300, place.kind), Request(5000, place.kind)])
            if write:
                for region in regions:
                    yield from bench.write(k, region)
            yield from bench.free(k, regions)

    bench.task(0, body)
    return _emptied(bench)


def two_tasks(backend: Any, place: Place) -> list[Finding]:
    """Two CPUs at once, out of step: no deadlock, no overlap, and the same however the run is carried out."""
    plain, split = _both(backend, place), _both(backend, place, merge=False)
    heard = _both(backend, place, heard=True)
    for bench, rule in ((split, "merging costs changes nothing"), (heard, "listening changes nothing")):
        first, second = plain.record(), bench.record()
        differ = [(name, first[name], second[name]) for name in first if first[name] != second[name]]
        heard.expect(rule, not differ, differ)
    return [*plain.findings, *split.findings, *heard.findings]


def _both(backend: Any, place: Place, merge: bool = True, heard: bool = False) -> Bench:
    """Run two tasks, of which the second keeps its regions for a while."""
    bench = Bench(backend, place, merge, watched=heard, heard=heard)

    def loop(cpu: int) -> Callable[[Kernel], Proc[None]]:
        def body(k: Kernel) -> Proc[None]:
            kept: list[Region] = []
            for i in range(3):
                kept += yield from bench.install(k, [Request(100 * (i + 1) + 37 * cpu, place.kind)])
                yield from k.sleep_until(k.now + 5_000 * (1 + cpu))
                if not cpu:
                    yield from bench.free(k, [kept.pop()])
            yield from bench.free(k, kept)

        return body

    for cpu in (0, 1):
        bench.task(cpu, loop(cpu))
    _emptied(bench)
    return bench


def _emptied(bench: Bench) -> list[Finding]:
    """Run to the end, when everything has been freed and all workers are done: only what the backend keeps is left."""
    if any(finding.rule == "runs" for finding in bench.run()):
        return bench.findings
    bench.account([])
    if bench.ledger is not None:
        kept, mapped = bench.backend.usage(bench.state).reserved, bench.ledger.mappings.mapped
        bench.expect("no mapping is left but what usage says is kept", mapped <= kept, (mapped, kept))
    return bench.findings


SCENARIOS: tuple[Scenario, ...] = (one_by_one, groups, every_kind, rewritten, two_tasks, never_finalized)
