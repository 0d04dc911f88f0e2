"""`execbench list`: what there is to name in the other commands."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from execbench.cli import options

app = typer.Typer(help="List what the other commands can name.", no_args_is_help=True)

Matrix = Annotated[
    bool, typer.Option("--matrix", help="One line for each architecture, with the reason where it does not apply.")
]
CostMachine = Annotated[
    str | None, typer.Option("-m", "--machine", help="Add the values on this machine.", metavar="NAME")
]
NO_TERMINAL = 100
"""Columns of a table that goes to no terminal."""
SHORT = {"architecture": "arch", "architectures": "arch"}
"""Heads in a table, where JSON has the whole word."""


@app.command()
def backends(matrix: Matrix = False, wide: options.Wide = False, as_json: options.Json = False) -> None:
    """Backends, their standing in each release, and what they can express."""
    from execbench.kernel.arch import ARCHITECTURES
    from execbench.kernel.releases import RELEASES
    from execbench.kernel.text import KERNEL_KINDS, TEXT_KINDS
    from execbench.registry.plugins import registered

    rows = []
    for name, cls in registered("backends").items():
        support = cls.support  # type: ignore[attr-defined]
        if not matrix:
            rows.append({"backend": name, **{release: support.status(release) for release in RELEASES},
                         "architectures": _architectures(support.architectures, as_json or wide),
                         "about": _about(cls)})  # fmt: skip
            continue
        for arch in ARCHITECTURES:
            refused = support.refusal(arch)
            standing = {release: "n/a" if refused else support.status(release, arch) for release in RELEASES}
            words = {KERNEL_KINDS: "text and data", TEXT_KINDS: "text"}
            rows.append({"backend": name, "architecture": arch, **standing,
                         "kinds": words.get(support.kinds) or ", ".join(support.kinds),
                         "reason": refused})  # fmt: skip
    _print(rows, as_json, wide)


@app.command()
def workloads(wide: options.Wide = False, as_json: options.Json = False) -> None:
    """Workload files, the question each asks, and the machine and clients of a plain run."""
    from execbench.study.load import names, read

    rows = []
    for name in names("workload"):
        table = read("workload", name).table
        head = table.get("workload", {})
        rows.append({"workload": name, "clients": ", ".join(table.get("client", {})), "machine": head.get("machine"),
                     "question": head.get("question")})  # fmt: skip
    _print(rows, as_json, wide, short=("workload", "clients", "question"), below=("machine",), fold={"clients": 24})


@app.command()
def machines(wide: options.Wide = False, as_json: options.Json = False) -> None:
    """Machine files and what they describe."""
    from execbench.study.load import names
    from execbench.study.resolve import machine_tables

    rows = []
    for name in names("machine"):
        table = machine_tables(name)[0]
        costs = [cost for key, cost in table["costs"].items() if key != "client"]
        evidence = [cost["evidence"] for cost in costs]
        rows.append({"machine": name, "arch": table["arch"], "cpus": table["topology"]["cpus"],
                     "nodes": table["topology"].get("nodes", 1), "hz": table["kernel"]["hz"],
                     "preempt": table["kernel"]["preempt"],
                     "evidence": ", ".join(f"{evidence.count(one)} {one}" for one in dict.fromkeys(evidence)),
                     })  # fmt: skip
    _print(rows, as_json, wide)


@app.command()
def kernels(wide: options.Wide = False, as_json: options.Json = False) -> None:
    """Kernel releases and the source they were read from."""
    from execbench.kernel.releases import DEFAULT_RELEASE, RELEASES

    _print([{"kernel": name, "default": name == DEFAULT_RELEASE, "source": release.source}
            for name, release in RELEASES.items()], as_json, wide)  # fmt: skip


@app.command()
def costs(machine: CostMachine = None, wide: options.Wide = False, as_json: options.Json = False) -> None:
    """Costs, what one unit of each is, and what it stands for; with -m their values, evidence and sources.

    With -m, costs that a run on this machine needs and does not find are in the list without a value.
    """
    from execbench.catalogue import catalogue
    from execbench.registry.instances import client_costs

    if machine is not None:
        _costs_of(machine, wide, as_json)
        return
    _print([{"cost": name, "arch": _architectures(entry.arch), "per": entry.per, "meaning": entry.meaning}
            for name, entry in catalogue(client_costs()).items()], as_json, wide,
           short=("cost", "arch", "meaning"), below=("per",))  # fmt: skip


def _costs_of(machine: str, wide: bool, as_json: bool) -> None:
    """Print what everything costs on a machine, and on stderr what it lacks."""
    from execbench.catalogue import ARCHITECTURES, required
    from execbench.costs import CostTable
    from execbench.errors import MachineError, did_you_mean
    from execbench.registry.instances import client_costs
    from execbench.study.resolve import machine_tables
    from execbench.units import show_time

    tables, own = machine_tables(machine)[0], client_costs()
    arch = tables.get("arch")
    if arch not in ARCHITECTURES:
        raise MachineError(f"{machine}: arch", arch or "nothing", ", ".join(ARCHITECTURES),
                           did_you_mean(str(arch), ARCHITECTURES) or "say what the machine is")  # fmt: skip
    factor = tables.get("code_factor", 1.0)
    if type(factor) not in (int, float) or not 0 < factor < math.inf:
        raise MachineError(f"{machine}: code_factor", factor, "a finite number above 0", "leave it out for 1")
    needed = required(arch, own)
    table = CostTable.from_toml(tables.get("costs", {}), machine, arch, own).with_estimates(needed, factor)
    missing = sorted(name for name in needed if name not in table)
    rows: list[dict[str, Any]] = []
    for name in sorted([*table, *missing]):
        if name in missing:
            row = {"value": None, "range": None, "per": needed[name].per, "evidence": "missing", "use": None,
                   "source": None}  # fmt: skip
        else:
            cost = table[name]
            low, value, high = (show_time(ps / 1000) for ps in (cost.low_ps, cost.ps, cost.high_ps))
            row = {"value": value, "range": f"{low} .. {high}", "per": cost.per, "evidence": str(cost.evidence),
                   "use": cost.use, "source": cost.source}  # fmt: skip
        rows.append({"cost": name, **row})
    _print(rows, as_json, wide, short=("cost", "value", "source"), below=("range", "per", "evidence"))
    if missing:
        print(f"execbench: {machine} has no value for {len(missing)} of the costs that runs on {arch} may need: "
              f"{', '.join(missing)}", file=sys.stderr)  # fmt: skip


@app.command()
def metrics(wide: options.Wide = False, as_json: options.Json = False) -> None:
    """Figures of the comparison: unit, and how they are defined."""
    from execbench.report.columns import COLUMNS

    _print([{"metric": column.name, "unit": column.unit, "meaning": column.meaning} for column in COLUMNS], as_json,
           wide)  # fmt: skip


def _architectures(own: Sequence[str], whole: bool = False) -> str:
    """Return architectures as a list, or "all" where they are."""
    from execbench.kernel.arch import ARCHITECTURES

    return "all" if not whole and set(own) == set(ARCHITECTURES) else ", ".join(own)


def _about(cls: type) -> str:
    """Return the first sentence of a class's documentation, without its own name."""
    first = (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    return " ".join(first.split())


def _print(
    rows: Sequence[dict[str, Any]], as_json: bool, wide: bool = False, short: Sequence[str] = (),
    below: Sequence[str] = (), fold: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Print rows as JSON, or as a table whose last column wraps; `wide`: one line for each row, whatever its length.

    Unless wide, a table has the columns `short` (all) only, those of `below` stand under the second one, and those of
    `fold` wrap at so many characters.
    """
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    import io

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    names = list(rows[0]) if wide or not short else list(short)
    under = () if wide else tuple(below)
    for number, name in enumerate(names):
        head = [name if wide else SHORT.get(name, name), *(under if number == 1 else ())]
        most = None if wide or fold is None else fold.get(name)
        table.add_column("\n".join(head), overflow="fold", no_wrap=most is None and name != names[-1], max_width=most)
    for row in rows:
        cells = [[_word(row[name]), *(_word(row[one]) for one in under if number == 1)]
                 for number, name in enumerate(names)]  # fmt: skip
        table.add_row(*(Text("\n".join(filter(None, lines))) for lines in cells))
    if sys.stdout.isatty() and not wide:
        Console(highlight=False).print(table)
        return
    out = io.StringIO()
    Console(file=out, width=10_000 if wide else NO_TERMINAL, color_system=None).print(table)
    print("\n".join(line.rstrip() for line in out.getvalue().splitlines()))


def _word(value: object) -> str:
    return "yes" if value is True else "" if value in (False, None) else str(value)
