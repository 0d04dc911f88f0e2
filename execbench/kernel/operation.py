"""One operation of a client as it happens: stamps that tile it, counts of primitives, and time inside the API."""

from __future__ import annotations

from typing import Protocol


class Recorder(Protocol):
    """Who keeps account of operations."""

    def accounts(self, operation: Operation) -> tuple[dict[str, int], dict[str, int]]:
        """Return where the operation's primitives and their further units are counted."""

    def begun(self, operation: Operation, at: int) -> None:
        """The operation began at `at` (ns)."""

    def finished(self, operation: Operation) -> None:
        """Every stamp of the operation is certain."""


class Operation:
    """A load, unload or flip: filled while it runs, handed to the recorder when its last stamp is certain."""

    __slots__ = (
        "blamed_ns", "client", "counts", "due", "kind", "mode", "names", "number", "recorder", "times", "units",
    )  # fmt: skip

    def __init__(self, client: str, kind: str, number: int, due: int, mode: str, recorder: Recorder) -> None:
        """`due` = intended arrival (ns); mode "sync" is waited for by the client's caller, "deferred" is not."""
        self.client = client
        self.kind = kind
        self.number = number
        self.due = due
        self.mode = mode
        self.recorder = recorder
        self.names: list[str] = []
        self.times: list[int] = []
        self.blamed_ns = 0
        self.counts, self.units = recorder.accounts(self)

    def start(self, at: int) -> None:
        """The operation and its first phase began at `at`."""
        self.times.append(at)
        self.recorder.begun(self, at)

    def finish(self, at: int) -> None:
        """The operation ended at `at`."""
        self.times.append(at)
        self.recorder.finished(self)

    @property
    def begin(self) -> int:
        """When the first phase began (ns)."""
        return self.times[0]

    @property
    def end(self) -> int:
        """When the last phase ended (ns)."""
        return self.times[-1]
