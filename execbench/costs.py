"""What things cost: every cost has a name, a value, a range, a spread, an evidence and a source.

Values are integer picoseconds per unit; times inside the simulation are integer nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from execbench.errors import MachineError, did_you_mean
from execbench.units import time_ps

__all__ = ["ARCHITECTURES", "CATALOGUE", "Cost", "CostTable", "Entry", "Estimate", "Evidence", "catalogue", "required"]

Spread: TypeAlias = Literal["constant", "lognormal", "exponential"]
Use: TypeAlias = Literal["input", "predicted"]


class Evidence(StrEnum):
    """How a number is known, strongest first; the order of definition is the order of strength."""

    MEASURED = "measured"
    PUBLISHED = "published"
    DERIVED = "derived"
    ASSUMED = "assumed"

    @property
    def rank(self) -> int:
        """0 for the strongest evidence, 3 for the weakest."""
        return list(Evidence).index(self)


ARCHITECTURES: Final = ("x86_64", "arm64", "riscv64")
_X86, _ARM, _RISCV = ((name,) for name in ARCHITECTURES)


class Estimate(NamedTuple):
    """What a client believes of one of its costs on `server-64`, for machine files that do not state it (assumed)."""

    value: str
    low: str
    high: str
    source: str


class Entry(NamedTuple):
    """One named cost: what one unit of it is, what it stands for, and the architectures that have it.

    `estimate` stands in where a machine file states nothing, times the machine's `code_factor`.
    """

    per: str
    meaning: str
    arch: tuple[str, ...] = ARCHITECTURES
    estimate: Estimate | None = None


CATALOGUE: Final[dict[str, Entry]] = {
    # interrupts between CPUs
    "ipi_send": Entry("round", "sender writes the ICR or makes the hypercall (arch_send_call_function_ipi_mask)"),
    "ipi_enqueue": Entry("target", "sender enqueues the csd and later checks its ack (smp_call_function_many_cond)"),
    "ipi_flight": Entry("interrupt", "from the send until the handler starts on a running, unmasked target"),
    "ipi_handler": Entry("interrupt", "entry, exit and csd work on the target (sysvec_call_function)"),
    "ipi_ack": Entry("target", "from the end of the handler until the sender sees csd_unlock"),
    "sync_core": Entry("call", "SERIALIZE or IRET-to-self inside the handler (sync_core)", _X86),
    "ibpb": Entry("barrier", "indirect branch predictor barrier inside the handler (write_ibpb)", _X86),
    "stopper_switch": Entry("CPU", "to the stopper thread and back (kernel/stop_machine.c: cpu_stopper_thread)"),
    "sbi_call": Entry("call", "ecall into the firmware and back, fixed part (sbi_ecall)", _RISCV),
    "sbi_hart": Entry("hart", "what the firmware adds for each hart it interrupts (sbi_remote_fence_i)", _RISCV),
    # TLB
    "tlb_flush_all": Entry(
        "flush", "full flush on the local CPU, global entries included (__flush_tlb_all, local_flush_tlb_all)",
        _X86 + _RISCV,
    ),
    "tlb_flush_page": Entry(
        "page", "one INVLPG or sfence.vma (flush_tlb_one_kernel, local_flush_tlb_page)", _X86 + _RISCV
    ),
    "invlpgb": Entry("instruction", "one broadcast INVLPGB (invlpgb_kernel_range_flush)", _X86),
    "tlbsync": Entry("wait", "TLBSYNC: until all CPUs completed the broadcast flushes (__tlbsync)", _X86),
    "tlbi": Entry("instruction", "one broadcast TLBI (__tlbi: vaale1is, vmalle1is)", _ARM),
    "dsb_ish": Entry("barrier", "DSB ISH: until all CPUs completed the broadcast operations (dsb)", _ARM),
    "sfence_fault": Entry("fault", "repair of one absent entry by a fault (entry.S: new_valid_map_cpus_check)", _RISCV),
    # instruction fetch
    "isb": Entry("barrier", "context synchronization of the local CPU (isb)", _ARM),
    "dc_cvau": Entry("line", "clean one data cache line to unification (dcache_clean_pou)", _ARM),
    "ic_ivau": Entry("line", "invalidate one instruction cache line, broadcast (caches_clean_inval_pou)", _ARM),
    "fence_i": Entry("instruction", "FENCE.I on the local hart (local_flush_icache_all)", _RISCV),
    # tasks
    "syscall": Entry("call", "entry and exit of a system call (do_syscall_64)"),
    "context_switch": Entry("switch", "from one task to another on a CPU (__schedule, context_switch)"),
    "task_wakeup": Entry("wake-up", "try_to_wake_up and the switch to the woken task"),
    "idle_exit_shallow": Entry("wake-up", "leaving a shallow idle state or a polling loop (cpuidle_enter_state)"),
    "idle_exit_deep": Entry("wake-up", "leaving a deep idle state or the host's halt (cpuidle_enter_state)"),
    "lock_handoff": Entry("hand-off", "from the unlock until a waiting owner runs on (mutex_unlock to mutex_lock)"),
    # memory
    "vmap_area_alloc": Entry("area", "find, insert and describe a virtual area (__get_vm_area_node)"),
    "vmap_area_free": Entry("area", "unlink an area and queue it for purging (remove_vm_area, free_vmap_area_noflush)"),
    "page_alloc": Entry("page", "one base page from the buddy allocator (vm_area_alloc_pages)"),
    "page_free": Entry("page", "one base page back to the buddy allocator (vfree: __free_page)"),
    "pte_set": Entry("entry", "write or clear one page-table entry (vmap_pages_range, vunmap_range_noflush)"),
    "kmalloc": Entry("call", "one small allocation (kmalloc)"),
    "kfree": Entry("call", "one small free (kfree)"),
    "vmap_purge": Entry("purge", "fixed part of one purge without its flush (__purge_vmap_area_lazy)"),
    "vmap_purge_area": Entry("area", "merge one lazily freed area back (purge_vmap_node)"),
    "unmap_aliases_cpu": Entry("possible CPU", "scan of one CPU's vmap blocks (_vm_unmap_aliases)"),
    "cpa_page": Entry("leaf", "look up or change one leaf (__change_page_attr)", _X86),
    "cpa_split": Entry("split", "allocate and fill one page table for a large leaf (split_large_page)", _X86),
    "cpa_collapse": Entry("collapse", "restore one large leaf from its page table (cpa_collapse_large_pages)", _X86),
    "pageattr_page": Entry("leaf", "look up and change one leaf (pageattr_pte_entry)", _ARM + _RISCV),
    "linear_split": Entry(
        "leaf", "split one leaf of the live linear map (split_kernel_leaf_mapping, split_linear_mapping)", _ARM + _RISCV
    ),
    "fixmap_map": Entry("page", "set and clear one fixmap entry (patch_map, patch_unmap)", _ARM + _RISCV),
    "mm_switch": Entry("visit", "load a temporary mm and go back (switch_mm twice)", _ARM + _RISCV),
    # text
    "copy_byte": Entry("byte", "copy into memory that is mapped writable (memcpy)"),
    "fill_byte": Entry("byte", "fill memory that is mapped writable (memset)"),
    "text_poke": Entry("poke", "one pass through the temporary mm without its bytes (__text_poke)", _X86),
    "int3_queue": Entry("site", "queue, sort and look up one site of a batched patch (text_poke_queue)", _X86),
    "list_walk": Entry("element", "one step along a list (list_for_each_entry)"),
    "bitmap_word": Entry("64-bit word", "search of one word of a bitmap (bitmap_find_next_zero_area)"),
    # RCU
    "rcu_gp_init": Entry("grace period", "start of a grace period in the kthread (rcu_gp_init)"),
    "rcu_gp_cleanup": Entry("grace period", "end of a grace period in the kthread (rcu_gp_cleanup)"),
    "rcu_wake": Entry("waiter", "wake one waiter of a grace period (rcu_sr_normal_complete, wakeme_after_rcu)"),
    "call_rcu": Entry("call", "queue one callback (call_rcu)"),
    "rcu_callback": Entry("callback", "run one callback without what it does (rcu_do_batch)"),
    "exp_gp_fixed": Entry("grace period", "expedited: funnel, kworkers, selection (synchronize_rcu_expedited)"),
    "exp_handler": Entry("interrupt", "expedited: the work on one target (rcu_exp_handler)"),
    "tasks_scan": Entry("scan", "one scan of the task list (rcu_tasks_pertask, check_all_holdout_tasks)"),
}  # fmt: skip
"""The costs of machines; each client states its own in its class (`costs`)."""


def catalogue(clients: Mapping[str, Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return by full name all costs that machine files may state for these clients (name -> the client's own costs)."""
    own = {f"client.{client}.{cost}": entry for client, costs in clients.items() for cost, entry in costs.items()}
    return CATALOGUE | own


