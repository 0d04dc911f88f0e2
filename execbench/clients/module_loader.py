"""The kernel's module loader around the verbs under test: finit_module and delete_module (kernel/module/main.c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from execbench.clients.init_free import InitFree
from execbench.clients.module_data import Module
from execbench.contract import Entry, Estimate, Image, Proc, Region, Request, Setting, TextKind
from execbench.kernel import module_memory
from execbench.kernel.facade import Kernel
from execbench.kernel.ftrace_module import ftrace_free_mem, ftrace_module_enable, ftrace_module_init
from execbench.kernel.jump_label import jump_label_update
from execbench.kernel.module_memory import TEXT, Part, flushed
from execbench.kernel.module_notify import module_coming, module_going, module_live
from execbench.kernel.operation import Operation
from execbench.kernel.static_call import Patching, static_call_update
from execbench.sim.task import Task

_ASSUMED: Final = "assumed: no published figure; "
COSTS: Final = {
    "load_fixed": Entry("load", "all of finit_module that depends on no count: ELF header, symbols, sysfs, notifiers "
                        "(load_module)", estimate=Estimate("60us", "20us", "400us", _ASSUMED + "dozens of kobjects and "
                        "a uevent")),
    "read_byte": Entry("byte", "read and check one byte of the file (kernel_read_file, module_sig_check)",
                       estimate=Estimate("1ns", "0.1ns", "4ns", _ASSUMED + "page cache to hashed signature")),
    "reloc": Entry("relocation", "find a symbol's address and apply one relocation (simplify_symbols, "
                   "apply_relocate_add)", estimate=Estimate("15ns", "5ns", "60ns", _ASSUMED + "a store and some of a "
                   "binary search")),
    "patch_site": Entry("site", "patch one site of text that is still writable (apply_alternatives, apply_returns, "
                        "apply_retpolines: text_poke_early)", estimate=Estimate("60ns", "20ns", "300ns",
                        _ASSUMED + "decode an instruction and copy a few bytes")),
    "ftrace_site": Entry("site", "note one call site of ftrace; on x86_64 make it a nop, too "
                         "(ftrace_process_locs)",
                         estimate=Estimate("40ns", "10ns", "150ns", _ASSUMED + "a store, a share of sorting")),
    "init": Entry("load", "the module's own init (do_one_initcall)", estimate=Estimate("200us", "10us", "20ms",
                  _ASSUMED + "registering a driver; probing hardware may take far longer")),
    "exit": Entry("unload", "the module's own exit (delete_module: mod->exit)", estimate=Estimate("100us", "10us",
                  "20ms", _ASSUMED + "as init")),
    "unload_fixed": Entry("unload", "all of delete_module that depends on no count (free_module, mod_sysfs_teardown)",
                          estimate=Estimate("40us", "10us", "300us", _ASSUMED + "as load_fixed")),
}  # fmt: skip
"""What the loader itself costs, one row per name under `[costs.client.module]`."""

Key = tuple[TextKind, bool]
"""A type of a module's memory: its kind, and whether it is init's own."""
FREED: Final = (TextKind.MODULE_TEXT, TextKind.RODATA, TextKind.RO_AFTER_INIT, TextKind.MODULE_DATA)
"""Order in which a module's memory goes; its data, in which struct module lies, is the last (free_mod_mem)."""
INIT_FREED: Final = (TextKind.INIT_TEXT, TextKind.MODULE_DATA, TextKind.RODATA)
"""As FREED, for what only init needs (do_free_init)."""


@dataclass(slots=True, eq=False)
class Loaded:
    """A module in memory: regions that the backend handed out, parts that are the release's own."""

    module: Module
    regions: dict[Key, Region]
    parts: dict[Key, Part]

    def init(self, init: bool) -> tuple[list[Region], list[Part]]:
        """Return what init has of its own, or the rest, in the order in which it is freed."""
        keys = [(kind, init) for kind in (INIT_FREED if init else FREED)]
        return ([self.regions[key] for key in keys if key in self.regions],
                [self.parts[key] for key in keys if key in self.parts])  # fmt: skip

    def text(self) -> list[Region]:
        """Return what CPUs will execute."""
        return [region for (kind, _), region in self.regions.items() if kind in TEXT]


