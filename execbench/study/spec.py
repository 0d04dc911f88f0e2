"""What a user may write in workload, machine and study files, and the resolved spec of one cell that comes of it.

Files are checked by pydantic models here, at the border; inside, a spec is a plain dict of text, integers, floats and
booleans whose `canonical` JSON is its identity. Quantities stay text in the models: the resolver reads their units.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from execbench.catalogue import ARCHITECTURES
from execbench.errors import InputError, MachineError, did_you_mean

__all__ = [
    "FEATURES",
    "PAGE_SIZES",
    "SCHEMA",
    "BackgroundTable",
    "ChainTable",
    "MachineFile",
    "RunTable",
    "Spec",
    "StateTable",
    "StudyFile",
    "TlbTable",
    "TopologyTable",
    "WorkloadFile",
    "canonical",
    "cell_id",
    "checked",
]

SCHEMA: Final = 1
Spec: TypeAlias = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)
Quantity: TypeAlias = str | int
Share = Annotated[float, Field(ge=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RunTable(_Table):
    """`[run]`: how long and how often; the duration counts from time 0 and includes the warm-up."""

    duration: Quantity
    warmup: Quantity
    drain: Quantity
    replications: Annotated[int, Field(ge=1, le=100_000)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    cpu_model: Literal["lazy", "explicit"] = "lazy"
    merge: bool = True
    record: list[Literal["operations"]] = []


class WorkloadTable(_Table):
    """`[workload]`: the question, and the defaults of what a run may also name itself.

    asks: what the question is about, a class of operation ("CLIENT KIND"), all of a client ("CLIENT") or a list of
    such; the answer speaks of these. Without, of the first class that enters the API. Not part of a cell's spec.
    architectures: those that the workload speaks of (all); a machine of another is refused.
    """

    question: str
    horizon: Literal["steady-state", "terminating"]
    machine: str
    kernel: str
    backends: Annotated[list[str], Field(min_length=1)]
    asks: str | list[str] = []
    architectures: Annotated[list[Literal["x86_64", "arm64", "riscv64"]], Field(min_length=1)] = [*ARCHITECTURES]


class WorkloadFile(_Table):
    """A workload file. Tables under the other roots (`[machine.kernel]`, ...) change what the named defaults say."""

    workload: WorkloadTable
    run: dict[str, Any]
    client: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    machine: dict[str, Any] = {}
    kernel: dict[str, Any] = {}
    backend: dict[str, dict[str, Any]] = {}


class StudyTable(_Table):
    """`[study]`: what the product of parameters is about; what it leaves out comes from the workload file."""

    question: str = ""
    workload: str | None = None
    machine: str | None = None
    kernel: str | None = None
    backends: Annotated[list[str], Field(min_length=1)] | None = None


class ExpectTable(_Table):
    """`[expect]`: the reading that the author expects, written down before the study runs."""

    reading: str = ""


class StudyFile(_Table):
    """A study file: each `[[axes]]` table is one axis of the product; several keys in one table vary together."""

    study: StudyTable
    axes: list[dict[str, Any]] = []
    expect: ExpectTable = ExpectTable()
    run: dict[str, Any] = {}
    client: dict[str, dict[str, Any]] = {}
    machine: dict[str, Any] = {}
    kernel: dict[str, Any] = {}
    backend: dict[str, dict[str, Any]] = {}


class TopologyTable(_Table):
    """`[topology]`: CPUs, the memory nodes they are spread over evenly, and the bytes of memory in all.

    The last `isolated` CPUs are kept free of the kernel's own work (nohz_full, housekeeping mask).
    """

    cpus: Annotated[int, Field(ge=1, le=65_536)]
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    memory: Quantity | None = None
    isolated: Annotated[int, Field(ge=0)] = 0


class TlbTable(_Table):
    """`[tlb]`: what one CPU's TLBs hold of instructions, as its maker has published; without it there is no figure.

    itlb_4k, itlb_2m: first-level entries for base leaves and for PMD leaves; itlb_2m = 0: those of itlb_4k hold both.
    stlb: entries of the level behind. walk_at_most: the longest page walk, for a bound and no more.
    """

    itlb_4k: Annotated[int, Field(ge=1)]
    itlb_2m: Annotated[int, Field(ge=0)]
    stlb: Annotated[int, Field(ge=1)] | None = None
    source: Annotated[str, Field(min_length=1)]
    walk_at_most: Quantity | None = None
    walk_source: str = ""


class X86Features(_Table):
    """`[features]` of an x86_64 machine; `ipi` is how an interrupt to all other CPUs is raised.

    invlpgb_count_max: pages of one INVLPGB (CPUID 8000_0008h EDX[15:0] plus 1; 1 until the kernel has asked).
    """

    apic: Literal["x2apic", "xapic"]
    ipi: Literal["shorthand", "mask", "hypercall"] = "shorthand"
    invlpgb: bool = False
    invlpgb_count_max: Annotated[int, Field(ge=1, le=65_536)] = 1
    fred: bool = False
    its: bool = False
    fineibt: bool = False
    ibpb_on_cbpf: bool = False


class Arm64Features(_Table):
    """`[features]` of an arm64 machine: CTR_EL0.IDC and DIC, rodata=full, BBML2 or 3, TLBI by range."""

    idc: bool
    dic: bool
    rodata_full: bool
    bbml: bool = False
    tlbi_range: bool = False


class RiscvFeatures(_Table):
    """`[features]` of a riscv64 machine: whether remote fences go through the firmware or are interrupts."""

    rfence: Literal["sbi", "ipi"]


FEATURES: Final[Mapping[str, type[BaseModel]]] = {
    "x86_64": X86Features,
    "arm64": Arm64Features,
    "riscv64": RiscvFeatures,
}
PAGE_SIZES: Final = {"x86_64": ("4KiB",), "arm64": ("4KiB", "16KiB", "64KiB"), "riscv64": ("4KiB",)}
"""Base pages that each architecture's kernel can be built for."""


