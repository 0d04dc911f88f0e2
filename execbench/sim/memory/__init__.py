"""Memory of the simulated kernel as pure data: no time, no costs, integers only.

Every structure counts incrementally and offers `check()`, which recounts from scratch and raises AssertionError with
both figures where a running total differs. Addresses are bytes; sizes of frames, areas and windows are base pages, of
4 KiB unless a `Geometry` says otherwise.
"""

from __future__ import annotations

from execbench.sim.memory.bitmap import ChunkBitmap
from execbench.sim.memory.directmap import DirectMap, DirectPerm, Leaf, Split
from execbench.sim.memory.frames import Frames, OutOfFrames, Run
from execbench.sim.memory.holes import Holes
from execbench.sim.memory.kernelmap import Change, KernelMap
from execbench.sim.memory.pages import FOUR_KIB, PAGE, PMD_PAGES, PUD_PAGES, Geometry
from execbench.sim.memory.table import Perm
from execbench.sim.memory.vmap import Lazy, VmapSpace, VmArea

__all__ = [
    "FOUR_KIB",
    "PAGE",
    "PMD_PAGES",
    "PUD_PAGES",
    "Change",
    "ChunkBitmap",
    "DirectMap",
    "DirectPerm",
    "Frames",
    "Geometry",
    "Holes",
    "KernelMap",
    "Lazy",
    "Leaf",
    "OutOfFrames",
    "Perm",
    "Run",
    "Split",
    "VmArea",
    "VmapSpace",
]
