"""Live patches: modules whose functions replace others', loaded and taken back while everything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from execbench.clients.arrivals import Arriving, Turn, loops
from execbench.clients.ftrace import BackendText, trampolines
from execbench.clients.limits import at_least
from execbench.contract import Entry, Estimate, Image, Proc, Request, Setting, TextKind
from execbench.kernel import livepatch
from execbench.kernel.facade import Kernel
from execbench.kernel.ftrace import RELEASE, inside
from execbench.kernel.livepatch import Patch
from execbench.kernel.phases import end
from execbench.sim.dists import Dist, Exponential

if TYPE_CHECKING:
    from execbench.sim.task import Task


COSTS = {
    "load": Entry("module", "load the patch's module, without its text (load_module)",
                  estimate=Estimate("500us", "100us", "5ms", "assumed: a small module's ELF, symbols, sysfs")),
    "function": Entry("function", "find one function to be patched (klp_find_object_symbol, kallsyms_on_each_symbol)",
                      estimate=Estimate("5us", "1us", "1ms", "assumed: binary search since 6.2, all symbols before")),
    "stack": Entry("task", "look through one task's stack for patched functions (klp_check_stack)",
                   estimate=Estimate("1.5us", "300ns", "10us", "assumed: some ten frames by ORC or frame pointers")),
    "mark": Entry("task", "set or clear one task's pending flag (klp_start_transition, klp_complete_transition)",
                  estimate=Estimate("10ns", "3ns", "100ns", "assumed: one cache line of each task")),
}  # fmt: skip
"""What live patching costs besides text and waits, one row per name under `[costs.client.livepatch]`."""


@dataclass(frozen=True, kw_only=True)
class LivepatchClient(Arriving):
    """Threads that load a live patch, keep it for `kept` and take it back.

    A patch replaces `functions` functions and has `sections` sections of `relocations` late relocations, which are
    poked into its live text. Tasks change over when a check finds none of the functions on their stacks; a check comes
    at once and then every second, and the patch is complete when all have. Text and trampolines come from the backend
    if it serves modules and ftrace, else from the release.
    """

    name: ClassVar[str] = "livepatch"
    api_phases: ClassVar[frozenset[str]] = frozenset({"alloc", "write", "finalize", "free", "free_deferred"})
    arrivals: ClassVar[frozenset[str]] = frozenset({"enable"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = ()

    functions: int = 10
    """Functions of one patch; assumed: kpatch's fixes of one CVE replace 1 to 30."""
    text: int = field(default=16 << 10, metadata={"unit": "size"})
    """Bytes of the patch module's text; assumed: replaced functions are copied whole."""
    sections: int = 2
    """Sections .klp.rela.MODULE.*: one for each patched module and section of the patch."""
    relocations: int = 12
    """Late relocations of one section; assumed: one for each symbol that the module does not export."""
    tasks: int = 1000
    """Tasks of the machine."""
    busy: float = 0.002
    """Chance that a check finds a task in a patched function, or its stack unreliable; assumed (0.0002 to 0.05)."""
    kept: Dist = field(default=Exponential(1e9), metadata={"unit": "time"})
    """How long it stays. With `rate` or `trace` its thread serves no other arrival meanwhile: an arrival that finds
    every thread keeping a patch waits, and its latency says so; give `threads` above rate times `kept`."""
    think: Dist = field(default=Exponential(2e9), metadata={"unit": "time"})

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        at_least(self, 1, "functions", "text", "tasks")
        at_least(self, 0, "sections", "relocations")
        if not 0 <= self.busy < 1:
            raise ValueError("busy: from 0 to below 1")

    def refusal(self, arch: str, release: str) -> str:
        """Return why there is no live patching on an architecture of a release, "" if there is."""
        return livepatch.refusal(arch, release)

    def start(self, setting: Setting) -> None:
        """Begin without a patch."""
        run = _Run(self, setting)
        for i in range(self.threads):
            setting.spawn(f"livepatch/{i}", i, partial(run.thread, number=i))


@dataclass(slots=True)
class _Transition:
    """One change of all tasks, to a patch or back; its draws depend on its operation's number and the check alone."""

    patch: Patch
    number: int
    enable: bool
    checks: int = 0


