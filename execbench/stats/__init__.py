"""Estimates with intervals, and acceptance of statistical laws: numpy and scipy only, no input or output."""

from __future__ import annotations

from execbench.stats.estimate import APPROXIMATE, AT_LEAST, NOT_AVAILABLE, OK, Estimate
from execbench.stats.means import mean_estimate, ratio_estimate
from execbench.stats.quantiles import exceedance_clusters, quantile, quantile_estimate, sectioning_interval

__all__ = [
    "APPROXIMATE",
    "AT_LEAST",
    "NOT_AVAILABLE",
    "OK",
    "Estimate",
    "exceedance_clusters",
    "mean_estimate",
    "quantile",
    "quantile_estimate",
    "ratio_estimate",
    "sectioning_interval",
]
