"""`execbench check`: does a backend keep the contract, on every architecture and release that it declares?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from execbench.cli import options

Target = Annotated[str, typer.Argument(help="Backend: NAME, 'NAME\\[field=value,...]' or ./FILE.py\\[:Class].",
                                       metavar="BACKEND")]  # fmt: skip
Arch = Annotated[
    list[str] | None, typer.Option("-a", "--arch", help="Only this architecture; repeat for more.", metavar="ARCH")
]


def check(backend: Target, arch: Arch = None, as_json: options.Json = False) -> int:
    """Run the conformance suite on a backend; 1 if it breaks a rule, 5 if it applies nowhere that was asked for."""
    from execbench import api
    from execbench.errors import NothingMeasured

    found = api.check(backend, arch)
    if as_json:
        print(json.dumps({"backend": backend, "ok": found.ok, "places": [str(place) for place in found.places],
                          "refused": found.refused,
                          "findings": [{"rule": one.rule, "seen": one.seen} for one in found.findings]},
                         indent=1))  # fmt: skip
    else:
        print(found)
    if not found.places and not found.findings:
        return NothingMeasured.exit_code
    return 0 if found.ok else 1
