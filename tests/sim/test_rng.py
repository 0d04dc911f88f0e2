"""Streams: the defined sequence whatever the way of reading it, independence of names, counting."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from execbench.sim import portable
from execbench.sim.rng import Stream, Streams, unit_interval


def reference(seed: int, replication: int, name: str, n: int) -> list[float]:
    """The first n uniforms from the definition, word by word in integers."""
    key = hashlib.blake2b(f"{seed}/{replication}/{name}".encode(), digest_size=16).digest()
    words = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")]
    raw = np.random.Philox(key=np.array(words, dtype=np.uint64)).random_raw(n).tolist()
    return [((word >> 11) + 0.5) * 2.0**-53 for word in raw]


def stream(name: str = "arrivals") -> Stream:
    return Streams(7, 3).stream(name)


def test_the_words_are_those_of_the_published_philox4x64() -> None:
    # Random123's known answer for counter 0, key 0; numpy steps the counter before it is used.
    philox = np.random.Philox(key=np.zeros(2, np.uint64), counter=np.full(4, 2**64 - 1, np.uint64))
    assert [hex(word) for word in philox.random_raw(4).tolist()] == [
        "0x16554d9eca36314c", "0xdb20fe9d672d0fdc", "0xd7e772cee186176b", "0x7e68b68aec7ba23b"]  # fmt: skip


def test_the_bits_of_a_stream_are_those_committed() -> None:
    u = Streams(1, 0).stream("client.bpf").us(1000)
    assert u[0] == 0.8510687571128097
    assert hashlib.blake2b(np.array(u, "<f8").tobytes(), digest_size=8).hexdigest() == "e31762e71922128a"


def test_reading_in_order_gives_the_definition_across_block_borders() -> None:
    expected = reference(7, 3, "arrivals", 20_000)
    one = stream()
    assert [one.u() for _ in range(20_000)] == expected
    mixed = stream()
    parts = [mixed.us(1), mixed.us(0), mixed.us(9_000), [mixed.u()], mixed.us(9_998), mixed.us(1_000)]
    assert [u for part in parts for u in part] == expected


def test_uniforms_are_strictly_inside_the_unit_interval() -> None:
    ends = unit_interval(np.array([0, 2**64 - 1], dtype=np.uint64)).tolist()
    assert ends == [2.0**-54, 1.0 - 2.0**-53]  # the plain formula rounds the last one to 1.0
    assert math.isfinite(portable.ndtri(ends[1]))


def test_transformed_draws_take_one_uniform_each_and_have_the_scalar_bits() -> None:
    s = stream()
    expected = reference(7, 3, "arrivals", 15_000)
    for i in range(0, 15_000, 5):
        a, b, c, d, e = expected[i : i + 5]
        assert s.u() == a
        assert s.e() == -portable.log(b)
        assert s.lognormal(0.5) == portable.exp(0.5 * portable.ndtri(c))
        assert s.lognormal(1.5) == portable.exp(1.5 * portable.ndtri(d))
        assert s.e() == -portable.log(e)
    assert s.draws == 15_000


def test_rows_are_the_same_in_any_order() -> None:
    width = 7
    flat = reference(7, 3, "arrivals", 3_000 * width)
    rows = [flat[i * width : (i + 1) * width] for i in range(3_000)]
    s = stream()
    assert [s.row(i, width) for i in range(3_000)] == rows
    for i in [2_999, 0, 585, 584, 586, 1_170, 0, 2_999, 585, 1_755, 2_340, 585]:  # 585 * 7 = 4095: across a border
        assert s.row(i, width) == rows[i]
    assert s.draws == 3_012 * width


def test_rows_may_be_wider_than_a_block() -> None:
    flat = reference(7, 3, "arrivals", 30_000)
    s = stream()
    assert s.row(1, 10_000) == flat[10_000:20_000]
    assert s.row(0, 10_000) == flat[:10_000]
    assert s.row(2, 10_000) == flat[20_000:]


def test_a_caller_cannot_change_what_others_read() -> None:
    s = stream()
    s.row(0, 3)[0] = 9.0
    assert s.row(0, 3)[0] != 9.0


def test_a_stream_is_read_in_order_or_by_rows_of_one_width() -> None:
    ordered = stream()
    ordered.u()
    with pytest.raises(ValueError, match="'arrivals' is read in order"):
        ordered.row(0, 3)
    rows = stream()
    rows.row(0, 3)
    for read in (rows.u, rows.e, lambda: rows.lognormal(1.0), lambda: rows.us(1)):
        with pytest.raises(ValueError, match="read by row number"):
            read()
    with pytest.raises(ValueError, match="read by rows of 3"):
        rows.row(1, 4)
    with pytest.raises(ValueError, match="row -1"):
        rows.row(-1, 3)
    with pytest.raises(ValueError, match="rows of 0"):
        stream().row(0, 0)
    assert rows.draws == 6 - 3  # refused reads count nothing


def test_names_seeds_and_replications_give_different_streams_and_the_same_name_the_same() -> None:
    streams = Streams(7, 3)
    assert streams.stream("a") is streams.stream("a")
    firsts = {Streams(seed, r).stream(name).u() for seed in (7, 8) for r in (3, 4) for name in ("a", "b")}
    assert len(firsts) == 8


def test_a_new_stream_shifts_nobody() -> None:
    alone = Streams(7, 3)
    expected = alone.stream("a").us(5_000)
    together = Streams(7, 3)
    got = []
    for i in range(5_000):
        got.append(together.stream("a").u())
        together.stream("b").e()
        together.stream("c").row(i, 2)
    assert got == expected
    assert together.draws == 5_000 * 4
    assert alone.draws == 5_000
