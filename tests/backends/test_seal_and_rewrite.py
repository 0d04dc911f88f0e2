"""The two verbs that a backend may leave out: what a setting does then, and which backends have them."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.backends.jit_text_alloc import JitTextAlloc
from execbench.backends.jitalloc_slab import JitallocSlab
from execbench.backends.module_alloc import ModuleAlloc
from execbench.backends.rw_inplace_finalize import RwInplaceFinalize
from execbench.contract import Image, Proc, Region, Setting
from execbench.errors import InputError
from execbench.kernel.facade import Kernel
from tests.backends.verbs import Verbs


def setting(verbs: Verbs) -> Setting:
    return Setting(verbs.bench.shared, verbs.backend, verbs.state, 1, 0, 0, lambda name: ())


def test_without_a_seal_an_area_is_sealed_by_set_memory_ro() -> None:
    verbs = Verbs(ModuleAlloc())
    (region,) = verbs.alloc(5000)
    verbs.do(lambda k: setting(verbs).seal(k, region))
    assert verbs.steps == ["set_memory_ro 2", "vm_unmap_aliases", "flush_tlb_all", "cpa_flush"]
    assert verbs.perm(region) == "ro-nx"


def test_a_backend_of_shared_pages_cannot_be_sealed_unless_it_says_how() -> None:
    verbs = Verbs(BpfProgPack())
    (region,) = verbs.alloc(100)
    with pytest.raises(TypeError, match="BpfProgPack has no seal"):
        verbs.do(lambda k: setting(verbs).seal(k, region))


class _Seals(RwInplaceFinalize):
    def seal(self, k: Kernel, s: Any, region: Region) -> Proc[None]:
        k.count("its own seal, inside the API", k.task.verbs)
        return
        yield


def test_a_seal_of_its_own_wins() -> None:
    verbs = Verbs(_Seals())
    (region,) = verbs.alloc(100)
    verbs.do(lambda k: setting(verbs).seal(k, region))
    assert verbs.steps == ["its own seal, inside the API"]


@pytest.mark.parametrize("backend", [ModuleAlloc(), BpfProgPack(), RwInplaceFinalize()], ids=repr)
def test_without_a_rewrite_live_text_is_refused(backend: Any) -> None:
    verbs = Verbs(backend)
    (region,) = verbs.alloc(100)
    assert not setting(verbs).rewrites
    with pytest.raises(InputError, match="rewrite verb, such as jit_text_alloc"):
        verbs.do(lambda k: setting(verbs).rewrite(k, region, Image(1, 100)))


@pytest.mark.parametrize("backend", [JitTextAlloc(), JitallocSlab()], ids=repr)
def test_live_text_is_rewritten_as_part_of_the_api(backend: Any) -> None:
    verbs = Verbs(backend)
    (region,) = verbs.load(100)
    assert setting(verbs).rewrites
    verbs.do(lambda k: setting(verbs).rewrite(k, region, Image(1, 60)))
    assert verbs.steps == ["text_poke_copy 60", "text_poke 60"]
    assert [fact[1:3] for fact in verbs.bench.told("store")] == [(region.va, 60)]
