"""A window that is too small ends a replication with a named outcome, whatever the page size; memory stays sound."""

from __future__ import annotations

import copy

import pytest

from execbench.simulate import World
from execbench.study.expand import Asked, expand


@pytest.mark.parametrize("page", [4096, 16 << 10, 64 << 10])
def test_a_full_window_is_a_named_outcome(page: int) -> None:
    asked = Asked.of(
        workload="bpf", machine="server-64", backends="module_alloc", duration="30ms", warmup="5ms",
        set={"client.bpf.loaded": 1500, "kernel.module_window": "16MiB"},
    )  # fmt: skip
    spec = copy.deepcopy(expand(asked).cells[0].spec)
    spec["machine"]["kernel"]["page_size"] = page  # no x86_64 kernel has others: memory does not ask who uses it
    world = World(spec, 0, {})
    shared = world.shared
    room = shared.vmap.free_pages("modules")
    assert 12 << 20 < room * page <= 16 << 20  # KASLR takes up to 4 MiB
    assert shared.frames.total == (64 << 30) // page

    replication = world.run()
    assert replication.outcome == "window-exhausted"
    assert f"'modules': {shared.vmap.largest_hole('modules')}" in replication.detail
    for part in (shared.vmap, shared.frames, shared.text_map, shared.direct_map):
        part.check()
    assert room // 10 < shared.vmap.busy_areas <= room // 2  # every program has its page and a guard page