class EstimateTable(_Table):
    """A number with its evidence that is no cost: a chance or a count of the kernel's configuration."""

    value: Share
    range: Annotated[list[Share], Field(min_length=2, max_length=2)]
    evidence: Literal["measured", "published", "derived", "assumed"]
    source: Annotated[str, Field(min_length=1)]
    use: Literal["input", "predicted"] = "input"


class KernelConfigTable(_Table):
    """`[kernel]` of a machine: its configuration (the release is the root `kernel.`)."""

    hz: Literal[100, 250, 300, 1000]
    preempt: Literal["none", "voluntary", "full", "lazy", "rt"]
    page_size: Quantity = "4KiB"
    rcu_normal_wake_from_gp: bool
    rcu_second_scan: EstimateTable
    rcu_tasks_holdout: EstimateTable


class StateTable(_Table):
    """One state of the CPUs that run no task of the workload; `execbench.sim.chain` says what fits together."""

    fraction: Share | None = None
    mean: Quantity | None = None
    dist: str | dict[str, Any] | None = None
    masked: bool
    qs: bool
    wake: str | None = None
    after_interrupt: str | None = None
    evidence: Literal["measured", "published", "derived", "assumed"]
    source: Annotated[str, Field(min_length=1)]


class ChainTable(_Table):
    """A Markov chain of such CPUs; `[background.isolated]` is the one of the isolated ones."""

    rule: str | None = None
    jumps: dict[str, dict[str, float]] | None = None
    restart: str
    states: Annotated[dict[str, StateTable], Field(min_length=1)]


class BackgroundTable(ChainTable):
    """`[background]`: the Markov chain of those CPUs; `use` picks a scenario, whose fractions replace the states'."""

    scenario: dict[str, dict[str, Share]] = {}
    use: str | None = None
    isolated: ChainTable | None = None


class MachineFile(_Table):
    """A machine after its `extends` chain is merged; its architecture says what `features` may hold (FEATURES).

    code_factor: how many times longer plain kernel code takes than on server-64, for costs that only clients estimate.
    """

    arch: Literal["x86_64", "arm64", "riscv64"]
    code_factor: Annotated[float, Field(gt=0, le=1000)] = 1.0
    topology: TopologyTable
    tlb: TlbTable | None = None
    features: dict[str, Any]
    kernel: KernelConfigTable
    background: BackgroundTable
    costs: dict[str, Any]


def canonical(spec: Mapping[str, Any]) -> str:
    """Return the canonical JSON of a spec: sorted keys, no blanks, integers wherever a float is whole."""
    return json.dumps(_whole(spec), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def cell_id(spec: Mapping[str, Any]) -> str:
    """Return the identity of a cell: the first 12 hex digits of BLAKE2b over its canonical JSON."""
    return hashlib.blake2b(canonical(spec).encode()).hexdigest()[:12]


def checked(model: type[Model], data: Mapping[str, Any], root: str = "") -> Model:
    """Return `data` as the model; InputError (MachineError under the root `machine`) for the first thing that is wrong.

    The error's `where` is the dotted key below `root`, for `Layers.located` to turn into file and line.
    """
    try:
        return model.model_validate(data)
    except ValidationError as errors:
        raise _translated(model, data, root, errors) from None


def _translated(model: type[BaseModel], data: Mapping[str, Any], root: str, errors: ValidationError) -> InputError:
    """Say the first error of pydantic in the words of this package; a misspelt key explains a missing one."""
    kind = MachineError if root.partition(".")[0] == "machine" else InputError
    found = sorted(errors.errors(), key=lambda error: error["type"] != "extra_forbidden")[0]
    path, given = _walk(data, found["loc"])
    where = ".".join([root, *path]).strip(".")
    if found["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        hint = did_you_mean(path[-1], known) or "remove it"
        return kind(where, f"the unknown key {path[-1]!r}", ", ".join(known), hint)
    if found["type"] == "missing":
        name = str(found["loc"][-1])
        known = _fields_at(model, path)
        return kind(f"{where}.{name}".lstrip("."), f"no {name}", f"the keys {', '.join(known)}", f"add {name}")
    allowed = found["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    text = str(given) if isinstance(given, str) else ""
    choices = [choice.strip(" '") for choice in allowed.replace(" or ", ",").split(",")]
    return kind(where, repr(given), allowed, did_you_mean(text, choices) if text else f"correct {path[-1]}")


def _walk(data: Any, loc: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Follow an error's location as far as the data goes (pydantic appends the branch of a union to it)."""
    path: list[str] = []
    here = data
    for part in loc:
        if isinstance(here, Mapping) and part in here:
            here = here[part]
            path.append(str(part))
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
            path[-1] += f"[{part}]"
        else:
            break
    return path, here


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Return the names of the fields of the table at `path`."""
    here: Any = model
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[part].annotation
        else:  # dict[str, Table]: any key, then the table
            here = next((arg for arg in getattr(here, "__args__", ()) if arg is not str), None)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _whole(value: Any) -> Any:
    """Return the same data with plain containers, and integers where a float is whole."""
    if isinstance(value, Mapping):
        return {str(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value
