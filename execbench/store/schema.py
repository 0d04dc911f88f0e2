"""The result tables as data: the columns of each and their types; times in ns, sizes in bytes."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from execbench.errors import ExecbenchError

__all__ = ["KEYS", "ON_REQUEST", "SCHEMA_VERSION", "TABLES", "arrow_schema", "arrow_table"]

SCHEMA_VERSION: Final = 1

KEYS: Final[dict[str, pa.DataType]] = {"cell": pa.string(), "replication": pa.int32()}
"""Columns that the store puts in front of every table."""

_TEXT, _INT, _SMALL, _FLOAT = pa.string(), pa.int64(), pa.int32(), pa.float64()

TABLES: Final[dict[str, dict[str, pa.DataType]]] = {
    "replications": {"outcome": _TEXT, "detail": _TEXT, "operations": _INT, "events": _INT, "draws": _INT,
                     "digest": _TEXT},
    "metrics": {"metric": _TEXT, "client": _TEXT, "kind": _TEXT, "unit": _TEXT, "value": _FLOAT, "n": _INT},
    "totals": {"client": _TEXT, "kind": _TEXT, "operations": _INT, "unfinished": _INT, "completed": _INT,
               "in_system_half": _INT, "in_system_end": _INT, "latency_ns": _INT, "queue_ns": _INT, "api_ns": _INT,
               "blamed_ns": _INT, "checksum": _INT},
    "histograms": {"client": _TEXT, "kind": _TEXT, "phase": _TEXT, "bucket": _SMALL, "count": _INT},
    "counters": {"client": _TEXT, "kind": _TEXT, "mode": _TEXT, "primitive": _TEXT, "count": _INT, "units": _INT},
    "locks": {"lock": _TEXT, "acquisitions": _INT, "contended": _INT, "wait_ns": _INT, "wait_max_ns": _INT,
              "hold_ns": _INT, "holder": _TEXT},
    "cpus": {"group": _TEXT, "cpus": _INT, "interruptions": _INT, "stolen_ns": _INT},
    "disturbance": {"t_ns": _INT, "group": _TEXT, "interruptions": _INT, "stolen_ns": _INT},
    "memory": {"t_ns": _INT, "asked": _INT, "reserved": _INT, "internal_waste": _INT, "text_4k": _INT,
               "text_2m": _INT, "leaves_4k": _INT, "leaves_2m": _INT, "leaves_1g": _INT},
    "extremes": {"client": _TEXT, "kind": _TEXT, "rank": _SMALL, "op": _INT, "t_ns": _INT, "latency_ns": _INT},
    "peaks": {"client": _TEXT, "kind": _TEXT, "bin": _INT, "latency_ns": _INT},
    "operations": {"client": _TEXT, "kind": _TEXT, "op": _INT, "due": _INT, "begin": _INT, "end": _INT,
                   "api_ns": _INT},
}  # fmt: skip

ON_REQUEST: Final = ("operations",)
"""Tables that exist only where `run.record` asks for them."""


def arrow_schema(table: str) -> pa.Schema:
    """Return the columns of a table as stored, keys first."""
    return pa.schema(list((KEYS | TABLES[table]).items()))


def arrow_table(table: str, cell: str, pieces: list[tuple[int, dict[str, Any]]]) -> pa.Table:
    """Return the stored form of one table: the columns of each `(replication, columns)` piece with its keys.

    ExecbenchError if a piece's columns are not those of the schema, are of unequal length or do not fit their types.
    """
    wanted = TABLES[table]
    batches = []
    for replication, columns in pieces:
        if set(columns) != set(wanted):
            off = ", ".join(sorted(set(columns) ^ set(wanted)))
            raise ExecbenchError(f"table {table}: the simulation recorded other columns than the schema has ({off})")
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1:
            raise ExecbenchError(f"table {table}: columns of unequal length {sorted(lengths)}")
        n = lengths.pop()
        keys = [pa.array([cell] * n, _TEXT), pa.array([replication] * n, _SMALL)]
        try:
            arrays = [pa.array(columns[name], kind) for name, kind in wanted.items()]
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ExecbenchError(f"table {table}: a value does not fit its column ({error})") from error
        batches.append(pa.table([*keys, *arrays], arrow_schema(table)))
    return pa.concat_tables(batches) if batches else arrow_schema(table).empty_table()
