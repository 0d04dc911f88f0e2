"""Text poking on x86_64 through the temporary mm (arch/x86/kernel/alternative.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.kernel.x86_64.tlb import sync_core_each_cpu
from execbench.sim.engine import Proc
from execbench.sim.memory import PAGE

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel


def chunks(va: int, size: int) -> list[int]:
    """Return the sizes of the __text_poke() calls that write `size` bytes at `va`: each touches two pages at most."""
    sizes = []
    while size > 0:
        n = min(2 * PAGE - va % PAGE, size)
        sizes.append(n)
        va += n
        size -= n
    return sizes


def text_poke(k: Kernel, va: int, size: int, per_byte: str, content: str) -> None:
    """Write `size` bytes through the alias in text_poke_mm, interrupts off, and flush it locally (__text_poke).

    The flush is flush_tlb_mm_range() of a mm that no CPU has loaded by then: no interrupt.
    """
    cpu = k.task.cpu
    k.count("text_poke", size)
    cpu.mask()
    k.tell("window", "mm", va, size, True)
    k.spend("text_poke")
    k.spend(per_byte, size)
    k.tell("store", va, size, content, "mm")
    k.tell("window", "mm", va, size, False)
    k.count("flush_tlb_mm_range")
    cpu.unmask()


def text_poke_copy(k: Kernel, va: int, size: int) -> Proc[None]:
    """Copy `size` bytes to read-only text at `va`; no other CPU is told (text_poke_copy)."""
    k.count("text_poke_copy", size)
    with (yield from k.lock("text_mutex")):
        yield from text_poke_pieces(k, va, size, "copy_byte", "code")


def text_poke_set(k: Kernel, va: int, size: int) -> Proc[None]:
    """Fill `size` bytes of read-only text at `va` with int3; no other CPU is told (text_poke_set)."""
    k.count("text_poke_set", size)
    with (yield from k.lock("text_mutex")):
        yield from text_poke_pieces(k, va, size, "fill_byte", "trap")


def text_poke_pieces(k: Kernel, va: int, size: int, per_byte: str, content: str) -> Proc[None]:
    """Call __text_poke() for each part of a range that it can write at once; the caller holds text_mutex."""
    for n in chunks(va, size):
        yield from poke_vmalloc_pages(k)
        text_poke(k, va, n, per_byte, content)
        va += n


def poke_vmalloc_pages(k: Kernel) -> Proc[None]:
    """Look up the pages behind a vmalloc address: on 7.x as a reader of init_mm's mmap lock, behind a collapse."""
    if k.release.cpa_mmap_lock:
        yield from k.shared.init_mm.pass_by(k.task)
        k.count("mmap_read_lock")


def text_poke_batch(k: Kernel, sites: int, length: int = 5) -> Proc[None]:
    """Take text_mutex and patch `sites` live instructions of `length` bytes (see smp_text_poke_batch)."""
    with (yield from k.lock("text_mutex")):
        yield from smp_text_poke_batch(k, sites, length)


def smp_text_poke_batch(k: Kernel, sites: int, length: int = 5) -> Proc[None]:
    """Patch `sites` live instructions of `length` bytes by the int3 protocol: three rounds per batch of any size.

    The caller holds text_mutex. smp_text_poke_batch_add, _finish (before 6.16 text_poke_queue, text_poke_bp_batch):
    int3 over every first byte, serialize everybody; the tails, serialize (both skipped if no site has a tail); the
    first bytes, serialize. A full array forces an early finish. Sites are the kernel image's: no page behind them has
    to be looked up.
    """
    while sites > 0:
        batch = min(sites, k.release.poke_batch)
        sites -= batch
        k.count("smp_text_poke_batch_finish", batch)
        k.spend("int3_queue", batch)
        for size in (1, length - 1, 1) if length > 1 else (1, 1):
            for _ in range(batch):
                text_poke(k, 0, size, "copy_byte", "site")
            yield from sync_core_each_cpu(k)
