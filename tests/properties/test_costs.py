"""Change a cost table and no count changes: how often a primitive is used is fixed by the code, not by its price."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execbench.backends.module_alloc import ModuleAlloc
from execbench.conformance import Place, places, toy_costs
from execbench.contract import Image, Proc, Region, Totals
from execbench.kernel.arch import ARCHITECTURES
from execbench.kernel.facade import Kernel
from execbench.registry.plugins import class_for, registered
from tests.properties.lifecycle import Counts, counted

COSTS = toy_costs()
BACKENDS = [(name, class_for("backends", name, "test")()) for name in registered("backends")]
HERE = [
    pytest.param(backend, arch, id=f"{name}-{arch}")
    for name, backend in BACKENDS
    for arch in ARCHITECTURES
    if list(places(backend, [arch]))
]


@cache
def unscaled(backend: Any, place: Place) -> Counts:
    return counted(backend, place)


@pytest.mark.parametrize(("backend", "arch"), HERE)
@settings(max_examples=2)
@given(seed=st.integers(0, 1 << 32))
def test_counts_do_not_depend_on_what_things_cost(backend: Any, arch: str, seed: int) -> None:
    """Every cost is made cheaper or dearer by up to twenty times, each by a factor of its own."""
    dice = Random(seed)
    scaled = COSTS.scaled({cost: 20 ** dice.uniform(-1, 1) for cost in COSTS})
    for place in places(backend, [arch]):
        assert counted(backend, place, scaled) == unscaled(backend, place), place


@dataclass(frozen=True, kw_only=True)
class _LooksAtTheClock(ModuleAlloc):
    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        yield from super().write(k, s, region, image)
        yield from k.settle()
        if k.now > 1_000_000:
            k.count("late")


def test_a_count_that_depends_on_time_is_found() -> None:
    place = next(places(_LooksAtTheClock()))
    slow = COSTS.scaled(dict.fromkeys(COSTS, 20.0))
    assert counted(_LooksAtTheClock(), place, slow) != counted(_LooksAtTheClock(), place)
