"""The cited table: complete, cited, honest about silence; and what features change."""

from __future__ import annotations

import pytest

from execbench.record.audit import HAZARDS, Verdict, rule
from execbench.record.audit.rules import EVERY, machine_facts, table

CONDITIONS = {
    1: {
        "x86_64": "not-fetchable synchronized entry retried stale-trap stale-code own-cpu",
        "arm64": "not-fetchable synchronized entry retried stale-trap stale-code own-cpu icache",
        "riscv64": "not-fetchable synchronized entry retried icache",
    },
    2: {EVERY: "not-fetchable atomic kept-out torn-then-synchronized torn-trap torn-code torn-live"},
    3: {
        "x86_64": "none nx nx-not-flushed user",
        "arm64": "synchronized none-fault nx-fault nx-not-flushed user",
        "riscv64": "none nx nx-not-flushed user",
    },
    4: {EVERY: "flushed overlap downgrade reused"},
    5: {EVERY: "waited nobody-inside no-grace-period wrong-flavour reachable"},
    6: {EVERY: "never text-windows text-permanent direct-windows direct-permanent fixmap-windows mm-windows "
               "user-windows user-permanent"},
}  # fmt: skip
"""Everything that the analysis can say."""


@pytest.mark.parametrize("arch", ["x86_64", "arm64", "riscv64"])
def test_every_condition_has_a_row(arch):
    for hazard, conditions in CONDITIONS.items():
        for condition in (conditions.get(arch) or conditions[EVERY]).split():
            row = rule(hazard, arch, condition)
            assert row.hazard == hazard
            assert row.condition == condition


def test_no_row_is_left_over():
    known = {
        (hazard, condition)
        for hazard, by_arch in CONDITIONS.items()
        for conditions in by_arch.values()
        for condition in conditions.split()
    }
    assert {(hazard, condition) for hazard, _, condition in table()} == known
    assert set(CONDITIONS) == set(HAZARDS)


def test_every_row_is_cited_and_says_what_is_missing():
    for row in table().values():
        assert row.clause.endswith(".")
        assert row.manual
        assert all(row.manual)
        assert bool(row.missing) is not row.verdict.excluded


THEIRS = {
    "x86_64": ("Intel", "AMD", "arch/x86"),
    "arm64": ("Arm ARM", "arch/arm64", "Rutland"),
    "riscv64": ("RISC-V", "arch/riscv", "SBI"),
}
"""What names an architecture in a citation."""


@pytest.mark.parametrize("arch", list(THEIRS))
def test_a_verdict_cites_its_own_architecture_only(arch):
    others = [word for other, words in THEIRS.items() if other != arch for word in words]
    for hazard, conditions in CONDITIONS.items():
        for condition in (conditions.get(arch) or conditions[EVERY]).split():
            row = rule(hazard, arch, condition)
            assert not [manual for manual in row.manual if any(word in manual for word in others)]
            if hazard in (2, 4):
                own = (*THEIRS[arch], f"machine.{arch}")
                assert any(word in manual for manual in row.manual for word in own), row


def test_silence_excludes_nothing():
    silent = [row for row in table().values() if row.silent]
    assert silent
    assert all(row.verdict >= Verdict.NO_KNOWN_MECHANISM for row in silent)


def test_the_ladder():
    assert [str(verdict) for verdict in sorted(Verdict)] == [
        "excluded by the architecture",
        "excluded by protocol",
        "permitted by the manual, no known mechanism",
        "permitted, mechanism known",
        "violated",
    ]


def test_machines():
    assert machine_facts("x86_64", {}).interrupted
    assert not machine_facts("x86_64", {"fred": True}).interrupted
    assert "ERETS" in machine_facts("x86_64", {"fred": True}).because["interrupted"]
    assert not machine_facts("arm64", {"dic": False}).coherent
    assert machine_facts("arm64", {"dic": True}).coherent
    assert not machine_facts("riscv64", {}).interrupted
    assert machine_facts("arm64", {}).pipeline_faults
