from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from execbench.errors import CannotWrite, ExecbenchError, StoreError
from execbench.simulate import Replication
from execbench.store import parts
from execbench.store.digest import digest_of
from execbench.store.schema import TABLES

MARK = 0x1122334455667788
A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def replication(n: int, **tables: Any) -> Replication:
    locks = {
        name: ["x" if kind == "string" else n] for name, kind in {k: str(v) for k, v in TABLES["locks"].items()}.items()
    }
    return Replication("ok", "", n, 3, 4, {"locks": locks} | tables)


def write(root: Path, cell: str, *numbers: int) -> bool:
    return parts.write(root, cell, [(n, replication(n)) for n in numbers])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert write(tmp_path, A, 0, 1)
    assert write(tmp_path, B, 0)
    assert write(tmp_path, A, 2)
    locks = parts.read_table(tmp_path, "locks").to_pydict()
    assert list(zip(locks["cell"], locks["replication"], locks["wait_ns"], strict=True)) == [
        (A, 0, 0), (A, 1, 1), (A, 2, 2), (B, 0, 0),
    ]  # fmt: skip
    assert parts.read_table(tmp_path, "locks", [B, A])["cell"].to_pylist() == [B, A, A, A]
    assert parts.read_table(tmp_path, "locks", [A], 2)["replication"].to_pylist() == [0, 1]
    assert parts.read_table(tmp_path, "operations").num_rows == 0
    rows = parts.read_table(tmp_path, "replications").to_pylist()
    assert rows[1] == {"cell": A, "replication": 1, "outcome": "ok", "detail": "", "operations": 1, "events": 3,
                       "draws": 4, "digest": digest_of("ok", 1, replication(1).tables)}  # fmt: skip
    assert not (tmp_path / "tmp" / f"{A}-r0-1.{os.getpid()}").exists()


def test_the_first_to_commit_wins(tmp_path: Path) -> None:
    assert write(tmp_path, A, 0)
    before = (tmp_path / "parts" / f"{A}-r0-0" / "locks.parquet").stat().st_mtime_ns
    assert not write(tmp_path, A, 0)
    assert (tmp_path / "parts" / f"{A}-r0-0" / "locks.parquet").stat().st_mtime_ns == before


def test_a_race_that_is_lost_at_the_rename_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def slow(source: Path, target: Path) -> None:
        if not Path(target).exists():
            monkeypatch.setattr(os, "rename", real)
            write(tmp_path / "other", A, 0)
            real(tmp_path / "other" / "parts" / f"{A}-r0-0", target)
        real(source, target)

    monkeypatch.setattr(os, "rename", slow)
    assert not write(tmp_path, A, 0)
    assert [part.first for part in parts.committed(tmp_path)] == [0]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_nothing_half_written_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(CannotWrite, match=r"No space left on device.*finished parts are kept") as caught:
        write(tmp_path, A, 0)
    assert caught.value.exit_code == 73
    assert parts.committed(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flip(file: Path) -> None:
    """Change one bit of a value: without checksums the file would read as if nothing had happened."""
    data = bytearray(file.read_bytes())
    data[data.index(MARK.to_bytes(8, "little"))] ^= 0x10
    file.write_bytes(bytes(data))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"a": [1]}), file)


@pytest.mark.parametrize("damage", [truncate, flip, empty, foreign])
def test_damage_is_named_with_the_remedy(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    parts.write(tmp_path, A, [(0, replication(MARK))])
    damage(tmp_path / "parts" / f"{A}-r0-0" / "locks.parquet")
    with pytest.raises(StoreError, match=rf"{A}-r0-0/locks.parquet: (damaged|columns)") as caught:
        parts.read_table(tmp_path, "locks")
    assert caught.value.exit_code == 74


def test_a_part_without_its_replications_is_damaged(tmp_path: Path) -> None:
    write(tmp_path, A, 0)
    (tmp_path / "parts" / f"{A}-r0-0" / "replications.parquet").unlink()
    with pytest.raises(StoreError, match="replications.parquet: missing; remove .* and run again"):
        parts.read_table(tmp_path, "replications")


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "parts" / "notes").mkdir(parents=True)
    with pytest.raises(StoreError, match="not a part of an execbench study"):
        parts.committed(tmp_path)


@pytest.mark.parametrize(
    ("locks", "said"),
    [({"lock": ["a"]}, "other columns than the schema"),
     (replication(1).tables["locks"] | {"lock": []}, "unequal length"),
     (replication(1).tables["locks"] | {"wait_ns": ["long"]}, "does not fit its column")],
)  # fmt: skip
def test_a_record_that_does_not_fit_the_schema_is_refused(tmp_path: Path, locks: dict[str, Any], said: str) -> None:
    with pytest.raises(ExecbenchError, match=said):
        parts.write(tmp_path, A, [(0, replication(0, locks=locks))])
    assert parts.committed(tmp_path) == []


def test_only_the_files_of_ended_processes_are_swept(tmp_path: Path) -> None:
    for pid in (11, 12):
        (tmp_path / "tmp" / f"{A}-r0-0.{pid}").mkdir(parents=True)
    parts.sweep_tmp(tmp_path, [11])
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [f"{A}-r0-0.12"]
    parts.sweep_tmp(tmp_path, [12])
    assert not (tmp_path / "tmp").exists()
