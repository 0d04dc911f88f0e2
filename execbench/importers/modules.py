"""Kernel modules (.ko, .ko.xz, .ko.zst, .ko.gz): what their loader has to place and to patch, one row per module."""

from __future__ import annotations

import gzip
import io
import lzma
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from execbench.errors import InputError

COLUMNS: Final = (
    "name", "exec_core", "exec_init", "ro_core", "ro_after_init", "rw_core", "init_data", "init_ro", "altinstructions",
    "jump_table", "mcount_loc", "static_call_sites", "retpoline_sites", "return_sites", "call_sites",
    "parainstructions", "relocs_alloc", "relocs_text", "relocs_init_text", "plt_core", "plt_init", "depends",
)  # fmt: skip
"""Columns of the data file; workloads/data/README.md says what each means."""

ENTRIES: Final[Mapping[str, tuple[str, int]]] = {
    "__jump_table": ("jump_table", 16),
    ".static_call_sites": ("static_call_sites", 8),
    ".retpoline_sites": ("retpoline_sites", 4),
    ".return_sites": ("return_sites", 4),
    ".call_sites": ("call_sites", 4),
}
"""Sections that are arrays: what an entry counts as, and its bytes (struct jump_entry, struct static_call_site)."""
RELOCATED: Final = {".altinstructions": ("altinstructions", 2), ".parainstructions": ("parainstructions", 1)}
"""Arrays whose entries are counted by relocations, for their size changed between releases."""
CALL_SITES: Final = {"EM_X86_64": "__mcount_loc"}
"""Section of ftrace's call sites; "__patchable_function_entries" elsewhere (FTRACE_CALLSITE_SECTION)."""
UNLOADED: Final = (".modinfo", "__versions", ".data..percpu")
"""Sections that the loader keeps out of the module's areas (kernel/module/main.c: rewrite_section_headers,
setup_load_info, percpu_modalloc)."""
RO_AFTER_INIT: Final = (".data..ro_after_init", "__jump_table")
"""Sections that become read-only when init has run, up to 6.12 (kernel/module/main.c: layout_and_allocate).

Later releases add .static_call_sites (kernel/module/strict_rwx.c: module_mark_ro_after_init@7.3); who uses them adds
that by its own column.
"""
ALLOC, WRITE, EXEC = 2, 1, 4
"""SHF_ALLOC, SHF_WRITE, SHF_EXECINSTR."""
BRANCHES: Final = {283, 282}
"""R_AARCH64_CALL26, R_AARCH64_JUMP26: what may need an entry of the PLT (arch/arm64/kernel/module-plts.c)."""
SUFFIXES: Final = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


