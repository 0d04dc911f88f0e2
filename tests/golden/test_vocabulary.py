"""The vocabulary has words for all that the package counts, takes or tells, and for nothing else."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import execbench.backends
import execbench.kernel
from execbench.kernel.locks import LOCKS
from execbench.kernel.publish import PATHS
from execbench.record.steps.vocabulary import covers, parsed, vocabulary
from execbench.sim.locks import LockKind

PACKAGES = (execbench.kernel, execbench.backends)
PREFIX = {"mutex": "mutex(", "spinlock": "spin(", "raw_spinlock": "raw_spin(", "rwsem": "write("}


def _modules() -> Iterator[str]:
    for package in PACKAGES:
        yield from (found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))


def _trees() -> list[ast.Module]:
    files = (importlib.import_module(name).__file__ for name in _modules())
    return [ast.parse(Path(file).read_text(encoding="utf-8")) for file in files if file]


class _Counted(ast.NodeVisitor):
    """Collects what is given to `count`: literals at once, and the parameters through which names come.

    A function that counts a parameter passes on what its callers give it, and so do theirs.
    """

    def __init__(self) -> None:
        self.literals: set[str] = set()
        self.passes: set[tuple[str, str, int]] = set()  # function, name of the parameter, its place
        self.calls: list[tuple[str, ast.Call, dict[str, int], str]] = []
        self._within: list[ast.FunctionDef] = []
        self._assigned: dict[str, list[ast.expr]] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._within.append(node)
        self._assigned = {}
        self.generic_visit(node)
        self._within.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._assigned.setdefault(target.id, []).append(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = _called(node.func)
        if name == "count" and node.args:
            self._note(node.args[0])
        elif name and self._within:
            self.calls.append((name, self._with_locals(node), self._parameters(), self._within[-1].name))

    def _with_locals(self, call: ast.Call) -> ast.Call:
        """Put what was assigned in place of local names, once for each value."""
        args = [
            value
            for arg in call.args
            for value in (self._assigned.get(arg.id, [arg])[:1] if isinstance(arg, ast.Name) else [arg])
        ]
        return ast.Call(call.func, args, call.keywords)

    def _parameters(self) -> dict[str, int]:
        names = [arg.arg for arg in self._within[-1].args.args if arg.arg != "self"]
        return {name: at for at, name in enumerate(names)}

    def _note(self, given: ast.expr) -> None:
        for part in _alternatives(given):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                self.literals.add(part.value)
            elif isinstance(part, ast.Name) and self._within and part.id in self._parameters():
                self.passes.add((self._within[-1].name, part.id, self._parameters()[part.id]))

    def resolve(self) -> None:
        """Follow names from callers to who counts them."""
        before = -1
        while before != len(self.literals) + len(self.passes):
            before = len(self.literals) + len(self.passes)
            for name, call, parameters, caller in self.calls:
                for function, parameter, at in tuple(self.passes):
                    if function == name and (given := _given(call, parameter, at)) is not None:
                        self._follow(given, parameters, caller)

    def _follow(self, given: ast.expr, parameters: Mapping[str, int], caller: str) -> None:
        for part in _alternatives(given):
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value:
                self.literals.add(part.value)
            elif isinstance(part, ast.Name) and part.id in parameters:
                self.passes.add((caller, part.id, parameters[part.id]))


def _called(function: ast.expr) -> str:
    """Return the name of a function of a module, of the kernel or of its architecture; "" for what others have."""
    if isinstance(function, ast.Name):
        return function.id
    if not isinstance(function, ast.Attribute):
        return ""
    of = function.value
    direct = isinstance(of, ast.Name) or (isinstance(of, ast.Attribute) and of.attr == "arch")
    return function.attr if direct or function.attr == "count" else ""


def _alternatives(given: ast.expr) -> Iterator[ast.expr]:
    if isinstance(given, ast.IfExp):
        yield from (*_alternatives(given.body), *_alternatives(given.orelse))
    elif isinstance(given, ast.JoinedStr):  # k.count(f"expose:{via}")
        head = given.values[0]
        assert isinstance(head, ast.Constant) and head.value == "expose:", ast.dump(given)
        yield from (ast.Constant(f"expose:{via}") for via in PATHS)
    else:
        yield given


def _given(call: ast.Call, parameter: str, at: int) -> ast.expr | None:
    """Return the argument for a parameter; a facade's verb has no `k` before it that its function has."""
    for keyword in call.keywords:
        if keyword.arg == parameter:
            return keyword.value
    return call.args[at] if at < len(call.args) else None


