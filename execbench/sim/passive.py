"""What the rest of the machine sees of the CPUs on which none of our tasks run.

Two models keep this contract and have the same law: execbench.sim.explicit walks every jump of every CPU by events and
is the definition; execbench.sim.lazy costs no events. Rules that both follow:

* An interrupt is enqueued at the send and delivered one flight later. A call that finds the CPU's queue not empty joins
  it and is no further interruption. A handler empties the queue in order, for the sum of its calls; an interrupt that
  is delivered while a handler runs starts the next one at its end.
* In a masked state the handler waits until the CPU leaves the *set* of masked states; the end of the wait is rounded up
  to the grid. The state that follows begins after the handler. Other states last until the handler starts, after the
  wake-up latency of the state; the handler leaves the CPU in the state's `after_interrupt`.
* From the start of a wake-up, or of a handler, until the handlers are done, the background stands still.
* A CPU in a handler is in no quiescent state. It is in one again when a quiescent state resumes.
* Times between jumps are real; who asks at an integer time sees everything that happened up to and including it.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Acks", "PassiveCpus"]


class Acks(Protocol):
    """The sender's side of one round (execbench.sim.ipi.Round)."""

    def expect(self, n: int) -> None:
        """Wait for `n` more acknowledgements."""

    def acked(self, at: int, n: int = 1) -> None:
        """`n` acknowledgements are certain now; the last of them comes at `at` (ns, may lie ahead)."""


class PassiveCpus(Protocol):
    """CPUs without a task of ours. All times are ns; `t` is the present."""

    def send(self, t: int, handler_ns: int, flight_ns: int, round: Acks, only: int | None = None) -> None:
        """Enqueue a call of `handler_ns` on every passive CPU, or on the named passive CPU `only`."""

    def activate(self, t: int, cpu: int) -> int:
        """Make a named CPU active; return the first time at which a task can run there.

        Handlers that are booked, the rest of a masked window and the exit from idle go first.
        """

    def deactivate(self, t: int, cpu: int, busy_until: int) -> None:
        """Make a named CPU passive in the restart state; handlers are booked on it until `busy_until`.

        It has passed a quiescent state: a context switch to the idle task.
        """

    def gp_start(self, t: int) -> None:
        """Open the window of a grace period: quiescent states count from now on, also one that lasts already."""

    def scan(self, t: int) -> int:
        """Return how many passive CPUs have passed no quiescent state since the window opened."""

    def interruptions(self, cpu: int | None = None) -> int:
        """Return the interruptions so far of a named CPU, or of all CPUs, while passive."""

    def stolen_ns(self, cpu: int | None = None) -> int:
        """Return the handler time (ns) so far on a named CPU, or on all CPUs, while passive."""
