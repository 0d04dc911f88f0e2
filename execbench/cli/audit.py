"""`execbench audit`: verdicts on text safety, for every API, architecture and path of publication."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from execbench.cli import options

if TYPE_CHECKING:
    from execbench.audit import Audit, Row
    from execbench.record.audit import Judgement

Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="DIR",
                 help="Also write the verdicts there: text_safety.parquet and text_safety.json."),
]  # fmt: skip
Machines = Annotated[
    list[str] | None,
    typer.Option("-m", "--machine", metavar="NAME",
                 help="Machine file or name; repeat for more (default: one of every architecture)."),
]  # fmt: skip
WIDTH = 100
SHORT = ("arch", "proto", "nomech", "mech", "VIOL")
"""The ladder in the table, best first."""
UNSEALED = {"text": "its own mapping", "direct-map": "the direct map", "fixmap": "a fixmap slot",
            "scratch": "a scratch copy"}  # fmt: skip
"""Where text lay that was not sealed yet, in words."""
HEAD = {1: "1 stale", 2: "2 torn", 3: "3 fault", 4: "4 transl", 5: "5 freed", 6: "6 W^X"}
"""The hazards as heads of columns."""


def audit(
    workload: options.Workload = None, backend: options.Backends = None, machine: Machines = None,
    kernel: options.Kernel = None, replications: options.Replications = None, seed: options.Seed = None,
    set_: options.Settings = None, jobs: options.Jobs = None, out: Out = None, as_json: options.Json = False,
) -> int:  # fmt: skip
    """Judge whether text is safe: six hazards for every API, architecture and path of publication."""
    from execbench import api
    from execbench.errors import InputError, NothingMeasured
    from execbench.study import load

    if workload is None:
        names = ", ".join(load.names("workload"))
        raise InputError("--workload", "nothing", f"a workload file (path) or one of: {names}", "name one with -w")
    if replications is not None and replications < 1:
        raise InputError("--replications", replications, "a number from 1 on", "leave it out to run one")
    found = api.audit(workload, backends=backend, machines=machine, kernel=kernel, replications=replications or 1,
                      seed=seed, set=set_ or (), out=out, workers=options.jobs_or_all(jobs),
                      progress=_progress())  # fmt: skip
    if not any(row.judged or row.outcome for row in found.rows):
        raise NothingMeasured(*_nothing(found))
    print(json.dumps(_plain(found), indent=1) if as_json else "\n".join(_text(found)))
    return 1 if any(row.outcome for row in found.rows) else 0


def _nothing(found: Audit) -> tuple[str, str]:
    """Return why there is no verdict at all, and what to do."""
    arms = ", ".join(dict.fromkeys(row.arm for row in found.rows))
    why = "; ".join(dict.fromkeys(row.refused or "no text was published in time" for row in found.rows))
    return f"nothing to judge: workload {found.workload} on {arms} ({why})", "see `execbench list backends --matrix`"


def _progress() -> Callable[[int, int], None]:
    """Return what says on stderr how many runs there are, and now and then how many are done."""
    from execbench.cli.render import EVERY_S

    begin = said_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said_at
        now = time.monotonic()
        if done and done < total and now - said_at < EVERY_S:
            return
        said_at = now
        words = f"{done} of {total} runs after {now - begin:.0f} s" if done else f"auditing {total} runs"
        print(f"execbench: {words}", file=sys.stderr, flush=True)

    return tell


# --- as text ----------------------------------------------------------------------------------------------------------


def _text(found: Audit) -> Iterator[str]:
    from execbench.audit import OWN
    from execbench.kernel.publish import PASSIVE
    from execbench.record.audit import HAZARDS, Verdict

    yield from _folded(f"Text safety of workload {found.workload}: what the architecture permits, not what chance did")
    yield from _folded(_simulated(found))
    yield ""
    head = ["API", "published by", *(HEAD[number] for number in HAZARDS)]
    for machine in dict.fromkeys(row.machine for row in found.rows):
        rows = [row for row in found.rows if row.machine == machine]
        yield f"{rows[0].arch}, {machine}"
        yield from _table(head, _merged([row for row in rows if not row.refused]))
        yield from _not_applicable(rows)
        yield ""
    for machine, why in found.left_out.items():
        yield from _folded(f"{machine}: left out ({why})")
    ladder = "; ".join(f"{short} = {verdict}" for short, verdict in zip(SHORT, Verdict, strict=True))
    yield from _folded(f"From best to worst: {ladder}. -: nothing of the kind happened.")
    hazards = ", ".join(f"{number} {name}" for number, name in HAZARDS.items())
    yield from _folded(f"Hazards: {hazards}. 6 names the worst alias through which text that was executable could be "
                       "written (win: in windows; perm: as long as it lives).")  # fmt: skip
    yield from _folded(f"passive: {', '.join(PASSIVE)}, which force nothing: one verdict holds for all of them.")
    own = sorted({path for row in found.rows if row.via == OWN for path in row.paths})
    if own:
        yield from _folded(f"{OWN}: every client publishes as it does in the kernel, by {', '.join(own)}. The worst "
                           "of all its texts counts, those among them that the kernel allocates itself.")  # fmt: skip
    yield ""
    yield from _exposures(found)
    yield from _clauses(found)
    yield from _assumed(found)
    yield from _folded(_cost(found))


def _simulated(found: Audit) -> str:
    """Return what was simulated of the workload, and what the audit left out of it."""
    from execbench.replay import RELOCATIONS

    short = ", ".join(
        f"{key}={value}" + ("" if file is None else f" (its file: {file})")
        for key, (value, file) in found.simulated.items()
    )
    runs = "1 replication" if found.replications == 1 else f"{found.replications} replications"
    return (
        f"Simulated: {runs} of each line" + (f", with {short}" if short else "") + f"; of each image's relocations "
        f"{RELOCATIONS} at most. Verdicts rest on what the API does to a text, not on how often: "
        "--set KEY=VALUE for more."
    )


def _merged(rows: list[Row]) -> list[list[str]]:
    """Return the cells of the table's lines; paths with the same verdicts share one."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        judged = tuple(_cell(row, hazard) for hazard in range(1, 7))
        lines.setdefault((row.arm, *judged), []).append(_path(row.via))
    count = {arm: sum(row.arm == arm for row in rows) for arm in {row.arm for row in rows}}
    return [
        [arm, "any path" if len(vias) == count[arm] > 1 else ", ".join(vias), *judged]
        for (arm, *judged), vias in lines.items()
    ]


