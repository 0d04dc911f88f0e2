"""The figures of a comparison as data: what each is, its unit, and how replications combine into it."""

from __future__ import annotations

from dataclasses import dataclass

UNITS = {"rate": "1/s", "time": "ns", "share": "1", "count": "1", "size": "bytes"}
"""Base unit of each scale in the frames; tables choose units for people."""


@dataclass(frozen=True)
class Column:
    """One figure of the comparison.

    `scale` picks its units; `per_unit` stands in their place where a figure has one of its own. `source` is a quantile
    as "p50", "largest", or the beginning of metrics' names; `per` says how replications combine: "replication" (mean of
    one value each), "operation" (weighted by operations), "sum" (over the number of operations), "latency" (sum over
    the sum of latencies), "machine" (sum over all groups of CPUs per operation) or "maximum".
    """

    name: str
    title: str
    scale: str
    source: str
    per: str
    meaning: str
    per_unit: str = ""

    @property
    def unit(self) -> str:
        """The base unit, as frames and `list metrics` have it."""
        return self.per_unit or UNITS[self.scale]


COLUMNS: tuple[Column, ...] = (
    Column("throughput", "ops", "rate", "throughput", "replication",
           "operations completed per second of measured time"),
    Column("p50", "p50", "time", "p50", "operation", "latency that half of the operations do not exceed"),
    Column("p90", "p90", "time", "p90", "operation", "latency that 90 % of the operations do not exceed"),
    Column("p99", "p99", "time", "p99", "operation", "latency that 99 % of the operations do not exceed"),
    Column("mean", "mean", "time", "latency_sum", "sum", "mean latency"),
    Column("queue", "mean queue", "time", "queue_mean", "operation", "mean time from when it is due to its start"),
    Column("service", "mean service", "time", "service_mean", "operation", "mean time from the start to the end"),
    Column("largest", "largest", "time", "largest", "operation", "largest latency of all measured operations"),
    Column("api_share", "API share", "share", "api_sum", "latency",
           "share of the sum of latencies spent inside the allocator's verbs or waiting for locks held inside one"),
    Column("rounds", "rounds", "count", "rounds_per_op", "operation",
           "broadcasts to all CPUs (one each, whatever the number of targets) per operation"),
    Column("flushes", "flushes", "count", "flushes_per_op", "operation", "TLB flushes of all CPUs per operation"),
    Column("interruptions", "interrupts", "count", "interruptions_", "machine",
           "interrupts of all CPUs, those of its deferred work included, per operation"),
    Column("stolen", "stolen", "time", "stolen_ns_", "machine",
           "time that costs those CPUs, all together, per operation"),
    Column("isolated_hourly", "interrupts of an isolated CPU by this workload", "count",
           "isolated_interruptions_per_hour", "replication",
           "interruptions per isolated CPU and hour that this workload causes, scaled from the measured time", "1/h"),
    Column("isolated_longest", "longest on an isolated CPU", "time", "isolated_longest_ns", "maximum",
           "longest single interruption of an isolated CPU by this workload, its wake-up included; handlers take their "
           "median cost every time, so it is a sum of constants"),
    Column("asked", "asked", "size", "asked_bytes", "replication",
           "bytes asked of the API, of all kinds that it serves: text, or also data of modules (means over time)"),
    Column("reserved", "reserved", "size", "reserved_bytes", "replication", "bytes of memory behind it"),
    Column("waste", "wasted", "size", "waste_bytes", "replication",
           "bytes inside allocated regions that hold nothing"),
    Column("leaves_4k", "4K leaves", "count", "text_leaves_4k", "replication", "4 KiB leaves that map text"),
    Column("leaves_2m", "2M leaves", "count", "text_leaves_2m", "replication", "2 MiB leaves that map text"),
)  # fmt: skip
WHERE_RECORDED = ("isolated_hourly", "isolated_longest")
"""Figures that only some machines have: tables leave them out elsewhere."""
BY_NAME = {column.name: column for column in COLUMNS}
