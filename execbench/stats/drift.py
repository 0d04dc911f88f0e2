"""Does a backlog grow? A one-sided t test over independent replications."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

ALPHA = 0.01
"""Chance that a system in its steady state is said to have none."""


def grows(differences: Sequence[float]) -> bool:
    """Whether the mean of one difference per replication (operations in system, later less earlier) is above 0.

    One-sided t test at ALPHA. A mean below one operation is no backlog, however sure: a bounded system that is
    sampled at two instants always has such differences. One replication shows nothing.
    """
    from scipy.special import stdtrit

    d = np.asarray(differences, dtype=np.float64)
    if d.size < 2 or d.mean() < 1:
        return False
    error = float(np.std(d, ddof=1)) / math.sqrt(d.size)
    return bool(d.mean() > float(stdtrit(d.size - 1, 1 - ALPHA)) * error)
