"""What must come out, from real runs of the model."""

from __future__ import annotations

import pytest

from execbench.kernel.sync import POLICIES, refusal
from execbench.record.audit import FactLog, Verdict, verdicts
from execbench.record.audit.verdicts import exposed
from execbench.replay import replay
from tests.audit.runs import ARCHITECTURES, audited, judged, spec_of

PASSIVE, PATCHED = "pointer", "text-poke"
KERNEL = (1, 2, 3, 4, 5)


class Heard:
    """What one task did between its last store to a region and the region's publication."""

    def __init__(self, arm: str, arch: str, via: str, **how: object) -> None:
        self.log = FactLog()
        replay(spec_of(arm, arch, **how), 0, via, change=lambda world: world.machine.probe.attach(self.log))

    def between(self) -> list[list[tuple[object, ...]]]:
        """For every publication the (event, fields) of its task since it last stored text."""
        since: dict[object, list[tuple[object, ...]]] = {}
        found = []
        for fact in self.log:
            if fact.event == "store" and fact.fields[2] == "code":
                since[fact.task] = []
            elif fact.event == "reach":
                found.append(since.get(fact.task, []))
            elif fact.task in since:
                since[fact.task].append((fact.event, *fact.fields))
        return found


# --- bpf_prog_pack ----------------------------------------------------------------------------------------------------


def test_packs_on_x86_64():
    pointer, poked = judged("bpf_prog_pack", "x86_64", PASSIVE), judged("bpf_prog_pack", "x86_64", PATCHED)
    assert (pointer[1].verdict, pointer[1].rule.condition) == (Verdict.NO_KNOWN_MECHANISM, "stale-trap")
    assert (poked[1].verdict, poked[1].rule.condition) == (Verdict.PROTOCOL, "synchronized")
    rounds = [
        sum(what[0] == "serialize" for what in facts)
        for facts in Heard("bpf_prog_pack", "x86_64", PATCHED).between()
    ]  # fmt: skip
    assert min(rounds) >= 3
    assert len(pointer[1].trace) == 4
    assert "stores code" in pointer[1].trace[1]


@pytest.mark.parametrize("arch", ["arm64", "riscv64"])
def test_packs_elsewhere_synchronize_by_themselves(arch):
    found = judged("bpf_prog_pack", arch, PASSIVE)
    assert found[1].rule.condition == "synchronized"
    assert found[3].verdict.excluded


# --- modules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arm", "kernel"), [("module_alloc", "6.1"), ("module_alloc", "6.18"), ("execmem", "6.12")])
@pytest.mark.parametrize("machine", ["server-64", "amd-invlpgb-128"])
def test_modules_on_x86_64_need_no_serialization(arm, kernel, machine):
    found = judged(arm, "x86_64", machine=machine, kernel=kernel)
    assert found[1].rule.condition == found[2].rule.condition == "not-fetchable"
    assert found[1].verdict is Verdict.PROTOCOL


def test_what_the_flushes_of_modules_add_is_incidental():
    for machine, hows in (("server-64", {"ipi"}), ("amd-invlpgb-128", {"broadcast"})):
        facts = Heard("execmem", "x86_64", PASSIVE, machine=machine, kernel="6.18").between()
        assert {what[4] for flushes in facts for what in flushes if what[0] == "flush"} == hows
        assert not [what for flushes in facts for what in flushes if what[0] == "serialize"]


def test_modules_on_arm64_are_kicked_too_early():
    found = judged("module_alloc", "arm64", PASSIVE)
    assert found[1].rule.condition == "not-fetchable"
    assert found[3].rule.condition == "nx-fault"
    for facts in Heard("module_alloc", "arm64", PASSIVE).between():
        kick = next(i for i, what in enumerate(facts) if what[0] == "serialize" and what[2] == "others")
        made_x = next(i for i, what in enumerate(facts) if what[0] == "map" and what[4] == "ro-x")
        assert kick < made_x
    assert judged("module_alloc", "arm64", PATCHED)[3].rule.condition == "synchronized"
    assert judged("module_alloc", "arm64", "ftrace")[3].rule.condition == "nx-fault"


