"""Expedited RCU: one grace period at a time, shared by who waits, driven by interrupts to busy CPUs.

kernel/rcu/tree_exp.h. A request takes a snapshot of the sequence and enters the funnel: the first that needs a grace
period takes exp_mutex and starts it when the one before has let go; who needs the same one sleeps until its end. A
kworker selects the CPUs: those in an extended quiescent state (idle, user mode of a nohz_full CPU) are spared, the
others are interrupted without waiting and report when they leave a reader or another state that is not quiescent.
The funnel is taken as one node: with several leaves the first of each leaf meets the others one level higher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from execbench.sim.engine import Proc
from execbench.sim.rcu_kthread import GracePeriods, Kthread, serve

if TYPE_CHECKING:
    from execbench.sim.cpu import Cpu
    from execbench.sim.ipi import Interrupts, Round
    from execbench.sim.rcu import Rcu
    from execbench.sim.task import Task


class ExpeditedRcu:
    """synchronize_rcu_expedited, its funnel and its kworker."""

    def __init__(self, rcu: Rcu, interrupts: Interrupts, number: int) -> None:
        """`number` tells its kworker from other kthreads."""
        self.engine = rcu.engine
        self.rules = rcu.rules
        self.interrupts = interrupts
        self.periods = GracePeriods("expedited", rcu.engine, rcu.probe)
        self.kworker = Kthread("rcu_exp_gp_kthread_worker", number, rcu.engine, 0, self._wait_rcu_exp_gp)
        self._asked = 0  # exp_seq_rq: the last grace period that somebody takes care of
        self._held = False  # exp_mutex
        self._next: Task | None = None  # who waits for exp_mutex: one at most, the rest of its kind sleep

    def synchronize(self, task: Task) -> Proc[None]:
        """Block `task` until a grace period that starts after now has ended (synchronize_rcu_expedited)."""
        yield from task.settle()
        begin = self.engine.now
        number = self.periods.ask(task)
        if number > self._asked:
            self._asked = number
            yield from self._lead(task)
        else:
            yield from task.block()
        self.periods.waited(task, begin)

    def _lead(self, task: Task) -> Proc[None]:
        """Own exp_mutex for one grace period."""
        if self._held:
            self._next = task
            yield from task.block()
            yield from task.settle()
        self._held = True
        self.periods.start()
        self.kworker.rouse(self.engine.now)
        yield from task.block()
        yield from task.settle()
        follower, self._next = self._next, None
        if follower is None:
            self._held = False
        else:
            follower.wake(self.engine.now)

    def _wait_rcu_exp_gp(self, kworker: Kthread) -> Proc[None]:
        while True:
            kworker.cpu.spend(self.rules.flavours.exp_gp_ns)
            yield from kworker.settle()
            round_ = self._interrupt_busy_cpus(kworker.cpu)
            self.periods.scanned(round_.targets)
            yield from self.interrupts.wait(kworker, round_)
            waiters = self.periods.end()
            waiters.reverse()  # wake_up_all: the latest stands first in the queue
            serve(waiters, self.engine.now, self.rules.wake_ns)
            yield from kworker.block()

    def _interrupt_busy_cpus(self, sender: Cpu) -> Round:
        """Send rcu_exp_handler to every CPU that is not idle.

        A CPU with a task of ours is taken to be outside readers. It reports when a thread could get the CPU; with
        PREEMPT_DYNAMIC the count of preempt_disable is there whatever was booted, and the handler reports itself.
        """
        interrupts, rules = self.interrupts, self.rules.flavours
        if not rules.exp_at_once:
            return interrupts.send(sender, rules.exp_handler_ns, rules.flight_ns, who="busy", until="preemptible")
        running = [cpu for cpu in interrupts.active if cpu.task is not None]
        round_ = interrupts.send_to(sender, running, rules.exp_handler_ns, rules.flight_ns)
        flight_ns = max(rules.flight_ns, 1)
        interrupts.background.send(
            self.engine.now, rules.exp_handler_ns, flight_ns, round_, who="busy", until="preemptible"
        )
        return round_
