from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from execbench.errors import NothingMeasured, StoreError
from execbench.store.schema import arrow_schema
from execbench.study import verify as module
from execbench.study.expand import Asked, expand
from execbench.study.verify import verify
from execbench.study.work import carry_out


@pytest.fixture
def done(here: Path, fake: str) -> Path:
    carry_out(expand(Asked.of(workload="tiny", replications=3)), here / "out", simulate=fake)
    return here / "out"


def test_the_same_code_gives_the_same_records(done: Path, fake: str) -> None:
    found = verify(done, simulate=fake)
    assert (found.ok, len(found.checked), found.levels) == (True, 2, {1: True, 2: True, 3: True})
    assert "2 of 2 re-simulated replications are the same" in str(found)
    every = verify(done, every=True, workers=2, simulate=fake)
    assert (every.ok, len(every.checked)) == (True, 6)
    assert [one.arm for one in every.checked] == ["module_alloc"] * 3 + ["bpf_prog_pack"] * 3


def change(root: Path, table: str, column: str, value: Any) -> None:
    """Write another value into the first part that has the table, as a different simulation would have."""
    file = sorted(root.glob(f"parts/*-r0-0/{table}.parquet"))[0]
    held = pq.read_table(file).to_pydict()
    held[column][0] = value
    pq.write_table(pa.table(held, arrow_schema(table)), file)


def test_the_first_table_that_differs_is_named(done: Path, fake: str) -> None:
    change(done, "histograms", "count", 77)
    found = verify(done, simulate=fake)
    assert not found.ok
    assert [one.differs for one in found.checked if not one.same] == ["histograms"]
    assert found.levels[1] is False
    assert "first differing table: histograms" in str(found)


def test_a_figure_that_differs_is_level_three_only(done: Path, fake: str) -> None:
    change(done, "metrics", "value", 1e-6)
    assert verify(done, simulate=fake).levels == {1: True, 2: False, 3: False}


def test_an_outcome_that_differs_is_found(done: Path, fake: str) -> None:
    change(done, "replications", "digest", "0" * 32)
    assert [one.differs for one in verify(done, simulate=fake).checked if not one.same] == ["replications"]


def test_changed_code_data_and_versions_are_said(done: Path, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.code_of
    monkeypatch.setattr(module, "code_of", lambda *args: real(*args) | {"sim/engine.py": "other"})
    monkeypatch.setattr(module.manifest, "versions", lambda: {"numpy": "0.1"})
    data = Path("workloads/data")
    data.mkdir()
    (data / "bpf_loaded.csv").write_text("insns\n1\n")
    found = verify(done, simulate=fake)
    assert found.code_changed == ("sim/engine.py",)
    assert found.data_changed == ("bpf_loaded.csv",)
    assert found.versions_changed["numpy"][1] == "0.1"
    assert found.levels[2] is None
    assert "level 2, bytes of the files: not checked (other library versions)" in str(found)


def test_a_damaged_part_is_a_store_error(done: Path, fake: str) -> None:
    file = sorted(done.glob("parts/*-r0-0/histograms.parquet"))[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StoreError, match="histograms.parquet: damaged"):
        verify(done, simulate=fake)


def test_an_empty_study_has_nothing_to_verify(here: Path, done: Path, fake: str) -> None:
    for part in (done / "parts").iterdir():
        part.rename(here / part.name)
    with pytest.raises(NothingMeasured, match="no finished replication"):
        verify(done, simulate=fake)
