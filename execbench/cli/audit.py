"""`execbench audit`: verdicts on text safety, for every API, architecture and path of publication."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from execbench.cli import options

if TYPE_CHECKING:
    from execbench.audit import Audit, Row
    from execbench.record.audit import Judgement

Machines = Annotated[
    list[str] | None,
    typer.Option("-m", "--machine", metavar="NAME",
                 help="Machine file or name; repeat for more (default: one of every architecture)."),
]  # fmt: skip
WIDTH = 100
SHORT = ("architecture", "protocol", "no mechanism", "mechanism", "VIOLATED")
"""The ladder in the table, best first."""


def audit(
    workload: options.Workload = None, backend: options.Backends = None, machine: Machines = None,
    kernel: options.Kernel = None, replications: options.Replications = None, jobs: options.Jobs = None,
    as_json: options.Json = False,
) -> int:  # fmt: skip
    """Judge whether text is safe: six hazards for every API, architecture and path of publication."""
    from execbench.audit import audit as run
    from execbench.errors import InputError
    from execbench.study import load

    if workload is None:
        names = ", ".join(load.names("workload"))
        raise InputError("--workload", "nothing", f"a workload file (path) or one of: {names}", "name one with -w")
    if replications is not None and replications < 1:
        raise InputError("--replications", replications, "a number from 1 on", "leave it out to run one")
    found = run(workload, backends=backend, machines=machine, kernel=kernel, replications=replications or 1,
                workers=options.jobs_or_all(jobs), progress=_progress)  # fmt: skip
    print(json.dumps(_plain(found), indent=1) if as_json else "\n".join(_text(found)))
    return 1 if any(row.outcome for row in found.rows) else 0


def _progress(done: int, total: int) -> None:
    if done == total or (done % 20 == 0 and not sys.stderr.isatty()):
        print(f"execbench: audited {done} of {total}", file=sys.stderr, flush=True)


# --- as text ----------------------------------------------------------------------------------------------------------


def _text(found: Audit) -> Iterator[str]:
    from execbench.record.audit import HAZARDS, Verdict

    yield f"Text safety of workload {found.workload}: what the architecture permits, not what chance did"
    yield ""
    head = ["API", "published by", *(f"{number} {name}" for number, name in HAZARDS.items())]
    for machine in dict.fromkeys(row.machine for row in found.rows):
        rows = [row for row in found.rows if row.machine == machine]
        yield f"{rows[0].arch}, {machine}"
        yield from _table(head, [_cells(row) for row in rows if not row.refused])
        for arm, refused in dict.fromkeys((row.arm, row.refused) for row in rows if row.refused):
            yield f"  {arm}: n/a ({refused})"
        yield ""
    yield "From best to worst: " + "; ".join(
        f"{short} = {verdict}" for short, verdict in zip(SHORT, Verdict, strict=True)
    )
    yield "W^X: the worst alias; all of them, and where text lay before it was sealed, are below. -: nothing of the kind happened."
    yield ""
    yield from _exposures(found)
    yield from _clauses(found)
    yield from _machines(found)
    yield _cost(found)


def _cells(row: Row) -> list[str]:
    judged = [_cell(row, hazard) for hazard in range(1, 7)]
    return [row.arm, row.via, *judged]


def _cell(row: Row, hazard: int) -> str:
    judgement = row.judged.get(hazard)
    if judgement is None:
        return "-"
    if hazard == 6:
        return judgement.rule.condition.replace("-", " ")
    return SHORT[judgement.verdict]


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Yield columns as wide as they need to be; a name that repeats is written once."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    yield "  " + "  ".join(name.ljust(width) for name, width in zip(head, widths, strict=True)).rstrip()
    before = ""
    for row in rows:
        shown = ["" if row[0] == before else row[0], *row[1:]]
        before = row[0]
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(shown, widths, strict=True)).rstrip()


def _exposures(found: Audit) -> Iterator[str]:
    yield "Writable aliases while text was executable, and text in memory that any CPU could write before it was sealed"
    for row in _one_path(found):
        aliases = "; ".join(row.exposure) or "never"
        future = f"before: {', '.join(row.future)}" if row.future else "before: nowhere"
        yield from _folded(f"  {row.arm} on {row.machine}: {aliases}; {future}")
    yield ""


def _one_path(found: Audit) -> list[Row]:
    """Return one row per arm and machine: how text is published exposes nothing."""
    return list({(row.arm, row.machine): row for row in reversed(found.rows) if not row.refused}.values())[::-1]


def _clauses(found: Audit) -> Iterator[str]:
    """Yield for every verdict below excluded what it rests on, who has it, what is missing, and the shortest trace."""
    for (hazard, arch, _), met in sorted(_open(found).items()):
        judgement, row = met[0]
        rule = judgement.rule
        yield f"Hazard {hazard} on {arch}: {rule.verdict}" + (" (no manual says)" if rule.silent else "")
        yield from _folded(f"  {rule.clause}")
        yield from _folded(f"  Rests on: {'; '.join(rule.manual)}.")
        if rule.missing:
            yield from _folded(f"  Missing: {rule.missing}.")
        who = dict.fromkeys(f"{row.arm} ({row.via})" for _, row in met)
        yield from _folded(f"  Met by: {'; '.join(who)}.")
        shortest, owner = min(met, key=lambda one: len(one[0].trace) or WIDTH)
        if shortest.trace:
            yield f"  Shortest trace ({owner.arm} on {owner.machine}{', ' + shortest.detail if shortest.detail else ''}):"
            yield from (f"    {line}" for line in shortest.trace)
        yield ""


def _open(found: Audit) -> dict[tuple[int, str, str], list[tuple[Judgement, Row]]]:
    met: dict[tuple[int, str, str], list[tuple[Judgement, Row]]] = {}
    for row in found.rows:
        for hazard, judgement in row.judged.items():
            if not judgement.verdict.excluded:
                met.setdefault((hazard, row.arch, judgement.rule.condition), []).append((judgement, row))
    return met


def _machines(found: Audit) -> Iterator[str]:
    """Yield what was assumed of each machine's CPUs."""
    yield "What the verdicts assume of the CPUs"
    for machine, because in found.machines.items():
        for text in because.values():
            yield from _folded(f"  {machine}: {text}")
    yield ""


