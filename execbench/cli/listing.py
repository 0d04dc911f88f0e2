"""`execbench list`: what there is to name in the other commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


@app.command()
def backends(matrix: Matrix = False, as_json: options.Json = False) -> None:
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
                         "architectures": ", ".join(support.architectures), "about": _about(cls)})  # fmt: skip
            continue
        for arch in ARCHITECTURES:
            refused = support.refusal(arch)
            standing = {release: "n/a" if refused else support.status(release, arch) for release in RELEASES}
            words = {KERNEL_KINDS: "text and data", TEXT_KINDS: "text"}
            rows.append({"backend": name, "architecture": arch, **standing,
                         "kinds": words.get(support.kinds) or ", ".join(support.kinds),
                         "reason": refused})  # fmt: skip
    _print(rows, as_json)


@app.command()
def workloads(as_json: options.Json = False) -> None:
    """Workload files, the question each asks, and the machine and clients of a plain run."""
    from execbench.study.load import names, read

    rows = []
    for name in names("workload"):
        table = read("workload", name).table
        head = table.get("workload", {})
        rows.append({"workload": name, "clients": ", ".join(table.get("client", {})), "machine": head.get("machine"),
                     "question": head.get("question")})  # fmt: skip
    _print(rows, as_json)


@app.command()
def machines(as_json: options.Json = False) -> None:
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
    _print(rows, as_json)


@app.command()
def kernels(as_json: options.Json = False) -> None:
    """Kernel releases and the source they were read from."""
    from execbench.kernel.releases import DEFAULT_RELEASE, RELEASES

    _print([{"kernel": name, "default": name == DEFAULT_RELEASE, "source": release.source}
            for name, release in RELEASES.items()], as_json)  # fmt: skip


@app.command()
def costs(machine: CostMachine = None, as_json: options.Json = False) -> None:
    """Costs, what one unit of each is, and what it stands for; with -m their values and evidence."""
    from execbench.costs import ARCHITECTURES, CostTable, catalogue
    from execbench.registry.instances import client_costs
    from execbench.study.resolve import machine_tables
    from execbench.units import show_time

    rows: list[dict[str, Any]] = [
        {"cost": name, "arch": "all" if entry.arch == ARCHITECTURES else ", ".join(entry.arch), "per": entry.per,
         "meaning": entry.meaning}
        for name, entry in catalogue(client_costs()).items()
    ]  # fmt: skip
    if machine is not None:
        table = CostTable.from_toml(machine_tables(machine)[0]["costs"], machine, clients=client_costs())
        rows = [{"cost": name, "value": show_time(cost.ps / 1000),
                 "range": f"{show_time(cost.low_ps / 1000)} .. {show_time(cost.high_ps / 1000)}", "per": cost.per,
                 "evidence": str(cost.evidence), "use": cost.use, "source": cost.source}
                for name in table for cost in (table[name],)]  # fmt: skip
    _print(rows, as_json)


@app.command()
def metrics(as_json: options.Json = False) -> None:
    """Figures of the comparison: unit, and how they are defined."""
    from execbench.report.columns import COLUMNS, UNITS

    _print([{"metric": column.name, "unit": UNITS[column.scale], "meaning": column.meaning} for column in COLUMNS],
           as_json)  # fmt: skip


def _about(cls: type) -> str:
    """Return the first sentence of a class's documentation, without its own name."""
    first = (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    return " ".join(first.split())


def _print(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows as JSON or as a table that folds the last column."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    import io
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    names = list(rows[0]) if rows else []
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name != names[-1])
    for row in rows:
        table.add_row(*(Text("yes" if row[name] is True else "" if row[name] in (False, None) else str(row[name]))
                        for name in names))  # fmt: skip
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    out = io.StringIO()  # for a pipe: one line per row, whatever its length
    Console(file=out, width=10_000, color_system=None).print(table)
    print("\n".join(line.rstrip() for line in out.getvalue().splitlines()))
