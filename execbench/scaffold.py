"""`execbench new backend`: a file to begin with, which conforms as it stands."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Final

from execbench.errors import InputError
from execbench.registry.plugins import display_name, names

__all__ = ["write_backend"]

_TEMPLATE: Final = '''\
"""@NAME@: whole pages for each region, written in place, then read-only and executable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from execbench.contract import Image, Proc, Region, Request, Support, Totals, Usage

if TYPE_CHECKING:
    from execbench.kernel.facade import Kernel
    from execbench.kernel.shared import Shared


@dataclass(frozen=True, kw_only=True)
class @CLASS@:
    """Fields are parameters: `execbench run -b './@FILE@[guard_fill=true]'` sets one."""

    support: ClassVar[Support] = Support(
        architectures=("x86_64", "arm64", "riscv64"), source="where the design was proposed"
    )
    guard_fill: bool = False
    """Fill what rounding to pages adds with trapping instructions."""

    def start(self, k: Shared) -> Totals:
        """Boot: declare locks here with k.declare(LockKind(...)). Takes no simulated time."""
        return Totals(k)

    def alloc(self, k: Kernel, s: Totals, reqs: Sequence[Request]) -> Proc[tuple[Region, ...]]:
        """Hand out one region per request, in the same order; nothing may execute there yet."""
        regions = []
        for req in reqs:
            area = yield from k.vmalloc_node_range(k.pages_of(req.size), req.kind)
            regions.append(s.take(req, area))
        return tuple(regions)

    def write(self, k: Kernel, s: Totals, region: Region, image: Image) -> Proc[None]:
        """Store through the final address, which is writable and not executable."""
        k.store_text(region.va, image.size)
        if self.guard_fill:
            k.store_text(region.va + image.size, region.reserved - image.size, "trap")
        return
        yield

    def finalize(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """Instruction fetch must see the stores before the pages are executable."""
        for region in regions:
            yield from k.flush_icache_range(region.va, region.size)
            yield from k.set_memory_rox(region.own)

    def free(self, k: Kernel, s: Totals, regions: Sequence[Region]) -> Proc[None]:
        """The client has waited: nobody can reach them any more."""
        for region in regions:
            yield from k.vfree(region.own)
            s.give(region)

    def usage(self, s: Totals) -> Usage:
        """Return what is held now."""
        return s.usage()
'''


def write_backend(file: Path) -> None:
    """Write the file, named after itself; InputError if it exists, cannot be written, or its name is no module name."""
    stem = file.stem
    if file.suffix != ".py" or not stem.isidentifier() or keyword.iskeyword(stem) or stem != stem.lower():
        raise InputError("FILE.py", str(file), "a lower-case Python module name with the ending .py",
                         "for example my_backend.py")  # fmt: skip
    name = display_name(stem)
    if name in names("backends"):
        raise InputError("FILE.py", str(file), "a name that no backend has yet", f"{name} is shipped: choose another")
    text = _TEMPLATE.replace("@NAME@", name).replace("@FILE@", file.name)
    text = text.replace("@CLASS@", "".join(part.capitalize() for part in stem.split("_")))
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise InputError("FILE.py", str(file), "a file that does not exist yet", "choose another name") from None
    except OSError as error:
        raise InputError("FILE.py", f"{file} ({error.strerror})", "a place that can be written",
                         "choose another folder") from None  # fmt: skip
