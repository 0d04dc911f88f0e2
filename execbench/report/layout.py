"""How many leaves hot text takes, against what the machine's TLBs hold: sentences of counts, one bound of a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from execbench.record.layout import ASSUMED
from execbench.report.arms import arms_of
from execbench.report.comparison import records
from execbench.report.numbers import number, with_unit

if TYPE_CHECKING:
    from execbench.report.comparison import Frames

COUNTED = ("text_leaves_hot_4k", "text_leaves_hot_2m", "text_pages_hot")
PASS = "itlb_pass_at_most"


def hot_text(results: Frames) -> list[str]:
    """Return what to say of a study with one point: leaves and pages of each arm, entries, the bound; else nothing."""
    cells = arms_of(results)
    if len(cells) == 0 or cells["point"].nunique() > 1:
        return []
    metrics = results.table("metrics")
    means = metrics[metrics["metric"].isin((*COUNTED, PASS))].groupby(["cell", "metric"])["value"].mean().reset_index()
    found = {(str(row["cell"]), str(row["metric"])): float(row["value"]) for row in records(means)}
    arms = [(str(row["arm"]), str(row["cell"])) for row in records(cells)]
    return list(_sentences(arms, found, json.loads(results.cells["spec"].iloc[0])["machine"]))


def _sentences(
    arms: list[tuple[str, str]], found: Mapping[tuple[str, str], float], machine: Mapping[str, Any]
) -> Iterator[str]:
    counts = []
    for arm, cell in arms:
        small, large, pages = (found.get((cell, metric), 0.0) for metric in COUNTED)
        if pages:
            counts.append(f"{arm} {number(small)} + {number(large)} on {number(pages)}")
    if not counts:
        return
    yield f"Text that can be reached, mean over time, leaves of 4K + leaves of 2M on base pages: {'; '.join(counts)}."
    yield f"{entries(machine)}."
    bounds = [f"{with_unit(found[cell, PASS], 'time')} ({arm})" for arm, cell in arms if found.get((cell, PASS))]
    if bounds:
        yield (
            f"iTLB misses, in no figure here, add to one pass of one CPU over all of it 0 to {', '.join(bounds)}; "
            f"assumed: {ASSUMED}; {machine['tlb']['walk_source']}."
        )


def entries(machine: Mapping[str, Any]) -> str:
    """Return what one CPU's TLBs hold of instructions, or that nobody has published it."""
    tlb = machine.get("tlb")
    if tlb is None:
        return f"Reach of {machine['name']}'s instruction TLBs: n/a, nothing is published"
    first = f"{tlb['itlb_4k']} of 4K and {tlb['itlb_2m']} of 2M" if tlb["itlb_2m"] else f"{tlb['itlb_4k']} of any size"
    behind = f", the level behind {tlb['stlb']}" if "stlb" in tlb else ""
    return f"An instruction TLB of {machine['name']} holds {first}{behind} ({tlb['source']})"
