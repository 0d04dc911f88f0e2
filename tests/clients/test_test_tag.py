"""The kernel's test_tag: its programs, byte by byte where a hand can follow, and one pass over them."""

from __future__ import annotations

from typing import Any

import pytest

from execbench.clients.bpf import Program
from execbench.clients.test_tag import TestTag, imm_program, map_program
from tests.clients.worlds import counts, operations, replication, unfinished

SHORT: dict[str, Any] = {"client__test_tag__most": 400, "client__test_tag__step": 3}
LOADS = 133 + 133
"""Programs of 2 to 398 and of 3 to 399 instructions."""


def keyed(**settings: Any) -> dict[str, Any]:
    return {name.replace("test_tag", "test-tag"): value for name, value in settings.items()}


def test_its_programs_are_the_kernels_forty_thousand() -> None:
    programs = list(TestTag().programs())
    assert len(programs) == 40_945, "what it prints: test_tag: OK (40945 tests)"
    assert [min(p.insns for p in programs), max(p.insns for p in programs)] == [2, 4096]
    assert imm_program(2).processed == 2
    assert [map_program(n).processed for n in (3, 4, 5)] == [2, 3, 3], "an address is two instructions, verified as one"


@pytest.mark.parametrize(
    ("program", "jited"),
    [
        # nopl 5, nop3, push rbp 1, mov rbp,rsp 3; leave 1, ret 1: 14 around everything
        (imm_program(2), 14 + 5),  # mov eax, imm32
        (imm_program(6), 14 + 5 * 5),  # eax, edi, esi, edx, ecx
        (imm_program(7), 14 + 5 * 5 + 6),  # r8d takes a prefix
        (imm_program(8), 14 + 5 * 5 + 6 + 5 + 2),  # ebx; push rbx and pop rbx
        (imm_program(9), 14 + 5 * 5 + 6 + 5 + 2 + 6 + 4),  # r13d; push r13 and pop r13
        (imm_program(11), 14 + 6 * 5 + 4 * 6 + 2 + 3 * 4),  # all ten, r14d and r15d pushed as well
        (imm_program(21), 14 + 2 * (6 * 5 + 4 * 6) + 2 + 3 * 4),
        (imm_program(4096), 14 + 409 * 54 + 5 * 5 + 14),
        (map_program(3), 14 + 10),  # movabs rax, imm64
        (map_program(5), 14 + 2 * 10),
        (map_program(4), 14 + 10 + 5),  # and mov ecx, 42: BPF_REG_4
        (map_program(6), 14 + 2 * 10 + 5 + 2),  # and mov ebx, 42, saved: BPF_REG_6
        (map_program(8), 14 + 3 * 10 + 6 + 4),  # and mov r14d, 42, saved: BPF_REG_8
        (map_program(4095), 14 + 2047 * 10 + 14),
        (map_program(4096), 14 + 2047 * 10 + 5 + 14),  # ebx once more
    ],
    ids=lambda one: f"{one.insns}-{one.processed}" if isinstance(one, Program) else str(one),
)
def test_a_programs_text_is_what_the_jit_makes_of_it(program: Program, jited: int) -> None:
    assert program.functions == (jited,)


@pytest.mark.parametrize("machine", ["server-64", "arm64-server-128", "riscv64-server-64"])
@pytest.mark.parametrize("backend", ["module_alloc", "bpf_prog_pack", "alloc-write-map"])
def test_a_pass_loads_every_program_once_and_is_over(machine: str, backend: str) -> None:
    done = replication("test_tag", backend, machine=machine, **keyed(**SHORT))
    of = operations(done)
    assert of == {("test-tag", kind): n for kind, n in (("pass", 1), ("load", LOADS), ("unload", LOADS),
                                                        ("free", LOADS))}  # fmt: skip
    assert unfinished(done) == 0
    if backend == "bpf_prog_pack":
        assert counts(done, "test-tag", "load")["bpf_prog_pack_alloc"] == LOADS
    found = metrics(done)
    assert found["pass", "latency_sum"] > found["load", "latency_sum"] + found["unload", "latency_sum"]
    assert ("", "undone") not in found


def test_what_the_window_is_too_short_for_is_left_undone() -> None:
    whole = metrics(replication("test_tag", **keyed(**SHORT)))
    window = int(whole["pass", "latency_sum"]) // 2
    done = replication("test_tag", duration=f"{window}ns", **keyed(**SHORT))
    loads = operations(done)["test-tag", "load"]
    assert 0 < loads < LOADS
    assert metrics(done)["", "undone"] == LOADS - loads
    assert operations(done)["test-tag", "pass"] == 1
    assert window <= metrics(done)["pass", "latency_sum"] < 1.1 * window


@pytest.mark.parametrize("backend", ["module_alloc", "bpf_prog_pack", "execmem", "alloc-write-map"])
def test_deferred_frees_end_while_the_test_runs(backend: str) -> None:
    """A kworker on the test's own CPU makes them: it gets its turns though the test never sleeps."""
    done = replication("test_tag", backend, duration="50ms", **keyed(client__test_tag__step=40))
    found, loads = metrics(done), operations(done)["test-tag", "load"]
    assert ("", "undone") in found, "the test runs all the time"
    in_window = found["free", "throughput"] * 0.05
    assert 0.5 * loads < in_window < loads, "all but those whose grace period is not over"
    assert found["free", "latency_mean"] < 2 * found["load", "latency_mean"], "the test yields behind every program"


def metrics(done: Any) -> dict[tuple[str, str], float]:
    table = done.tables["metrics"]
    names = zip(table["kind"], table["metric"], strict=True)
    return dict(zip(names, table["value"], strict=True))
