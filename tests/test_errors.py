"""Every error survives being re-created from its arguments (SimPy) and pickling (process pools), and reads well."""

from __future__ import annotations

import inspect
import pickle

import pytest

from execbench import errors
from execbench.errors import ExecbenchError, InputError, SimulatedFailure, StoreError, did_you_mean

# Arguments by base class; each constructor of the module is one of these.
SAMPLES: dict[type[ExecbenchError], tuple[object, ...]] = {
    InputError: ("bpf.toml: client.bpf.think", 3.5, 'a time such as "3us"', "give it a unit"),
    SimulatedFailure: ("deadlock", "2 tasks wait for each other", {"tasks": [1, 2]}),
    StoreError: ("results/x", "study.json is cut off", "run it again with --restart"),
    errors.NothingMeasured: ("no operation ended after the warm-up", "lengthen the run"),
    ExecbenchError: ("said on purpose",),
}
CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]


def made(cls: type[ExecbenchError]) -> ExecbenchError:
    return cls(*next(args for base, args in SAMPLES.items() if issubclass(cls, base)))


def test_the_classes_are_those_of_the_module() -> None:
    assert len(CLASSES) == 11
    assert {c.__name__ for c in CLASSES} <= set(errors.__all__)
    assert all(issubclass(c, ExecbenchError) for c in CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_it_is_recreated_from_its_arguments_and_from_a_pickle(cls: type[ExecbenchError]) -> None:
    error = made(cls)
    for copy in (type(error)(*error.args), pickle.loads(pickle.dumps(error))):
        assert type(copy) is cls
        assert copy.args == error.args
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


def test_keyword_arguments_reach_args_too() -> None:
    error = InputError(where="a", given="b", allowed="c", remedy="d")
    assert error.args == ("a", "b", "c", "d")
    assert pickle.loads(pickle.dumps(error)).args == error.args


@pytest.mark.parametrize("cls", CLASSES)
def test_its_text_is_one_line_with_every_part(cls: type[ExecbenchError]) -> None:
    error = made(cls)
    text = str(error)
    assert "\n" not in text
    assert all(part in text for part in error.args if isinstance(part, str))


def test_input_error_shows_objects_by_repr_and_keeps_text() -> None:
    error = InputError("-r", None, "a whole number", "try -r 10.")
    assert str(error) == "-r: got None; allowed: a whole number; try -r 10"
    assert InputError("-r", object, "x", "y").given == "<class 'object'>"  # text, so that anything can be pickled


@pytest.mark.parametrize(
    ("cls", "code"),
    [("ExecbenchError", 70), ("InputError", 2), ("PluginError", 2), ("MachineError", 2), ("SimulatedFailure", 1),
     ("AddressSpaceExhausted", 1), ("Deadlock", 1), ("RcuStall", 1), ("StoreError", 74), ("CannotWrite", 73),
     ("NothingMeasured", 5)],
)  # fmt: skip
def test_exit_codes(cls: str, code: int) -> None:
    assert getattr(errors, cls).exit_code == code


def test_did_you_mean() -> None:
    names = {"bpf_prog_pack", "module_alloc", "execmem"}
    assert did_you_mean("bpf_prog_pak", names) == "did you mean 'bpf_prog_pack'?"
    assert did_you_mean("zzz", names) == ""
    assert did_you_mean("ab", ["abd", "abc"]) == did_you_mean("ab", ["abc", "abd"])