# --- alloc, write, map ------------------------------------------------------------------------------------------------


def test_alloc_write_map_on_x86_64_needs_no_synchronization():
    found = judged("alloc-write-map", "x86_64", PASSIVE)
    assert all(found[hazard].verdict.excluded for hazard in KERNEL)
    for facts in Heard("alloc-write-map", "x86_64", PASSIVE).between():
        assert not [what for what in facts if what[0] in ("serialize", "flush")]


def test_alloc_write_map_on_arm64_may_fault():
    found = judged("alloc-write-map", "arm64", PASSIVE)
    assert {hazard for hazard in KERNEL if not found[hazard].verdict.excluded} == {3}
    assert found[3].rule.condition == "none-fault"


def test_alloc_write_map_on_riscv64_fences_before_it_maps():
    found = judged("alloc-write-map", "riscv64", PASSIVE)
    assert all(found[hazard].verdict.excluded for hazard in KERNEL)
    for facts in Heard("alloc-write-map", "riscv64", PASSIVE).between():
        fence = next(i for i, what in enumerate(facts) if what[0] == "icache" and what[4] == "fence.i-all")
        made_x = next(i for i, what in enumerate(facts) if what[0] == "map" and what[4] == "ro-x")
        assert fence < made_x


# --- text that is executable before it is complete --------------------------------------------------------------------

CLOSES_STALE = ("sync-core-ipi", "int3-protocol", "stop-machine", "lazy-generation", "trap-and-retry",
                "defer-to-kernel-entry")  # fmt: skip
KEEPS_OUT = ("int3-protocol", "trap-and-retry", "stop-machine")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "merged-flush"])
def test_jit_text_alloc(policy, arch):
    if refusal(policy, arch):
        return
    found = judged(f"jit_text_alloc[sync={policy}]", arch, PASSIVE)
    assert found[1].verdict.excluded is (policy in CLOSES_STALE)
    assert found[2].verdict.excluded is (policy in KEEPS_OUT)


def test_traps_are_met_by_who_caches_instructions_too():
    """arm64 without CTR_EL0.DIC: what was in the caches before a fill is gone before anybody rests on the traps."""
    for arm in ("jit_text_alloc[sync=trap-and-retry]", "jitalloc-slab[fill=traps,sync=trap-and-retry]"):
        found = judged(arm, "arm64", PASSIVE, machine__features__dic=False)
        assert (found[1].rule.condition, found[2].rule.condition) == ("retried", "kept-out")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("policy", ["rcu", "rcu-expedited", "tasks-rude"])
def test_no_grace_period_synchronizes(policy, arch):
    plain = judged("jit_text_alloc[sync=none]", arch)
    waited = judged(f"jit_text_alloc[sync={policy}]", arch)
    assert {hazard: one.rule.condition for hazard, one in waited.items() if hazard < 4} == {
        hazard: one.rule.condition for hazard, one in plain.items() if hazard < 4
    }


def test_objects_that_are_not_filled_hold_code():
    assert judged("jitalloc-slab", "x86_64")[1].rule.condition == "stale-code"
    assert judged("jitalloc-slab[fill=traps]", "x86_64")[1].rule.condition == "stale-trap"


def test_a_merged_flush_serializes_by_itself_where_interrupts_do_not():
    for fred in (False, True):
        found = judged("rw-inplace-finalize[sync=merged-flush]", "x86_64", machine__features__fred=fred)
        assert found[1].verdict.excluded


# --- writable aliases -------------------------------------------------------------------------------------------------

