from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from execbench.errors import InputError, MachineError
from execbench.registry.files import data_path, sha256_of
from execbench.store import manifest
from execbench.study import resolve
from execbench.study.expand import Asked, expand
from execbench.study.load import Layer, Layers, TomlFile, find, leaves, line_of, names, read
from execbench.study.work import described

TEXT = """\
# a comment = 1
[topology]
cpus = 4  # of them
nodes = 1

[costs]
ipi_send = { value = "1us" }
[costs.client.bpf]
verify_insn = { value = "174ns" }
[[axes]]
"machine.topology.cpus" = [2]
[background.states.irqs-off]
fraction = 0.1
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [("topology.cpus", 3), ("topology", 2), ("costs.ipi_send", 7), ("costs.ipi_send.value", 7),
     ("costs.client.bpf.verify_insn.range[0]", 9), ("axes.machine.topology.cpus", 11),
     ("background.states.irqs-off.fraction", 13), ("topology.memory", 2), ("nothing", None)],
)  # fmt: skip
def test_the_line_of_a_key_is_that_of_the_key_or_its_nearest_parent(key: str, line: int | None) -> None:
    assert line_of(TEXT, key) == line


def test_a_name_is_a_path_first_then_a_file_here_then_a_shipped_one(here: Path) -> None:
    assert find("workload", "bpf").parent != here / "workloads"
    (here / "workloads" / "bpf.toml").write_text("")
    assert find("workload", "bpf") == here / "workloads" / "bpf.toml"
    (here / "other.toml").write_text("")
    assert find("workload", "other.toml") == here / "other.toml"
    assert find("workload", "./other") == here / "other.toml"
    assert find("machine", "small") == here / "configs" / "machines" / "small.toml"


def test_shipped_files_are_found_from_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "bpf" in names("workload")
    assert {"host-2cpu", "server-64", "server-256"} <= set(names("machine"))
    assert "ipi/cpus" in names("study")
    assert find("study", "ipi/cpus").is_file()
    assert data_path("bpf_loaded.csv").is_file()
    assert data_path("data/bpf_loaded.csv") == data_path("bpf_loaded.csv")


def test_an_unknown_name_gets_a_did_you_mean(here: Path) -> None:
    with pytest.raises(InputError, match=r"--workload: got tinny; .*bpf, .*tiny, user-jit; did you mean 'tiny'\?"):
        find("workload", "tinny", "--workload")
    with pytest.raises(InputError, match="did you mean 'bpf_loaded.csv'"):
        data_path("bpf_loadd.csv")


def test_data_beside_the_workload_file_come_first(here: Path) -> None:
    (here / "elsewhere" / "data").mkdir(parents=True)
    own = here / "elsewhere" / "data" / "bpf_loaded.csv"
    own.write_text("a\n1\n")
    assert data_path("bpf_loaded.csv", here / "elsewhere") == own
    assert data_path("bpf_loaded.csv") != own
    assert sha256_of(own) == hashlib.sha256(b"a\n1\n").hexdigest()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a = [1\n", "not TOML"), (b"\xff\xfe", "not UTF-8"), (b"a = 1\na = 2\n", "not TOML")],
)
def test_a_file_that_is_no_toml_is_named(here: Path, content: bytes, said: str) -> None:
    (here / "bad.toml").write_bytes(content)
    with pytest.raises(InputError, match=f"bad.toml: got .*{said}"):
        read("workload", "bad.toml")


def test_leaves_are_the_values_of_nested_tables() -> None:
    assert dict(leaves({"a": {"b": {"c": 1}}, "d": [2], "e": {}})) == {"a.b.c": 1, "d": [2], "e": {}}


def test_the_strongest_source_that_set_a_key_is_named(here: Path) -> None:
    table = {"topology": {"cpus": 4, "nodes": 1}, "costs": {"ipi_send": {"value": "1us"}}}
    file = TomlFile("m", here / "m.toml", TEXT, table)
    option = Layer.of_options([("machine.topology.cpus", "--cpus")])
    layers = Layers([Layer.of_file(file, table, root="machine"), option])
    assert layers.where("machine.topology.cpus") == "--cpus"
    assert layers.where("machine.topology.nodes") == "m.toml:4: topology.nodes"
    assert layers.where("machine.costs.ipi_send.range[0]") == "m.toml:7: costs.ipi_send.range[0]"
    assert layers.where("machine.costs") == "m.toml:6: costs"
    assert layers.where("machine.topology.memory") == "m.toml:2: topology.memory"
    assert layers.where("run.seed") == "run.seed"
    with pytest.raises(MachineError) as caught, layers.located():
        raise MachineError("machine.topology.nodes", 9, "1 to 4", "correct it")
    assert str(caught.value) == "m.toml:4: topology.nodes: got 9; allowed: 1 to 4; correct it"


def _asking(here: Path, asks: str) -> None:
    file = here / "workloads" / "tiny.toml"
    text = file.read_text()
    file.write_text(text.replace("[workload]\n", f"[workload]\nasks = {asks}\n"))


@pytest.mark.parametrize(
    ("asks", "expected"),
    [('"bpf  load"', ("bpf load",)), ('["bpf load", "bpf"]', ("bpf load", "bpf")), ("[]", ())],
)
def test_what_a_workload_asks_about_is_carried_beside_the_cells(
    here: Path, asks: str, expected: tuple[str, ...]
) -> None:
    """Its cells are those of the same file without: nothing else is simulated, and finished parts stay good."""
    plain = expand(Asked.of(workload="tiny"))
    _asking(here, asks)
    study = expand(Asked.of(workload="tiny"))
    assert study.asks == expected
    assert [cell.id for cell in study.cells] == [cell.id for cell in plain.cells]
    manifest.write(here / "results", described(study))
    held = manifest.read(here / "results")
    assert held.asks == expected
    assert held.to_json()["asks"] == list(expected)


@pytest.mark.parametrize(
    ("asks", "said"),
    [('"bfp load"', r'tiny.toml:2: workload.asks: got "bfp load"; allowed: "CLIENT KIND" or "CLIENT" of bpf, such as '
                    r'"bpf load"; did you mean .bpf'),
     ('["bpf", "bpf load and free"]', 'got "bpf load and free"'), ('""', 'got ""'), ("3", "workload.asks: got 3")],
)  # fmt: skip
def test_another_client_cannot_be_asked_about(here: Path, asks: str, said: str) -> None:
    _asking(here, asks)
    with pytest.raises(InputError, match=said):
        expand(Asked.of(workload="tiny"))


def test_every_shipped_workload_asks_about_clients_that_it_has() -> None:
    for name in names("workload"):
        head = read("workload", name).table
        resolve.asks(head["workload"].get("asks", ()), head["client"])
