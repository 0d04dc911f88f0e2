"""The errors of execbench: each names the place, what was given, what is allowed and the remedy.

SimPy re-creates an exception as `type(e)(*e.args)` and process pools pickle it, so every class hands all its
arguments to `Exception.__init__`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "AddressSpaceExhausted",
    "CannotWrite",
    "Deadlock",
    "ExecbenchError",
    "InputError",
    "MachineError",
    "NothingMeasured",
    "PluginError",
    "RcuStall",
    "SimulatedFailure",
    "StoreError",
    "did_you_mean",
]


class ExecbenchError(Exception):
    """Root of all errors that execbench raises on purpose; `exit_code` is the exit status of the command."""

    exit_code: ClassVar[int] = 70


class InputError(ExecbenchError):
    """What the user gave cannot be used.

    `where` is the file and key path, option or argument; `given` what stood there (anything but text is shown by its
    repr); `allowed` what may stand there; `remedy` what to do.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, where: str, given: object, allowed: str, remedy: str) -> None:
        shown = given if isinstance(given, str) else repr(given)
        super().__init__(where, shown, allowed, remedy)
        self.where, self.given, self.allowed, self.remedy = where, shown, allowed, remedy

    def __str__(self) -> str:
        return _sentences(f"{self.where}: got {self.given}", f"allowed: {self.allowed}", self.remedy)


class PluginError(InputError):
    """A backend or client from outside the package cannot be loaded or breaks its contract."""


class MachineError(InputError):
    """A machine description is impossible or incomplete."""


class SimulatedFailure(ExecbenchError):
    """The simulated system failed: a named result of a replication, not a bug.

    `outcome` is the name that appears in the results, `detail` one readable sentence, `payload` plain data for them.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, outcome: str, detail: str, payload: dict[str, Any]) -> None:
        super().__init__(outcome, detail, payload)
        self.outcome, self.detail, self.payload = outcome, detail, payload

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}"


class AddressSpaceExhausted(SimulatedFailure):
    """A virtual window has no hole that is large enough for a request."""


class Deadlock(SimulatedFailure):
    """Tasks wait for each other, and no event is left that could wake one of them."""


class RcuStall(SimulatedFailure):
    """A grace period did not end within the kernel's stall time."""


class StoreError(ExecbenchError):
    """A results directory is damaged, or was not made by execbench."""

    exit_code: ClassVar[int] = 74

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(where, problem, remedy)
        self.where, self.problem, self.remedy = where, problem, remedy

    def __str__(self) -> str:
        return _sentences(f"{self.where}: {self.problem}", self.remedy)


class CannotWrite(StoreError):
    """Results cannot be written where they were asked for."""

    exit_code: ClassVar[int] = 73


class NothingMeasured(ExecbenchError):
    """A command ended well but measured or matched nothing; `what` says what is missing, `remedy` what to do."""

    exit_code: ClassVar[int] = 5

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return _sentences(self.what, self.remedy)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return `"did you mean 'x'?"` for the names closest to `name` (at most three), or the empty string."""
    close = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6)
    if not close:
        return ""
    return "did you mean " + " or ".join(f"'{match}'" for match in close) + "?"


def _sentences(*parts: str) -> str:
    """Join non-empty parts into one line, `"a; b; c"`, without doubled or trailing punctuation."""
    return "; ".join(part.strip().rstrip(".;") for part in parts if part.strip())