@pytest.fixture(scope="module")
def counted() -> set[str]:
    found = _Counted()
    for tree in _trees():
        found.visit(tree)
    found.resolve()
    return found.literals


@pytest.fixture(scope="module")
def locks() -> dict[str, LockKind]:
    """Every declaration of a lock in the package, by its name."""
    found = dict(LOCKS)
    for name in _modules():
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, LockKind):
                found[value.name] = value
    return found


def test_every_primitive_that_is_counted_has_words(counted: set[str]) -> None:
    assert len(counted) > 80
    assert sorted(counted - set(vocabulary())) == []


def test_every_lock_has_words_of_its_kind(locks: dict[str, LockKind]) -> None:
    for name, lock in locks.items():
        if lock.kind != "rwsem" or name in vocabulary():
            assert vocabulary()[name].verb.startswith(PREFIX[lock.kind]), name


def test_no_words_are_left_over(counted: set[str], locks: dict[str, LockKind]) -> None:
    facts = {name for name in vocabulary() if name.startswith("fact:")}
    assert sorted(set(vocabulary()) - counted - set(locks) - facts) == []


def test_ways_are_primitives_too(counted: set[str]) -> None:
    ways = {way for words in vocabulary().values() for way in words.by} - {"", "ic-ivau"}
    assert sorted(ways - counted) == []


def test_all_words_have_evidence() -> None:
    for name, words in vocabulary().items():
        assert words.evidence, name
        assert all(words.evidence.values()), name


def test_evidence_has_a_form() -> None:
    both = parsed("mm/vmalloc.c:vfree@6.1,6.12; __vunmap@6.1; commit 5185e7f9f3bd@6.13-rc; INFER")
    assert [(one.kind, one.file, one.name, one.releases) for one in both] == [
        ("source", "mm/vmalloc.c", "vfree", ("6.1", "6.12")),
        ("source", "mm/vmalloc.c", "__vunmap", ("6.1",)),
        ("commit", "", "5185e7f9f3bd", ("6.13-rc",)),
        ("INFER", "", "", ()),
    ]
    for wrong in ("vfree@6.1", "mm/vmalloc.c:vfree", "read somewhere", "commit abc@6.13"):
        with pytest.raises(ValueError, match="evidence"):
            parsed(wrong)


def test_what_was_not_read_is_stood_for_by_its_neighbours() -> None:
    later, earlier = parsed("mm/execmem.c:execmem_alloc_rw@7.3"), parsed("mm/vmalloc.c:__vmalloc_node_range@6.1")
    assert covers(later, "7.3")
    assert covers(later, "6.18")
    assert not covers(later, "6.12")
    assert not covers(earlier, "6.18")
    assert covers(parsed("DESIGN"), "6.1")


def test_evidence_names_the_releases_of_the_path_only() -> None:
    words = vocabulary()["vmalloc"]
    assert words.source(("riscv64",), ("6.1",)) == "mm/vmalloc.c:__vmalloc_node_range@6.1"
    assert words.source(("x86_64",), ("6.18",)) == "mm/vmalloc.c:__vmalloc_node_range_noprof@7.3; trace@6.18"
    shared = vocabulary()["bpf_prog_pack_alloc"].source(("arm64",), ("6.12", "6.18"))
    assert shared == "kernel/bpf/core.c:bpf_prog_pack_alloc@6.12", "6.12 takes the same path, 7.3 another"
    both = words.source(("x86_64", "riscv64"), ("6.12",))
    assert both == "mm/vmalloc.c:__vmalloc_node_range_noprof@6.12; trace@6.12 (x86_64)"
