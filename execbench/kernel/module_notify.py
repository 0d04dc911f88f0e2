"""What is told of every module that comes, lives or goes, and the locks that this takes (module_notify_list).

In the order of prepare_coming_module, do_init_module and delete_module (kernel/module/main.c): live patching is called
directly, before the chain; then jump labels and trace events (priority 1), static calls and kprobes. Each takes its
mutex for every module, whether or not the module has anything for it. What the chain calls besides (BTF, tracepoints,
BPF's raw events, SRCU, dynamic debug) takes no lock of other clients and is in the fixed cost of a load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from execbench.kernel import livepatch
from execbench.kernel.jump_label import jump_label_add_module, jump_label_module_notify
from execbench.kernel.static_call import Patching, static_call_add_module, static_call_module_notify
from execbench.sim.engine import Proc

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel

KPROBE_TABLE_SIZE: Final = 64
"""Lists of kprobes that are walked for those inside the module (kernel/kprobes.c)."""


def module_coming(k: Kernel, keys: Sequence[int], static_calls: int, patching: Patching) -> Proc[None]:
    """Tell that a module is coming: patch the branches of `keys` that differ, and its static calls."""
    k.phase("notifiers")
    yield from _klp(k)
    k.phase("jump_labels")
    yield from jump_label_add_module(k, keys)
    k.phase("notifiers")
    yield from _trace_events(k)
    k.phase("static_calls")
    yield from static_call_add_module(k, static_calls, patching)
    k.phase("notifiers")
    yield from _kprobes(k, 1)  # add_module_kprobe_blacklist


def module_live(k: Kernel) -> Proc[None]:
    """Tell that a module's init is over."""
    k.phase("notifiers")
    yield from jump_label_module_notify(k)
    yield from _trace_events(k)
    yield from static_call_module_notify(k)
    yield from _kprobes(k, KPROBE_TABLE_SIZE)


def module_going(k: Kernel) -> Proc[None]:
    """Tell that a module's exit is over; live patching is the last (klp_module_going)."""
    yield from module_live(k)
    yield from _klp(k)


def _trace_events(k: Kernel) -> Proc[None]:
    """trace_module_notify (kernel/trace/trace_events.c)."""
    with (yield from k.lock("event_mutex")):
        k.spend("list_walk")


def _kprobes(k: Kernel, lists: int) -> Proc[None]:
    """kprobes_module_callback (kernel/kprobes.c), with `lists` of probes to look through."""
    with (yield from k.lock("kprobe_mutex")):
        k.spend("list_walk", lists)


def _klp(k: Kernel) -> Proc[None]:
    """klp_module_coming, klp_module_going (kernel/livepatch/core.c), where the kernel has live patching."""
    if livepatch.refusal(k.arch.name, k.release.name):
        return
    with (yield from k.lock("klp_mutex")):
        k.spend("list_walk")
