"""test_tag: the kernel's own selftest that loads programs of every length and closes each at once.

tools/testing/selftests/bpf/test_tag.c: do_test. The series that introduced program packs was measured with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from execbench.clients.bpf import COSTS as BPF_COSTS
from execbench.clients.bpf import Bpf, Loader, Program
from execbench.clients.limits import at_least
from execbench.contract import Entry, Estimate, Proc, Setting, TextKind
from execbench.kernel.facade import Kernel

_LOADING = (
    "load_fixed", "copy_insn", "verify_alu_insn", "jit_insn", "subprog_fixed", "kallsyms", "expose_fd", "put",
    "free_fixed",
)  # fmt: skip
"""What loading costs as client.bpf's programs do; the other costs there are of programs that are not straight."""

COSTS = {name: BPF_COSTS[name]._replace(like=f"client.bpf.{name}") for name in _LOADING} | {
    "fill_insn": Entry(
        "instruction", "user space makes one instruction (bpf_gen_imm_prog: rand; bpf_gen_map_prog, twice)",
        estimate=Estimate("8ns", "3ns", "20ns", "assumed: one call of rand() and a store of 8 bytes"),
    ),
    "fdinfo": Entry(
        "program", "open, read and close the descriptor's fdinfo (tag_from_fdinfo)",
        estimate=Estimate("12us", "5us", "40us", "assumed: three system calls, a dentry and text for 256 bytes"),
    ),
    "alg_fixed": Entry(
        "program", "socket, bind, accept, write, read and two closes of AF_ALG (tag_from_alg)",
        estimate=Estimate("15us", "6us", "50us", "assumed: seven system calls and a hash"),
    ),
    "alg_insn": Entry(
        "instruction", "SHA-1 of one instruction's 8 bytes (tag_from_alg)",
        estimate=Estimate("8ns", "3ns", "20ns", "assumed: about a nanosecond a byte without SHA instructions"),
    ),
}  # fmt: skip
"""What the test does besides loading, one row per name under `[costs.client.test-tag]`."""

MAXINSNS = 4096
"""BPF_MAXINSNS."""
REGISTERS = 10
"""Both kinds of program write R0 to R9 in turn (BPF_REG_10 is the frame pointer)."""
MOV, MOVABS, FRAME = 5, 10, 14
"""x86_64: a 32-bit constant that is not negative, a map's address; entry and exit, without landing pads (bytes)."""
REX = (5, 7, 8, 9)
"""Registers whose 32-bit move has a prefix of one byte (arch/x86/net/bpf_jit_comp.c: is_ereg)."""
SAVED = {6: 2, 7: 4, 8: 4, 9: 4}
"""Registers that are pushed and popped if they are written, and the bytes of both (push_callee_regs)."""


def imm_program(insns: int) -> Program:
    """Return bpf_gen_imm_prog: constants into the registers in turn, then exit; rand() is never negative."""
    moves = insns - 1
    rounds, rest = divmod(moves, REGISTERS)
    prefixes = rounds * len(REX) + sum(register < rest for register in REX)
    return _program(insns, insns, MOV * moves + prefixes, set(range(min(moves, REGISTERS))))


def map_program(insns: int) -> Program:
    """Return bpf_gen_map_prog: addresses of a map into the registers in turn, two instructions each, then exit.

    Where that leaves one over, it is a constant into the register of its number.
    """
    wide, odd = divmod(insns - 1, 2)
    written, jited = set(range(min(wide, REGISTERS))), MOVABS * wide
    if odd:
        register = insns % REGISTERS
        written.add(register)
        jited += MOV + (register in REX)
    return _program(insns, wide + odd + 1, jited, written)


def _program(insns: int, processed: int, moves: int, written: set[int]) -> Program:
    """Return a program whose moves take so many bytes and write these registers."""
    jited = moves + FRAME + sum(SAVED[register] for register in written if register in SAVED)
    return Program(insns=insns, processed=processed, total_states=0, xlated=insns, straight_line=True,
                   functions=(jited,))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TestTag:
    """One thread: `rounds` times all programs of constants from 2, then all of a map from 3 instructions up to `most`.

    Each is loaded, its tag is read and computed, it is closed. `step` instructions lie between one program and the
    next: 1 in the kernel's test, 40945 programs; a larger step keeps the range of lengths and takes less time. All of
    that is one operation, `pass`; then the test is over. What a window is too short for is left undone.
    """

    __test__: ClassVar[bool] = False  # no test case, whatever its name looks like
    name: ClassVar[str] = "test-tag"
    api_phases: ClassVar[frozenset[str]] = frozenset({"alloc", "write", "finalize", "bpf_jit_free"})
    arrivals: ClassVar[frozenset[str]] = frozenset()
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = (TextKind.BPF,)

    rounds: int = 5
    step: int = 1
    most: int = MAXINSNS
    jit_passes: int = 3
    """As the client bpf has it."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        at_least(self, 1, "rounds", "step", "jit_passes")
        if not 3 <= self.most <= MAXINSNS:
            raise ValueError(f"most: 3 to {MAXINSNS} instructions")

    def computing_threads(self) -> int:
        """Return 1: the test never sleeps."""
        return 1

    def cpus(self, machine_cpus: int) -> tuple[int, ...]:
        """Place the test alone."""
        return (0,)

    def programs(self) -> Iterator[Program]:
        """Yield the programs of one pass of the whole test in their order."""
        for _ in range(self.rounds):
            for insns in range(2, self.most + 1, self.step):
                yield imm_program(insns)
            for insns in range(3, self.most + 1, self.step):
                yield map_program(insns)

    def start(self, setting: Setting) -> None:
        """Start the test at time 0."""
        loader = Loader(Bpf(data="", jit_passes=self.jit_passes), setting, client="test-tag")
        setting.spawn("test-tag/0", 0, lambda k: self._test(k, setting, loader))

    def _test(self, k: Kernel, setting: Setting, loader: Loader) -> Proc[None]:
        yield from k.settle()
        whole, programs = setting.operation("test-tag", "pass", 0, 0), list(self.programs())
        k.begin(whole, "pass")
        for number, program in enumerate(programs):
            fills = 1 if program.processed == program.insns else 2  # a map's descriptor is taken out again for the tag
            k.spend("client.test-tag.fill_insn", program.insns * fills)
            yield from k.settle()
            if k.now >= setting.duration:
                setting.undone["test-tag"] = len(programs) - number
                break
            loaded = yield from loader.load(k, program, setting.operation("test-tag", "load", number, k.now))
            k.spend("client.test-tag.fdinfo")
            k.spend("client.test-tag.alg_fixed")
            yield from k.compute("client.test-tag.alg_insn", program.insns)
            yield from loader.unload(k, loaded, number)
            yield from k.sched_yield()
        k.task.op = whole
        k.end()
