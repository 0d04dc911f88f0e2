"""What several clients refuse of their parameters: ValueErrors that name the parameter and say what is allowed."""

from __future__ import annotations


def at_least(params: object, least: int, *names: str) -> None:
    """Refuse parameters below `least`."""
    for name in names:
        if getattr(params, name) < least:
            raise ValueError(f"{name}: at least {least}")


def shares(params: object, *names: str) -> None:
    """Refuse parameters that are no shares of a whole."""
    for name in names:
        if not 0 <= getattr(params, name) <= 1:
            raise ValueError(f"{name}: a share from 0 to 1")
