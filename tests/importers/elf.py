"""Relocatable ELF files of 64 bits, small enough to know every byte of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ALLOC, WRITE, EXEC = 2, 1, 4
PROGBITS, SYMTAB, STRTAB, RELA, NOBITS = 1, 2, 3, 4, 8
X86_64, AARCH64 = 62, 183


@dataclass(frozen=True)
class Section:
    name: str
    flags: int = 0
    data: bytes = b""
    align: int = 1
    kind: int = PROGBITS
    link: int = 0
    info: int = 0
    entry: int = 0


def relocations(of: int, symbols: int, *rows: tuple[int, int, int]) -> dict[str, object]:
    """Rows (offset, type, symbol) against section number `of`."""
    data = b"".join(struct.pack("<QQq", offset, symbol << 32 | kind, 0) for offset, kind, symbol in rows)
    return {"data": data, "kind": RELA, "link": symbols, "info": of, "entry": 24}


def symbols(*sections: int) -> bytes:
    """A symbol table: symbol i + 1 is defined in sections[i], 0 = nowhere here."""
    null = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    return null + b"".join(struct.pack("<IBBHQQ", 0, 0x12, 0, section, 0, 0) for section in sections)


def elf(*sections: Section, machine: int = X86_64) -> bytes:
    """The file; section 0 is the null section, the names stand in one more section at the end."""
    names, at = b"\0", {}
    for name in [*(section.name for section in sections), ".shstrtab"]:
        at[name] = len(names)
        names += name.encode() + b"\0"
    everything = [*sections, Section(".shstrtab", data=names, kind=STRTAB)]
    body, headers = b"", struct.pack("<IIQQQQIIQQ", *[0] * 10)
    for s in everything:
        headers += struct.pack("<IIQQQQIIQQ", at[s.name], s.kind, s.flags, 0, 64 + len(body), len(s.data), s.link,
                               s.info, s.align, s.entry)  # fmt: skip
        body += s.data if s.kind != NOBITS else b""
    n = len(everything) + 1
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, n, n - 1)
    return head + body + headers
