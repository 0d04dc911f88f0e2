"""Passive CPUs of two classes behind one face: those that do the kernel's work, and isolated ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from execbench.sim.passive import PassiveCpus

if TYPE_CHECKING:
    from execbench.sim.passive import Acks, Stop, Until, Who

__all__ = ["IsolatedCpus", "TwoClasses"]


class IsolatedCpus(PassiveCpus, Protocol):
    """What is asked of the isolated CPUs besides; both models keep it under watch=True."""

    def take_longest(self, t: int) -> int:
        """Return the longest interruption (ns) that began since this was last asked, up to `t`.

        An interruption is one handler with the wake-up before it, or one turn of a thread. Asked by observers: nothing
        is sent at `t` any more.
        """


class TwoClasses:
    """Two models that keep execbench.sim.passive.PassiveCpus, each exact; together they keep it too.

    Given the calls CPUs are independent, so nothing but the calls connects the classes. Named CPUs are in the first.
    """

    def __init__(self, others: PassiveCpus, isolated: PassiveCpus) -> None:
        """`isolated` has no named CPU."""
        self._others = others
        self._isolated = isolated

    def send(
        self, t: int, handler_ns: int, flight_ns: int, round: Acks, only: int | None = None, who: Who = "all",
        until: Until = "unmasked",
    ) -> None:  # fmt: skip
        """Enqueue a call on every CPU that it goes to, or on `only`."""
        self._others.send(t, handler_ns, flight_ns, round, only, who, until)
        if only is None:
            self._isolated.send(t, handler_ns, flight_ns, round, None, who, until)

    def count(self, t: int, who: Who) -> int:
        """Return how many CPUs a call to `who` would go to."""
        return self._others.count(t, who) + self._isolated.count(t, who)

    def stop(self, t: int, switch_ns: int, flight_ns: int, stop: Stop, only: int | None = None) -> None:
        """Send the stopper to every CPU, or to `only`."""
        self._others.stop(t, switch_ns, flight_ns, stop, only)
        if only is None:
            self._isolated.stop(t, switch_ns, flight_ns, stop)

    def release(self, t: int, ns: int) -> None:
        """Let every stopped CPU go."""
        self._others.release(t, ns)
        self._isolated.release(t, ns)

    def activate(self, t: int, cpu: int) -> int:
        """Make a named CPU active; return the first time at which a task can run there."""
        return self._others.activate(t, cpu)

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        """Make a named CPU passive in the restart state."""
        self._others.deactivate(t, cpu, busy_until)

    def gp_start(self, t: int) -> None:
        """Open the window of a grace period."""
        self._others.gp_start(t)
        self._isolated.gp_start(t)

    def scan(self, t: int) -> int:
        """Return how many CPUs have passed no quiescent state since the window opened."""
        return self._others.scan(t) + self._isolated.scan(t)

    def interruptions(self, cpu: int | None = None) -> int:
        """Return the interruptions so far of a named CPU, or of all."""
        return self._others.interruptions(cpu) + (self._isolated.interruptions() if cpu is None else 0)

    def stolen_ns(self, cpu: int | None = None) -> int:
        """Return the handler time (ns) so far on a named CPU, or on all."""
        return self._others.stolen_ns(cpu) + (self._isolated.stolen_ns() if cpu is None else 0)
