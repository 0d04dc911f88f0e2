"""Traces and veristat's output as data that workloads name, on files of real systems."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from execbench.cli import main
from execbench.errors import InputError
from execbench.importers.ftrace import SOURCES, arrivals_of, counted, takers
from execbench.importers.veristat import instructions, programs_of

DATA = Path(__file__).parent / "data"


def test_a_function_trace_of_known_operations() -> None:
    rows = arrivals_of(DATA / "function-6.18.txt")
    found = counted(rows)
    once = [("bpf", "load"), ("bpf", "unload"), ("kprobes", "attach"), ("kprobes", "detach"),
            ("module", "load"), ("module", "unload"), ("static-keys", "flip")]  # fmt: skip
    assert all(found[operation] == 1 for operation in once), found
    times = [int(row["at_ns"]) for row in rows]
    assert times == sorted(times)
    assert times[0] >= 0


def test_an_event_trace_names_the_callers_of_rounds() -> None:
    rows = arrivals_of(DATA / "events-6.12.txt")
    assert counted(rows) == {("ipi", "round"): sum("ipi_send_cpumask" in line for line in _lines("events-6.12.txt"))}
    assert {row["name"] for row in rows} == {"on_each_cpu_cond_mask"}


def test_the_key_is_printed_for_each_client_that_takes_rows_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = {}
    for name in ("events-6.12.txt", "function-6.18.txt"):
        assert main(["import", "ftrace", str(DATA / name)]) == 0
        said[name] = capsys.readouterr().out
    rounds = said["events-6.12.txt"]
    assert "use it" not in rounds
    assert "no client takes its arrivals from ipi round: there to compare with" in rounds
    keys = [line.partition("-s ")[2] for line in said["function-6.18.txt"].splitlines() if line.startswith("use it")]
    taking = ("bpf", "kprobes", "module", "static-keys")
    assert keys == [f"client.{client}.trace=arrivals.csv" for client in taking]


def test_every_kind_that_begins_an_operation_of_a_client_has_the_name_that_the_client_gives_it() -> None:
    rows = [{"client": source.client, "kind": source.kind} for source in SOURCES]
    assert takers(rows) == {"bpf": ["load"], "ftrace": ["enable"], "kprobes": ["attach"], "module": ["load"],
                            "static-keys": ["flip"]}  # fmt: skip


def _lines(name: str) -> list[str]:
    return (DATA / name).read_text().splitlines()


def test_a_tracepoint_counts_before_the_function_that_it_stands_in(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    head = "  modprobe-7 [001] "
    file.write_text(
        f"# tracer: nop\n{head}.....   10.000001: load_module <-init_module_from_file\n"
        f"{head}   10.000500: module_load: ext4\nwhatever\n"
        f"{head}d..1 11.5: module_free: ext4\n"
    )  # fmt: skip
    rows = arrivals_of(file)
    assert [(row["at_ns"], row["client"], row["kind"], row["name"]) for row in rows] == [
        ("499000", "module", "load", "ext4"),
    ], "the last line's clock has one digit: no kernel writes that"


def test_traces_that_show_nothing_are_refused(tmp_path: Path) -> None:
    for text, said in {"": "no line is an event", " a-1 [000] 1.000000: tlb_flush: pages:-1\n": "no operation"}.items():
        (tmp_path / "t").write_text(text)
        with pytest.raises(InputError, match=said):
            arrivals_of(tmp_path / "t")


def test_veristat_output_becomes_programs() -> None:
    rows, derived = programs_of(DATA / "veristat-6.12.csv")
    with (DATA / "veristat-6.12.csv").open(newline="") as file:
        accepted = [row for row in csv.DictReader(file) if row["verdict"] == "success"]
    assert [(row["prog"], row["processed"]) for row in rows] == [
        (row["prog_name"], row["total_insns"]) for row in accepted
    ]
    assert derived == ("insns", "jited")
    assert all(int(row["insns"]) <= int(row["processed"]) for row in rows)


def test_veristat_columns_of_newer_releases_are_taken(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text(
        "file_name,prog_name,verdict,total_insns,total_states,prog_size,prog_size_jited\na.o,p,success,90,3,40,200\n"
    )
    (row,), derived = programs_of(tmp_path / "v.csv")
    assert derived == ()
    assert (row["insns"], row["xlated"], row["jited"], row["func_lens"]) == ("40", "40", "200", "200")


def test_derived_instructions_are_the_fit_turned_round() -> None:
    for insns in (100, 1_000, 10_000):
        assert instructions(int(0.183 * insns**1.408)) == pytest.approx(insns, rel=0.02)
    assert [instructions(n) for n in (1, 2, 10)] == [1, 2, 10]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "columns for object, prog"),
        ("file_name,prog_name,verdict,total_insns,total_states\nf,p,failure,0,0\n", "none of its 1 programs"),
        ("file_name,prog_name,verdict,total_insns,total_states\nf,p,success,7,many\n", "total_states = 'many'"),
    ],
)
def test_what_is_not_veristats_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        programs_of(tmp_path / "v.csv")


def test_imported_programs_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", "veristat", str(DATA / "veristat-6.12.csv")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "bpf.csv"
    short = ["-d", "40ms", "--warmup", "10ms", "-r", "1", "-j", "1", "-b", "bpf_prog_pack", "--cpus", "4"]
    assert main(["run", "-w", "bpf", "-s", "client.bpf.data=bpf.csv", "-s", "client.bpf.loaded=4", *short]) == 0


def test_an_imported_trace_drives_a_workload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import execbench

    monkeypatch.chdir(tmp_path)
    lines = "".join(f" agent-9 [001] .....  5.{at:06d}: bpf_prog_load <-__sys_bpf\n" for at in range(0, 100_000, 9_000))
    (tmp_path / "trace.txt").write_text(lines)
    assert main(["import", "ftrace", "trace.txt", "-o", "loads.csv"]) == 0
    done = execbench.run(
        "bpf", backends="bpf_prog_pack", cpus=4, duration="4s", warmup="0s", replications=1,
        set={"client.bpf.trace": "loads.csv", "client.bpf.loaded": 4},
    )  # fmt: skip
    metrics = done.metrics
    loads = metrics[(metrics.metric == "throughput") & (metrics.kind == "load")]
    assert list(loads["n"]) == [12]
