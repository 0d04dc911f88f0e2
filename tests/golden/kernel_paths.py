"""What the kernel itself does for its clients: patches of live text, grace periods, protections of single pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.conformance import Bench, Place
from execbench.contract import Proc, Region, Support, TextKind
from execbench.kernel import publish, sync
from execbench.kernel.arm64 import patching
from execbench.kernel.bpf_prog_array import ProgArray
from execbench.kernel.facade import Kernel
from execbench.kernel.ftrace import (
    FtraceOps,
    ftrace_modify_all_code,
    ftrace_shutdown,
    register_ftrace_function,
    unregister_ftrace_function,
)
from execbench.kernel.jump_label import jump_label_add_module, jump_label_update
from execbench.kernel.kprobes import Kprobe, Kprobes, register_kprobe, unregister_kprobes
from execbench.kernel.kvfree_rcu import kvfree_rcu
from execbench.kernel.releases import RELEASES
from execbench.kernel.riscv64 import patch
from execbench.kernel.static_call import static_call_add_module, static_call_update
from execbench.kernel.tracepoint import Tracepoint, Tracepoints
from execbench.kernel.vmalloc import vm_map_ram, vm_unmap_ram
from execbench.record.steps.sink import Step, StepSink
from execbench.sim.memory import PMD_PAGES, VmArea
from execbench.sim.task import Task
from execbench.simulate import rcu_rules
from tests.golden.bpf_paths import Attached, attachments, families

KERNEL = "kernel"
"""The name that stands where others have a backend's."""
SITES = 300
"""More than one batch of the int3 protocol."""
PATCH = 100
"""Bytes written over live text."""
LATER = 1_500_000_000
"""ns that grace periods in a row and the work behind them get."""


@dataclass(frozen=True, kw_only=True)
class Nobody:
    """Takes a backend's place on a machine whose kernel acts for itself."""

    support: ClassVar[Support] = Support(architectures=("x86_64", "arm64", "riscv64"))

    def start(self, k: Any) -> None:
        """Nothing to set up."""


class Live(NamedTuple):
    """Text that is mapped and executable: an area of one pack, in 4 KiB pages."""

    k: Kernel
    area: VmArea

    @property
    def region(self) -> Region:
        return Region(1, self.area.va, PATCH, self.area.size, TextKind.BPF, self.area)


Operation = Callable[[Live], Proc[Any]]


class Run(NamedTuple):
    """What one operation did on one release, and whether that release does it: shipped or proposed."""

    verb: str
    release: str
    standing: str
    steps: list[Step]


def kernel_runs(arch: str, features: Mapping[str, Any]) -> Iterator[Run]:
    """Every operation on every release that has it, in an order in which each finds what the one before left."""
    for release in RELEASES:
        yield from _runs(arch, release, features, operations(arch, release))
        for family in families(arch, release):
            yield from _attachments_of(arch, release, features, family)
        for policy in sync.POLICIES:
            if not sync.refusal(policy, arch):
                yield from _runs(arch, release, features, policy_operations(policy), policy)


def _runs(
    arch: str, release: str, features: Mapping[str, Any], todo: Mapping[str, Operation], policy: str = ""
) -> list[Run]:
    bench = _bench(arch, release, features)
    sync.require(bench.shared, policy or "none")
    sink = StepSink()
    bench.machine.probe.attach(sink)
    done: list[Run] = []

    def body(k: Kernel) -> Proc[None]:
        area = yield from k.vmalloc_node_range(PMD_PAGES, TextKind.BPF)
        k.store_text(area.va, area.size, "trap")
        yield from k.set_memory_rox(area)
        yield from k.settle()
        sink.take(k.task.name)
        for verb, operation in todo.items():
            yield from operation(Live(k, area))
            yield from k.settle()
            done.append(Run(verb, release, "proposed" if policy else "shipped", sink.take(k.task.name)))

    bench.task(0, body)
    findings = bench.run()
    assert not findings, findings
    return done


def _bench(arch: str, release: str, features: Mapping[str, Any]) -> Bench:
    bench = Bench(Nobody(), Place(arch, release, TextKind.BPF), features=features)
    kernel = {"hz": 1000, "preempt": "full"}
    bench.machine.start_rcu(rcu_rules(kernel, bench.shared.release, bench.shared.costs, bench.shared.cpus, arch))
    return bench


