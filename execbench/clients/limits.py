"""What several clients refuse of their parameters: ValueErrors that name the parameter and say what is allowed."""

from __future__ import annotations

from typing import Final

INT_MAX: Final = (1 << 31) - 1
"""What the kernel counts in an int."""
PID_MAX_LIMIT: Final = 1 << 22
"""Threads that a machine of 64 bits can have (include/linux/threads.h)."""


def at_least(params: object, least: int, *names: str, most: int = INT_MAX) -> None:
    """Refuse parameters below `least` or above `most`."""
    for name in names:
        if not getattr(params, name) >= least:  # so, for nothing compares with NaN
            raise ValueError(f"{name}: at least {least}")
        if getattr(params, name) > most:
            raise ValueError(f"{name}: at most {most}")


def shares(params: object, *names: str) -> None:
    """Refuse parameters that are no shares of a whole."""
    for name in names:
        if not 0 <= getattr(params, name) <= 1:
            raise ValueError(f"{name}: a share from 0 to 1")
