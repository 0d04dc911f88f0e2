from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from execbench.errors import StoreError
from execbench.store import manifest, parts
from execbench.study import work
from execbench.study.expand import Asked, Study, expand
from execbench.study.work import Progress, carry_out, directory_of


def tiny(**options: Any) -> Study:
    return expand(Asked.of(workload="tiny", **options))


def log(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]


def test_what_is_missing_is_computed_and_nothing_else(here: Path, fake: str) -> None:
    seen: list[Progress] = []
    carry_out(tiny(replications=2), here / "out", progress=seen.append, simulate=fake)
    assert [(one.done, one.total) for one in seen] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert [one.arm for one in seen] == ["", "module_alloc", "bpf_prog_pack", "module_alloc", "bpf_prog_pack"]
    times = {part.path: part.path.stat().st_mtime_ns for part in parts.committed(here / "out")}
    carry_out(tiny(replications=3), here / "out", simulate=fake)
    after = {part.path: part.path.stat().st_mtime_ns for part in parts.committed(here / "out")}
    assert len(after) == 6
    assert times.items() <= after.items()
    assert [entry["event"] for entry in log(here / "out")] == ["start", *["part"] * 4, "start", "part", "part"]


def test_restart_computes_everything_again(here: Path, fake: str) -> None:
    carry_out(tiny(replications=1), here / "out", simulate=fake)
    seen: list[Progress] = []
    carry_out(tiny(replications=1), here / "out", restart=True, progress=seen.append, simulate=fake)
    assert (seen[0].done, seen[-1].done) == (0, 2)


def test_refused_arms_are_not_run(here: Path, fake: str) -> None:
    support = '    support: ClassVar[Support] = Support(architectures=("arm64",))\n'
    text = (here / "mine.py").read_text().replace("    slack", f"{support}    slack")
    (here / "mine.py").write_text("from typing import ClassVar\nfrom execbench.contract import Support\n" + text)
    carry_out(tiny(backends="./mine.py,module_alloc", replications=1), here / "out", simulate=fake)
    assert len(parts.committed(here / "out")) == 1
    assert [row.refused for row in manifest.read(here / "out").cells] == ["not on x86_64: only arm64", ""]


def test_another_study_or_other_files_are_not_touched(here: Path, fake: str) -> None:
    carry_out(tiny(replications=1), here / "out", simulate=fake)
    with pytest.raises(StoreError, match="holds another study .*--restart"):
        carry_out(tiny(seed=2), here / "out", simulate=fake)
    with pytest.raises(StoreError, match="holds no execbench study"):
        carry_out(tiny(), here / "workloads", simulate=fake)
    assert [path.name for path in (here / "workloads").iterdir()] == ["tiny.toml"]


def test_parts_of_other_code_are_not_mixed_in(here: Path, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(tiny(replications=1), here / "out", simulate=fake)
    real = work.code_of
    monkeypatch.setattr(work, "code_of", lambda *args: real(*args) | {"sim/engine.py": "other"})
    with pytest.raises(StoreError, match=r"computed by other code .sim/engine.py changed.; .*--restart"):
        carry_out(tiny(replications=2), here / "out", simulate=fake)
    carry_out(tiny(replications=2), here / "out", restart=True, simulate=fake)


def test_the_directory_is_named_after_workload_and_study(here: Path) -> None:
    study = tiny()
    assert directory_of(study) == Path("results") / f"tiny-{study.sha8}"