class _Numbered(StepSink):
    """Of locks of one kind none has words of its own."""

    def lock(self, at: int, task: Task, name: str, kind: str, taken: bool) -> None:
        super().lock(at, task, name.partition("[")[0], kind, taken)


def _attachments_of(arch: str, release: str, features: Mapping[str, Any], family: str) -> list[Run]:
    """Programs are attached and detached on a machine of their own; what kworkers do behind it is a verb of its own."""
    bench, sink = _bench(arch, release, features), _Numbered()
    bench.machine.probe.attach(sink)
    done: list[Run] = []

    def body(k: Kernel) -> Proc[None]:
        attached = Attached(bench.shared)
        yield from attached.load(k)
        yield from k.settle()
        sink.take(k.task.name)
        for verb, operation in attachments(attached, family).items():
            yield from operation(k)
            yield from k.settle()
            done.append(Run(verb, release, "shipped", sink.take(k.task.name)))
            yield from k.sleep_until(k.now + LATER)
            sink.take(k.task.name)
            for worker in sink.tasks():
                steps = sink.take(worker)
                if any(step.what != "effect" for step in steps):  # a kthread of RCU does no more than wait
                    done.append(Run(f"{verb}, by kworker", release, "shipped", steps))

    bench.task(0, body)
    findings = bench.run()
    assert not findings, findings
    return done


def operations(arch: str, release: str) -> dict[str, Operation]:
    """What this release does on this architecture, by name."""
    return {
        "patch_text(1)": lambda live: live.k.patch_text(1),
        f"patch_text({SITES})": lambda live: live.k.patch_text(SITES),
        "stop_machine": lambda live: live.k.stop_machine(*sync.SERIALIZE[arch]),
        "set_memory_nx(1)": lambda live: live.k.set_memory_nx(live.area, 0, 1),
        "set_memory_rw(1)": lambda live: live.k.set_memory_rw(live.area, 0, 1),
        "set_memory_ro(1)": lambda live: live.k.set_memory_ro(live.area, 0, 1),
        "set_memory_x(1)": lambda live: live.k.set_memory_x(live.area, 0, 1),
        "set_memory_ro(1), lazy areas": _behind_a_vfree,
        "flush_icache_range": lambda live: live.k.flush_icache_range(live.area.va, PATCH),
        "synchronize_rcu": lambda live: live.k.synchronize_rcu(),
        "synchronize_rcu_expedited": lambda live: live.k.synchronize_rcu_expedited(),
        "synchronize_rcu_tasks": lambda live: live.k.synchronize_rcu_tasks(),
        "synchronize_rcu_tasks_rude": lambda live: live.k.synchronize_rcu_tasks_rude(),
        "synchronize_rcu_tasks_trace": lambda live: live.k.synchronize_rcu_tasks_trace(),
        "call_rcu": lambda live: live.k.call_rcu(_nothing),
        "call_rcu_tasks": lambda live: live.k.call_rcu_tasks(_nothing),
        "call_rcu_tasks_trace": lambda live: live.k.call_rcu_tasks_trace(_nothing),
        **{f"publish({via})": _publication(via) for via in publish.PATHS},
        "vm_map_ram, vm_unmap_ram": lambda live: _ram(live),
        "kvfree_rcu": lambda live: kvfree_rcu(live.k, {}, 1),
        **_attachments(),
        **_module_notifiers(),
        **_probes(arch),
        **(_packs() if BpfProgPack.support.status(release, arch) == "shipped" else {}),
        **(_arm64() if arch == "arm64" else _riscv64(release) if arch == "riscv64" else {}),
    }


def _ram(live: Live) -> Proc[None]:
    blocks: dict[int, int] = {}
    yield from vm_map_ram(live.k, blocks, 1)
    yield from vm_unmap_ram(live.k, blocks, 1)


