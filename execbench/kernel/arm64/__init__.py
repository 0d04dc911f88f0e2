"""arm64: broadcast TLB and cache maintenance, change_memory_common, patching through the fixmap, kicks."""
