"""The client that attaches programs: what it does of each kind, everywhere, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from execbench.audit import audit
from execbench.clients.attachments import KINDS
from execbench.clients.bpf_attach import BpfAttach, Slower
from execbench.errors import InputError
from execbench.sim.dists import Constant
from execbench.simulate import simulate
from execbench.study.expand import Asked, expand
from tests.clients.worlds import counts, operations, replication, unfinished

NONE = dict.fromkeys((f"client__bpf-attach__{kind}" for kind in KINDS), 0)
MACHINES = {"x86_64": "server-64", "arm64": "arm64-server-128", "riscv64": "riscv64-server-64"}


def only(**weights: float) -> dict[str, Any]:
    """These kinds and no others."""
    return NONE | {f"client__bpf-attach__{kind}": weight for kind, weight in weights.items()}


@pytest.mark.parametrize("arch", MACHINES)
@pytest.mark.parametrize("release", ["6.12", "6.18", "7.3"])
def test_every_kind_comes_and_goes_everywhere(arch: str, release: str) -> None:
    settings = dict.fromkeys(NONE, 1.0) | {"client__bpf-attach__attached": 2, "client__bpf-attach__rate": "40/s"}
    done = replication("bpf-attach", machine=MACHINES[arch], kernel=release, duration="2s", run__drain="4s", **settings)
    of = operations(done)
    for kind in KINDS.values():
        assert of["bpf-attach", kind.attach_kind] > 1, kind
        if kind.detach_kind != "tail-call-delete":
            assert 1 < of["bpf-attach", kind.detach_kind] <= of["bpf-attach", kind.attach_kind], kind
    assert unfinished(done) == 0


@pytest.mark.parametrize(
    ("arch", "kinds"),
    [("x86_64", KINDS), ("arm64", ("raw_tp", "xdp", "tail_call", "struct_ops")), ("riscv64", ("raw_tp", "tail_call"))],
)
def test_6_1_has_what_it_does_not_refuse(arch: str, kinds: tuple[str, ...]) -> None:
    done = replication("bpf-attach", machine=MACHINES[arch], kernel="6.1", duration="2s", run__drain="4s",
                       **only(**dict.fromkeys(kinds, 1.0)))  # fmt: skip
    assert sum(operations(done).values()) > 5


@pytest.mark.parametrize(
    ("arch", "kind", "why"),
    [("arm64", "fentry", "ENOTSUPP"), ("riscv64", "fentry", "trampolines"), ("riscv64", "struct_ops", "trampolines")],
)
def test_what_6_1_cannot_do_is_refused_with_the_reason(arch: str, kind: str, why: str) -> None:
    with pytest.raises(InputError, match="no .*(direct calls|trampolines)") as refused:
        replication("bpf-attach", machine=MACHINES[arch], kernel="6.1", **only(**{kind: 1.0}))
    assert kind.split("_")[0] in str(refused.value) and why in str(refused.value)
    assert not BpfAttach(fentry=0, raw_tp=1).refusal(arch, "6.1")


@pytest.mark.parametrize(("release", "most"), [("6.1", 22), ("6.12", 184)])
def test_a_structure_has_no_more_members_than_the_pages_of_a_map_hold(release: str, most: int) -> None:
    def attached(members: int) -> int:
        done = replication("bpf-attach", kernel=release, duration="1s", run__drain="4s", **only(struct_ops=1.0),
                           **{"client__bpf-attach__members": members, "client__bpf-attach__attached": 1})  # fmt: skip
        return operations(done)["bpf-attach", "struct-ops-attach"]

    assert attached(most) > 0
    with pytest.raises(InputError, match=f"members: at most {most}, "):
        attached(most + 1)


@pytest.mark.parametrize("backend", ["bpf_prog_pack", "execmem", "alloc-write-map", "jit_text_alloc", "jitalloc_slab"])
def test_every_backend_serves_pages_that_several_trampolines_share(backend: str) -> None:
    done = replication("bpf-attach", backend, kernel="6.18", duration="2s", run__drain="4s", **only(struct_ops=1.0))
    assert operations(done)["bpf-attach", "struct-ops-attach"] > 0
    counted = counts(done, "bpf-attach", "struct-ops-attach")
    assert counted["bpf_ksym_add"] == counted["arch_bpf_trampoline_size"] == 12 * counted["bpf_struct_ops_map_alloc"]


def test_weights_are_shares_of_the_arrivals_drawn_apart() -> None:
    done = replication("bpf-attach", duration="20s", run__drain="2s", **only(raw_tp=1.0, tail_call=3.0),
                       **{"client__bpf-attach__rate": "50/s"})  # fmt: skip
    of = operations(done)
    few, many = of["bpf-attach", "raw-tp-attach"], of["bpf-attach", "tail-call-update"]
    assert 180 < few < 320 and 650 < many < 850
    assert many != 3 * few


def test_exits_make_trampolines_that_call_the_function() -> None:
    for exits, pokes in ((0.0, False), (1.0, True)):
        done = replication("bpf-attach", duration="3s", run__drain="3s", **only(fentry=1.0),
                           **{"client__bpf-attach__exits": exits, "client__bpf-attach__functions": 1})  # fmt: skip
        counted = counts(done, "bpf-attach", "fentry-detach")
        assert counted["bpf_tramp_image_put"] > 3
        assert counted.get("bpf_arch_text_poke", 0) == pokes * counted["bpf_tramp_image_put"]


def test_a_weight_of_half_thinks_twice_as_long() -> None:
    slower = Slower(Constant(10.0), 2.0)
    assert (slower.mean, slower.sample([0.5]), slower.uniforms) == (20.0, 20.0, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"fentry": 0.0}, {"raw_tp": -1.0}, {"threads": 0}, {"exits": 1.5}, {"rate": 0.0}, {"slots": 0}, {"pokes": -1},
     {"attached": 100, "functions": 1}],
)  # fmt: skip
def test_parameters_that_cannot_run_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        BpfAttach(**wrong)


@pytest.mark.parametrize("release", ["6.12", "7.3"])
def test_no_text_goes_while_anybody_may_be_inside(release: str) -> None:
    """Images behind two or three flavours in a row, the dispatcher's halves behind RCU, struct_ops behind two."""
    settings = {"run.duration": "5s", "client.bpf-attach.exits": 0.5, "client.bpf-attach.struct_ops": 8}
    found = audit("bpf-attach", backends=["bpf_prog_pack"], machines=["server-64"], paths=["ftrace"], kernel=release,
                  settings=settings)  # fmt: skip
    (row,) = found.rows
    assert not row.refused and row.published > 20
    freed = row.judged[5]
    assert freed.rule.condition == "waited" and not freed.also and freed.count > 10


def test_threads_that_empty_slots_at_once_find_what_is_left() -> None:
    asked = Asked.of(
        workload="bpf-attach", backends="bpf_prog_pack", duration="1s", warmup="50ms",
        set={f"client.bpf-attach.{name}": value for name, value in {
            "fentry": 0, "raw_tp": 0, "xdp": 0, "struct_ops": 0, "tail_call": 1, "threads": 4, "slots": 2,
            "deletes": 0.5, "rate": "200/s"}.items()},
    )  # fmt: skip
    for number in range(2):
        record = simulate(json.loads(json.dumps(expand(asked).cells[0].spec)), number)
        assert record.outcome == "ok"
        assert record.operations > 100
