"""The pages and READMEs: their examples run, their links and the names they quote exist, and nothing is left out."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import execbench
from execbench.catalogue import ARCHITECTURES, CATALOGUE, catalogue
from execbench.cli import main, options
from execbench.kernel.releases import RELEASES
from execbench.registry import plugins
from execbench.registry.instances import client_costs

PACKAGE = Path(execbench.__file__).parent
DOCS = PACKAGE / "docs"
TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGES = (
    "assumptions.md", "audit.md", "client-bcachefs.md", "client-bpf.md", "client-module.md", "client-patching.md",
    "client-readers.md", "client-test-vmalloc.md", "design.md", "estimands.md", "extending.md", "kernel-paths-arm64.md",
    "kernel-paths-riscv64.md", "kernel-paths-x86_64.md", "kernel-paths.md", "predictions.md",
    "user-space.md",
)  # fmt: skip
READMES = ("README.md", "CHANGELOG.md", "configs/README.md", "workloads/README.md")
PATHS = {arch: f"kernel-paths-{arch}.md" for arch in ARCHITECTURES}
"""The page of each architecture's kernel paths."""
HELPERS = {"chunks", "pieces"}
"""Functions of an architecture's folder that stand for none of the kernel's."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?P<path>[\w/.-]+\.(?:py|toml|csv|md))(?:::?(?P<name>[\w.]+))?")
_CALL = re.compile(r"(?P<name>[\w.]+)\(\)")
_FOLDER = re.compile(r"[\w/-]+/")
_COSTS = re.compile(r"Costs:\s+((?:`[\w.-]+`(?:,\s+)?)+)")
_KERNEL = re.compile(r"`(?:[\w/.-]+\.[chS]:)?\w+`@([\d.,]+)")
_MORE = {"run": ["-d", "60ms", "--warmup", "20ms", "-r", "1"], "sweep": ["--dry-run"], "audit": ["-m", "server-64"]}
"""What makes a README's command short."""
_DEBATED = {"module_alloc", "execmem_alloc", "jit_text_alloc"}
"""Functions of the debate that are quoted as such."""


def page_file(page: str) -> Path:
    """Where a page or README stands."""
    return DOCS / page if page in PAGES else ROOT / page