class _Run:
    """One replication of the client."""

    def __init__(self, params: LivepatchClient, setting: Setting) -> None:
        self.params = params
        self.setting = setting
        self.second = 1_000_000_000
        self.memory = trampolines(setting)
        self.text = BackendText(setting) if setting.serves(TextKind.MODULE_TEXT) else RELEASE
        self.loops = loops(setting, params, "enable", params.kept.uniforms)

    def thread(self, k: Kernel, number: int) -> Proc[None]:
        loop = self.loops[number]
        while (turn := (yield from loop.next(k))) is not None:
            patch = yield from self.enable(k, turn, number)
            yield from k.settle()
            yield from k.sleep_until(k.now + int(self.params.kept.sample(turn.row) + 0.5))
            yield from self.disable(k, turn, number, patch)
            yield from loop.done(k, turn)

    def enable(self, k: Kernel, turn: Turn, number: int) -> Proc[Patch]:
        """Load the module, klp_enable_patch from its init; the operation is over when the transition is."""
        params, setting = self.params, self.setting
        k.begin(turn.operation, "load")
        k.task.site = "klp_enable_patch"
        k.spend("syscall")
        k.spend("client.livepatch.load")
        (region,) = yield from self.text.alloc(k, [Request(params.text, TextKind.MODULE_TEXT)])
        yield from self.text.write(k, region, Image(region.id, params.text))
        yield from self.text.finalize(k, (region,))
        patch = Patch(region)
        k.phase("relocate")
        with (yield from k.lock("klp_mutex")):
            k.spend("client.livepatch.function", params.functions)
            for _ in range(params.sections):
                yield from livepatch.klp_write_section_relocs(k, region, params.relocations)
            k.phase("register")
            yield from livepatch.klp_patch_object(k, patch, params.functions, self.memory)
            yield from setting.publish(k, region, "pointer", inside(k))
            patch.unswitched = params.tasks
            k.spend("client.livepatch.mark", params.tasks)
            transition = _Transition(patch, turn.number, enable=True)
            done = yield from self._try_complete(k, transition)
        yield from self._transition(k, transition, number, done)
        end(k)
        return patch

    def disable(self, k: Kernel, turn: Turn, number: int, patch: Patch) -> Proc[None]:
        """Write 0 to `enabled`; when the transition is over, unload the module."""
        k.begin(self.setting.operation("livepatch", "disable", turn.number, k.now), "disable")
        k.task.site = "klp_disable_patch"
        k.spend("syscall")
        with (yield from k.lock("klp_mutex")):
            patch.unswitched = self.params.tasks
            k.spend("client.livepatch.mark", self.params.tasks)
            transition = _Transition(patch, turn.number, enable=False)
            done = yield from self._try_complete(k, transition)
        yield from self._transition(k, transition, number, done)
        k.phase("unload")
        yield from k.synchronize_rcu()  # free_module
        yield from self.text.free(k, (patch.region,))
        end(k)

    def _transition(self, k: Kernel, transition: _Transition, number: int, done: bool) -> Proc[None]:
        """Wait for klp_transition_work, as kpatch does before it says that a patch is in place."""
        if done:
            return
        k.phase("transition")
        yield from k.settle()
        at = k.now + self.second
        self.setting.spawn(f"klp_transition/{number}", number, partial(self._work, transition, k.task), at)
        yield from k.task.block()

    def _work(self, transition: _Transition, waiter: Task, k: Kernel) -> Proc[None]:
        """klp_transition_work_fn, each second until nobody is left (round_jiffies_relative: about)."""
        k.spend("task_wakeup")
        k.task.site = "klp_transition_work_fn"
        done = False
        while not done:
            operation = self.setting.operation("livepatch", "transition", 0, k.now, "deferred")
            k.begin(operation, "klp_try_complete_transition")
            with (yield from k.lock("klp_mutex")):
                done = yield from self._try_complete(k, transition)
            end(k)
            yield from k.settle()
            if not done:
                yield from k.sleep_until(k.now + self.second)
        waiter.wake(k.now)

    def _try_complete(self, k: Kernel, transition: _Transition) -> Proc[bool]:
        """klp_try_complete_transition: walk the stacks of those left; with nobody left complete it, and say so."""
        params, patch = self.params, transition.patch
        k.count("klp_try_complete_transition", patch.unswitched)
        yield from k.compute("client.livepatch.stack", patch.unswitched)
        stacks = self.setting.stream(f"client.livepatch/stacks/{transition.checks}")
        transition.checks += 1
        row = stacks.row(2 * transition.number + (not transition.enable), params.tasks)
        patch.unswitched = sum(u < params.busy for u in row[: patch.unswitched])
        if patch.unswitched:
            return False
        if not transition.enable:
            self.setting.retire(k, patch.region)
            yield from livepatch.klp_unpatch_objects(k, patch)
        yield from livepatch.klp_synchronize_transition(k)
        k.spend("client.livepatch.mark", params.tasks)
        return True
