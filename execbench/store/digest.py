"""Level 1 of determinism: one hash of what a replication recorded in integers and names, the same on every machine.

Floats (derived figures) and counts of engine events stay out: the first may differ in their last bit, the second
depend on how costs were merged. Tables recorded only on request stay out too, so that listening changes no digest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

__all__ = ["DIGESTED", "digest_of", "table_digest"]

DIGESTED: Final = ("totals", "histograms", "counters", "locks", "cpus", "disturbance", "memory", "extremes", "peaks")
"""The tables of integers and names, in the order in which they enter the digest."""

Columns = Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]


def digest_of(outcome: str, operations: int, tables: Mapping[str, Columns]) -> str:
    """Return the digest of a replication: 32 hex digits over its outcome, operations and every digested table.

    BLAKE2b over table names, column names and values (little-endian int64, or UTF-8 with its length in front).
    """
    whole = hashlib.blake2b(digest_size=16)
    _text(whole, outcome)
    whole.update(struct.pack("<q", operations))
    for name in DIGESTED:
        _text(whole, name)
        whole.update(bytes.fromhex(table_digest(tables.get(name, {}))))
    return whole.hexdigest()


def table_digest(columns: Columns) -> str:
    """Return the digest of one table; an empty one is the same as one that is missing. TypeError if it holds floats."""
    one = hashlib.blake2b(digest_size=16)
    for name in sorted(columns):
        values = columns[name]
        if len(values) == 0:
            continue
        _text(one, name)
        one.update(struct.pack("<q", len(values)))
        if isinstance(values[0], str):
            for value in values:
                _text(one, value)
        else:
            numbers = np.asarray(values)
            if numbers.dtype.kind not in "iub":
                raise TypeError(f"column {name!r} of a digested table holds {numbers.dtype}, not integers")
            one.update(numbers.astype("<i8").tobytes())
    return one.hexdigest()


def _text(hash_: Any, text: str) -> None:
    data = text.encode()
    hash_.update(struct.pack("<q", len(data)) + data)