def _probes(arch: str) -> dict[str, Operation]:
    """Sites of ftrace, and a kprobe inside a function; what the first leaves, the next finds."""
    ops, probe = FtraceOps("kprobe_ftrace_handler", 1, dynamic=False), Kprobe(entry=False)
    kprobes = Kprobes.of(arch, _no_optimizer, optimize=False)
    return {
        f"ftrace_modify_all_code({SITES})": lambda live: ftrace_modify_all_code(live.k, SITES),
        "register_ftrace_function": lambda live: register_ftrace_function(live.k, ops),
        "unregister_ftrace_function": lambda live: unregister_ftrace_function(live.k, ops),
        "ftrace_shutdown": lambda live: ftrace_shutdown(live.k),
        "register_kprobe": lambda live: register_kprobe(live.k, kprobes, probe),
        "unregister_kprobes(1)": lambda live: unregister_kprobes(live.k, kprobes, [probe]),
    }


def _no_optimizer(number: int) -> NoReturn:
    raise AssertionError("nothing becomes a jump here")


def _behind_a_vfree(live: Live) -> Proc[None]:
    """Somebody has freed data, whose addresses wait for a purge."""
    yield from live.k.vfree_data((yield from live.k.vmalloc_data(PATCH)))
    yield from live.k.set_memory_ro(live.area, 0, 1)


def _publication(via: str) -> Operation:
    return lambda live: publish.publish(live.k, live.region, via)


def _attachments() -> dict[str, Operation]:
    """Probes and tail calls; what the first leaves, the next finds."""
    state, point, array = Tracepoints(), Tracepoint(call_sites=1, key_sites=1), ProgArray(pokes=1)

    def update(live: Live) -> Proc[None]:
        array.declare(live.k.shared)
        return array.update(live.k, 0)

    return {
        "tracepoint_add_func, first": lambda live: state.probe_register(live.k, point),
        "tracepoint_remove_func, last": lambda live: state.probe_unregister(live.k, point),
        "prog_array_map_poke_run, empty slot": update,
        "prog_array_map_poke_run, replace": update,
        "prog_array_map_poke_run, delete": lambda live: array.delete(live.k),
    }


def _module_notifiers() -> dict[str, Operation]:
    """What patches live code when a module comes, and when it changes its mind."""
    return {
        f"jump_label_update({SITES})": lambda live: jump_label_update(live.k, SITES),
        "jump_label_add_module(1, 2)": lambda live: jump_label_add_module(live.k, [1, 2]),
        "static_call_update(2)": lambda live: static_call_update(live.k, 2),
        "static_call_add_module(2)": lambda live: static_call_add_module(live.k, 2),
    }


def _packs() -> dict[str, Operation]:
    return {
        "bpf_arch_text_copy": lambda live: live.k.bpf_arch_text_copy(live.area.va, PATCH),
        "bpf_arch_text_invalidate": lambda live: live.k.bpf_arch_text_invalidate(live.area.va, PATCH),
    }


def _arm64() -> dict[str, Operation]:
    return {
        "bpf_arch_text_poke": lambda live: patching.bpf_arch_text_poke(live.k, live.area, 0, plt=False),
        "bpf_arch_text_poke, PLT": lambda live: patching.bpf_arch_text_poke(live.k, live.area, 0, plt=True),
        "aarch64_insn_patch_text, kprobe": lambda live: patching.aarch64_insn_patch_text(live.k),
    }


def _riscv64(release: str) -> dict[str, Operation]:
    def kprobe(live: Live) -> Proc[None]:
        with (yield from live.k.lock("text_mutex")):
            yield from patch.patch_text(live.k)

    if release == "6.1":  # whose JIT has no trampolines
        return {"patch_text, kprobe": kprobe}
    return {"patch_text, kprobe": kprobe, "bpf_arch_text_poke": lambda live: patch.bpf_arch_text_poke(live.k)}


def policy_operations(policy: str) -> dict[str, Operation]:
    """What a synchronization policy does behind the last write, around one of live text, and when text is entered."""

    def update(live: Live) -> Proc[None]:
        return sync.update_text(live.k, policy, [(live.area.va, PATCH)])

    def behind(live: Live) -> Proc[None]:
        return sync.synchronize(live.k, policy)

    def enter(live: Live) -> Proc[None]:
        return live.k.enter_text(live.region)

    named = {} if policy in sync.GUARDED else {"synchronize": behind}
    if policy != "merged-flush":  # which rides on a flush that live text has not
        named["update_text"] = update
    named["enter_text"] = enter
    return {f"{verb}({policy})": operation for verb, operation in named.items()}


def _nothing() -> None:
    """A callback that has nothing to do."""
