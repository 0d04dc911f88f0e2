"""What the rest of the machine sees of the CPUs on which none of our tasks run.

Two models keep this contract and have the same law: execbench.sim.explicit walks every jump of every CPU by events and
is the definition; execbench.sim.lazy costs no events. Rules that both follow:

* A call is enqueued at the send and delivered one flight later: as an interrupt, or, until="preemptible", to a thread
  that must be scheduled. An interrupt that finds interrupts or a thread's call waiting on the CPU joins them and is no
  further interruption; a thread's call joins those of threads only, and behind waiting interrupts is an interruption of
  its own. A handler (or the thread) empties the queue in order, for the sum of its calls; what is delivered while one
  runs comes next at its end.
* until="at-once" is an interrupt that nobody can mask (an SBI remote fence on riscv64): it starts in every state. It
  joins calls of its own kind; where another call waits to start, or the stopper has been sent, it is done `handler_ns`
  behind its delivery and moves nothing, for acknowledgements that have been given never move. Interrupts and threads
  that find it waiting come behind it.
* In a masked state an interrupt waits until the CPU leaves the *set* of masked states. A thread waits until the CPU
  leaves the set of states that are masked or not quiescent (kernel, reader). The end of a wait is rounded up to the
  grid; the state that follows begins after the handler. Other states last until the handler starts, after the wake-up
  latency of the state; the handler leaves the CPU in the state's `after_interrupt`.
* who="busy" spares CPUs that are in an extended quiescent state at the send, who="kernel" nohz_full CPUs in user mode
  alone. A CPU in a handler is in neither.
* From the start of a wake-up, or of a handler, until the handlers are done, the background stands still.
* A CPU in a handler is in no quiescent state. It is in one again when a quiescent state resumes.
* `stop` is a thread's call whose thread keeps the CPU until the release. From its send on every CPU that it goes to is
  busy; interrupts sent to such a CPU are taken when its stopper spins, but not before they are delivered, and cost
  nobody anything; what has not been delivered when the last CPU has arrived, and every thread's call, is taken at the
  release.
* Times between jumps are real; who asks at an integer time sees everything that happened up to and including it.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

__all__ = ["AT_ONCE", "LEVELS", "PREEMPTIBLE", "UNMASKED", "Acks", "PassiveCpus", "Stop", "Until", "Who"]

Who: TypeAlias = Literal["all", "busy", "kernel"]
"""Which CPUs a call goes to: all, those in no extended quiescent state (idle, nohz_full user mode), or those that are
not in nohz_full user mode."""
Until: TypeAlias = Literal["at-once", "unmasked", "preemptible"]
"""What a call waits for: nothing, interrupts to be on, or a thread to be schedulable."""
AT_ONCE, UNMASKED, PREEMPTIBLE = range(3)
LEVELS: Final[dict[Until, int]] = {"at-once": AT_ONCE, "unmasked": UNMASKED, "preemptible": PREEMPTIBLE}
"""The same as numbers: who waits for less goes first."""


class Acks(Protocol):
    """The sender's side of one round (execbench.sim.ipi.Round)."""

    def expect(self, n: int) -> None:
        """Wait for `n` more acknowledgements."""

    def acked(self, at: int, n: int = 1) -> None:
        """`n` acknowledgements are certain now; the last of them comes at `at` (ns, may lie ahead)."""


class Stop(Acks, Protocol):
    """The side of who stops all CPUs: acknowledgements are arrivals in the stopper's loop."""

    def all_arrived(self, t: int) -> bool:
        """Say whether every CPU has arrived by `t` (ns, not ahead): from then on all have interrupts off."""


class PassiveCpus(Protocol):
    """CPUs without a task of ours. All times are ns; `t` is the present."""

    def send(
        self, t: int, handler_ns: int, flight_ns: int, round: Acks, only: int | None = None, who: Who = "all",
        until: Until = "unmasked",
    ) -> None:  # fmt: skip
        """Enqueue a call of `handler_ns` on every passive CPU (every busy one), or on the named passive CPU `only`."""

    def count(self, t: int, who: Who) -> int:
        """Return how many passive CPUs a call to `who` would go to if it were sent at `t`; nothing is sent."""

    def stop(self, t: int, switch_ns: int, flight_ns: int, stop: Stop, only: int | None = None) -> None:
        """Send the stopper to every passive CPU, or to `only`; it has arrived `switch_ns` > 0 after it starts."""

    def release(self, t: int, ns: int) -> None:
        """Let every stopped CPU go: its stopper works for `ns` > 0 more. All have arrived by `t`."""

    def activate(self, t: int, cpu: int) -> int:
        """Make a named CPU, which is not stopped, active; return the first time at which a task can run there.

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
