"""The conformance suite over every backend in every place, with every value of its parameters, and over a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.conformance import PAGE_SIZES, Place, check, check_at, conformance, places
from execbench.conformance.places import refusal
from execbench.kernel.arch import ARCHITECTURES
from execbench.kernel.releases import RELEASES
from execbench.registry.plugins import class_for, registered
from tests.contract.arms import arms, others

PLUGIN = Path(__file__).parent / "bump_allocator.py"
ARMS = arms()
each_arm = pytest.mark.parametrize(("index", "arm"), list(enumerate(ARMS)), ids=[name for name, _ in ARMS])


@pytest.mark.parametrize("name", sorted(registered("backends")))
def test_a_registered_backend_conforms_wherever_it_can_be_expressed(name: str) -> None:
    assert check(class_for("backends", name, "test")()) == []


@each_arm
def test_a_parameter_conforms_on_each_architecture(index: int, arm: tuple[str, Any]) -> None:
    """On one release, kind and page size, others for each arm: all of them are checked by the long test below."""
    release = list(RELEASES)[index % len(RELEASES)]
    for arch in ARCHITECTURES:
        where = [place for place in places(arm[1], [arch], PAGE_SIZES) if place.release == release]
        for place in where[index // len(RELEASES) % len(where) :][:1] if where else ():
            assert check_at(arm[1], place) == []


@pytest.mark.long
@each_arm
def test_a_parameter_conforms_wherever_it_can_be_expressed(index: int, arm: tuple[str, Any]) -> None:
    assert check(arm[1]) == []


def test_each_backend_with_a_choice_is_there_with_each_of_its_values() -> None:
    names = {name for name, _ in ARMS}
    assert set(registered("backends")) <= names
    assert {"module_alloc[order=merged]", "alloc-write-map[alias=removed]", "user-mmap[through=store]"} <= names
    assert len(names) == len(ARMS) > 4 * len(registered("backends"))


def test_the_places_are_all_architectures_releases_kinds_and_page_sizes_that_are_declared() -> None:
    assert PAGE_SIZES == {"x86_64": (4096,), "arm64": (4096, 16384, 65536), "riscv64": (4096,)}
    for _, backend in ARMS:
        support = type(backend).support
        where = set(places(backend, None, PAGE_SIZES))
        kinds = {place.kind for place in where}
        assert kinds <= set(support.kinds)
        assert where == {
            Place(arch, release, kind, page)
            for arch in support.architectures if not refusal(backend, arch)
            for release in RELEASES for kind in kinds for page in PAGE_SIZES[arch]
        }  # fmt: skip
        assert {place.page_size for place in places(backend)} == {4096}


@each_arm
def test_a_place_that_is_refused_has_a_reason(index: int, arm: tuple[str, Any]) -> None:
    backend = arm[1]
    for arch in ARCHITECTURES:
        reason = refusal(backend, arch)
        assert bool(reason) == (not list(places(backend, [arch])) or arch not in type(backend).support.architectures)
        assert not reason or len(reason.split()) > 2, reason


def test_a_refused_parameter_says_so_and_the_rest_is_checked() -> None:
    found = conformance("alloc-write-map[sync=defer-to-kernel-entry]", ["arm64"])
    assert not found.places
    assert not found.findings
    assert not found.ok
    assert "defer-to-kernel-entry cannot be expressed on arm64" in str(found)
    both = conformance("execmem-rox-copy", ["x86_64", "arm64"])
    assert both.ok
    assert {place.arch for place in both.places} == {"x86_64"}
    assert "ARCH_HAS_EXECMEM_ROX" in str(both)


def test_a_pack_of_other_chunks_conforms() -> None:
    assert check(BpfProgPack(chunk=256), ["x86_64"]) == []


def test_a_backend_in_a_file_conforms() -> None:
    cls = class_for("backends", "BumpAllocator", "test", PLUGIN.read_text())
    assert len([line for line in PLUGIN.read_text().splitlines() if line.strip()]) <= 40
    assert check(cls()) == []
    assert others(cls) == []
