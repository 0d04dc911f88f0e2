from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import pytest

from execbench.errors import InputError
from execbench.registry.params import constructed, given_fields, resolved
from execbench.sim.dists import Dist, Erlang, Exponential, Mixture


class Sync(StrEnum):
    NONE = "none"
    MERGED = "merged-flush"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    data: str = "x.csv"
    sync: Sync = Sync.NONE
    mode: Literal["fast", "slow"] = "fast"
    chunk: int = 64
    window: int = field(default=4096, metadata={"unit": "size"})
    wait: int | None = field(default=None, metadata={"unit": "time"})
    rate: float | None = field(default=None, metadata={"unit": "rate"})
    share: float = 0.5
    strict: bool = False
    think: Dist = field(default=Exponential(3e6), metadata={"unit": "time"})

    def __post_init__(self) -> None:
        if self.chunk % 8:
            raise ValueError("chunk: a multiple of 8")
        if self.share > 1:
            raise ValueError("too much in all")


def test_everything_is_resolved_to_plain_data_with_defaults() -> None:
    assert resolved(Parameters, {"window": "2MiB", "wait": "3us", "rate": "2/ms", "sync": "merged_flush"}, "b.x") == {
        "data": "x.csv", "sync": "merged-flush", "mode": "fast", "chunk": 64, "window": 2 << 20, "wait": 3000,
        "rate": 2000.0, "share": 0.5, "strict": False, "think": {"dist": "exponential", "mean": 3_000_000},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "plain"),
    [("chunk", "4KiB", 4096), ("chunk", "1us", 1000), ("wait", "none", None), ("wait", None, None),
     ("think", "1ms", 1_000_000), ("share", 1, 1), ("strict", True, True)],
)  # fmt: skip
def test_units_and_nothing_are_read(key: str, value: Any, plain: Any) -> None:
    assert given_fields(Parameters, {key: value}, "b.x") == {key: plain}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("chunks", 1, "b.x.chunks: got the unknown parameter .*; .*did you mean 'chunk'"),
     ("sync", "mergd-flush", r"b.x.sync: got 'mergd-flush'; allowed: none, merged-flush; did you mean 'merged-flush'"),
     ("mode", "fas", "allowed: fast, slow; did you mean 'fast'"), ("strict", 1, "allowed: true or false"),
     ("chunk", True, "allowed: a whole number"), ("chunk", 1.5, "allowed: a whole number"),
     ("chunk", "many", 'a size such as "2MiB"'), ("window", "2us", "a size such as"), ("wait", "2MiB", "a time such"),
     ("rate", "2", "a rate such as"), ("share", "half", "allowed: a number"),
     ("think", {"dist": "gamma"}, "b.x.think.dist: got 'gamma'"), ("data", 3, "allowed: text")],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_what_is_allowed(key: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        given_fields(Parameters, {key: value}, "b.x")


def test_a_required_parameter_is_named() -> None:
    @dataclass(frozen=True)
    class Required:
        data: str

    with pytest.raises(InputError, match=r"client\.x: got no data; allowed: the keys data; add data"):
        resolved(Required, {}, "client.x")


def test_the_checks_of_the_class_itself_speak() -> None:
    with pytest.raises(InputError, match="b.x.chunk: got 12; allowed: a multiple of 8"):
        constructed(Parameters, {"chunk": 12}, "b.x")
    with pytest.raises(InputError, match="b.x: got .*; allowed: too much in all"):
        constructed(Parameters, {"share": 2}, "b.x")
    assert constructed(Parameters, resolved(Parameters, {}, "b.x"), "b.x") == Parameters()


@pytest.mark.parametrize("dist", [Exponential(5e3), Erlang(3, 7e6), Mixture((0.25, 0.75), (1e3, 2e3))])
def test_a_default_distribution_comes_back_as_it_was(dist: Dist) -> None:
    @dataclass(frozen=True)
    class Waits:
        think: Dist = field(default=dist, metadata={"unit": "time"})

    assert constructed(Waits, resolved(Waits, {}, "x"), "x") == Waits()
