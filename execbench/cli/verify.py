"""`execbench verify`: simulate again and say whether the same comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from execbench.cli import options

Directory = Annotated[Path, typer.Argument(help="Results directory.", metavar="DIR")]
All = Annotated[bool, typer.Option("--all", help="Every replication instead of one of each cell.")]


def verify(directory: Directory, all_: All = False, jobs: options.Jobs = None, as_json: options.Json = False) -> int:
    """Simulate replications again and compare their digests with what is stored; 1 if they differ."""
    from execbench import api

    found = api.verify(directory, all=all_, workers=options.jobs_or_all(jobs))
    if as_json:
        checked = [{"cell": one.cell, "arm": one.arm, "replication": one.replication, "same": one.same,
                    "differs": one.differs, "problem": one.problem} for one in found.checked]  # fmt: skip
        print(json.dumps({"directory": str(directory), "ok": found.ok, "levels": found.levels, "checked": checked,
                          "code_changed": found.code_changed, "data_changed": found.data_changed,
                          "versions_changed": dict(found.versions_changed)}, indent=1))  # fmt: skip
    else:
        print(found)
    return 0 if found.ok else 1