def modules_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield one row per module: of a file, or of a folder and all below it, in the order of their names.

    InputError for a path without modules and for a file that is no kernel module.
    """
    if not path.exists():
        raise InputError("PATH", str(path), "a module or a folder of modules", "for the running kernel: "
                         "/lib/modules/$(uname -r)/kernel")  # fmt: skip
    files = _files(path)
    if not files:
        raise InputError("PATH", str(path), f"files that end in {', '.join(SUFFIXES)}", "name a folder of modules")
    known: dict[str, Path] = {}
    for file in files:
        if known.setdefault(_name(file), file) != file:
            raise InputError(
                "PATH",
                f"{path}, which holds {_name(file)} twice: {known[_name(file)]} and {file}",
                "the modules of one kernel, each once",
                "name the folder of one kernel, or take one out",
            )
        yield module_of(file)


def _files(path: Path) -> list[Path]:
    """Return the files of modules in a folder and all below it, or the one file; InputError for what cannot be read."""

    def refused(error: OSError) -> None:
        raise InputError("PATH", f"{error.filename}, which cannot be read ({error.strerror})",
                         "folders that you may read", "check its permissions, or name another folder")  # fmt: skip

    if not path.is_dir():
        return [path]
    return sorted(Path(folder, name) for folder, _, names in os.walk(path, onerror=refused) for name in names
                  if name.endswith(SUFFIXES))  # fmt: skip


def module_of(file: Path) -> dict[str, str]:
    """Return the row of one module file; InputError if it cannot be read as one."""
    from elftools.elf.elffile import ELFFile

    try:
        with _opened(file) as stream:
            return {key: str(value) for key, value in _Module(ELFFile(stream), _name(file)).row().items()}
    except Exception as error:  # whatever unpackers and the ELF reader raise for bytes that nobody wrote for them
        said = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else f"{error}"
        raise InputError("PATH", f"{file}, which cannot be read ({said or type(error).__name__})",
                         "a kernel module: a relocatable ELF file of 64 bits, plain, .xz, .zst or .gz",
                         "take it out of the folder, or write it again") from error  # fmt: skip


def _name(file: Path) -> str:
    """Return the name under which the kernel knows the module (kernel/module: KBUILD_MODNAME)."""
    return file.name.partition(".ko")[0].replace("-", "_")


def _opened(file: Path) -> BinaryIO:
    if file.suffix == ".xz":
        return io.BytesIO(lzma.decompress(file.read_bytes()))
    if file.suffix == ".gz":
        return io.BytesIO(gzip.decompress(file.read_bytes()))
    if file.suffix == ".zst":
        import zstandard

        with zstandard.open(file) as stream:
            return io.BytesIO(stream.read())
    return file.open("rb")


@dataclass(slots=True)
class _Area:
    """Sections laid out one behind the other (kernel/module/main.c: module_get_offset_and_type)."""

    size: int = 0

    def add(self, size: int, align: int) -> None:
        align = max(align, 1)
        self.size = -(-self.size // align) * align + size


@dataclass(slots=True)
class _Module:
    """One ELF file on its way to a row."""

    elf: Any
    name: str
    areas: dict[str, _Area] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Lay out the sections as the loader does, and count what it has to patch."""
        if self.elf.elfclass != 64 or self.elf["e_type"] != "ET_REL":
            raise ValueError(f"{self.elf.elfclass} bits, {self.elf['e_type']}, not 64 and ET_REL")
        sections = list(self.elf.iter_sections())
        for section in sections:
            if section["sh_type"] != "SHT_NOBITS" and section["sh_offset"] + section["sh_size"] > self.elf.stream_len:
                raise ValueError(f"section {section.name} ends behind the file, which is cut off")
        for section in sections:
            self._place(section)
            self._count(section)
        for section in sections:
            if section["sh_type"] == "SHT_RELA":
                self._relocations(section, sections[section["sh_info"]])
        sizes = {name: area.size for name, area in self.areas.items()}
        known = {"name": self.name, "depends": _depends(self.elf), **self.counts, **sizes}
        return {column: known.get(column, 0) for column in COLUMNS}

    def _place(self, section: Any) -> None:
        area = area_of(section)
        if area:
            self.areas.setdefault(area, _Area()).add(section["sh_size"], section["sh_addralign"])

    def _count(self, section: Any) -> None:
        name, size = section.name, section["sh_size"]
        if name in ENTRIES:
            column, each = ENTRIES[name]
            self._add(column, size // each)
        if name == CALL_SITES.get(self.elf["e_machine"], "__patchable_function_entries"):
            self._add("mcount_loc", size // 8)

    def _add(self, column: str, n: int) -> None:
        self.counts[column] = self.counts.get(column, 0) + n

    def _relocations(self, section: Any, target: Any) -> None:
        n = section.num_relocations()
        area = area_of(target)
        if target.name in RELOCATED:
            column, each = RELOCATED[target.name]
            self._add(column, n // each)
        if area:
            self._add("relocs_alloc", n)
        if area == "exec_core":
            self._add("relocs_text", n)
        if area == "exec_init":
            self._add("relocs_init_text", n)
        if area in ("exec_core", "exec_init") and self.elf["e_machine"] == "EM_AARCH64":
            self._add("plt_core" if area == "exec_core" else "plt_init", self._far(section))

    def _far(self, section: Any) -> int:
        """Return how many different targets outside their section the branches of a section have (count_plts)."""
        symbols = self.elf.get_section(section["sh_link"])
        targets = {(relocation["r_info_sym"], relocation["r_addend"]) for relocation in section.iter_relocations()
                   if relocation["r_info_type"] in BRANCHES}  # fmt: skip
        inside = section["sh_info"]
        return sum(symbols.get_symbol(symbol)["st_shndx"] != inside for symbol, _ in targets)


def area_of(section: Any) -> str:
    """Return the area that a section goes to, by the column of its size; "" if it is not loaded.

    kernel/module/main.c: layout_sections, __layout_sections: by flags, and by name whether it goes when init has run.
    """
    flags, name = section["sh_flags"], section.name
    if not flags & ALLOC or name.startswith(UNLOADED):
        return ""
    init = name.startswith(".init")
    if flags & EXEC:
        return "exec_init" if init else "exec_core"
    if name in RO_AFTER_INIT and not init:
        return "ro_after_init"
    if not flags & WRITE:
        return "init_ro" if init else "ro_core"
    return "init_data" if init else "rw_core"


def _depends(elf: Any) -> str:
    """Return the modules that this one needs, blank-separated (modinfo: depends)."""
    info = elf.get_section_by_name(".modinfo")
    for entry in info.data().split(b"\0") if info is not None else ():
        key, _, value = entry.partition(b"=")
        if key == b"depends":
            return str(value.decode().replace(",", " ").replace("-", "_"))
    return ""
