"""riscv64: remote fences by firmware or interrupts, splits of the linear map, fence.i, patching through the fixmap."""
