"""Time slices: the task on a CPU gives way to who is ready there when it has had the CPU for so long.

A slice is a jiffy, counted from when the task got the CPU, and so is every further one while nobody else is ready. At
the end of one with company the task is due to give way (TIF_NEED_RESCHED); it does so at the next point at which it
asks: at once inside of Task.compute, where it asks all the time, else when the next such stretch begins, or at a
cond_resched() of its own. How its work is divided into calls does not matter. Ends of slices at which nobody is ready,
or no task computes, are no events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from execbench.sim.cpu import Cpu

FOREVER = 1 << 62
"""A slice (ns) that no run outlasts."""


class Slice:
    """The current task's time on one CPU."""

    __slots__ = ("_due", "_since", "at", "cpu", "first", "ns", "rest")

    def __init__(self, cpu: Cpu, ns: int) -> None:
        """Slices of `ns`."""
        self.cpu = cpu
        self.ns = ns
        self._since = self._due = 0
        self.first: int | None = None  # from which work of the plan on it may be cut: its task computes
        self.at: int | None = None  # when to look whether to cut it
        self.rest = 0  # work that was cut off

    def begin(self) -> None:
        """Another task gets the CPU."""
        self._since = self.cpu.engine.now
        self._due = self._since + self.ns

    def asked(self) -> None:
        """Somebody became ready behind the current task."""
        if len(self.cpu.ready) == 1:
            self._due = self._next_end()
        self.look()

    def _next_end(self) -> int:
        """Return when the slice that runs ends (ns)."""
        ran = self.cpu.engine.now - self._since
        return self._since + (ran // self.ns + 1) * self.ns

    def over(self) -> bool:
        """Say whether the current task is to give way (need_resched)."""
        return bool(self.cpu.ready) and self.cpu.engine.now >= self._due

    def compute(self, ns: int) -> None:
        """Plan `ns` of work that others may interrupt."""
        cpu = self.cpu
        self.first, self.rest = cpu.owed, 0
        cpu.spend(ns)
        if cpu.ready:
            self.look()

    def computed(self) -> int:
        """Return what is left (ns) of the work, now that the plan is done."""
        self.first = self.at = None
        return self.rest

    def look(self) -> None:
        """Let a plan that may be cut pause at the end of the slice."""
        if self.first is None or self.at is not None:
            return
        cpu = self.cpu
        at = self._next_end()
        later = cpu.next_stop() > at
        self.at = at
        if later:
            cpu.stop_earlier()

    def end(self) -> None:
        """End the plan here if its task is to give way, or a thread waits that preempts nobody."""
        cpu, first = self.cpu, self.first
        self.at = None
        if first is None:
            return
        if not cpu.calls and not self.over():
            self.look()
            return
        end = max(cpu.work_done(), first)
        if end < cpu.owed:
            self.first, self.rest, cpu.owed = None, cpu.owed - end, end
            cpu.cuts = [cut for cut in cpu.cuts if cut <= end]
