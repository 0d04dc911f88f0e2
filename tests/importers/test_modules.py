"""Modules as rows: a file whose every byte is known, compressions, and a whole Debian kernel in the long tier."""

from __future__ import annotations

import csv
import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from execbench.errors import InputError
from execbench.importers.modules import COLUMNS, module_of, modules_of
from tests.importers.elf import AARCH64, ALLOC, EXEC, NOBITS, STRTAB, SYMTAB, WRITE, Section, elf, relocations, symbols

DEBIAN = "linux-image-6.12.117+deb12-cloud-amd64-unsigned"
KNOWN = Path(__file__).parent / "data" / "modules-6.12.117-cloud-amd64.csv"


def whole(machine: int = 62, branch: int = 4) -> bytes:
    """A module of 100 + 2 x 16-aligned bytes of text, 5 of init text, and one of everything else."""
    return elf(
        Section(".text", ALLOC | EXEC, bytes(100), 16),  # 1
        Section(".exit.text", ALLOC | EXEC, bytes(2), 16),  # 2: at 112
        Section(".init.text", ALLOC | EXEC, bytes(5), 4),  # 3
        Section(".rodata", ALLOC, bytes(30), 8),  # 4
        Section(".altinstructions", ALLOC, bytes(28), 1),  # 5: at 30
        Section("__jump_table", ALLOC | WRITE, bytes(48), 8),  # 6
        Section(".static_call_sites", ALLOC | WRITE, bytes(24), 8),  # 7
        Section(".data", ALLOC | WRITE, bytes(9), 8),  # 8: at 24
        Section(".bss", ALLOC | WRITE, bytes(40), 32, NOBITS),  # 9: at 64
        Section(".init.data", ALLOC | WRITE, bytes(3), 1),  # 10
        Section(".init.rodata", ALLOC, bytes(4), 1),  # 11
        Section("__mcount_loc", ALLOC, bytes(32), 8),  # 12: at 64
        Section("__patchable_function_entries", ALLOC | WRITE, bytes(16), 8),  # 13: at 104
        Section(".modinfo", ALLOC, b"license=GPL\0depends=a-b,c\0"),  # 14
        Section("__versions", ALLOC, bytes(64)),  # 15
        Section(".data..percpu", ALLOC | WRITE, bytes(8)),  # 16
        Section(".comment", 0, bytes(77)),  # 17
        Section(".symtab", data=symbols(0, 1, 3), kind=SYMTAB, link=19, entry=24),  # 18: one of elsewhere, two of here
        Section(".strtab", data=b"\0", kind=STRTAB),  # 19
        Section(".rela.text", **relocations(1, 18, (0, branch, 1), (4, branch, 1), (8, branch, 2), (12, branch, 3))),
        Section(".rela.init.text", **relocations(3, 18, (0, branch, 1))),
        Section(".rela.altinstructions", **relocations(5, 18, *[(i, 2, 2) for i in (0, 4, 14, 18)])),
        Section(".rela.comment", **relocations(17, 18, (0, 1, 1))),
        machine=machine,
    )  # fmt: skip


EXPECTED = {
    "name": "a_module", "exec_core": "114", "exec_init": "5", "ro_core": "96", "ro_after_init": "48", "rw_core": "120",
    "init_data": "3", "init_ro": "4", "altinstructions": "2", "jump_table": "3", "mcount_loc": "4",
    "static_call_sites": "3", "retpoline_sites": "0", "return_sites": "0", "call_sites": "0", "parainstructions": "0",
    "relocs_alloc": "9", "relocs_text": "4", "relocs_init_text": "1", "plt_core": "0", "plt_init": "0",
    "depends": "a_b c",
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz", ".ko.gz", ".ko.zst"])
def test_a_module_whose_every_byte_is_known(suffix: str, tmp_path: Path) -> None:
    packed = {".ko": bytes, ".ko.xz": lzma.compress, ".ko.gz": gzip.compress, ".ko.zst": zstandard.compress}[suffix]
    file = tmp_path / f"a-module{suffix}"
    file.write_bytes(packed(whole()))
    assert module_of(file) == EXPECTED
    assert list(modules_of(tmp_path)) == [EXPECTED]
    assert tuple(EXPECTED) == COLUMNS


def test_branches_of_arm64_out_of_their_section_need_entries_of_the_plt(tmp_path: Path) -> None:
    (tmp_path / "a-module.ko").write_bytes(whole(AARCH64, 283))
    row = module_of(tmp_path / "a-module.ko")
    changed = {"plt_core": "2", "plt_init": "1", "mcount_loc": "2"}  # symbols 1 and 3, once each; patchable entries
    assert row == EXPECTED | changed


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    for name, data in {"x.ko": b"text", "y.ko.xz": b"text", "z.ko": whole()[:200]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="cannot be read"):
            module_of(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(InputError, match="PATH"):
            list(modules_of(path))


@pytest.mark.long
def test_modules_of_a_debian_kernel(tmp_path: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no apt-get and dpkg-deb here")
    got = subprocess.run(["apt-get", "download", DEBIAN], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    packages = list(tmp_path.glob("*.deb"))
    if got.returncode or not packages:
        pytest.skip(f"{DEBIAN} cannot be downloaded: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), "x"], cwd=tmp_path, check=True)
    rows = {row["name"]: row for row in modules_of(tmp_path / "x")}
    assert len(rows) > 1000
    with KNOWN.open(newline="") as file:
        known = {row["name"]: row for row in csv.DictReader(file)}
    assert {name: rows[name] for name in known} == known
