"""Who could have fetched: between the facts of a trace, the CPUs that hazards 1 to 3 are about."""

from __future__ import annotations

from typing import Any, NamedTuple


class Could(NamedTuple):
    """CPUs that may hold what they should not, and since when.

    va, size: the bytes. until: up to when (ns) a CPU may have fetched it; None: still. what: what it may hold, in
    words. but: tasks whose CPUs do not; only: tasks whose CPUs alone do.
    """

    va: int
    size: int
    what: str
    until: int | None = None
    but: tuple[Any, ...] = ()
    only: tuple[Any, ...] = ()

    def told(self, begin: int, cpus: int, user: bool, shown: Any) -> str:
        """Return it as a line of a trace: `begin` (ns) is the time of its first fact, `cpus` the CPUs of the machine.

        `user`: only CPUs that run the process can fetch its text. `shown` makes text of a time in ns.
        """
        until = "" if self.until is None else f", up to +{shown(max(self.until - begin, 0))},"
        where = f"{self.va:#x}..{self.va + self.size:#x}"
        return f"meanwhile{until} {self._who(cpus, user)} could have fetched {where} {self.what}"

    def _who(self, cpus: int, user: bool) -> str:
        if self.only:
            return " and ".join(_named(self.only))
        every = "any CPU that runs the process" if user else "any CPU"
        named = _named(self.but)
        if not named:
            return every if user or not cpus else f"{every} (of {cpus})"
        left = f" ({cpus - len(named)} of {cpus})" if cpus and not user else ""
        return f"{every} but {' and '.join(named)}{left}"


def _named(tasks: tuple[Any, ...]) -> list[str]:
    """Return the CPUs of tasks, each once; a task of no machine names itself."""
    return sorted({cpu_of(task) for task in tasks})


def cpu_of(task: Any) -> str:
    """Return the CPU of a task in words."""
    cpu = getattr(getattr(task, "cpu", None), "id", None)
    return f"that of {getattr(task, 'name', task)}" if cpu is None else f"CPU {cpu}"


def otherwise(hazard: int, condition: str) -> str:
    """Return who could have done what in a trace of hazards 4 to 6, where it does not depend on the finding.

    "meanwhile": before the last fact of the trace; "from then on": after it.
    """
    if hazard != 6:
        return _OTHERWISE.get((hazard, condition), "")
    kind, _, status = condition.partition("-")
    return f"{'meanwhile' if status == 'windows' else FROM_THEN} {_WRITER[kind]}" if kind in _WRITER else ""


FROM_THEN = "from then on"
_NEXT = f"{FROM_THEN} any task inside, running or preempted on any CPU, could fetch the bytes that follow"
_OTHERWISE = {
    (4, "reused"): f"{FROM_THEN}, until a flush, any CPU that used the old mapping could reach its frames here",
    (4, "overlap"): f"{FROM_THEN}, until the flush is complete, one CPU could fetch what another could still write",
    (4, "downgrade"): "meanwhile any CPU that wrote here before could write still, while every other could fetch",
    (5, "no-grace-period"): _NEXT,
    (5, "wrong-flavour"): _NEXT,
    (5, "reachable"): f"{_NEXT}, and any CPU could come to them",
}
_WRITER = {
    "text": "any CPU could fetch it, and any CPU could write it",
    "direct": "any CPU could fetch it, and any CPU could write its frames",
    "fixmap": "any CPU could fetch it, and any CPU could write it through the slot",
    "mm": "any CPU could fetch it, and only the CPU that writes could write it",
    "user": "any CPU that runs the process could fetch it, and any that has the alias could write it",
}
