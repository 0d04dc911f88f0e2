from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from execbench.errors import ExecbenchError, InputError, MachineError, PluginError
from execbench.registry.plugins import sha8
from execbench.simulate import World, simulate
from execbench.store.digest import digest_of
from execbench.study.expand import Asked, Study, expand
from execbench.study.spec import cell_id


def tiny(**options: Any) -> Study:
    return expand(Asked.of(workload="tiny", **options))


def spec_of(**options: Any) -> dict[str, Any]:
    return tiny(backends="module_alloc", **options).cells[0].spec


def test_a_run_is_one_cell_for_each_arm(here: Path) -> None:
    study = tiny()
    assert [cell.arm for cell in study.cells] == ["module_alloc", "bpf_prog_pack"]
    assert (study.name, study.kind, study.replications, study.question) == ("tiny", "run", 3, "Does it work?")
    assert [cell.status for cell in study.cells] == ["retired", "shipped"]
    assert all(cell.id == cell_id(cell.spec) for cell in study.cells)


def test_a_spec_is_plain_data_without_units(here: Path) -> None:
    spec = spec_of()
    assert spec["run"] == {"duration": 20_000_000, "warmup": 2_000_000, "drain": 10_000_000, "seed": 1,
                           "cpu_model": "lazy", "merge": True, "record": []}  # fmt: skip
    assert spec["machine"]["topology"] == {"cpus": 4, "nodes": 1, "isolated": 0}
    assert spec["machine"]["name"] == "small"
    assert spec["machine"]["background"]["states"]["user"]["mean"] == 200_000
    assert spec["workload"]["clients"]["bpf"]["think"] == {"dist": "exponential", "mean": 3_000_000}
    assert spec["workload"]["data"]["bpf.data"]["rows"] == 834
    assert spec["kernel"] == {"release": "6.18"}
    assert spec["backend"] == {"name": "module_alloc", "params": {"order": "strict"}, "plugin": None}
    assert spec["machine"]["costs"]["ipi_send"]["ps"] > 0


def test_options_win_over_the_file(here: Path) -> None:
    study = tiny(machine="host-2cpu", kernel="6.12", duration="40ms", warmup=5, replications=2, seed=9,
                 record=["operations"], set=["client.bpf.threads=1", "machine.kernel.hz=1000"])  # fmt: skip
    spec = study.cells[0].spec
    assert (study.replications, spec["machine"]["name"], spec["kernel"]["release"]) == (2, "host-2cpu", "6.12")
    assert (spec["run"]["duration"], spec["run"]["warmup"], spec["run"]["seed"]) == (40_000_000, 5, 9)
    assert spec["run"]["record"] == ["operations"]
    assert (spec["workload"]["clients"]["bpf"]["threads"], spec["machine"]["kernel"]["hz"]) == (1, 1000)
    assert spec_of(cpus=8)["machine"]["topology"]["cpus"] == 8
    assert spec_of(set={"machine.topology.cpus": 8}) == spec_of(cpus=8)


def test_the_number_of_replications_is_no_part_of_a_cell(here: Path) -> None:
    assert tiny(replications=2).sha8 == tiny(replications=20).sha8
    assert tiny(seed=2).sha8 != tiny(seed=3).sha8


def test_one_of_two_equal_arms_is_kept(here: Path) -> None:
    study = tiny(backends=["bpf_prog_pack", "bpf-prog-pack", "bpf_prog_pack[chunk=0]", "bpf_prog_pack[chunk=128B]"])
    assert [cell.arm for cell in study.cells] == ["bpf_prog_pack", "bpf_prog_pack[chunk=128]"]


def test_backend_settings_hold_for_every_arm_that_does_not_say_otherwise(here: Path) -> None:
    study = tiny(backends="bpf_prog_pack,bpf_prog_pack[chunk=256]", set=["backend.bpf-prog-pack.chunk=128"])
    assert [cell.spec["backend"]["params"] for cell in study.cells] == [{"chunk": 128}, {"chunk": 256}]


def test_a_plug_in_travels_as_text(here: Path) -> None:
    study = tiny(backends="./mine.py[slack=3],mine.py:MyAlloc")
    source = (here / "mine.py").read_text()
    assert study.plugins == {sha8(source): source}
    assert [cell.arm for cell in study.cells] == ["mine[slack=3]", "my-alloc"]
    assert study.cells[0].spec["backend"]["params"] == {"slack": 3, "order": "strict"}
    assert study.cells[0].spec["backend"]["plugin"] == sha8(source)


