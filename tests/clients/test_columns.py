"""Data files of one's own: what a client cannot read in them is refused before a run, with file, line and column."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from execbench.api import run
from execbench.cli import main
from execbench.errors import InputError
from execbench.registry.files import data_path, rows_of
from execbench.registry.params import fields_of
from execbench.registry.plugins import registered
from execbench.study.expand import Asked, expand

BPF = "insns,processed,total_states,xlated,func_lens\n"
TRACE = "at_ns,client,kind\n"
MODULES = "name,exec_core,depends\n"
SHORT = {"duration": "60ms", "warmup": "10ms", "replications": 1, "cpus": 4, "backends": "bpf_prog_pack"}

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """What is said of a workload whose client is given a file with this content."""
    monkeypatch.chdir(tmp_path)

    def said(key: str, content: str | bytes, file: str = "mine.csv", **settings: object) -> str:
        Path(file).write_bytes(content.encode() if isinstance(content, str) else content)
        workload = {"module": "module-boot", "static-keys": "static-keys"}.get(key.partition(".")[0], "bpf")
        workload = key.partition(".")[0] if key.startswith(("seccomp", "bcachefs")) else workload
        with pytest.raises(InputError) as caught:
            expand(Asked.of(workload=workload, set={f"client.{key}": file, **settings}))
        assert caught.value.where == f"--set client.{key}" and file in caught.value.given
        assert caught.value.allowed and caught.value.remedy
        return str(caught.value)

    return said


@pytest.mark.parametrize(
    ("key", "content", "words"),
    [
        ("bpf.data", "", "which is empty"),
        ("bpf.data", BPF, "no row below its header"),
        ("bpf.data", "insns,processed\n1,2\n", "columns for total_states, xlated, func_lens too"),
        ("bpf.data", BPF + "9,9,1,9,40\n-9,9,1,9,40\n", "mine.csv, line 3: insns = '-9'; allowed: a whole number"),
        ("bpf.data", BPF + "9,9,1.5,9,40\n", "line 2: total_states = '1.5'"),
        ("bpf.data", BPF + "9,9,nan,9,40\n", "line 2: total_states = 'nan'"),
        ("bpf.data", BPF + "9,9,,9,40\n", "line 2: total_states = ''"),
        ("bpf.data", BPF + "9,99999999999,1,9,40\n", "to 4294967295"),
        ("bpf.data", BPF + "9,9,1,9,40 -4\n", "line 2: func_lens = '40 -4'; allowed: whole numbers from 1"),
        ("bpf.data", BPF + "9,9,1,9,\n", "line 2: func_lens = ''"),
        ("bpf.data", BPF + "9,9,1,9,40\n\n9,9,1\n", "line 4: 3 fields; allowed: 5"),
        ("bpf.data", b"\xff\xfe\x00", "which cannot be read"),
        ("bpf.trace", TRACE + "5,bpf,load\n-7,bpf,load\n", "line 3: at_ns = '-7'"),
        ("bpf.trace", TRACE + "5,bpf,load\n7,,load\n", "line 3: client = ''; allowed: text"),
        ("bpf.trace", TRACE + "5,bpf,load\n4,module,load\n", "line 3: at_ns = '4' below 5; allowed: in ascending"),
        ("bpf.trace", "at_ns,kind\n5,load\n", "columns for client too"),
        ("static-keys.data", "key,arch,release,sites\na,x86_64,6.x,1\n", "release = '6.x'"),
        ("static-keys.data", "key,arch,release,sites\na,x86_64,6.1,-1\n", "sites = '-1'"),
        ("seccomp.data", "set,insns,converted,emulated,jited\na,1,1,1,0\n", "jited = '0'"),
        ("bcachefs.data", "btree_kind,code_bytes\nextents,0\n", "code_bytes = '0'"),
        ("module.data", MODULES + "a,-4,\n", "line 2: exec_core = '-4'"),
        ("module.data", "name,exec_core,depends,rw_core\na,4,,x\n", "line 2: rw_core = 'x'"),
        ("module.data", "name,exec_core\na,4\n", "columns for depends too"),
        ("module.data", MODULES + "a,4,\na,5,\n", "line 3: name = 'a', as in line 2"),
        ("module.data", MODULES + "b,4,\na,4,b c d\n", "line 3: depends names c, d, without a row of its own"),
        ("module.boot_sets", "kernel,set,order,phase,module,reason\nk,s,first,p,m,root\n", "order = 'first'"),
    ],
)  # fmt: skip
def test_what_a_client_cannot_read_is_refused_with_file_line_and_column(
    key: str, content: str | bytes, words: str, refused: Refused
) -> None:
    assert words in refused(key, content)


def test_packed_files_that_are_cut_off_or_none_at_all(refused: Refused) -> None:
    packed = gzip.compress((BPF + "9,9,1,9,40\n" * 99).encode())
    assert "cannot be read" in refused("bpf.data", packed[:-12], "mine.csv.gz")
    assert "cannot be read" in refused("bpf.data", BPF, "mine.csv.gz")


def test_every_file_that_a_client_reads_has_columns_and_each_of_them_has_a_shipped_file() -> None:
    data = [(cls, field) for cls in registered("clients").values() for field in fields_of(cls).values()
            if field.metadata.get("kind") == "data"]  # fmt: skip
    assert len(data) > 10
    for cls, field in data:
        assert field.metadata["columns"], (cls, field.name)


def test_no_module_of_the_shipped_files_misses_one_that_it_depends_on() -> None:
    for name in ("6.1.0-56-amd64", "6.1.0-56-arm64", "6.12.117+deb12-amd64", "6.12.117+deb12-arm64"):
        rows = rows_of(data_path(f"modules_{name}.csv.gz"))
        known = {row["name"] for row in rows}
        assert not {below for row in rows for below in row["depends"].split()} - known


def test_lines_of_a_trace_behind_the_window_are_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    times = [5_000_000 * i for i in range(1, 20)]  # 11 before 60 ms, one at it, 7 behind
    Path("t.csv").write_text(TRACE + "".join(f"{at},bpf,load\n" for at in times) + "100000000,module,load\n")
    done = run("bpf", set={"client.bpf.trace": "t.csv", "client.bpf.loaded": 4}, **SHORT)  # type: ignore[arg-type]
    left = done.metrics[done.metrics.metric == "undone"]
    assert list(zip(left.client, left.value, strict=True)) == [("bpf", 8.0)]
    assert main(["report", str(done.dir)]) == 0
    assert "cut off by the end of the window, at most still to do: 8 with bpf_prog_pack" in capsys.readouterr().out


def test_a_trace_that_ends_inside_the_window_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(TRACE + "5000000,bpf,load\n59999999,bpf,load\n")
    done = run("bpf", set={"client.bpf.trace": "t.csv", "client.bpf.loaded": 4}, **SHORT)  # type: ignore[arg-type]
    assert not len(done.metrics[done.metrics.metric == "undone"])


@pytest.mark.parametrize(
    "other", [{"boot_set": "server"}, {"boot_sets": "boot.csv"}, {"amd64_6_12": "mine.csv"}, {"arm64_6_1": "mine.csv"}]
)
def test_modules_of_ones_own_leave_no_choice_to_a_set(
    other: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text(MODULES + "a,4096,\n")
    Path("boot.csv").write_text("kernel,set,order,phase,module,reason\nk,s,1,p,a,root\n")
    (name,) = other
    chosen = {f"client.module.{key}": value for key, value in {"data": "mine.csv", **other}.items()}
    with pytest.raises(InputError, match=f"client.module.{name}.* beside data, for no set chooses"):
        expand(Asked.of(workload="module-boot", set=chosen))
    expand(Asked.of(workload="module-boot", set={"client.module.data": "mine.csv"}))


def test_a_boot_set_of_ones_own_names_modules_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kernel = "6.12.117+deb12-amd64"
    head = "kernel,set,order,phase,module,reason\n"
    Path("boot.csv").write_text(f"{head}{kernel},mine,1,p,xfs,root\n{kernel},mine,2,p,nosuch,root\n")
    mine = {"client.module.boot_sets": "boot.csv", "client.module.boot_set": "mine"}
    with pytest.raises(
        InputError, match=r"client\.module\.boot_set: got mine, which asks for nosuch; allowed: .*6\.12"
    ):
        run("module-boot", set=mine, replications=1, backends="execmem")