def prose(page: str) -> str:
    """The text of a page without its fenced blocks."""
    return _FENCE.sub("", page_file(page).read_text(encoding="utf-8"))


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every fenced block, in order."""
    return _FENCE.findall(page_file(page).read_text(encoding="utf-8"))


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
    """The file or folder that a page quotes: of the package, or of the repository beside it."""
    return next((place for place in (PACKAGE / path, ROOT / path) if place.exists()), None)


def faults(text: str) -> list[str]:
    """What the code spans of a text name that does not exist; kernel files (`.c`, `.h`) are not ours to check.

    A file without a folder may be any file of `configs/` or `workloads/`, or an example's.
    """
    wrong = []
    for span in _CODE.findall(text):
        if path := _PATH.fullmatch(span):
            file = located(path["path"])
            if file is None and "/" not in path["path"] and not path["name"]:
                continue
            if file is None or (path["name"] and path["name"] not in names_in(file)):
                wrong.append(span)
        elif call := _CALL.fullmatch(span):
            wrong += [] if call["name"] in functions() | _DEBATED else [span]
        elif _FOLDER.fullmatch(span):
            wrong += [] if located(span) else [span]
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


@pytest.mark.parametrize("page", READMES)
def test_links_of_readmes_lead_somewhere(page: str) -> None:
    for link in _LINK.findall(prose(page)):
        assert "://" in link or (page_file(page).parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", [*PAGES, *READMES])
def test_quoted_files_and_functions_exist(page: str) -> None:
    assert faults(prose(page)) == []


def test_a_wrong_quotation_is_found() -> None:
    right = "`sim/rcu.py:Rcu.call`, `sim/lazy.py`, `check()`, `sim/`, `mm/vmalloc.c:vfree`, `configs/truth/`"
    assert faults(right) == []
    wrong = ["sim/rcu.py:Rcu.recall", "sim/eager.py", "no_such_function()", "simulacrum/", "tests/test_docs.py::test_x",
             "configs/lies/", "configs/truth/host_jti.csv"]  # fmt: skip
    assert faults(" ".join(f"`{span}`" for span in wrong)) == wrong


# --- kernel paths -----------------------------------------------------------------------------------------------------


def quoted_costs(page: str) -> list[str]:
    """The costs that a page says its functions spend."""
    return [cost for listed in _COSTS.findall(prose(page)) for cost in _CODE.findall(listed)]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_architecture_has_the_costs_that_its_page_lists(arch: str) -> None:
    own = {name for name, entry in CATALOGUE.items() if arch in entry.arch and entry.arch != ARCHITECTURES}
    assert set(quoted_costs(PATHS[arch])) == own


def test_every_cost_belongs_to_a_path() -> None:
    quoted = [cost for page in PAGES for cost in quoted_costs(page)]
    assert set(quoted) == set(catalogue(client_costs()))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_function_of_an_architecture_is_on_its_page(arch: str) -> None:
    quoted = set(_CODE.findall(prose(PATHS[arch])))
    for file in sorted((PACKAGE / "kernel" / arch).glob("*.py")):
        if file.stem in ("__init__", "arch", "rules"):
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in HELPERS:
                assert f"kernel/{arch}/{file.name}:{node.name}" in quoted


def test_every_backend_has_its_paragraph() -> None:
    quoted = set(_CODE.findall(prose("kernel-paths.md")))
    for cls in plugins.registered("backends").values():
        assert f"backends/{cls.__module__.rpartition('.')[2]}.py:{cls.__name__}" in quoted


def test_kernel_functions_are_quoted_from_releases_that_were_read() -> None:
    read = set(RELEASES) - {"6.18"}
    found = [release for page in PAGES for releases in _KERNEL.findall(prose(page)) for release in releases.split(",")]
    assert {release.rstrip(".") for release in found if release} == read


# --- the other pages --------------------------------------------------------------------------------------------------


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


def test_the_readmes_list_the_machines_workloads_and_truth_that_are_shipped() -> None:
    for folder, readme in (("configs/machines", "configs/README.md"), ("workloads", "workloads/README.md")):
        linked = {Path(link).name for link in _LINK.findall(prose(readme)) if link.endswith(".toml")}
        assert {file.name for file in (ROOT / folder).glob("*.toml")} <= linked
    truth = re.findall(r"^\| (\w+\.csv) \|", prose("configs/README.md"), re.MULTILINE)
    assert sorted(truth) == sorted(file.name for file in (ROOT / "configs/truth").glob("*.csv"))


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory, whose packages are installed and forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(options, "jobs_or_all", lambda jobs: 1)  # a pool costs more than these runs
    before = set(sys.modules)
    plugins.registered.cache_clear()
    yield tmp_path
    plugins.registered.cache_clear()
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def _install(project: str) -> None:
    """What `pip install` would leave of a project whose modules lie here: its entry points."""
    table = tomllib.loads(project)["project"]
    info = Path(f"{table['name']}-{table['version']}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {table['name']}\nVersion: {table['version']}\n")
    groups = table["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{a} = {b}" for a, b in points.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    plugins.registered.cache_clear()


def test_the_examples_run(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from execbench.report import html

    write_report = html.write_report
    scope: dict[str, object] = {"__name__": "extending"}
    ran = {"python": 0, "toml": 0, "sh": 0}
    for language, text in blocks("extending.md"):
        ran[language] += 1
        if name := re.match(r"# ([\w./-]+\.(?:py|toml))\n", text):
            file = elsewhere / name[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            if file.name == "pyproject.toml":
                _install(text)
        elif language == "python":
            exec(compile(text, "extending.md", "exec"), scope)
        else:
            for line in text.splitlines():
                command, *arguments = shlex.split(line)
                assert command == "execbench"
                one_page = (lambda *_: "report.html") if arguments[0] == "run" else write_report  # plots take seconds
                monkeypatch.setattr(html, "write_report", one_page)
                assert main(arguments) == 0, (line, capsys.readouterr().err)
    assert all(ran.values())


@pytest.mark.parametrize("page", ["README.md", "configs/README.md", "workloads/README.md"])
def test_the_commands_of_readmes_work(
    page: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("execbench.report.html.write_report", lambda *_: "report.html")  # the examples write some
    spans = [span for span in _CODE.findall(prose(page)) if span.startswith("execbench ") and "NAME" not in span]
    shown = [line for language, text in blocks(page) if language == "sh" for line in text.splitlines()]
    shown = [line for line in shown if line.startswith("execbench ")]
    if page == "README.md":
        assert main(["new", "backend", "mine.py"]) == 0
        quick = ["run", "-w", "bpf", "-b", "bpf_prog_pack", "-o", "DIR", *_MORE["run"]]
        assert main(quick) == 0
        spans = [span for span in spans if span != "execbench run --workload bpf"]  # CI runs it as it stands
        shown = [line for line in shown if line != "execbench new backend mine.py"]
    assert spans
    for number, line in enumerate(dict.fromkeys([*spans, *shown])):
        command, *arguments = shlex.split(line)[1:]
        out = ["-o", f"out/{number}"] if command in ("run", "sweep") else []
        more = _MORE.get(command, [])
        if "module-boot" in arguments:  # it terminates: there is no warm-up
            more = [word for word in more if word not in ("--warmup", "20ms")]
        assert main([command, *arguments, *more, *out]) == 0, (line, capsys.readouterr().err)
