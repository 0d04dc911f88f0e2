"""The pages shipped with the package: their examples run, their links and the names they quote exist."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

import execbench
from execbench.cli import main, options

PACKAGE = Path(execbench.__file__).parent
DOCS = PACKAGE / "docs"
PAGES = ("assumptions.md", "audit.md", "design.md", "estimands.md", "extending.md", "kernel-paths.md")
TESTS = Path(__file__).parent
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?P<path>[\w/-]+\.py)(?:::?(?P<name>[\w.]+))?")
_CALL = re.compile(r"(?P<name>[\w.]+)\(\)")
_FOLDER = re.compile(r"[\w/-]+/")


def prose(page: str) -> str:
    """The text of a page without its fenced blocks."""
    return _FENCE.sub("", (DOCS / page).read_text(encoding="utf-8"))


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every fenced block, in order."""
    return _FENCE.findall((DOCS / page).read_text(encoding="utf-8"))


@cache
def names_in(file: Path) -> frozenset[str]:
    """Everything that a Python file defines: `name`, `Class.name`, and attributes set on self as `Class.name`."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return frozenset(found)


@cache
def functions() -> frozenset[str]:
    """Every function and class of the package, by its own name and as `Class.method`."""
    known: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        for name in names_in(file):
            known |= {name, name.rpartition(".")[2]}
    return frozenset(known)


def located(path: str) -> Path | None:
    """The file that a page quotes: of the package, or a test."""
    places = [PACKAGE / path, TESTS / path.removeprefix("tests/")] if path.startswith("tests/") else [PACKAGE / path]
    return next((place for place in places if place.is_file()), None)


def faults(text: str) -> list[str]:
    """What the code spans of a text name that does not exist; kernel files (`.c`, `.h`) are not ours to check."""
    wrong = []
    for span in _CODE.findall(text):
        if path := _PATH.fullmatch(span):
            file = located(path["path"])
            if file is None or (path["name"] and path["name"] not in names_in(file)):
                wrong.append(span)
        elif (call := _CALL.fullmatch(span)) and call["name"] not in functions():
            wrong.append(span)
        elif _FOLDER.fullmatch(span) and span.split("/")[0] not in ("workloads", "configs"):
            wrong += [] if (PACKAGE / span).is_dir() else [span]
    return wrong


def test_the_pages_are_shipped() -> None:
    assert sorted(path.name for path in DOCS.glob("*.md")) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = [link for link in _LINK.findall(prose(page)) if "://" not in link]
    assert links, "every page points to the others"
    for link in links:
        path, _, anchor = link.partition("#")
        assert not path or (DOCS / path).exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", (DOCS / (path or page)).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, link


@pytest.mark.parametrize("page", PAGES)
def test_quoted_files_and_functions_exist(page: str) -> None:
    assert faults(prose(page)) == []


def test_a_wrong_quotation_is_found() -> None:
    right = "`sim/rcu.py:Rcu.call`, `sim/lazy.py`, `check()`, `sim/`, `mm/vmalloc.c:vfree`"
    assert faults(right) == []
    wrong = ["sim/rcu.py:Rcu.recall", "sim/eager.py", "no_such_function()", "simulacrum/", "tests/test_docs.py::test_x"]
    assert faults(" ".join(f"`{span}`" for span in wrong)) == wrong


def test_every_figure_has_its_estimand() -> None:
    from execbench.report.columns import COLUMNS

    text = (DOCS / "estimands.md").read_text(encoding="utf-8")
    source = (PACKAGE / "simulate.py").read_text(encoding="utf-8")
    metrics = set(re.findall(r'yield "(\w+)"', source)) | set(
        re.findall(r'^    \("(\w+_per_op)"', source, re.MULTILINE)
    )
    assert len(metrics) >= 12
    quoted = set(_CODE.findall(text))
    assert {column.name for column in COLUMNS} | metrics <= quoted


def test_numbered_assumptions_have_code_and_test() -> None:
    entries = re.split(r"^### ", (DOCS / "assumptions.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [entry.partition(".")[0] for entry in entries] == [str(n) for n in range(1, len(entries) + 1)]
    for entry in entries:
        for part in ("- Code: ", "- Test: "):
            assert part in entry, entry.splitlines()[0]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "jobs_or_all", lambda jobs: 1)  # a pool costs more than these runs
    scope: dict[str, object] = {"__name__": "extending"}
    ran = {"python": 0, "toml": 0, "sh": 0}
    for language, text in blocks("extending.md"):
        ran[language] += 1
        if name := re.match(r"# ([\w./-]+\.(?:py|toml))\n", text):
            file = tmp_path / name[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, "extending.md", "exec"), scope)
        else:
            for line in text.splitlines():
                command, *arguments = shlex.split(line)
                assert command == "execbench"
                assert main(arguments) == 0, (line, capsys.readouterr().err)
    assert all(ran.values())