class Loader:
    """One per replication: the list of modules, who waits for one, and what init leaves to be freed."""

    def __init__(self, setting: Setting, patching: Patching = "per-site", differing_keys: int = 0) -> None:
        """`differing_keys`: static keys of the kernel that are not as modules with branches were compiled for."""
        self._setting = setting
        self._patching = patching
        self._differing = differing_keys
        self._flushes: bool = getattr(setting.backend, "loader_flushes", False)
        self.states: dict[str, Literal["unformed", "coming", "live"]] = {}
        self._asked: set[str] = set()  # names of requests that nobody has finished yet
        self._reading: set[str] = set()  # files whose load has begun (struct idempotent)
        self._waiting: list[Task] = []  # module_wq, and completions of struct idempotent
        self._init_free = InitFree[Loaded](
            lambda k, loaded: self._free(k, loaded, init=True),
            lambda k, number: self._operation(k, "free_init", number, "deferred"),
        )
        self.requests = 0

    # --- finit_module -------------------------------------------------------------------------------------------------

    def load(self, k: Kernel, module: Module) -> Proc[Loaded | None]:
        """Load a module that may be there, or on its way; None if somebody else has loaded it (-EEXIST)."""
        yield from k.settle()
        again = module.name in self.states or module.name in self._asked
        self._asked.add(module.name)
        self.requests += 1
        kind = "duplicate" if again else "load"
        loaded = yield from self.finit_module(k, module, self._operation(k, kind, self.requests))
        if loaded is not None:
            self._asked.discard(module.name)
        return loaded

    def finit_module(self, k: Kernel, module: Module, operation: Operation) -> Proc[Loaded | None]:
        """Load a module as `operation`: since 6.4 who asks for a file that is being loaded waits for that and returns.

        kernel/module/main.c: idempotent_init_module, init_module_from_file.
        """
        k.begin(operation, "copy")
        k.task.site = "finit_module"
        k.spend("syscall")
        yield from k.settle()
        if k.release.mod_mem and module.name in self._reading:
            k.count("idempotent_wait")
            yield from self._wait_for(k, lambda: module.name not in self._reading)
            k.end()
            return None
        self._reading.add(module.name)
        file = yield from k.vmalloc_data(module.file_bytes)
        k.spend("client.module.read_byte", module.file_bytes)
        loaded = yield from self._load_module(k, module, file)
        yield from k.settle()
        self._reading.discard(module.name)
        self._wake_up_all(k)
        k.end()
        return loaded

    def _load_module(self, k: Kernel, module: Module, file: int) -> Proc[Loaded | None]:
        """load_module: everything between the file and init, then do_init_module."""
        k.phase("check")
        if k.release.mod_mem and not (yield from self._module_patient_check(k, module.name)):  # early_mod_check
            yield from k.vfree_data(file)
            return None
        loaded = yield from self._layout_and_allocate(k, module)
        k.phase("check")
        if not (yield from self._module_patient_check(k, module.name, add=True)):  # add_unformed_module
            k.spend("copy_byte", module.file_bytes)  # move_module has copied everything
            yield from self._deallocate(k, loaded)
            yield from k.vfree_data(file)
            return None
        yield from self._fill(k, loaded)
        yield from self._complete_formation(k, loaded)
        yield from self._prepare_coming_module(k, module)
        k.phase("init")
        k.spend("client.module.load_fixed")
        yield from k.vfree_data(file)  # free_copy
        yield from self._do_init_module(k, loaded)
        return loaded

    def _module_patient_check(self, k: Kernel, name: str, add: bool = False) -> Proc[bool]:
        """Say whether nobody has this name, and take it if asked to; wait for somebody who is loading it.

        module_patient_check_exists, on 6.1 the same inside add_unformed_module. Who had to wait does not try again.
        """
        waited = False
        while True:
            with (yield from k.lock("module_mutex")):
                k.spend("list_walk", max(len(self.states), 1))
                yield from k.settle()
                state = self.states.get(name)
                if state is None and not waited:
                    if add:
                        self.states[name] = "unformed"
                    return True
                if state is None or state == "live":
                    k.count("module_exists")
                    return False
            waited = True
            yield from self._wait_for(k, lambda: self.states.get(name) not in ("unformed", "coming"))

    def _wait_for(self, k: Kernel, over: Any) -> Proc[None]:
        """wait_event(module_wq, over()): everybody is woken whenever a module is finished, and looks again."""
        yield from k.settle()
        while not over():
            self._waiting.append(k.task)
            yield from k.task.block()
            yield from k.settle()

    def _wake_up_all(self, k: Kernel) -> None:
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.wake(k.now)

    def _layout_and_allocate(self, k: Kernel, module: Module) -> Proc[Loaded]:
        """move_module: up to seven pieces, those that the backend serves as one group, the others from the release."""
        k.phase("alloc")
        mine, others = self._split(module.requests())
        regions = yield from self._setting.alloc(k, mine)
        parts = yield from module_memory.move_module(k, others)
        return Loaded(
            module,
            {(req.kind, req.layout == "init"): region for req, region in zip(mine, regions, strict=True)},
            {(part.kind, part.init): part for part in parts},
        )

    def _split(self, reqs: Sequence[Request]) -> tuple[list[Request], list[Request]]:
        serves = self._setting.serves
        return [req for req in reqs if serves(req.kind)], [req for req in reqs if not serves(req.kind)]

    def _deallocate(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        """module_deallocate of a module that came too late."""
        for init in (True, False):
            yield from self._free(k, loaded, init)

    def _free(self, k: Kernel, loaded: Loaded, init: bool) -> Proc[None]:
        regions, parts = loaded.init(init)
        if regions:
            yield from self._setting.free(k, regions)
        yield from module_memory.free(k, parts)

    def _fill(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        """Copy the sections, relocate, patch what is patched while text is writable, note ftrace's call sites.

        What a backend has to write one by one is the image's patches: relocations and, in text, the sites of
        apply_alternatives and others. kernel/module/main.c: move_module, apply_relocations, post_relocation;
        arch/x86/kernel/module.c: module_finalize; kernel/trace/ftrace.c: ftrace_module_init.
        """
        module = loaded.module
        k.phase("write")
        patches = self._patches(module)
        for key, region in loaded.regions.items():
            yield from self._setting.write(k, region, Image(region.id, region.size, patches.get(key, 0)))
        k.spend("copy_byte", sum(part.piece.size for part in loaded.parts.values()))
        k.phase("relocate")
        k.spend("client.module.reloc", module.relocs_text + module.relocs_init_text + module.relocs_data)
        k.phase("alternatives")
        sites = self._early_sites(module)
        if sites:
            k.count("text_poke_early", sites)
            k.spend("client.module.patch_site", sites)
        yield from self._flush_module_icache(k, loaded)
        k.phase("ftrace")
        yield from ftrace_module_init(k, module.mcount, "client.module.ftrace_site")

    def _flush_module_icache(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        """Flush what the release's own parts are in, and the regions of a backend that leaves it to the loader."""
        k.phase("flush_icache")
        regions = list(loaded.regions.values()) if self._flushes else []
        yield from module_memory.flush_module_icache(k, list(loaded.parts.values()), regions)

    def _early_sites(self, module: Module) -> int:
        early = self._patching == "before-rox"
        return module.sites + (module.static_calls + self._keys(module) if early else 0)

    def _keys(self, module: Module) -> int:
        return self._differing if module.branches else 0

    def _patches(self, module: Module) -> Mapping[Key, int]:
        return {
            (TextKind.MODULE_TEXT, False): module.relocs_text + self._early_sites(module) + module.mcount,
            (TextKind.INIT_TEXT, True): module.relocs_init_text,
            (TextKind.RODATA, False): module.relocs_data,
        }

    def _complete_formation(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        """Set the permissions under module_mutex, data before text."""
        k.phase("finalize")
        parts = list(loaded.parts.values())
        with (yield from k.lock("module_mutex")):
            if parts:
                yield from module_memory.complete_formation(k, parts, text=False)
            regions = list(loaded.regions.values())
            yield from self._setting.finalize(k, [flushed(one) for one in regions] if self._flushes else regions)
            yield from k.settle()
            self.states[loaded.module.name] = "coming"

    def _prepare_coming_module(self, k: Kernel, module: Module) -> Proc[None]:
        """ftrace, live patching, then the notifiers of MODULE_STATE_COMING; all in live text."""
        k.phase("ftrace")
        yield from ftrace_module_enable(k, module.mcount)
        differing = 0 if self._patching == "before-rox" else self._keys(module)
        keys = [-(-module.branches // differing)] * differing if differing else []
        yield from module_coming(k, keys, module.static_calls, self._patching)

    def _do_init_module(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        """Call init, which may flip keys and update static calls; seal; leave what only init needed to a kworker."""
        module, setting = loaded.module, self._setting
        for region in loaded.text():
            yield from setting.publish(k, region, "module-init")
        yield from k.compute("client.module.init", 1)
        for sites in module.init_keys:
            yield from jump_label_update(k, sites)
        if module.init_static_calls:
            yield from static_call_update(k, module.init_static_calls)
        yield from k.settle()
        self.states[module.name] = "live"
        yield from module_live(k)
        k.phase("seal")
        if module.init_text or not k.release.mod_mem:  # before 6.4 all of init_layout
            yield from ftrace_free_mem(k)
        with (yield from k.lock("module_mutex")):
            yield from self._seal(k, loaded)
            if (TextKind.INIT_TEXT, True) in loaded.regions:
                setting.retire(k, loaded.regions[TextKind.INIT_TEXT, True])
            yield from k.settle()
            self._init_free.add(k, loaded)
        self._wake_up_all(k)

    def _seal(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        """module_enable_rodata_ro_after_init; text of its own is set again only by who does a whole module's memory."""
        for key in module_memory.sealed(k):
            if key[0] in TEXT and not self._setting.serves(TextKind.RODATA):
                continue
            if key in loaded.regions:
                yield from self._setting.seal(k, loaded.regions[key])
            else:
                yield from module_memory.seal(k, loaded.parts.get(key))

    # --- delete_module ------------------------------------------------------------------------------------------------

    def unload(self, k: Kernel, loaded: Loaded, number: int) -> Proc[None]:
        """Run exit, wait until nobody can be inside, free the module's memory."""
        module = loaded.module
        yield from k.settle()
        k.begin(self._operation(k, "unload", number), "exit")
        k.task.site = "delete_module"
        k.spend("syscall")
        with (yield from k.lock("module_mutex")):
            k.spend("list_walk", max(len(self.states), 1))
        yield from k.compute("client.module.exit", 1)
        if module.exit_static_calls:
            yield from static_call_update(k, module.exit_static_calls)
        for _ in range(module.exit_waits):
            yield from k.synchronize_rcu()
        yield from module_going(k)
        yield from self._ftrace_release_mod(k, module)
        yield from self._free_module(k, loaded)
        k.end()

    def _ftrace_release_mod(self, k: Kernel, module: Module) -> Proc[None]:
        """Forget the module's call sites; wait for who looks one up, if there are any (kernel/trace/ftrace.c)."""
        k.phase("ftrace_release_mod")
        with (yield from k.lock("ftrace_lock")):
            k.spend("list_walk")
        if module.mcount:
            yield from k.synchronize_rcu()

    def _free_module(self, k: Kernel, loaded: Loaded) -> Proc[None]:
        """Take the module out of the list and wait with module_mutex held, then free its memory without it."""
        name = loaded.module.name
        k.phase("free_module")
        k.spend("client.module.unload_fixed")
        with (yield from k.lock("module_mutex")):
            yield from k.settle()
            self.states[name] = "unformed"
        for region in loaded.text():
            if region.kind is TextKind.MODULE_TEXT:
                self._setting.retire(k, region)
        with (yield from k.lock("module_mutex")):
            yield from k.synchronize_rcu()
            yield from k.settle()
            del self.states[name]
        k.phase("free_mod_mem")
        yield from self._free(k, loaded, False)
        yield from k.settle()
        self._wake_up_all(k)

    def install(self, k: Kernel, modules: Sequence[Module]) -> Proc[list[Loaded]]:
        """Put modules in place through the verbs alone, as they were long before: without costs of their own.

        As one group since 6.4, so that an API that waits for a grace period waits once.
        """
        found: list[Loaded] = []
        for group in [modules] if k.release.mod_mem else [[module] for module in modules]:
            new: list[Loaded] = []
            for module in group:
                loaded = yield from self._layout_and_allocate(k, module)
                new.append(loaded)
            for loaded in new:
                of = self._patches(loaded.module)
                for key, region in loaded.regions.items():
                    yield from self._setting.write(k, region, Image(region.id, region.size, of.get(key, 0)))
            parts = [part for one in new for part in one.parts.values()]
            yield from module_memory.complete_formation(k, parts, text=False)
            yield from self._setting.finalize(k, [region for one in new for region in one.regions.values()])
            for loaded in new:
                yield from self._seal(k, loaded)
                yield from self._free(k, loaded, True)
                self.states[loaded.module.name] = "live"
            found += new
        return found

    def _operation(self, k: Kernel, kind: str, number: int, mode: str = "sync") -> Operation:
        return self._setting.operation("module", kind, number, k.now, mode)
