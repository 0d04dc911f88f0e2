"""One process of user space: its address space, its threads, and mmap, munmap, mprotect, page faults.

mm/mmap.c, mm/mprotect.c, mm/memory.c; what differs by architecture is in execbench.kernel.user_arch. What is
simplified: no transparent huge pages; a mapping takes its frames at mmap, its faults only cost later;
page tables are not freed with the last page; each mapping is a VMA of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from execbench.errors import AddressSpaceExhausted, SimulatedFailure
from execbench.kernel.locks import RwSem
from execbench.kernel.user_arch import LINE, flush_tlb_mm_range, sync_icache_folios
from execbench.sim.engine import Proc
from execbench.sim.locks import LockKind
from execbench.sim.memory import KernelMap, OutOfFrames, Perm, Run, VmapSpace, VmArea

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared
    from execbench.sim.cpu import Cpu
    from execbench.sim.task import Task

__all__ = [
    "Folios",
    "Mm",
    "Vma",
    "fault_in",
    "get_unmapped_area",
    "memfd_create",
    "mmap",
    "mprotect",
    "munmap",
    "pages_at",
]

MMAP_LOCK = LockKind("mmap_lock", "rwsem", "include/linux/mm_types.h: mm_struct.mmap_lock")
MEMBARRIER_IPI_MUTEX = LockKind("membarrier_ipi_mutex", "mutex", "kernel/sched/membarrier.c: SERIALIZE_IPI")

_WINDOW: Final = (0x7F00_0000_0000, 1 << 28)
"""1 TiB below mmap_base, in pages of 4 KiB: never short."""
_FAULT_AROUND = 1 << 16
"""Bytes that one fault on file pages for reading or execution maps (mm/memory.c: fault_around_pages)."""
_STRING = 2048
"""Bytes from which memset() uses string instructions (glibc, sysdeps/x86/dl-cacheinfo.h: rep_stosb_threshold)."""
_NO_VMA_LOCK: Final = ("6.1",)
"""Releases whose page faults take the mmap_lock; later ones lock the VMA (mm/memory.c: lock_vma_under_rcu, 6.4)."""


@dataclass(slots=True, eq=False)
class Folios:
    """Frames behind a mapping, or of a memfd; clean = PG_dcache_clean, set when a page is first mapped executable."""

    runs: tuple[Run, ...]
    memfd: bool
    clean: bytearray

    @property
    def pages(self) -> int:
        """How many."""
        return len(self.clean)


@dataclass(slots=True, eq=False)
class Vma:
    """One mapping: where, of what, with which protection, and which pages have been touched.

    `text` is the address at which its bytes are executed: its own, or that of the mapping it is an alias of.
    """

    area: VmArea
    folios: Folios
    first: int
    perm: Perm
    text: int
    present: bytearray = field(repr=False)
    flipped: bool = False
    """Its protection has changed since it was used last."""

    @property
    def alias(self) -> bool:
        """Whether the text is executed elsewhere."""
        return self.text != self.area.va

    @property
    def text_pages(self) -> int:
        """Its pages if it is executable."""
        return self.area.pages if self.perm.endswith("-x") else 0

    def page(self, text: int) -> int:
        """Return the page of this mapping that holds text address `text`."""
        return (text - self.text) // self.area.page


class Mm:
    """struct mm_struct of the process: address space, page tables, and the threads that load it when they run."""

    __slots__ = (
        "_cpus", "_fetched", "_unclear", "mmap_lock", "page", "space", "tables", "text_pages", "threads", "vmas",
    )  # fmt: skip

    def __init__(self, shared: Shared) -> None:
        """An empty address space; declares the process' locks."""
        self._cpus = shared.machine.active_cpus
        self.page = shared.geometry.page
        self.space = VmapSpace({"user": shared.geometry.window(*_WINDOW)}, shared.geometry)
        self.tables = KernelMap(shared.geometry)
        self.mmap_lock = RwSem(shared.declare(MMAP_LOCK))
        shared.declare(MEMBARRIER_IPI_MUTEX)
        self.text_pages = 0  # of mappings that are executable, present or not
        self.threads: set[Task] = set()
        self.vmas: dict[int, Vma] = {}  # page number -> the mapping of text there
        self._fetched: dict[int, int] = {}  # CPU -> where it entered text last
        self._unclear: dict[int, str] = {}  # text address -> what its first fetch pays besides

    def running(self, sender: Cpu) -> list[Cpu]:
        """Return the other CPUs on which a thread of the process runs now."""
        return [cpu for cpu in self._cpus if cpu.task in self.threads and cpu is not sender]

    def enter(self, task: Task) -> None:
        """`task` is a thread of the process from now on."""
        self.threads.add(task)

    def forget(self, area: VmArea) -> None:
        """Give an address back that nothing is mapped at, or nothing any more."""
        self.space.free_lazy(area)
        self.space.purge()

    def text_at(self, va: int) -> Vma | None:
        """Return the mapping that text address `va` is executed through, if there is one."""
        return self.vmas.get(va // self.page)

    def written(self, k: Kernel, vma: Vma | None, va: int, size: int, through: str) -> str:
        """Note what writing text at `va` under an executable mapping does to this CPU's front end; return its cost.

        x86_64 only, as measured (configs/truth/host_jit.csv). Stores that the fetch overtakes clear the pipeline. So do
        string instructions, line by line, into text that the CPU expects to enter; and a copy by the kernel into a line
        that follows the one entered last, which is fetched already.
        """
        if k.arch.name != "x86_64" or vma is None or not vma.perm.endswith("-x"):
            return ""
        last = self._fetched.get(k.cpu, -LINE)
        if through == "direct-map":
            return "client.jit.line_clear" if va // LINE == last // LINE + 1 else ""
        self._unclear[va] = "client.jit.machine_clear"
        return "client.jit.string_clear" if size >= _STRING and va == last else ""

    def entered(self, cpu: int, va: int) -> str:
        """The CPU enters text at `va`; return what that costs besides, if anything."""
        self._fetched[cpu] = va
        return self._unclear.pop(va, "")


def syscall(k: Kernel, mm: Mm, name: str, units: int = 1) -> None:
    """Enter the kernel and return, as a thread of the process."""
    mm.enter(k.task)
    k.count(name, units)
    k.spend("syscall")


# --- mappings ---------------------------------------------------------------------------------------------------------


def get_unmapped_area(k: Kernel, mm: Mm, pages: int) -> Proc[VmArea]:
    """Choose an address for text without mapping anything: the runtime knows what is free and asks for MAP_FIXED."""
    area = yield from _address(k, mm, pages)
    k.tell("map", area, 0, pages, "none")
    return area


def _address(k: Kernel, mm: Mm, pages: int) -> Proc[VmArea]:
    yield from k.settle()
    area = mm.space.alloc("user", pages, guard=0)
    if area is None:
        hole = mm.space.largest_hole("user")
        raise AddressSpaceExhausted(
            "window-exhausted", f"no hole of {pages} pages in user space (largest: {hole})", {"pages": pages}
        )
    return area


def memfd_create(k: Kernel, pages: int) -> Proc[Folios]:
    """Make a memfd of so many pages and fill it, so that it never grows (mm/memfd.c, fallocate)."""
    yield from k.settle()
    k.count("memfd_create", pages)
    k.spend("syscall", 2)
    k.spend("page_alloc", pages)
    return Folios(_frames(k, pages), True, bytearray(pages))


def mmap(
    k: Kernel, mm: Mm, pages: int, perm: Perm, *, file: Folios | None = None, first: int = 0,
    at: VmArea | None = None, text: int | None = None,
) -> Proc[Vma]:  # fmt: skip
    """Map fresh anonymous pages, or `file` from page `first` on, at a free address or at `at`; no page is present yet.

    `text`: the bytes are executed at that address and this is an alias of it.
    """
    syscall(k, mm, "mmap", pages)
    with (yield from mm.mmap_lock.write(k.task)):
        k.spend("client.jit.mmap")
        yield from k.settle()
        area = at or (yield from _address(k, mm, pages))
        folios = file or Folios(_frames(k, pages), False, bytearray(pages))
        area.runs = tuple(VmArea(0, folios.pages, 0, "user", folios.runs).frames(first, pages))
        vma = Vma(area, folios, first, perm, area.va if text is None else text, bytearray(pages))
        mm.tables.map(area, "none")
        mm.text_pages += vma.text_pages
    if vma.alias:
        k.tell("window", "user", vma.text, area.size, True)
    else:
        mm.vmas.update(dict.fromkeys(range(area.va // mm.page, area.end // mm.page), vma))
        k.tell("map", area, 0, pages, "none")
    return vma


def munmap(k: Kernel, mm: Mm, vma: Vma) -> Proc[None]:
    """Unmap; the CPUs that run the process have flushed before the frames and the address can be used again."""
    area = vma.area
    syscall(k, mm, "munmap", area.pages)
    with (yield from mm.mmap_lock.write(k.task)):
        present = vma.present.count(1)
        mm.tables.unmap(area)
        mm.text_pages -= vma.text_pages
        k.spend("client.jit.munmap")
        if not vma.alias:
            for page in range(area.va // mm.page, area.end // mm.page):
                del mm.vmas[page]
            k.tell("map", area, 0, area.pages, "none")
        k.spend("client.jit.unmap_page", present)
        if present:
            yield from _flush(k, mm, vma)
        yield from k.settle()
        if vma.alias:
            k.tell("window", "user", vma.text, area.size, False)
        if not vma.folios.memfd:
            k.frames.free(area.runs)
            k.tell("freed", area)
        mm.forget(area)


def mprotect(k: Kernel, mm: Mm, vma: Vma, perm: Perm) -> Proc[None]:
    """Change the protection of a whole mapping and flush what was present: either direction needs it.

    mm/mprotect.c:change_protection, arch/x86/include/asm/tlbflush.h:pte_flags_need_flush. The lock is held throughout.
    """
    area = vma.area
    syscall(k, mm, "mprotect", area.pages)
    with (yield from mm.mmap_lock.write(k.task)):
        mm.text_pages -= vma.text_pages
        vma.perm = perm
        mm.text_pages += vma.text_pages
        k.spend("client.jit.mprotect")
        present = 0
        for first, pages in _runs_of(vma.present, 1, 0, area.pages):
            present += pages
            yield from _set_ptes(k, mm, vma, first, pages)
        k.spend("pte_set", present)
        if present:
            vma.flipped = True
            yield from _flush(k, mm, vma)


def use(k: Kernel, vma: Vma) -> None:
    """Pay what the first use after a flip takes: translations and lines come anew."""
    if vma.flipped:
        vma.flipped = False
        k.spend("client.jit.refill")


def _flush(k: Kernel, mm: Mm, vma: Vma) -> Proc[None]:
    """Flush from the first to the last page that was present (include/asm-generic/tlb.h: tlb_flush)."""
    first = vma.present.find(1)
    return flush_tlb_mm_range(k, mm, vma.area.at(first), vma.present.rfind(1) + 1 - first)


def fault_in(k: Kernel, mm: Mm, vma: Vma, text: int, size: int, cold: int = 0) -> Proc[None]:
    """Touch the pages that hold `size` bytes from text address `text` on: those not present fault (mm/memory.c).

    Anonymous and written file pages one by one; others of a file by 64 KiB (do_fault_around). `cold` of the pages have
    folios that the caches do not hold.
    """
    first, end = vma.page(text), vma.page(text + size - 1) + 1
    if vma.present.count(0, first, end) == 0:
        return
    work = _fault(k, mm, vma, first, end, cold)
    if k.release.name in _NO_VMA_LOCK:
        yield from mm.mmap_lock.read(k.task, work)
    else:
        yield from work


def _fault(k: Kernel, mm: Mm, vma: Vma, first: int, end: int, cold: int) -> Proc[None]:
    yield from k.settle()
    around = max(_FAULT_AROUND // mm.page, 1) if vma.folios.memfd and not vma.perm.startswith("rw") else 0
    if around:
        first = first // around * around
        end = min(-(-end // around) * around, vma.area.pages)
    for start, pages in _runs_of(vma.present, 0, first, end):
        if around:
            faults = (start + pages - 1) // around - start // around + 1
            k.spend("client.jit.fault_exec", faults)
            k.spend("pte_set", pages - faults)
        else:
            faults = pages
            k.spend("client.jit.fault_shared" if vma.folios.memfd else "client.jit.fault_anon", faults)
        k.count("page_fault", faults)
        vma.present[start : start + pages] = b"\1" * pages
        yield from _set_ptes(k, mm, vma, start, pages)
    k.spend("client.jit.cold_folio", cold)


def _set_ptes(k: Kernel, mm: Mm, vma: Vma, first: int, pages: int) -> Proc[None]:
    """Give present pages the mapping's protection; folios that become executable for the first time are made clean."""
    if vma.perm.endswith("-x"):
        at = vma.first + first
        for start, dirty in _runs_of(vma.folios.clean, 0, at, at + pages):
            yield from sync_icache_folios(k, mm, vma.area.at(start - vma.first), dirty)
            yield from k.settle()
            vma.folios.clean[start : start + dirty] = b"\1" * dirty
    yield from k.settle()
    mm.tables.protect(vma.area, first, pages, vma.perm)
    if not vma.alias:
        k.tell("map", vma.area, first, pages, vma.perm)


def pages_at(mm: Mm, va: int, size: int) -> tuple[int, int]:
    """Return how many pages hold `size` bytes from `va` on, and where the first begins."""
    first = va // mm.page
    return (va + size - 1) // mm.page - first + 1, first * mm.page


# --- helpers ----------------------------------------------------------------------------------------------------------


def _frames(k: Kernel, pages: int) -> tuple[Run, ...]:
    try:
        return k.frames.alloc(pages)
    except OutOfFrames as short:
        detail = f"{pages} pages asked, {short.args[1]} free"
        raise SimulatedFailure("out-of-memory", detail, {"pages": pages}) from short


def _runs_of(bits: bytearray, value: int, first: int, end: int) -> list[tuple[int, int]]:
    """Return (first, length) of the runs of `value` in bits[first:end]."""
    runs = []
    byte, other = bytes([value]), bytes([1 - value])
    while (start := bits.find(byte, first, end)) >= 0:
        stop = bits.find(other, start, end)
        first = end if stop < 0 else stop
        runs.append((start, first - start))
    return runs
