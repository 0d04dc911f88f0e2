"""Threads that must get an active CPU for a moment, above all the stopper (kernel/stop_machine.c).

With preemption such a thread runs as soon as interrupts are on and no spinlock is held; without it when the task that
runs there settles its plan to the end, or waits for something in which it would let others run. A sender that waits for
its calls is not preempted, nor is who spins on a spinlock. A thread runs like a handler: it takes its time out of the
plan. The stopper keeps the CPU until it is released; how long that is nobody knows before, so that every time of the
plan behind it is only a bound: who waits for such a time finds it moved, and the release brings it forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from execbench.sim.engine import Class, event_key

if TYPE_CHECKING:
    from execbench.sim.cpu import Cpu
    from execbench.sim.ipi import Round
    from execbench.sim.locks import Lock

_TURN = 1 << 39  # entities of the turns of threads: behind all interrupts of the same ns


class Stopper:
    """The calls to threads that wait for one CPU, and the stopper on it."""

    __slots__ = ("_armed", "_arrived", "_key", "_meanwhile", "_stop", "calls", "cpu", "locks", "preempts")

    def __init__(self, cpu: Cpu, preempts: bool) -> None:
        """`preempts`: the kernel is preemptible."""
        self.cpu = cpu
        self.preempts = preempts
        self.locks: Iterable[Lock] = ()
        self.calls: list[tuple[int, Round, bool]] = []
        self._key = event_key(Class.INTERRUPT, _TURN | cpu.id)
        self._armed: int | None = None
        self._stop: Round | None = None
        self._arrived = 0
        self._meanwhile: list[tuple[int, Round]] = []

    def call(self, ns: int, round_: Round, stops: bool) -> None:
        """Wake the thread for `ns` of work; `stops`: it then keeps the CPU."""
        self.calls.append((ns, round_, stops))
        if not self.preempts:
            self.cpu.slice.look()
        self.place(delivered=True)

    def place(self, delivered: bool = False) -> bool:
        """Start the calls if their time has come, else see to it that somebody looks again then; say whether it had.

        delivered: the call came this very moment, and interrupts of this ns go first.
        """
        at = self._eligible()
        if at is None:
            return False
        if at <= self.cpu.engine.now and not delivered:
            self._start()
            return True
        if self._armed is None or at < self._armed:
            self._armed = at
            self.cpu.engine.call_at(at, self._key, self._due)
        return False

    def _due(self) -> None:
        if self._armed == self.cpu.engine.now:
            self._armed = None
        if self.calls:
            self.place()

    def _eligible(self) -> int | None:
        """Return when a thread can run, as far as the plan is known; None if not before it goes on."""
        cpu = self.cpu
        until = None if cpu.pinned or cpu.held else self._spinlocks_until()
        if until is None or until > cpu.moment(cpu.owed, cpu.masked_from):
            return None
        at = max(cpu.engine.now, cpu.he, until)
        if not self.preempts:
            return None if cpu.masked_from is not None else max(at, cpu.time_of(cpu.owed))
        return cpu.first_unmasked(at)

    def _spinlocks_until(self) -> int | None:
        """Return from when on the task holds no spinlock; None if that is not planned yet, or it spins on one."""
        task, until = self.cpu.task, 0
        for lock in self.locks:
            if lock.kind.kind != "spinlock":
                continue
            if any(waiter.task is task for waiter in lock.waiters):
                return None
            if lock.hold is not None and lock.hold.task is task and not lock.hold.over():
                at = lock.hold.released_at()
                if at < 0:
                    return None
                # What is taken out of the plan at the very time of the release goes before it, with interrupts on.
                until = max(until, at + (lock.hold.base is None))
        return until

    def _start(self) -> None:
        cpu = self.cpu
        begin = cpu.engine.now
        cpu.interruptions += 1
        cpu.hs = cpu.he = begin
        while self.calls and self._stop is None:
            ns, round_, stops = self.calls.pop(0)
            cpu.he += ns
            round_.acked(cpu.he)
            if stops:
                self._stop, self._arrived, cpu.held = round_, cpu.he, True
        cpu.stolen += cpu.he - begin
        cpu.log.append((begin, cpu.he - begin))

    # --- while the CPU is stopped -------------------------------------------------------------------------------------

    def stretch(self) -> None:
        """Keep the end of the stopper's turn ahead of now; it grows so that few look in vain."""
        cpu = self.cpu
        now = cpu.engine.now
        if cpu.he <= now:
            begin, _ = cpu.log[-1]
            cpu.he = 2 * now - begin + 1
            cpu.log[-1] = begin, cpu.he - begin

    def meanwhile(self, ns: int, round_: Round) -> None:
        """An interrupt arrives: the stopper's loop takes it; it waits for the release if all CPUs are there."""
        assert self._stop is not None
        now = self.cpu.engine.now
        if self._stop.all_arrived(now):
            self._meanwhile.append((ns, round_))
        else:
            round_.acked(max(now, self._arrived) + ns)

    def release(self, ns: int) -> None:
        """Let the CPU go: `ns` more work of the stopper, then interrupts, then the plan."""
        he = self.cpu.engine.now + ns
        self.cpu.stolen += he - self._arrived
        self._stop = None
        meanwhile, self._meanwhile = self._meanwhile, []
        self.cpu.resume(he, meanwhile)
        if self.calls:
            self.place(delivered=True)
