"""Counts of attaching and detaching BPF programs, as traced on real kernels (configs/truth/counts_bpf_attach.csv)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import pytest

from execbench.backends.bpf_prog_pack import BpfProgPack
from execbench.clients.attachments import Attachment, Common, Fentry, RawTracepoint
from execbench.clients.bpf_attach import COSTS, BpfAttach
from execbench.contract import Proc, Request, Setting, TextKind
from execbench.kernel.facade import Kernel
from tests.truth.bench import FOREVER, Bench, truth

RELEASES = ("6.1", "6.12", "6.18")
QUIET = 2_000_000_000
"""Longer than any chain of grace periods (ns)."""
ROWS = list(truth("counts_bpf_attach.csv").values())
COUNTED = {
    "rounds": "round",
    "rounds under a tracer": "round",
    "rounds of smp_call_function": "ftrace_sync_ipi",
    "pokes": "text_poke",
    "pack allocations": "bpf_prog_pack_alloc",
    "vmap areas allocated": "vmalloc",
    "vmap areas freed": "vfree",
    "symbols added": "bpf_ksym_add",
    "waits for tasks": "synchronize_rcu_tasks",
    "waits for tasks-rude": "synchronize_rcu_tasks_rude",
    "images put": "bpf_tramp_image_put",
    "callbacks of tasks-trace": "call_rcu_tasks_trace",
    "RCU callbacks": "call_rcu",
    "static calls patched": "arch_static_call_transform",
    "keys flipped": "jump_label_update",
}
"""Traced quantity: counter of the model; ftrace_sync_ipi is told with its round."""
MARKS = {
    **dict.fromkeys(COUNTED, ("exact", "one path, once the static ops of a modification have their trampoline")),
    "rounds under a tracer": ("exact", "the tracer's ops change which function is common, not how often it changes"),
    "interrupts by three": (
        "bounded",
        "single interrupts of Tasks RCU and of wake-ups are in it, so at least the rounds",
    ),
    "interrupts": ("bounded", "rounds times the other CPUs; idle ones that poll need none, the background adds some"),
}
"""How each quantity binds the model, and why."""
SINGLES = 24.0
"""Single interrupts in an operation of a second or less on four CPUs: most where Tasks RCU is waited for."""


class Done(NamedTuple):
    """What one operation counted, the rounds by their reason, and the calls on other CPUs."""

    counts: Mapping[str, int]
    why: Counter[str]
    targets: int


class World(Bench):
    """A bench on which programs are attached; every operation is done by itself, and everything it deferred as well."""

    def __init__(self, release: str, cpus: int = 4, **params: int) -> None:
        super().__init__("truth/bpf-attach", release=release, cpus=cpus)
        self.shared.rates.update({f"client.bpf-attach.{name}": (0, None) for name in COSTS})
        backend = BpfProgPack()
        state = backend.start(self.shared)
        self.common = Common(
            BpfAttach(**params), Setting(self.shared, backend, state, FOREVER, 0, 0, lambda _: [])
        )  # fmt: skip
        self.why: Counter[str] = Counter()
        self.done: dict[tuple[str, str], Done] = {}

    def ipi(self, begin: int, end: int, task: object, why: str, targets: int) -> None:
        super().ipi(begin, end, task, why, targets)  # type: ignore[arg-type]
        self.why[why] += 1

    def one(self, k: Kernel, kind: Attachment, attach: bool, case: str = "") -> Proc[None]:
        """Attach one program, or detach the oldest; kept under `case` unless it is a rehearsal."""
        name = kind.attach_kind if attach else kind.detach_kind
        operation = self.operation(name)
        before, targets = self.why.copy(), self.targets
        k.begin(operation, "link")
        yield from kind.attach(k, (0.0, 1.0)) if attach else kind.detach(k)
        k.end()
        yield from k.settle()
        if case:
            self.done[name, case] = Done(operation.counts, self.why - before, self.targets - targets)
        yield from k.sleep_until(k.now + QUIET)


@cache
def attached(release: str, cpus: int = 4) -> Mapping[tuple[str, str], Done]:
    """Every operation of the table, behind a rehearsal of all of them: so were they when they were traced."""
    world = World(release, cpus)
    fentry, raw_tp = Fentry(world.common), RawTracepoint(world.common)

    def body(k: Kernel) -> Proc[None]:
        yield from world.common.setting.alloc(k, [Request(1000, TextKind.BPF)])  # there is a pack
        for _ in range(2):
            yield from world.one(k, fentry, True)
        for _ in range(2):
            yield from world.one(k, fentry, False)
        yield from world.one(k, fentry, True, "first")
        yield from world.one(k, fentry, False, "last")
        yield from world.one(k, fentry, True)
        yield from world.one(k, fentry, True, "second")
        yield from world.one(k, fentry, False, "second")
        yield from world.one(k, fentry, False)
        yield from world.one(k, raw_tp, True, "first")
        yield from world.one(k, raw_tp, False, "last")

    world.task("tool", body)
    world.run()
    return world.done


def rows_of(release: str, *quantities: str) -> Sequence[Mapping[str, str]]:
    """The rows of a release, of some quantities or all."""
    return [row for row in ROWS if row["id"].startswith(f"{release}-") and row["quantity"] in (quantities or MARKS)]


@pytest.mark.parametrize("release", RELEASES)
def test_attachments_count_as_traced(release: str) -> None:
    compared = 0
    for row in rows_of(release, *COUNTED):
        done = attached(release)[row["operation"], row["parameter"]]
        counter = COUNTED[row["quantity"]]
        ours = done.why[counter] if counter == "ftrace_sync_ipi" else done.counts.get(counter, 0)
        assert ours == float(row["value"]), row["id"]
        compared += 1
    assert compared > 70


def test_rounds_of_6_1_lie_below_its_interrupts_and_not_far() -> None:
    rows = rows_of("6.1", "interrupts by three")
    assert len(rows) == 6
    for row in rows:
        rounds = attached("6.1")[row["operation"], row["parameter"]].counts["round"]
        interrupts = 3 * float(row["value"])
        assert 3 * rounds <= interrupts + 1 and interrupts - 3 * rounds <= SINGLES, row["id"]


@pytest.mark.parametrize("cpus", [2, 8])
def test_each_round_interrupts_every_other_cpu(cpus: int) -> None:
    rows = [row for row in rows_of("6.18", "interrupts") if row["parameter"].endswith(f" {cpus} CPUs")]
    assert len(rows) == 2
    for row in rows:
        done = attached("6.18", cpus)[row["operation"], row["parameter"].split()[0]]
        assert done.targets == done.counts["round"] * (cpus - 1), row["id"]
        assert done.targets <= float(row["value"]) + 0.5 <= done.targets * 1.1 + 1.5, row["id"]


@pytest.mark.parametrize("release", RELEASES)
def test_what_the_ten_rounds_of_a_first_attachment_are(release: str) -> None:
    first, last = attached(release)["fentry-attach", "first"], attached(release)["fentry-detach", "last"]
    second = attached(release)["fentry-attach", "second"]
    assert first.why["sync_core"] == 9, "the common function twice, the site"
    assert second.why["sync_core"] == 9, "the trampoline of the static ops, the site to the list, the site to the image"
    assert last.why["sync_core"] == (15 if release == "6.1" else 9), "6.1 writes the list function again"
    assert last.why["ftrace_sync_ipi"] == 1
    purged = "round" if release == "6.1" else "vmap_purge"
    rest = first.counts["round"] - 9
    if release == "6.1":
        assert rest == first.counts["cpa_flush"] == 2, "read-only, then executable"
    else:
        assert rest == first.counts[purged] == 1, "the page in which the size was found"


def test_the_formula_over_sites_gives_the_guests_nine_rounds_and_the_hosts_six() -> None:
    for sites, rounds in ((0, 6), (1, 9), (4, 18)):
        world = World("6.18", call_sites=sites)
        raw_tp = RawTracepoint(world.common)

        def body(k: Kernel, world: World = world, raw_tp: RawTracepoint = raw_tp) -> Proc[None]:
            yield from world.one(k, raw_tp, True, "first")
            yield from world.one(k, raw_tp, False, "last")

        world.task("tool", body)
        world.run()
        assert [done.counts["round"] for done in world.done.values()] == [rounds, rounds]
    host = truth("host_text_poke.csv").values()
    seen = [float(row["value"]) for row in host if "raw" in row["operation"] and row["quantity"] == "interrupts"
            and row["parameter"] == "spinning"]  # fmt: skip
    assert len(seen) == 4 and set(seen) == {6.0}, "one other CPU, which cannot poll"


def test_every_quantity_is_marked() -> None:
    assert {row["quantity"] for row in ROWS} == MARKS.keys()
    assert {row["id"].split("-")[0] for row in ROWS} == set(RELEASES)