def _cost(found: Audit) -> str:
    ran = sum(1 for row in found.rows if not row.refused)
    seconds, plain = sum(row.with_s for row in found.rows), sum(row.without_s for row in found.rows)
    facts = sum(row.facts for row in found.rows)
    same = "the same records" if all(row.same for row in found.rows) else "OTHER RECORDS, which is a bug"
    return (
        f"Cost: {ran} runs took {seconds:.1f} s with their {facts} facts told and judged, {plain:.1f} s without "
        f"(x {found.cost:.2f}), and left {same}."
    )


def _folded(text: str) -> Iterator[str]:
    import textwrap

    indent = len(text) - len(text.lstrip())
    yield from textwrap.wrap(text, WIDTH, subsequent_indent=" " * (indent + 2), break_long_words=False,
                             break_on_hyphens=False)  # fmt: skip


# --- as JSON ----------------------------------------------------------------------------------------------------------


def _plain(found: Audit) -> dict[str, Any]:
    return {
        "workload": found.workload,
        "cost": {"with_s": round(sum(row.with_s for row in found.rows), 3),
                 "without_s": round(sum(row.without_s for row in found.rows), 3), "ratio": round(found.cost, 3)},
        "machines": {machine: dict(because) for machine, because in found.machines.items()},
        "rows": [_plain_row(row) for row in found.rows],
    }  # fmt: skip


def _plain_row(row: Row) -> dict[str, Any]:
    return {
        "backend": row.arm, "machine": row.machine, "arch": row.arch, "publication": row.via, "status": row.status,
        "refused": row.refused, "outcome": row.outcome, "published": row.published, "facts": row.facts,
        "aliases": list(row.exposure), "future_text": list(row.future),
        "hazards": {str(hazard): _plain_judgement(one) for hazard, one in sorted(row.judged.items())},
    }  # fmt: skip


def _plain_judgement(one: Judgement) -> dict[str, Any]:
    return {
        "verdict": str(one.verdict), "condition": one.rule.condition, "clause": one.rule.clause,
        "manual": list(one.rule.manual), "silent": one.rule.silent, "missing": one.rule.missing,
        "detail": one.detail, "count": one.count, "also": list(one.also), "trace": list(one.trace),
    }  # fmt: skip
