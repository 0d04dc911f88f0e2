"""Portable functions: committed bits with any SIMD level, scalars equal to arrays, errors of at most 1 ulp."""

from __future__ import annotations

import ast
import importlib
import math
import os
import subprocess
import sys
from decimal import Decimal, getcontext
from pathlib import Path

import numpy as np
import pytest
from scipy import special

import execbench.sim
from execbench.sim import portable
from execbench.sim.portable import FloatArray

PROGRAM = """
import hashlib
import numpy as np
from execbench.sim import portable
from execbench.sim.rng import unit_interval
u = unit_interval(np.random.Philox(key=20_000).random_raw(20_000))
x = u * 1400.0 - 700.0
wide = np.ldexp(u, (np.arange(20_000) % 2000 - 1000).astype(np.intc))
for name, values in (("log", portable.log(wide)), ("log of uniforms", portable.log(u)), ("exp", portable.exp(x)),
                     ("ndtri", portable.ndtri(u)), ("ndtri of tails", portable.ndtri(u * 2.0**-40))):
    print(name, hashlib.blake2b(values.astype("<f8").tobytes(), digest_size=8).hexdigest(), sep=": ")
"""
DIGESTS = """\
log: 05173ec15ec536cb
log of uniforms: 787ac42f7de1c619
exp: 03e979f97496eda6
ndtri: c2a667e362cc59de
ndtri of tails: 3af44e5e76d7ce40
"""


def values() -> FloatArray:
    u = (np.random.Philox(key=3).random_raw(3000) >> np.uint64(11)).astype(np.float64)
    return (u + 0.5) * 2.0**-53


def all_simd_names() -> str:
    """Names of the features that this numpy chooses at run time; they differ between numpy versions."""
    core = importlib.import_module(f"numpy.{'core' if np.__version__ < '2' else '_core'}._multiarray_umath")
    return " ".join(name for name in core.__cpu_dispatch__ if core.__cpu_features__[name])


@pytest.mark.parametrize("simd", ["on", "off"])
def test_the_bits_are_those_committed(simd: str) -> None:
    env = dict(os.environ)
    root = str(Path(execbench.sim.__file__).parents[2])
    env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    env.pop("NPY_DISABLE_CPU_FEATURES", None)
    if simd == "off":
        env["NPY_DISABLE_CPU_FEATURES"] = all_simd_names()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == DIGESTS


def test_scalars_have_the_bits_of_arrays() -> None:
    u = values()
    z = portable.ndtri(u)
    assert [portable.log(x) for x in u.tolist()] == portable.log(u).tolist()
    assert [portable.ndtri(x) for x in u.tolist()] == z.tolist()
    assert [portable.exp(x) for x in (80.0 * z).tolist()] == portable.exp(80.0 * z).tolist()
    tails = u * 2.0**-30
    assert [portable.ndtri(x) for x in tails.tolist()] == portable.ndtri(tails).tolist()


def ulps(got: float, exact: Decimal) -> float:
    return float(abs(Decimal(got) - exact) / Decimal(math.ulp(float(exact))))


def test_log_and_exp_err_by_at_most_one_ulp() -> None:
    getcontext().prec = 40
    u = values()[:1000].tolist()
    near_one = [1.0 + (x - 0.5) * 2.0**-k for k in range(1, 40) for x in u[:20]]
    wide = [math.ldexp(x, k - 500) for k, x in enumerate(u)]
    for x in u + near_one + wide:
        if x != 1.0:
            assert ulps(portable.log(x), Decimal(x).ln()) <= 1.0
    for x in [1416.0 * x - 708.0 for x in u] + [x - 0.5 for x in u] + [(x - 0.5) * 1e-9 for x in u]:
        assert ulps(portable.exp(x), Decimal(x).exp()) <= 1.0


def test_fixed_points() -> None:
    assert portable.log(1.0) == 0.0
    assert portable.exp(0.0) == 1.0
    assert portable.ndtri(0.5) == 0.0
    assert portable.log(5e-324) == math.log(5e-324)
    assert portable.log(sys.float_info.max) == math.log(sys.float_info.max)
    assert portable.ndtri(0.975) == pytest.approx(1.959963984540054, rel=3e-16)


def test_the_normal_quantile() -> None:
    u = np.concatenate([values(), values() * 1e-3, values() * 1e-12, values() * 1e-300])
    assert np.max(np.abs(portable.ndtri(u) / special.ndtri(u) - 1.0)) < 2e-15
    assert portable.ndtri(1.0 - 2.0**-53) == pytest.approx(8.209536151601387, rel=1e-14)
    eighths = np.arange(1, 512) / 512.0  # 1 - p is exact
    assert portable.ndtri(1.0 - eighths).tolist() == (-portable.ndtri(eighths)).tolist()


BAD: list[tuple[str, list[float]]] = [
    ("log", [0.0, -0.0, -1.0, math.inf, math.nan]),
    ("exp", [-708.1, 709.1, math.inf, -math.inf, math.nan]),
    ("ndtri", [0.0, 1.0, -0.1, 1.1, math.nan]),
]


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_values_outside_the_domain_are_refused(name: str, bad: list[float]) -> None:
    function = getattr(portable, name)
    for x in bad:
        with pytest.raises(ValueError, match=name):
            function(x)
        with pytest.raises(ValueError, match=name):
            function(np.array([0.25, x]))
    assert function(np.array([])).tolist() == []


INEXACT = {
    "log",
    "log2",
    "log10",
    "log1p",
    "exp",
    "exp2",
    "expm1",
    "pow",
    "power",
    "cos",
    "sin",
    "gamma",
    "lgamma",
    "erf",
}
GENERATORS = {"default_rng", "Generator", "RandomState"}


def library_randomness(source: str) -> list[str]:
    """Return the uses of library functions whose last bit, or whose method, is nobody's promise."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            base = node.value.id if isinstance(node.value, ast.Name) else ""
            if (base in {"math", "np", "numpy"} and node.attr in INEXACT) or node.attr in GENERATORS:
                found.append(f"line {node.lineno}: {base}.{node.attr}")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = {alias.name for alias in node.names}
            if "random" in {module, *names} or (module in {"math", "numpy"} and names & INEXACT):
                found.append(f"line {node.lineno}: import of {module} {sorted(names)}")
    return found


def test_simulated_paths_use_no_library_logarithm_and_no_generator() -> None:
    package = Path(execbench.sim.__file__).parents[1]
    for ring in ("sim", "kernel", "backends", "clients"):
        for path in sorted((package / ring).rglob("*.py")):
            assert library_randomness(path.read_text()) == [], path


@pytest.mark.parametrize(
    "planted",
    ["import numpy as np\nnp.log(u)", "import math\nmath.exp(1)", "from math import log", "import random",
     "rng = np.random.default_rng(1)", "from numpy import exp"],
)  # fmt: skip
def test_the_search_finds_what_is_planted(planted: str) -> None:
    assert library_randomness(planted)
