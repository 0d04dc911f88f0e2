"""The client of static keys: real numbers of branches, storms, the rounds they take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from execbench import api
from execbench.clients.static_keys import StaticKeys, keys_of

ROWS = [
    {"key": "a", "arch": "x86_64", "release": "6.1", "sites": "64"},
    {"key": "a", "arch": "x86_64", "release": "6.12", "sites": "68"},
    {"key": "b", "arch": "x86_64", "release": "6.12", "sites": "1"},
    {"key": "a", "arch": "arm64", "release": "6.1", "sites": "63"},
]


@pytest.fixture(autouse=True, scope="module")
def somewhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Results go, and are looked for, in a directory of these tests."""
    with contextlib.chdir(tmp_path_factory.mktemp("results")):
        yield


@pytest.mark.parametrize(
    ("arch", "release", "sites"),
    [
        ("x86_64", "6.1", [64]),
        ("x86_64", "6.12", [68, 1]),
        ("x86_64", "7.3", [68, 1]),
        ("arm64", "7.3", [63]),
        ("riscv64", "6.1", [64]),
    ],
)
def test_keys_are_those_of_the_architecture_and_release_else_the_nearest_known(
    arch: str, release: str, sites: list[int]
) -> None:
    assert keys_of(ROWS, arch, release) == sites


@pytest.mark.parametrize(("sites", "storm", "rounds"), [(64, 1, 3), (64, 4, 12), (300, 1, 6), (0, 5, 0)])
def test_a_storm_takes_three_rounds_per_key_and_256_branches(sites: int, storm: int, rounds: int) -> None:
    results = api.run("static-keys", backends=["bpf_prog_pack"], duration="300ms", warmup="0s", replications=1, set=[
        f"client.static-keys.sites={sites}", f"client.static-keys.storm={storm}"])  # fmt: skip
    counters, totals = results.table("counters"), results.table("totals")
    flips = totals[totals["kind"] == "flip"]["operations"].sum()
    mine = counters[counters["kind"] == "flip"].set_index("primitive")["count"]
    assert flips >= 5
    assert mine.get("round", 0) == rounds * flips
    assert mine.get("text_poke", 0) == 3 * sites * storm * flips


def test_loads_wait_behind_a_storm() -> None:
    """Somebody holds text_mutex for three rounds and a hundred pokes at a time: more loads and frees find it held."""
    contended, held = {}, {}
    for think in ("2ms", "100s"):
        results = api.run("static-keys", backends=["bpf_prog_pack"], duration="3s", warmup="0s", replications=1,
                          set=[f"client.static-keys.think={think}", "client.static-keys.storm=8"])  # fmt: skip
        text = results.table("locks").set_index("lock").loc["text_mutex"]
        contended[think], held[think] = text["contended"], text["hold_ns"]
    assert contended["2ms"] > 3 * contended["100s"]
    assert held["2ms"] > 10 * held["100s"]


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"storm": 0}, {"sites": -1}, {"rate": 0.0}])
def test_what_cannot_run_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StaticKeys(**wrong)  # type: ignore[arg-type]