def _path(via: str) -> str:
    """Return the paths of a row, those that force nothing by one word."""
    from execbench.kernel.publish import PASSIVE

    return via.replace(", ".join(PASSIVE), "passive")


def _cell(row: Row, hazard: int) -> str:
    judgement = row.judged.get(hazard)
    if judgement is None:
        return "-"
    if hazard == 6:
        return judgement.rule.condition.replace("-windows", " win").replace("-permanent", " perm")
    return SHORT[judgement.verdict]


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Yield columns as wide as they need to be; a name that repeats is written once, a long one on its own line."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    room = max(WIDTH - 2 - sum(width + 2 for width in widths[1:]), len(head[0]))
    widths[0] = max(len(line[0]) for line in [head, *rows] if len(line[0]) <= room)
    before = ""
    for row in [head, *rows] if rows else []:
        name = "" if row[0] == before else row[0]
        before = row[0]
        if len(name) > room:
            yield f"  {name}"
            name = ""
        shown = [name, *row[1:]]
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(shown, widths, strict=True)).rstrip()


def _not_applicable(rows: list[Row]) -> Iterator[str]:
    """Yield which arms have no line, or none for a path, and why."""
    from execbench.audit import OWN

    reasons: dict[tuple[str, str], list[str]] = {}
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        if any(row.via == OWN for row in mine):
            mine = [row for row in mine if not row.refused]  # the line says what is published by which paths
        for reason in dict.fromkeys(row.refused for row in mine if row.refused):
            vias = ", ".join(_path(row.via) for row in mine if row.refused == reason)
            which = "" if all(row.refused for row in mine) else f" by {vias}"
            reasons.setdefault((reason, which), []).append(arm)
        for outcome in dict.fromkeys(row.outcome for row in mine if row.outcome):
            yield from _folded(f"  {arm}: ended early ({outcome})")
    for (reason, which), arms in reasons.items():
        yield from _folded(f"  {', '.join(arms)}{which}: n/a ({reason})")


def _exposures(found: Audit) -> Iterator[str]:
    yield "Writable aliases while text was executable, and where any CPU could write it before it was sealed"
    for row in _one_path(found):
        aliases = "; ".join(row.exposure) or "never"
        before = " and ".join(UNSEALED.get(place, place) for place in row.future) or "nowhere"
        yield from _folded(f"  {row.arm} on {row.machine}: {aliases}; before it was sealed, in {before}"
                           .replace("in nowhere", "nowhere"))  # fmt: skip
    yield ""


