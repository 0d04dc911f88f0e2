"""execbench: what each design of the kernel's allocation of memory for code costs, before it is built.

>>> import execbench
>>> results = execbench.run("bpf", replications=10)  # doctest: +SKIP
>>> results.metrics  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from execbench.api import Plan, Results, Verification, check, load, run, sweep, verify
    from execbench.errors import ExecbenchError

__all__ = ["ExecbenchError", "Plan", "Results", "Verification", "check", "load", "run", "sweep", "verify"]

_HOME = dict.fromkeys(__all__, "execbench.api") | {"ExecbenchError": "execbench.errors"}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import execbench` itself costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'execbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