def test_costs_of_clients_that_take_no_part_stay_out(here: Path) -> None:
    assert {name.split(".")[1] for name in spec_of()["machine"]["costs"] if name.startswith("client.")} == {"bpf"}


def test_a_named_scenario_replaces_the_fractions(here: Path) -> None:
    states = spec_of(machine="host-2cpu", set=["machine.background.use=spinning"])["machine"]["background"]["states"]
    assert states["user"]["fraction"] == 0.989


STUDY = """\
[study]
workload = "tiny"
backends = ["module_alloc"]

[[axes]]
"machine.topology.cpus" = [2, 4]
[[axes]]
kernel = ["6.12", "6.18"]
"client.bpf.loaded" = [2, 8]

[run]
replications = 5
[machine.kernel]
hz = 1000
[expect]
reading = "more is dearer"
"""


def test_a_study_is_the_product_of_its_axes(here: Path) -> None:
    (here / "grid.toml").write_text(STUDY)
    study = expand(Asked.of(), "grid.toml")
    points = [(c.spec["machine"]["topology"]["cpus"], c.spec["kernel"]["release"],
               c.spec["workload"]["clients"]["bpf"]["loaded"]) for c in study.cells]  # fmt: skip
    assert points == [(2, "6.12", 2), (2, "6.18", 8), (4, "6.12", 2), (4, "6.18", 8)]
    assert study.cells[1].point == {"machine.topology.cpus": 2, "kernel": "6.18", "client.bpf.loaded": 8}
    assert (study.kind, study.name, study.reading, study.replications) == ("sweep", "grid", "more is dearer", 5)
    assert {cell.spec["machine"]["kernel"]["hz"] for cell in study.cells} == {1000}


def test_an_option_pins_an_axis_to_one_value(here: Path) -> None:
    (here / "grid.toml").write_text(STUDY)
    study = expand(Asked.of(cpus=3), "grid.toml")
    assert [cell.spec["machine"]["topology"]["cpus"] for cell in study.cells] == [3, 3]
    with pytest.raises(InputError, match="vary together in this study"):
        expand(Asked.of(kernel="6.12"), "grid.toml")


def test_the_shipped_study_expands(here: Path) -> None:
    study = expand(Asked.of(backends="module_alloc,bpf_prog_pack"), "ipi/cpus")
    assert len(study.cells) == 16
    assert study.reading