def _one_path(found: Audit) -> list[Row]:
    """Return one row per arm and machine: how text is published exposes nothing."""
    return list({(row.arm, row.machine): row for row in reversed(found.rows) if not row.refused}.values())[::-1]


def _clauses(found: Audit) -> Iterator[str]:
    """Yield for every verdict below excluded what it rests on, who has it, what is missing, and the shortest trace."""
    for (hazard, arch, _), met in sorted(_open(found).items()):
        rule = met[0][0].rule
        yield f"Hazard {hazard} on {arch}: {rule.verdict}" + (" (no manual says)" if rule.silent else "")
        yield from _folded(f"  {rule.clause}")
        yield from _folded(f"  Rests on: {'; '.join(rule.manual)}.")
        if rule.missing:
            yield from _folded(f"  Missing: {rule.missing}.")
        yield from _folded(f"  Met by: {'; '.join(_who(met))}.")
        shortest, owner = min(met, key=lambda one: len(one[0].trace) or WIDTH)
        if shortest.trace:
            detail = f", {shortest.detail}" if shortest.detail else ""
            yield from _folded(f"  Shortest trace ({owner.arm} on {owner.machine}{detail}):")
            for line in shortest.trace:
                yield from _folded(f"    {line}")
        yield ""


def _who(met: list[tuple[Judgement, Row]]) -> list[str]:
    """Return the arms that met a condition, with the paths by which they did."""
    paths: dict[str, dict[str, None]] = {}
    for _, row in met:
        paths.setdefault(row.arm, {})[_path(row.via)] = None
    return [f"{arm} ({', '.join(vias)})" for arm, vias in paths.items()]


def _open(found: Audit) -> dict[tuple[int, str, str], list[tuple[Judgement, Row]]]:
    met: dict[tuple[int, str, str], list[tuple[Judgement, Row]]] = {}
    for row in found.rows:
        for hazard, judgement in row.judged.items():
            if not judgement.verdict.excluded:
                met.setdefault((hazard, row.arch, judgement.rule.condition), []).append((judgement, row))
    return met


def _assumed(found: Audit) -> Iterator[str]:
    """Yield what was assumed of the machines' CPUs, once for those alike."""
    yield "What the verdicts assume of the CPUs"
    said: dict[str, list[str]] = {}
    for machine, because in found.machines.items():
        for text in because.values():
            said.setdefault(text, []).append(machine)
    for text, machines in said.items():
        yield from _folded(f"  {', '.join(machines)}: {text}")
    yield ""


def _cost(found: Audit) -> str:
    ran = [row for row in found.rows if not row.refused]
    both = [row for row in ran if row.without_s]
    facts = sum(row.facts for row in ran)
    told = f"Cost: {len(ran)} runs took {sum(row.with_s for row in ran):.1f} s with their {facts} facts told and judged"
    if not both:
        return f"{told}."
    same = "left the same records" if all(row.same for row in both) else "left OTHER RECORDS, which is a bug"
    return (
        f"{told}; {len(both)} of them were made again with nobody listening (x {found.cost:.2f} with somebody) "
        f"and {same}."
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
        "left_out": dict(found.left_out),
        "machines": {machine: dict(because) for machine, because in found.machines.items()},
        "rows": [_plain_row(row) for row in found.rows],
    }  # fmt: skip


def _plain_row(row: Row) -> dict[str, Any]:
    return {
        "backend": row.arm, "machine": row.machine, "arch": row.arch, "release": row.release,
        "kinds": list(row.kinds), "publication": row.via, "status": row.status,
        "refused": row.refused, "outcome": row.outcome, "published": row.published, "facts": row.facts,
        "aliases": list(row.exposure), "future_text": list(row.future),
        "hazards": {str(hazard): _plain_judgement(one) for hazard, one in sorted(row.judged.items())},
    }  # fmt: skip


def _plain_judgement(one: Judgement) -> dict[str, Any]:
    return {
        "verdict": str(one.verdict), "condition": one.rule.condition, "clause": one.rule.clause,
        "manual": list(one.rule.manual), "silent": one.rule.silent, "missing": one.rule.missing,
        "detail": one.detail, "count": one.count, "also": list(one.also), "byte_seconds": one.byte_seconds,
        "trace": list(one.trace),
    }  # fmt: skip
