"""Kprobes: registered at any instruction, armed by a breakpoint or by ftrace, made jumps later (kernel/kprobes.c)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.kernel.arm64.patching import aarch64_insn_patch_text
from execbench.kernel.ftrace import (
    RELEASE,
    FtraceOps,
    TextMemory,
    ftrace_set_hash,
    register_ftrace_function,
    unregister_ftrace_function,
)
from execbench.kernel.kprobe_slots import InsnCache, ReleaseSlots, Slot, SlotMemory, free_insn_slot, get_insn_slot
from execbench.kernel.phases import end
from execbench.kernel.riscv64.patch import patch_text
from execbench.kernel.text import Image
from execbench.kernel.x86_64.poke import smp_text_poke_batch, text_poke
from execbench.kernel.x86_64.tlb import sync_core_each_cpu
from execbench.sim.engine import Proc
from execbench.sim.rcu_kthread import Wheel
from execbench.sim.task import Task

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.operation import Operation

INSN_SIZE: Final = {"x86_64": 15, "arm64": 8, "riscv64": 8}
"""Bytes of a slot (arch/*/include/asm: MAX_INSN_SIZE times kprobe_opcode_t)."""
OPTINSN_SIZE: Final = 124
"""Bytes of a detour: the template's 100, 19 of instructions, a jump of 5 (arch/x86/include/asm/kprobes.h:
MAX_OPTINSN_SIZE; counted in arch/x86/kernel/kprobes/opt.c: optprobe_template_func, without frame pointers)."""
DETOUR: Final = 111
"""Bytes of it that are written for six bytes of instructions (arch_prepare_optimized_kprobe)."""
OPTIMIZE_DELAY: Final = 5
"""Jiffies (kernel/kprobes.c)."""


@dataclass(slots=True, eq=False)
class Kprobe:
    """struct kprobe with its optimized_kprobe.

    entry: at a function's entry, where ftrace has a call site. boostable: its slot ends with a jump back, so that
    somebody may be in it at any time. optimizable: the instructions behind it can be replaced (can_optimize).
    """

    entry: bool
    boostable: bool = True
    optimizable: bool = True
    slot: Slot | None = None
    detour: Slot | None = None
    disabled: bool = True
    optimized: bool = False
    queue: str = ""
    """"", "optimizing" or "unoptimizing": the list of the optimizer that it is on."""
    unused: bool = False
    """Unregistered while it waits for the optimizer, which frees it."""


@dataclass(slots=True, eq=False)
class Kprobes:
    """All kprobes of the machine; `operation` makes what one pass of the optimizer is counted for."""

    operation: Callable[[int], Operation]
    slots: InsnCache
    optslots: InsnCache
    ops: FtraceOps
    optimize: bool = True
    """debug.kprobes-optimization."""
    queued: list[Kprobe] = field(default_factory=list)
    passes: int = 0
    optimizer: Task | None = None
    kicked: bool = False

    @staticmethod
    def of(
        arch: str, operation: Callable[[int], Operation], memory: SlotMemory | None = None,
        trampoline: TextMemory = RELEASE, optimize: bool = True,
    ) -> Kprobes:  # fmt: skip
        """No probe yet; slots and ftrace's trampoline come from `memory` and `trampoline`, else from the release."""
        memory = memory or ReleaseSlots()
        return Kprobes(
            operation,
            InsnCache("kprobe_insn_slots.mutex", INSN_SIZE[arch], memory),
            InsnCache("kprobe_optinsn_slots.mutex", OPTINSN_SIZE, memory),
            FtraceOps("kprobe_ftrace_handler", 0, dynamic=False, memory=trampoline),
            optimize,
        )


def on_ftrace(k: Kernel) -> bool:
    """Whether probes at function entries go through ftrace: x86_64, and riscv64 on 6.1 (KPROBES_ON_FTRACE)."""
    return k.arch.name == "x86_64" or (k.arch.name == "riscv64" and k.release.name == "6.1")


# --- registration -----------------------------------------------------------------------------------------------------


def register_kprobe(k: Kernel, s: Kprobes, p: Kprobe, disabled: bool = False) -> Proc[None]:
    """Prepare a probe and, unless `disabled`, arm it; x86_64 prepares its detour too (register_kprobe)."""
    k.count("register_kprobe")
    with (yield from k.lock("jump_label_mutex")):  # check_kprobe_address_safe
        pass
    with (yield from k.lock("kprobe_mutex")):
        if not (p.entry and on_ftrace(k)):
            k.count("cpus_read_lock")
            p.slot = yield from get_insn_slot(k, s.slots)
            yield from s.slots.memory.write(k, p.slot.region, Image(p.slot.region.id, s.slots.insn_size))
        if not disabled:
            yield from _arm_kprobe(k, s, p)
        yield from _try_to_optimize_kprobe(k, s, p)


def enable_kprobe(k: Kernel, s: Kprobes, p: Kprobe) -> Proc[None]:
    """Arm a probe that was registered disabled (enable_kprobe)."""
    with (yield from k.lock("kprobe_mutex")):
        yield from _arm_kprobe(k, s, p)


def disable_kprobe(k: Kernel, s: Kprobes, p: Kprobe) -> Proc[None]:
    """Disarm a probe, at once or by the optimizer (disable_kprobe)."""
    with (yield from k.lock("kprobe_mutex")):
        yield from _disable_kprobe(k, s, p)


def unregister_kprobes(k: Kernel, s: Kprobes, probes: Sequence[Kprobe]) -> Proc[None]:
    """Disarm a batch, wait for one grace period, give the slots back (unregister_kprobes)."""
    k.count("unregister_kprobes", len(probes))
    with (yield from k.lock("kprobe_mutex")):
        for p in probes:
            yield from _disable_kprobe(k, s, p)
            p.unused = bool(p.queue)
    yield from k.synchronize_rcu()
    for p in probes:
        if not p.unused:
            yield from _free_aggr_kprobe(k, s, p)


def _disable_kprobe(k: Kernel, s: Kprobes, p: Kprobe) -> Proc[None]:
    yield from k.settle()
    if not p.disabled:
        p.disabled = True
        yield from _disarm_kprobe(k, s, p)


def _try_to_optimize_kprobe(k: Kernel, s: Kprobes, p: Kprobe) -> Proc[None]:
    """Prepare the detour; jump_label_mutex keeps jump labels out of its instructions (x86_64 only)."""
    if k.arch.name != "x86_64" or p.entry:
        return
    k.count("cpus_read_lock")
    with (yield from k.lock("jump_label_mutex")):
        if not p.optimizable:
            return
        p.detour = yield from get_insn_slot(k, s.optslots)
        yield from s.optslots.memory.write(k, p.detour.region, Image(p.detour.region.id, DETOUR))
        _optimize_kprobe(k, s, p)


def _free_aggr_kprobe(k: Kernel, s: Kprobes, p: Kprobe) -> Proc[None]:
    """Free detour and slot; arm64's slots are never dirty, riscv64 never frees one (arch_remove_kprobe)."""
    if p.detour is not None:
        yield from free_insn_slot(k, s.optslots, p.detour, dirty=True)
    if p.slot is not None and k.arch.name != "riscv64":
        yield from free_insn_slot(k, s.slots, p.slot, dirty=p.boostable and k.arch.name == "x86_64")
    p.slot = p.detour = None


# --- arming -----------------------------------------------------------------------------------------------------------


def _arm_kprobe(k: Kernel, s: Kprobes, p: Kprobe) -> Proc[None]:
    """A breakpoint, or ftrace's call: the first probe of its kind registers the ops (arm_kprobe_ftrace)."""
    p.disabled = False
    if p.entry and on_ftrace(k):
        yield from ftrace_set_hash(k, s.ops, 1)
        if s.ops.sites == 1:
            yield from register_ftrace_function(k, s.ops)
        return
    k.count("cpus_read_lock")
    with (yield from k.lock("text_mutex")):
        yield from _patch_breakpoint(k, "arch_arm_kprobe")
        if p.slot is not None:
            k.expose(p.slot.region, "text-poke", "rcu")
        _optimize_kprobe(k, s, p)


def _disarm_kprobe(k: Kernel, s: Kprobes, p: Kprobe) -> Proc[None]:
    if p.entry and on_ftrace(k):
        if s.ops.sites == 1:
            yield from unregister_ftrace_function(k, s.ops)
        yield from ftrace_set_hash(k, s.ops, -1)
        return
    k.count("cpus_read_lock")
    with (yield from k.lock("text_mutex")):
        if p.queue == "optimizing":
            s.queued.remove(p)
            p.queue, p.optimized = "", False
        if p.optimized:
            p.queue = "unoptimizing"
            s.queued.append(p)
            kick_kprobe_optimizer(k, s)
        else:
            yield from _disarm_breakpoint(k, p)


def _disarm_breakpoint(k: Kernel, p: Kprobe) -> Proc[None]:
    yield from _patch_breakpoint(k, "arch_disarm_kprobe")
    if p.slot is not None:
        k.retire(p.slot.region)


def _patch_breakpoint(k: Kernel, name: str) -> Proc[None]:
    """x86_64: one byte and one round. arm64, riscv64: the machine is stopped. The caller holds text_mutex."""
    k.count(name)
    match k.arch.name:
        case "x86_64":
            text_poke(k, 0, 1, "copy_byte", "site")
            yield from sync_core_each_cpu(k)
        case "arm64":
            yield from aarch64_insn_patch_text(k)
        case _:
            yield from patch_text(k)


# --- the optimizer (x86_64) -------------------------------------------------------------------------------------------


def _optimize_kprobe(k: Kernel, s: Kprobes, p: Kprobe) -> None:
    if p.detour is None or p.disabled or not s.optimize or p.optimized:
        return
    p.optimized, p.queue = True, "optimizing"
    s.queued.append(p)
    kick_kprobe_optimizer(k, s)


def kick_kprobe_optimizer(k: Kernel, s: Kprobes) -> None:
    """Let the optimizer run in five jiffies, if it is not about to: delayed work, on 7.3 a kthread.

    It runs on the CPU that kicked it first and keeps no other work waiting there.
    """
    if s.kicked:
        return
    s.kicked = True
    machine = k.shared.machine
    at = Wheel(machine.rcu, 0).timeout(k.now, OPTIMIZE_DELAY)
    if s.optimizer is None:
        s.optimizer = task = Task("kprobe_optimizer", k.task.cpu, machine.engine, k.shared.costs.ns("task_wakeup"))
        machine.engine.spawn(task.run(_optimizer_thread(k.shared.view(task), s)), at, task.wakeup_key)
    elif s.optimizer.asleep is not None:
        s.optimizer.wake(at)


def _optimizer_thread(k: Kernel, s: Kprobes) -> Proc[None]:
    k.spend("task_wakeup")
    while True:
        s.kicked = False
        k.task.site = "kprobe_optimizer"
        k.begin(s.operation(s.passes), "kprobe_optimizer")
        s.passes += 1
        yield from kprobe_optimizer(k, s)
        end(k)
        yield from k.settle()
        if s.kicked:  # while it ran
            yield from k.sleep_until(Wheel(k.shared.machine.rcu, 0).timeout(k.now, OPTIMIZE_DELAY))
        else:
            yield from k.task.block()


def kprobe_optimizer(k: Kernel, s: Kprobes) -> Proc[None]:
    """One pass: jumps back to breakpoints, a grace period of Tasks RCU, breakpoints to jumps.

    kprobe_mutex and text_mutex are held over all of it, so that whoever pokes text waits for the grace period.
    """
    k.count("kprobe_optimizer")
    with (yield from k.lock("kprobe_mutex")):
        k.count("cpus_read_lock")
        with (yield from k.lock("text_mutex")):
            yield from k.settle()
            freeing = [p for p in s.queued if p.queue == "unoptimizing"]
            s.queued = [p for p in s.queued if p.queue != "unoptimizing"]
            for p in freeing:
                yield from arch_unoptimize_kprobe(k)
                if p.detour is not None:
                    k.retire(p.detour.region)
            for p in freeing:
                p.optimized = False
                if p.disabled:
                    yield from _disarm_breakpoint(k, p)
                p.queue = ""
            yield from k.synchronize_rcu_tasks()
            optimizing, s.queued = s.queued, []
            if optimizing:
                k.count("arch_optimize_kprobes", len(optimizing))
            for p in optimizing:
                yield from smp_text_poke_batch(k, 1)  # one by one, three rounds each
                p.queue = ""
                if p.detour is not None:
                    k.expose(p.detour.region, "text-poke", "rcu")
        for p in freeing:
            if p.unused:
                yield from _free_aggr_kprobe(k, s, p)


def arch_unoptimize_kprobe(k: Kernel) -> Proc[None]:
    """A breakpoint over the jump, a round, the four bytes behind it, a round."""
    k.count("arch_unoptimize_kprobe")
    for size in (1, 4):
        text_poke(k, 0, size, "copy_byte", "site")
        yield from sync_core_each_cpu(k)