@pytest.mark.parametrize(
    ("text", "said"),
    [('[study]\nworkload = "tinny"\n', "bad.toml: study.workload: got tinny; .*did you mean 'tiny'"),
     ("[study]\n", "bad.toml: got no workload"), ('[study]\nworkloads = "tiny"\n', "bad.toml:2: study.workloads"),
     ('[study]\nworkload = "tiny"\n[[axes]]\ncpus = [2]\n', r"axes\[0\].cpus"),
     ('[study]\nworkload = "tiny"\n[[axes]]\n"machine.topology.cpus" = 2\n', "a list with at least one value"),
     ('[study]\nworkload = "tiny"\n[[axes]]\n"run.seed" = [1, 2]\nkernel = ["6.12"]\n', "lists of one length"),
     ('[study]\nworkload = "tiny"\n[[axes]]\n"machine.topology.cpu" = [2]\n', "axes machine.topology.cpu: got"),
     ('[study]\nworkload = "tiny"\n[run]\nsed = 3\n', "bad.toml:4: run.sed: got the unknown key .*; .*'seed'"),
     ('[study]\nworkload = "tiny"\n[expect]\nreadng = ""\n', "bad.toml:4: expect.readng: .*did you mean 'reading'")],
)  # fmt: skip
def test_a_wrong_study_is_refused_with_its_place(here: Path, text: str, said: str) -> None:
    (here / "bad.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        expand(Asked.of(), "bad.toml")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"cpus": 0}, MachineError, "--cpus: got 0; allowed: greater than or equal to 1"),
        ({"machine": "smal"}, InputError, "--machine: got smal; .*did you mean 'small'"),
        ({"kernel": "6.11"}, InputError, "--kernel: got .*6.11.*; allowed: 6.1, 6.12, 6.18, 7.3; did you mean"),
        ({"backends": "modul_alloc"}, InputError, "--backend: got .*did you mean 'module_alloc'"),
        ({"backends": "bpf_prog_pack[chnk=1]"}, InputError, "chnk: got the unknown .*did you mean 'chunk'"),
        ({"backends": "./none.py"}, PluginError, "none.py, which cannot be read"),
        ({"duration": "1 parsec"}, InputError, "--duration: got '1 parsec'; allowed: a time such as"),
        ({"warmup": "1s"}, InputError, "got a duration of 20.0 ms with a warm-up of 1.00 s"),
        ({"replications": 0}, InputError, "--replications: got 0; allowed: greater than or equal to 1"),
        ({"record": ["operation"]}, InputError, "--record: got 'operation'; allowed: 'operations'"),
        ({"set": ["client.bfp.threads=1"]}, InputError, "--set client.bfp.threads: got bfp; .*did you mean 'bpf'"),
        ({"set": ["client.bpf.treads=1"]}, InputError, "--set client.bpf.treads: .*did you mean 'threads'"),
        ({"set": ["client.bpf.data=bpf_loded.csv"]}, InputError, "--set client.bpf.data: got .*did you mean"),
        ({"set": ["backend.execmen.x=1"]}, InputError, "--set backend.execmen.x: got execmen"),
        ({"set": ["kernel.pack_byte=1"]}, InputError, "--set kernel.pack_byte: .*did you mean 'pack_bytes'"),
        ({"set": ["kernel.name=x"]}, InputError, "--set kernel.name: got the unknown parameter"),
        ({"set": ["machine.kernal.hz=1"]}, MachineError, "the unknown key 'kernal'; .*did you mean 'kernel'"),
        ({"set": ["machine.background.states.user.fraction=1.5"]}, MachineError, "got 1.5; allowed: less than or"),
        ({"set": ["machine.background.states.user.fraction=0.9"]}, MachineError, "fractions that sum to 1.45"),
        ({"set": ["machine.background.restart=idle"]}, MachineError, "background.restart: got idle; .*did you mean"),
        ({"set": ["machine.background.use=busy"]}, MachineError, "machine.background.use: got busy"),
        ({"set": ["machine.kernel.rcu_second_scan=1.5"]}, MachineError, "got 1.5; allowed: less than or equal to 1"),
        ({"set": ["machine.costs.ipi_flihgt=1us"]}, MachineError, "did you mean 'ipi_flight'"),
        ({"set": ["machine.costs.ipi_flight=1"]}, InputError, "--set machine.costs.ipi_flight: got 1; allowed: a time"),
        ({"set": ["machine.topology.nodes=8"]}, MachineError, "got 8; allowed: 1 to 4, the CPUs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_runs(
    here: Path, options: dict[str, Any], error: type[ExecbenchError], said: str
) -> None:
    with pytest.raises(error, match=said):
        tiny(**options)


@pytest.mark.parametrize(
    ("change", "said"),
    [(("hz = 250", "hz = 99"), "m.toml:[0-9]+: kernel.hz: got 99; allowed: 100, 250, 300 or 1000"),
     (("fraction = 0.450", "fraction = 45"), "m.toml:[0-9]+: background.states.user.fraction: got 45"),
     (('\nipi_send = {', '\nipi_sned = {'), "m.toml.*ipi_sned.*did you mean 'ipi_send'"),
     (("masked = true\n", "", 1), "m.toml:[0-9]+: background.states.irqs-off-short.masked: got no masked"),
     (("cpus = 64\n", ""), "m.toml:[0-9]+: topology.cpus: got no cpus"),
     (('arch = "x86_64"', 'arch = "vax"'), "m.toml:[0-9]+: arch: got 'vax'; allowed: 'x86_64'")],
)  # fmt: skip
def test_an_impossible_machine_file_is_named_with_its_line(here: Path, change: tuple[Any, ...], said: str) -> None:
    from execbench.study.load import find

    text = find("machine", "server-64").read_text()
    assert change[0] in text
    (here / "m.toml").write_text(text.replace(*change))
    with pytest.raises(InputError, match=said):
        tiny(machine="m.toml")


def test_missing_costs_are_listed(here: Path) -> None:
    from execbench.study.load import find

    lines = find("machine", "server-64").read_text().splitlines()
    gone = [line for line in lines if not line.startswith(("ipi_send =", "jit_insn ="))]
    (here / "m.toml").write_text("\n".join(gone))
    with pytest.raises(MachineError, match="no value for 2 of the costs .*: client.bpf.jit_insn .*, ipi_send"):
        tiny(machine="m.toml")


def test_machines_that_extend_each_other_are_refused(here: Path) -> None:
    (here / "configs/machines/a.toml").write_text('extends = "b"\n')
    (here / "configs/machines/b.toml").write_text('extends = "a"\n')
    with pytest.raises(MachineError, match="a -> b -> a"):
        tiny(machine="a")


def test_an_arm_that_cannot_be_expressed_is_kept_with_its_reason(here: Path) -> None:
    support = '    support: ClassVar[Support] = Support(architectures=("arm64",))\n'
    text = (here / "mine.py").read_text().replace("    slack", f"{support}    slack")
    head = "from typing import ClassVar\nfrom execbench.contract import Support\n"
    (here / "mine.py").write_text(head + text)
    study = tiny(backends="./mine.py,module_alloc")
    assert [cell.refused for cell in study.cells] == ["not on x86_64: only arm64", ""]
    with pytest.raises(InputError, match="not on x86_64"):
        tiny(backends="./mine.py")


# --- time slices: threads may outnumber CPUs --------------------------------------------------------------------------


def crowded(merge: bool = True, cpu_model: str = "lazy", **settings: Any) -> dict[str, Any]:
    """Eight threads that load programs on two CPUs, without a pause worth the name."""
    given = {"client.bpf.threads": 8, "client.bpf.loaded": 16, "client.bpf.think": "20us", "run.merge": merge,
             "run.cpu_model": cpu_model, **settings}  # fmt: skip
    asked = Asked.of(workload="bpf", backends=["execmem"], cpus=2, warmup="20ms",
                       set={"run.duration": "200ms", "run.drain": "100ms"} | given)  # fmt: skip
    return json.loads(json.dumps(expand(asked).cells[0].spec))


def test_threads_that_outnumber_cpus_all_make_progress_and_littles_law_holds() -> None:
    spec = crowded(**{"run.duration": "2s"})
    world = World(spec, 0, {})
    loads: Counter[str] = Counter()

    class Ears:
        def reach(self, t: int, task: Any, *fields: Any) -> None:
            loads[task.name] += t > spec["run"]["warmup"]

    world.machine.probe.attach(Ears())
    record = world.run()
    assert record.outcome == "ok", record.detail
    assert world.places == [(0, 1) * 4]
    assert set(loads) >= {f"bpf/{i}" for i in range(8)}
    shares = [loads[f"bpf/{i}"] for i in range(8)]
    assert min(shares) > 3
    assert max(shares) < 8 * min(shares)
    metrics = record.tables["metrics"]
    figures = dict(zip(metrics["metric"], metrics["value"], strict=True))
    assert figures["littles_law_residual"] == 0


def test_a_thread_gives_way_when_its_slice_is_over() -> None:
    """Four threads to a CPU, each with milliseconds of verification: nobody waits for another's whole load."""
    latency = {}
    for threads in (2, 8):
        record = simulate(crowded(**{"client.bpf.threads": threads, "run.duration": "2s"}), 0, {})
        metrics = record.tables["metrics"]
        rows = zip(metrics["metric"], metrics["kind"], metrics["value"], strict=True)
        latency[threads] = {metric: value for metric, kind, value in rows if kind == "load"}
    assert 2 < latency[8]["latency_mean"] / latency[2]["latency_mean"] < 8
    assert latency[8]["throughput"] == pytest.approx(latency[2]["throughput"], rel=0.35)


def test_time_slices_do_not_depend_on_how_plans_are_split() -> None:
    records = [simulate(crowded(merge), 0, {}) for merge in (True, False)]
    first, second = (digest_of(record.outcome, record.operations, record.tables) for record in records)
    assert first == second


def test_both_models_of_cpus_agree_on_a_crowd() -> None:
    """In law: means over replications lie within four standard errors of each other."""
    found: dict[str, list[float]] = {}
    more = {"machine.topology.cpus": 4, "client.bpf.threads": 12, "client.bpf.loaded": 24}
    for model in ("lazy", "explicit"):
        for replication in range(6):
            record = simulate(crowded(cpu_model=model, **more), replication, {})
            assert record.outcome == "ok"
            metrics = record.tables["metrics"]
            rows = zip(metrics["metric"], metrics["kind"], metrics["value"], strict=True)
            found.setdefault(model, []).append(
                next(value for metric, kind, value in rows if (metric, kind) == ("latency_mean", "load"))
            )
    means = {model: fmean(values) for model, values in found.items()}
    error = sum(stdev(values) ** 2 / len(values) for values in found.values()) ** 0.5
    assert abs(means["lazy"] - means["explicit"]) < 4 * error + 0.01 * means["lazy"]


def test_two_threads_that_never_sleep_are_refused_on_one_cpu() -> None:
    with pytest.raises(InputError, match="2 computing threads on 1 CPUs; allowed: at most 1 threads that never sleep"):
        expand(Asked.of(workload="user-jit", cpus=1))
    assert expand(Asked.of(workload="user-jit", cpus=1, set=["client.jit.spinners=0"])).cells
    assert expand(Asked.of(workload="user-jit", cpus=2)).cells
