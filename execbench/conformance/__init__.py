"""What every backend must keep, checked on a toy machine: the verbs' contract, memory, text, locks, two tasks at once.

A backend passes when `check` returns no findings. The machine has four CPUs and costs of round numbers; nothing here
depends on how long anything takes.
"""

from execbench.conformance.bench import Bench
from execbench.conformance.machine import Finding
from execbench.conformance.places import PAGE_SIZES, PATHS, Place, places
from execbench.conformance.scenarios import SCENARIOS
from execbench.conformance.suite import VERBS, Conformance, check, check_at, conformance
from execbench.conformance.toy import TOY_FEATURES, toy_background, toy_costs

__all__ = [
    "PAGE_SIZES",
    "PATHS",
    "SCENARIOS",
    "TOY_FEATURES",
    "VERBS",
    "Bench",
    "Conformance",
    "Finding",
    "Place",
    "check",
    "check_at",
    "conformance",
    "places",
    "toy_background",
    "toy_costs",
]