def required(arch: str, clients: Mapping[str, Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return by full name what a machine of `arch` must state to run these clients."""
    return {name: entry for name, entry in catalogue(clients).items() if arch in entry.arch}


@dataclass(frozen=True)
class Cost:
    """One cost: `ps` is the median of one occurrence in picoseconds, known to lie from `low_ps` to `high_ps`.

    `dist` with `p99_ps` (lognormal only) is the spread from occurrence to occurrence; `use` says whether the value is
    an input of the model or a figure that it must reproduce. ValueError if the fields contradict each other.
    """

    name: str
    ps: int
    low_ps: int
    high_ps: int
    per: str
    dist: Spread
    p99_ps: int | None
    evidence: Evidence
    source: str
    use: Use

    def __post_init__(self) -> None:
        """Refuse contradictions; the messages complete "allowed: ..."."""
        if not 0 <= self.low_ps <= self.ps <= self.high_ps:
            raise ValueError("a range [low, high] with 0 <= low <= value <= high")
        if self.dist not in get_args(Spread):
            raise ValueError(f"dist = {', '.join(get_args(Spread))}")
        if (self.p99_ps is not None) != (self.dist == "lognormal"):
            raise ValueError('p99 with dist = "lognormal" and only there')
        if self.p99_ps is not None and not 0 < self.ps <= self.p99_ps:
            raise ValueError("a positive value and p99 >= value for a lognormal spread")
        if self.use not in get_args(Use):
            raise ValueError(f"use = {', '.join(get_args(Use))}")
        if not self.source.strip():
            raise ValueError("a source: the file and row, the paper, or why it is assumed")


class CostTable:
    """The costs of one machine by full name; client costs are called `client.<client>.<cost>`."""

    def __init__(self, costs: Mapping[str, Cost], where: str = "machine.costs") -> None:
        """Hold `costs` in the order of their names; `where` is the place that errors name."""
        self._costs = {name: costs[name] for name in sorted(costs)}
        self._ps = {name: cost.ps for name, cost in self._costs.items()}
        self._where = where

    def __getitem__(self, name: str) -> Cost:
        """Return the cost called `name`; MachineError if the machine has none."""
        try:
            return self._costs[name]
        except KeyError:
            raise self._unknown(name) from None

    def __contains__(self, name: str) -> bool:
        return name in self._costs

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in alphabetical order."""
        return iter(self._costs)

    def __len__(self) -> int:
        return len(self._costs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CostTable) and self._costs == other._costs

    __hash__ = None  # type: ignore[assignment]

    def ns(self, name: str, n: int = 1) -> int:
        """Return the median cost of `n` units in ns, rounded half up once for all of them; MachineError if unknown."""
        try:
            return (self._ps[name] * n + 500) // 1000
        except KeyError:
            raise self._unknown(name) from None

    def weakest(self, names: Iterable[str]) -> Evidence:
        """Return the weakest evidence behind the named costs; ValueError if none is named."""
        return max((self[name].evidence for name in names), key=lambda evidence: evidence.rank)

    def with_estimates(self, needed: Mapping[str, Entry], factor: float) -> CostTable:
        """Return a table in which clients' estimates stand in for what is missing of `needed`, times `factor`."""
        own: dict[str, Cost] = {}
        for name, entry in needed.items():
            if name in self._costs or entry.estimate is None:
                continue
            value, low, high, source = entry.estimate
            ps, low_ps, high_ps = (_times(time_ps(given, name), factor) for given in (value, low, high))
            source += "" if factor == 1 else f"; for server-64, times {factor:g} (machine.code_factor)"
            own[name] = Cost(name, ps, low_ps, high_ps, entry.per, "constant", None, Evidence.ASSUMED, source, "input")
        return CostTable({**self._costs, **own}, self._where)

    def require(self, needed: Mapping[str, Entry]) -> None:
        """Raise MachineError with the whole list if any of the needed costs is missing."""
        missing = sorted(set(needed) - set(self._costs))
        if missing:
            listed = ", ".join(f"{name} (per {needed[name].per})" for name in missing)
            raise MachineError(
                self._where,
                f"no value for {len(missing)} of the costs that this run needs: {listed}",
                "a value, range, evidence and source for each cost",
                "add them to the machine file or let it extend a complete one",
            )

    def scaled(self, factors: Mapping[str, float]) -> CostTable:
        """Return a table in which value, range and p99 of each named cost are multiplied by its factor (> 0)."""
        changed = dict(self._costs)
        for name, factor in factors.items():
            if not 0.0 < factor < math.inf:
                raise MachineError(f"{self._where}.{name}", factor, "a finite factor above 0", "leave it out for 1")
            cost = self[name]
            p99 = None if cost.p99_ps is None else _times(cost.p99_ps, factor)
            changed[name] = replace(cost, ps=_times(cost.ps, factor), low_ps=_times(cost.low_ps, factor),
                                    high_ps=_times(cost.high_ps, factor), p99_ps=p99)  # fmt: skip
        return CostTable(changed, self._where)

    def to_spec(self) -> dict[str, dict[str, Any]]:
        """Return the table as plain data for a resolved spec: `{name: {"ps", "low_ps", ...}}` without `name` inside."""
        return {
            name: {key: str(value) if isinstance(value, Evidence) else value for key, value in asdict(cost).items()
                   if key != "name"}
            for name, cost in self._costs.items()
        }  # fmt: skip

    @classmethod
    def from_spec(cls, spec: Mapping[str, Mapping[str, Any]], where: str = "machine.costs") -> CostTable:
        """Return the table that `to_spec` wrote down; MachineError if the data is not of that form."""
        keys = {field.name for field in fields(Cost)} - {"name"}
        costs: dict[str, Cost] = {}
        for name, row in spec.items():
            try:
                if set(row) != keys:
                    raise ValueError(f"exactly the keys {', '.join(sorted(keys))}")
                numbers = [row["ps"], row["low_ps"], row["high_ps"], row["p99_ps"] or 0]
                if not all(type(number) is int for number in numbers):
                    raise ValueError("whole picoseconds")
                costs[name] = Cost(name, **{**row, "evidence": Evidence(row["evidence"])})
            except (TypeError, ValueError, AttributeError) as error:
                raise MachineError(f"{where}.{name}", row, str(error), "resolve the machine file again") from error
        return cls(costs, where)

    @classmethod
    def from_toml(
        cls,
        table: Mapping[str, Any],
        where: str,
        arch: str = "",
        clients: Mapping[str, Mapping[str, Entry]] | None = None,
    ) -> CostTable:
        """Return the costs of a machine file's `[costs]` table; MachineError names the place of what cannot be used.

        Each cost is `{value, range, evidence, source}` with optional `dist`, `p99`, `n`, `use` and `per`; tables under
        `client.<client>` hold client costs. `clients` are the known ones with their costs: rows of any other client
        must state `per`. Without `arch` the costs of all architectures may stand together.
        """
        rows = _flat(table, where)
        known = catalogue(clients or {})
        unknown = [name for name in rows if name not in known and not _foreign(name, clients or {})]
        if unknown:
            hints = [f"{name!r}" + (f" ({hint})" if (hint := did_you_mean(name, known)) else "") for name in unknown]
            raise MachineError(where, f"unknown costs: {', '.join(hints)}", "the names of `execbench list costs`",
                               "correct or remove them")  # fmt: skip
        others = [name for name in rows if arch and name in known and arch not in known[name].arch]
        if others:
            listed = ", ".join(f"{name} ({', '.join(known[name].arch)})" for name in others)
            raise MachineError(where, f"costs of another architecture: {listed}", f"the costs of {arch}",
                               "remove them, or correct arch")  # fmt: skip
        return cls({name: _cost(name, row, f"{where}.{name}", known.get(name)) for name, row in rows.items()}, where)

    def _unknown(self, name: str) -> MachineError:
        if name in CATALOGUE:
            return MachineError(self._where, f"no value for the cost {name!r}", f"a cost per {CATALOGUE[name].per}",
                                "add it to the machine file or let it extend a complete one")  # fmt: skip
        hint = did_you_mean(name, set(CATALOGUE) | set(self._costs))
        return MachineError(self._where, f"unknown cost {name!r}", "the names of `execbench list costs`",
                            hint or "correct the name")  # fmt: skip


_REQUIRED = ("value", "range", "evidence", "source")
_OPTIONAL = ("dist", "p99", "n", "use", "per")


def _times(ps: int, factor: float) -> int:
    return math.floor(ps * factor + 0.5)


def _foreign(name: str, clients: Collection[str]) -> bool:
    """Whether a cost belongs to a client that is not known here (one of a package that is not installed)."""
    root, _, rest = name.partition(".")
    return root == "client" and rest.partition(".")[0] not in clients


def _flat(table: Mapping[str, Any], where: str) -> dict[str, object]:
    """Return the rows by full name: top-level costs, and `client.<client>.<cost>` from the nested tables."""
    rows: dict[str, object] = {name: row for name, row in table.items() if name != "client"}
    clients = table.get("client", {})
    for client, costs in clients.items() if isinstance(clients, Mapping) else [("", clients)]:
        if not isinstance(costs, Mapping):
            raise MachineError(f"{where}.client.{client}".rstrip("."), costs, "a table of costs for each client",
                               "write them under [costs.client.NAME]")  # fmt: skip
        rows |= {f"client.{client}.{name}": row for name, row in costs.items()}
    return rows


def _cost(name: str, row: object, where: str, entry: Entry | None) -> Cost:
    """Return one cost from its inline table."""
    example = 'write { value = "174ns", range = ["150ns", "400ns"], evidence = "measured", source = "..." }'
    if not isinstance(row, Mapping):
        raise MachineError(where, repr(row), "a table with " + ", ".join(_REQUIRED), example)
    missing = [key for key in _REQUIRED if key not in row]
    if missing:
        raise MachineError(where, f"no {', '.join(missing)}", "a table with " + ", ".join(_REQUIRED), example)
    for key in row:
        if key not in _REQUIRED + _OPTIONAL:
            hint = did_you_mean(str(key), _REQUIRED + _OPTIONAL)
            raise MachineError(
                f"{where}.{key}", "an unknown key", ", ".join(_REQUIRED + _OPTIONAL), hint or "remove it"
            )
    low, high = _range(row["range"], f"{where}.range")
    p99 = time_ps(row["p99"], f"{where}.p99") if "p99" in row else None
    try:
        return Cost(
            name, time_ps(row["value"], f"{where}.value"), low, high, _per(entry, row, where),
            cast(Spread, row.get("dist", "constant")), p99, _evidence(row["evidence"], where), _source(row, where),
            cast(Use, row.get("use", "input")),
        )  # fmt: skip
    except ValueError as error:
        raise MachineError(where, dict(row), str(error), "correct the cost") from error


def _range(given: object, where: str) -> tuple[int, int]:
    if not isinstance(given, list) or len(given) != 2:
        raise MachineError(where, repr(given), "a list of two times, the lowest and the highest believable value",
                           'write range = ["150ns", "400ns"]')  # fmt: skip
    return time_ps(given[0], f"{where}[0]"), time_ps(given[1], f"{where}[1]")


def _per(entry: Entry | None, row: Mapping[str, Any], where: str) -> str:
    per = row.get("per", entry.per if entry else None)
    if not isinstance(per, str) or not per or (entry is not None and per != entry.per):
        allowed = f'"{entry.per}"' if entry else "text: what one unit of this cost is"
        raise MachineError(f"{where}.per", repr(per), allowed, "leave it out" if entry else 'write per = "..."')
    return per


def _evidence(given: object, where: str) -> Evidence:
    try:
        return Evidence(cast(str, given))
    except ValueError:
        hint = did_you_mean(str(given), list(Evidence))
        raise MachineError(
            f"{where}.evidence", repr(given), ", ".join(Evidence), hint or "state how it is known"
        ) from None


def _source(row: Mapping[str, Any], where: str) -> str:
    """Return the source; the size of the sample, if it is given, becomes part of it."""
    source, n = row["source"], row.get("n")
    if not isinstance(source, str):
        raise MachineError(f"{where}.source", source, "text", "name the file and row, the paper, or why it is assumed")
    if n is None:
        return source
    if type(n) is not int or n < 1:
        raise MachineError(f"{where}.n", n, "the number of measured samples, at least 1", "correct or remove it")
    return f"{source} (n = {n})"
