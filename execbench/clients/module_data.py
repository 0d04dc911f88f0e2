"""What real kernels' modules consist of, and in which order machines load them: rows of workloads/data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from execbench.clients.columns import Column, names
from execbench.contract import Request, Row, TextKind
from execbench.kernel.releases import Release

SYMBOL = 24
"""sizeof(Elf64_Sym)."""
STATIC_CALL_SITE = 8
"""sizeof(struct static_call_site)."""
PLT_ENTRY = 12
"""sizeof(struct plt_entry) (arch/arm64/include/asm/module.h)."""
THIS_MODULE = 1024
"""Bytes of struct module where a row says nothing of data: every module has it."""


_COUNTS = (
    "exec_init", "ro_core", "ro_after_init", "rw_core", "init_data", "init_ro", "altinstructions", "jump_table",
    "mcount_loc", "static_call_sites", "retpoline_sites", "return_sites", "call_sites", "parainstructions",
    "relocs_alloc", "relocs_text", "relocs_init_text", "plt_core", "plt_init", "symbols", "strtab_bytes",
    "init_static_calls", "exit_static_calls", "exit_waits",
)  # fmt: skip
MODULES = (
    Column("name", "text", once=True), Column("exec_core", filled=False),
    *(Column(name, needed=False, filled=False) for name in _COUNTS),
    Column("init_keys", "wholes", needed=False, filled=False), Column("depends", "names", filled=False, of="name"),
)  # fmt: skip
"""What is read of a file of modules: a module without those that it depends on is refused, as modprobe would fail."""
BOOT_SETS = (
    Column("kernel", "text"), Column("set", "text"), Column("order"), Column("phase", "text"), Column("module", "text"),
    Column("reason", "text"),
)  # fmt: skip
"""What is read of a file of boot sets."""


@dataclass(frozen=True, slots=True)
class Module:
    """One module: bytes by type of memory, and what its loader has to patch."""

    name: str
    text: int
    init_text: int
    rodata: int
    ro_after_init: int
    data: int
    init_data: int
    init_rodata: int
    relocs_text: int
    relocs_init_text: int
    relocs_data: int
    sites: int
    """Alternatives, paravirt, retpoline, return and call sites: patched while the text is writable."""
    mcount: int
    """Call sites of ftrace (__mcount_loc, __patchable_function_entries)."""
    static_calls: int
    """Entries of .static_call_sites."""
    branches: int
    """Entries of __jump_table."""
    init_keys: tuple[int, ...]
    """Static keys that init flips: the branches of each in the module."""
    init_static_calls: int
    """Live instructions that static_call_update patches while init runs: trampolines, and calls in any module."""
    exit_static_calls: int
    """As init_static_calls, while exit runs."""
    exit_waits: int
    """Grace periods for which exit waits (synchronize_rcu, synchronize_net)."""
    depends: tuple[str, ...]
    """Modules that have to be there first, as depmod knows them."""

    @staticmethod
    def from_row(row: Row) -> Module:
        """Read a row of workloads/data/modules_*.csv.gz, or of an import; columns that are not there count as 0."""

        def n(*columns: str) -> int:
            return sum(int(row.get(column) or 0) for column in columns)

        relocs_text, relocs_init_text = n("relocs_text"), n("relocs_init_text")
        return Module(
            name=row["name"],
            text=n("exec_core") + PLT_ENTRY * n("plt_core"),
            init_text=n("exec_init") + PLT_ENTRY * n("plt_init") * bool(n("exec_init")),
            rodata=n("ro_core"),
            ro_after_init=n("ro_after_init"),
            data=n("rw_core") or THIS_MODULE,
            init_data=n("init_data", "strtab_bytes") + SYMBOL * (n("symbols") + 1),
            init_rodata=n("init_ro"),
            relocs_text=relocs_text,
            relocs_init_text=relocs_init_text,
            relocs_data=max(n("relocs_alloc") - relocs_text - relocs_init_text, 0),
            sites=n("altinstructions", "parainstructions", "retpoline_sites", "return_sites", "call_sites"),
            mcount=n("mcount_loc"),
            static_calls=n("static_call_sites"),
            branches=n("jump_table"),
            init_keys=tuple(int(sites) for sites in (row.get("init_keys") or "").split()),
            init_static_calls=n("init_static_calls"),
            exit_static_calls=n("exit_static_calls"),
            exit_waits=n("exit_waits"),
            depends=_depends(row),
        )

    def under(self, release: Release) -> Module:
        """Return the module as this release lays it out: .static_call_sites is sealed after init, or plain data."""
        if not release.sealed_alone or not self.static_calls:
            return self
        moved = STATIC_CALL_SITE * self.static_calls
        return replace(self, ro_after_init=self.ro_after_init + moved, data=max(self.data - moved, THIS_MODULE))

    @property
    def file_bytes(self) -> int:
        """What kernel_read_file reads at least: everything that is loaded, without relocations and debug sections."""
        return sum(request.size for request in self.requests())

    def requests(self) -> list[Request]:
        """Return up to seven pieces of memory in the order of enum mod_mem_type; what is empty is not asked for."""
        pieces = (
            Request(self.text, TextKind.MODULE_TEXT, layout="core"),
            Request(self.data, TextKind.MODULE_DATA, layout="core"),
            Request(self.rodata, TextKind.RODATA, layout="core"),
            Request(self.ro_after_init, TextKind.RO_AFTER_INIT, layout="core"),
            Request(self.init_text, TextKind.INIT_TEXT, layout="init"),
            Request(self.init_data, TextKind.MODULE_DATA, layout="init"),
            Request(self.init_rodata, TextKind.RODATA, layout="init"),
        )
        return [piece for piece in pieces if piece.size]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One line of a boot set: what is asked for and in which phase; roots are what a device or a unit wants."""

    module: str
    phase: str
    root: bool


def modules_of(rows: Sequence[Row], release: Release, roots: Sequence[str] | None = None) -> dict[str, Module]:
    """Return the modules of a data file by name, as a release lays them out; with `roots` those and what they need."""
    known = {row["name"]: row for row in rows}
    wanted, todo = dict.fromkeys(known if roots is None else ()), list(roots or ())
    while todo:
        name = todo.pop()
        if name in known and name not in wanted:
            wanted[name] = None
            todo += _depends(known[name])
    return {name: Module.from_row(known[name]).under(release) for name in wanted}


def _depends(row: Row) -> tuple[str, ...]:
    return tuple(names(row.get("depends") or ""))


def lines_of(rows: Sequence[Row], kernel: str, name: str) -> list[Wanted]:
    """Return the lines of one boot set of one kernel in their order; ValueError if there is none."""
    lines = [row for row in rows if row["kernel"] == kernel and row["set"] == name]
    if not lines:
        known = sorted({row["set"] for row in rows if row["kernel"] == kernel})
        raise ValueError(f"boot_set: {name!r} is no set of {kernel}: one of {', '.join(known)}")
    lines.sort(key=lambda row: int(row["order"]))
    return [Wanted(row["module"], row["phase"], row["reason"] == "root") for row in lines]


def closure(name: str, modules: Mapping[str, Module], seen: set[str] | None = None) -> list[str]:
    """Return a module and all it depends on, dependencies first, each once (depth first, as modprobe goes)."""
    seen = set() if seen is None else seen
    if name in seen:
        return []
    seen.add(name)
    needed = [below for dependency in modules[name].depends for below in closure(dependency, modules, seen)]
    return [*needed, name]
