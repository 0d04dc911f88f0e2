from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

from execbench.backends.module_alloc import ModuleAlloc
from execbench.clients.bpf import Bpf
from execbench.errors import InputError, PluginError
from execbench.registry.plugins import class_for, display_name, load_source, names, sha8, source_of


def test_shipped_backends_and_clients_are_found_by_either_spelling() -> None:
    assert class_for("backends", "module_alloc", "-b") is ModuleAlloc
    assert class_for("backends", "module-alloc", "-b") is ModuleAlloc
    assert class_for("clients", "bpf", "client") is Bpf
    assert {"module_alloc", "bpf_prog_pack"} <= set(names("backends"))
    assert {"bpf", "jit"} <= set(names("clients"))
    assert names("clients") == sorted(names("clients"))


def test_names_are_kebab_but_for_the_kernels_own() -> None:
    assert display_name("rw_inplace_finalize") == display_name("rw-inplace-finalize") == "rw-inplace-finalize"
    assert display_name("bpf-prog-pack") == "bpf_prog_pack"


def test_an_unknown_backend_gets_a_did_you_mean() -> None:
    with pytest.raises(InputError, match=r"--backend: got .*allowed: .*module_alloc.*did you mean 'module_alloc'"):
        class_for("backends", "modul_alloc", "--backend")


def test_a_file_becomes_a_module_of_its_own(here: Path) -> None:
    source = source_of("mine.py", "-b")
    cls = class_for("backends", "mine", "-b", source)
    assert cls.__name__ == "MyAlloc"
    assert cls.__module__ == f"execbench_plugin_{sha8(source)}"
    assert sys.modules[cls.__module__].MyAlloc is cls
    assert class_for("backends", "mine", "-b", source) is cls


def test_the_class_is_chosen_by_name_where_a_file_has_several(here: Path) -> None:
    source = source_of("mine.py", "-b") + "\n@dataclass(frozen=True)\nclass Other(ModuleAlloc):\n    pass\n"
    assert class_for("backends", "other", "-b", source).__name__ == "Other"
    assert class_for("backends", "my-alloc", "-b", source).__name__ == "MyAlloc"
    with pytest.raises(PluginError, match="2 backends .classes: MyAlloc, Other.; .*choose one with ./FILE.py:Class"):
        class_for("backends", "mine", "-b", source)


@pytest.mark.parametrize(
    ("source", "said"),
    [("import nothing_like_this\n", r"^-b ./mine.py, line 1: got ModuleNotFoundError: "),
     ("\nx = (\n", r"^-b ./mine.py, line 2: got SyntaxError: '\(' was never closed; "),
     ("\nraise SystemExit(3)\n", r"^-b ./mine.py, line 2: got SystemExit: 3"), ("x = 1\n", "0 backends"),
     ("class Mine:\n    def alloc(self): ...\n", "class Mine without start, write, finalize, free, usage")],
)  # fmt: skip
def test_a_plug_in_that_does_not_load_says_why(source: str, said: str) -> None:
    for _ in range(2):  # nothing half-loaded is left behind
        with pytest.raises(PluginError, match=said):
            class_for("backends", "mine", "-b ./mine.py", source)


def test_a_mistake_is_placed_in_the_file_that_was_read(tmp_path: Path) -> None:
    file = tmp_path / "deep.py"
    file.write_text("def good():\n    pass\n\n  bad = 1\n", encoding="utf-8")
    source = source_of(str(file), "BACKEND")
    with pytest.raises(PluginError) as caught:
        class_for("backends", "deep", "BACKEND", source)
    assert caught.value.where == f"BACKEND {file}, line 4"
    assert caught.value.given.startswith("IndentationError: unindent does not match")
    assert "execbench_plugin_" not in str(caught.value)


def test_a_mistake_in_a_module_that_a_plug_in_imports_keeps_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "helper_of_mine.py").write_text("x = 1\ny = (\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"-b \./mine\.py, line 3: got SyntaxError: .*helper_of_mine\.py, line 2"):
        class_for("backends", "mine", "-b ./mine.py", "\n\nimport helper_of_mine\n")


def test_a_class_that_is_no_frozen_dataclass_is_refused() -> None:
    verbs = "".join(f"    def {verb}(self): ...\n" for verb in ("start", "alloc", "write", "finalize", "free", "usage"))
    with pytest.raises(PluginError, match="no frozen dataclass"):
        class_for("backends", "mine", "-b", "class Mine:\n" + verbs)


def test_a_file_that_is_missing_is_named() -> None:
    with pytest.raises(PluginError, match="./none.py, which cannot be read .No such file"):
        source_of("./none.py", "-b")


def test_tracebacks_show_the_source_of_the_plug_in() -> None:
    module = load_source("def fails():\n    raise ValueError('here it is')\n")
    with pytest.raises(ValueError, match="here it is") as caught:
        module.fails()
    assert "raise ValueError('here it is')" in "".join(traceback.format_tb(caught.value.__traceback__))
