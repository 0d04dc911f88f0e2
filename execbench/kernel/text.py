"""The nouns of executable memory: what is asked for, what is written, and where it ends up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from execbench.sim.memory import Perm

PATCH = 4
"""Bytes of one relocation: a 32-bit field on x86_64, an instruction elsewhere (apply_relocate_add)."""


class TextKind(StrEnum):
    """What the memory is for; decides the window and, by release, the allocator (include/linux/execmem.h)."""

    MODULE_TEXT = "module-text"
    INIT_TEXT = "init-text"
    RODATA = "rodata"
    RO_AFTER_INIT = "ro-after-init"
    MODULE_DATA = "module-data"
    BPF = "bpf"
    KPROBES = "kprobes"
    FTRACE = "ftrace"
    JIT = "jit"
    USER = "user"


TEXT_KINDS = (
    TextKind.MODULE_TEXT, TextKind.INIT_TEXT, TextKind.BPF, TextKind.KPROBES, TextKind.FTRACE, TextKind.JIT,
)  # fmt: skip
"""What the kernel executes: an interface for text serves these, and leaves a module's data to others."""
KERNEL_KINDS = tuple(kind for kind in TextKind if kind is not TextKind.USER)
"""Text, and the data of modules beside it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One piece of memory asked of a backend: size in bytes; classic: made from a classic BPF program (cBPF).

    layout: which of a module's two lives it has, "core" or "init" (freed when init has run); before 6.4 all of one
    layout are one area (struct module_layout). "" is memory of its own.
    """

    size: int
    kind: TextKind
    classic: bool = False
    layout: Literal["", "core", "init"] = ""


@dataclass(frozen=True, slots=True)
class Image:
    """Bytes to be written; `patches` = separate writes at the final address (relocations, alternatives, calls)."""

    id: int
    size: int
    patches: int = 0


@dataclass(slots=True, eq=False)
class Region:
    """Memory handed out: va and size (asked, bytes), reserved (what it really takes), own = the backend's handle."""

    id: int
    va: int
    size: int
    reserved: int
    kind: TextKind
    own: Any = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of one backend: bytes asked, bytes reserved, waste inside what is handed out, leaves (4K, 2M) of text."""

    asked: int
    reserved: int
    internal_waste: int
    leaves: tuple[int, int]


def writes(va: int, image: Image) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of an image at `va` and then of its relocations, which lie evenly spread."""
    yield va, image.size
    room = max(image.size - PATCH, 0)
    for i in range(image.patches):
        yield va + room * (i + 1) // image.patches // PATCH * PATCH, min(PATCH, image.size)


def changed(perm: Perm, write: bool | None, execute: bool | None) -> Perm:
    """Return a present protection with W and X set or cleared; None leaves one as it is."""
    w = perm in ("rw-nx", "rw-x") if write is None else write
    x = perm in ("ro-x", "rw-x") if execute is None else execute
    return "rw-x" if w and x else "rw-nx" if w else "ro-x" if x else "ro-nx"
