"""Flushes of permission changes, as traced while real modules were loaded and unloaded (counts_set_memory.csv).

What a module consists of is the input: text, in half of them text for initialization too, constants and data. Which
flush comes when follows from the state of the leaves.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from execbench.backends.execmem import Execmem
from execbench.backends.module_alloc import ModuleAlloc
from execbench.contract import Image, Proc, Region, Request, TextKind
from execbench.kernel.facade import Kernel
from execbench.sim.task import Task
from tests.truth.bench import Bench, truth

ROWS = truth("counts_set_memory.csv")
COUNTED = {
    "flushes for changed entries": "cpa_flush",
    "of these ranged": "__cpa_flush_tlb",
    "splits": "split_flush",
    "collapses": "collapse_flush",
    "purges": "purge_flush",
}
"""Traced quantity: counter of the model."""
MARKS = {
    "flushes for changed entries": ("exact", "one if an entry changed, none if not; the code decides, no state"),
    "of these ranged": ("exact", "6.1 looks for no alias where only NX changes"),
    "splits": ("bounded", "by the leaves: at most one for the range and two for its direct map, none where all is 4K"),
    "collapses": ("bounded", "at most one per 2M leaf of the range"),
    "purges": ("bounded", "at most one per call, if anybody has freed an area since the last"),
}
"""How the traced value of a quantity binds the model, and why."""
DISTRIBUTION = {
    "6.18-execmem_alloc_rw-set_memory_nx-text-splits": "only a module's first piece splits the 2M leaf",
    "6.18-execmem_restore_rox-set_memory_rox-text-collapses": "a module's last piece makes the leaf whole again",
}
"""Rows whose mean follows from how many modules had how many pieces."""


class Trace:
    """Attributes flushes to the permission change or free that they are part of, as the trace of a kernel is read."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], list[Counter[str]]] = {}
        self.within = ""
        self.what = ""

    def call(self, at: int, task: Task, primitive: str, units: int) -> None:
        if primitive.startswith("set_memory_") or primitive == "vfree":
            name = "VM_FLUSH_RESET_PERMS" if primitive == "vfree" else self.what
            self.of.setdefault((self.within + primitive, name), []).append(Counter())
            self._last = self.of[self.within + primitive, name][-1]
        elif self.of:
            self._last[primitive] += 1


def names(release: str, what: str, verb: str) -> tuple[str, str]:
    """What the truth calls the context of a permission change."""
    if release == "6.18":
        within = {"alloc": "execmem_alloc_rw: ", "finalize": "execmem_restore_rox: ", "free": "execmem_free: "}[verb]
        return (within if what == "text" or verb == "alloc" else "", what)
    return "", what


def modules(release: str, pieces: list[int]) -> dict[tuple[str, str], list[Counter[str]]]:
    """Load and unload modules one by one, each with so many pieces of text, constants and data."""
    bench = Bench("truth/set-memory", release=release, cpus=4)
    backend: Any = ModuleAlloc() if release == "6.1" else Execmem()
    s = backend.start(bench.shared)
    trace = Trace()
    bench.machine.probe.attach(trace)

    def verb(k: Kernel, what: str, name: str, body: Proc[Any]) -> Proc[Any]:
        trace.within, trace.what = names(release, what, name)
        result = yield from body
        yield from k.settle()
        return result

    def one(k: Kernel, texts: int) -> Proc[None]:
        kinds = [TextKind.MODULE_TEXT, TextKind.INIT_TEXT][:texts]
        held: list[tuple[str, Region]] = []
        for kind in (*kinds, TextKind.MODULE_DATA):
            what = "data" if kind is TextKind.MODULE_DATA else "text"
            regions = yield from verb(k, what, "alloc", backend.alloc(k, s, [Request(9_000, kind)]))
            yield from backend.write(k, s, regions[0], Image(1, 9_000))
            held.append((what, regions[0]))
        for what, region in reversed(held):
            yield from verb(k, what, "finalize", backend.finalize(k, s, [region]))
        for what, region in held:
            yield from verb(k, what, "free", backend.free(k, s, [region]))

    def body(k: Kernel) -> Proc[None]:
        keep = yield from backend.alloc(
            k, s, [Request(9_000, TextKind.MODULE_TEXT)]
        )  # a machine that is up has modules
        yield from backend.finalize(k, s, keep)
        yield from one(k, 2)
        trace.of.clear()
        for texts in pieces:
            yield from one(k, texts)

    bench.task("loader", body)
    bench.run()
    return trace.of


@pytest.mark.parametrize("release", ["6.1", "6.12", "6.18"])
def test_every_permission_change_flushes_as_traced(release: str) -> None:
    found = modules(release, [1, 2, 1, 2])
    rows = {name: row for name, row in ROWS.items() if name.startswith(f"{release}-")}
    assert {(row["operation"], row["parameter"]) for row in rows.values()} <= found.keys()
    for name, row in rows.items():
        value, counter = float(row["value"]), COUNTED[row["quantity"]]
        seen = [counts[counter] for counts in found[row["operation"], row["parameter"]]]
        mark, reason = MARKS[row["quantity"]]
        if mark == "exact":
            assert set(seen) == {value}, (name, reason)
        elif name not in DISTRIBUTION:
            low, high = float(row["p10"] or value), float(row["p90"] or value)
            assert all(low <= count <= high for count in seen), (name, reason, seen)


def test_a_module_splits_its_leaf_once_and_the_last_piece_restored_makes_it_whole() -> None:
    for name, reason in DISTRIBUTION.items():
        row = ROWS[name]
        n, events = int(row["n"]), round(float(row["value"]) * int(row["n"]))
        second = n - events  # so many of the traced modules had a second piece
        found = modules("6.18", [2] * second + [1] * (events - second))
        seen = [counts[COUNTED[row["quantity"]]] for counts in found[row["operation"], row["parameter"]]]
        assert (len(seen), sum(seen)) == (n, events), (name, reason)


@pytest.mark.parametrize("release", ["6.1", "6.12", "6.18"])
def test_who_frees_data_leaves_a_purge_to_the_next_permission_change(release: str) -> None:
    bench = Bench("truth/set-memory/purge", release=release, cpus=4)
    flushes: list[int] = []

    def body(k: Kernel) -> Proc[None]:
        area = yield from k.vmalloc_node_range(3, TextKind.MODULE_DATA)
        yield from k.vfree_data((yield from k.vmalloc_data(9_000)))
        for _ in range(2):
            k.begin(bench.operation("nx"), "nx")
            yield from k.set_memory_nx(area)
            k.end()

    bench.task("loader", body)
    bench.run()
    flushes = [op.counts.get("purge_flush", 0) for op in bench.recorder.of("nx")]
    assert flushes == [1, 0]
    assert [op.counts.get("round", 0) for op in bench.recorder.of("nx")] == [1, 0], "RW and NX: no entry changes"
    assert bench.recorder.of("nx")[0].counts["flush_tlb_kernel_range"] == 1, "three pages and a guard: page by page"