ALIASES = {
    ("bpf_prog_pack", "x86_64"): ({"direct": "windows", "mm": "windows"}, ("scratch",)),
    ("bpf_prog_pack", "arm64"): ({"fixmap": "windows"}, ("fixmap", "scratch")),
    ("bpf_prog_pack", "riscv64"): ({"fixmap": "windows"}, ("fixmap", "scratch")),
    ("module_alloc", "arm64"): ({}, ("text",)),
    ("module_alloc", "riscv64"): ({}, ("text",)),
    ("execmem", "x86_64"): ({"direct": "windows"}, ("text",)),
    ("alloc-write-map", "x86_64"): ({"direct": "permanent"}, ("direct-map",)),
    ("alloc-write-map[write_through=temporary-mm,alias=read-only]", "x86_64"): ({}, ()),
    ("temporary-mm", "arm64"): ({}, ()),
    ("vmalloc-exec", "x86_64"): ({"text": "permanent", "direct": "permanent"}, ("text",)),
}


@pytest.mark.parametrize(("arm", "arch"), list(ALIASES))
def test_exposure(arm, arch):
    found = audited(arm, arch)
    seen = {kind: one.status for kind, one in found.exposures.items() if one.status != "never"}
    assert (seen, found.future) == ALIASES[arm, arch]


def test_who_can_write_through_an_alias():
    private, shared = audited("bpf_prog_pack", "x86_64"), audited("bpf_prog_pack", "arm64")
    assert exposed(private, "mm").endswith("from one CPU")
    assert exposed(shared, "fixmap").endswith("from all CPUs")
    assert private.exposures["mm"].longest < private.exposures["direct"].longest


# --- user space -------------------------------------------------------------------------------------------------------


class Rounds:
    """Why CPUs were interrupted while text was made."""

    def __init__(self) -> None:
        self.whys: set[str] = set()

    def ipi(self, begin: int, end: int, task: object, why: str, targets: int) -> None:
        self.whys |= {why} if targets else set()


@pytest.mark.parametrize(
    ("arch", "interrupts"), [("x86_64", set()), ("arm64", set()), ("riscv64", {"flush_icache_mm"})]
)
def test_mapping_user_text_interrupts_only_harts(arch, interrupts):
    rounds = Rounds()
    spec = spec_of("user-mmap", arch, workload="user-jit")
    findings, record = replay(spec, 0, change=lambda world: world.machine.probe.attach(rounds))
    assert record.outcome == "ok"
    judged = verdicts(findings)
    assert all(judged[hazard].verdict.excluded for hazard in judged if hazard < 6)
    assert judged[3].rule.condition == "user"
    assert rounds.whys - {"flush_tlb_mm_range"} == interrupts


def test_user_text_written_under_an_alias_needs_a_barrier():
    plain = verdicts(replay(spec_of("user-dual-map", "x86_64", workload="user-jit"), 0)[0])
    barred = verdicts(replay(spec_of("user-dual-map[sync=sync-core]", "x86_64", workload="user-jit"), 0)[0])
    assert (plain[1].rule.condition, barred[1].rule.condition) == ("stale-code", "synchronized")
    assert "user-permanent" in (plain[6].rule.condition, *plain[6].also)


# --- independence of chance -------------------------------------------------------------------------------------------

STEADY = [("bpf_prog_pack", "x86_64"), ("execmem", "x86_64"), ("jitalloc-slab", "arm64"), ("alloc-write-map", "arm64"),
          ("bpf_prog_pack", "riscv64"), ("module_alloc", "riscv64")]  # fmt: skip


@pytest.mark.parametrize(
    ("arm", "arch", "walked"),
    [*((arm, arch, 1) for arm, arch in STEADY[::2]),
     *(pytest.param(arm, arch, 10, marks=pytest.mark.long) for arm, arch in STEADY)],
)  # fmt: skip
def test_a_verdict_is_the_same_for_ten_seeds_and_both_cpu_models(arm, arch, walked):
    """`walked` seeds are also run with every jump of every CPU as an event, which takes most of the time."""
    seen = {
        str([
            sorted((hazard, one.rule.condition) for hazard, one in judged(
                arm, arch, PASSIVE, run__cpu_model=model, run__seed=seed, replication=seed % 3,
            ).items())
        ])
        for model, seeds in (("lazy", 10), ("explicit", walked))
        for seed in range(seeds)
    }  # fmt: skip
    assert len(seen) == 1
