"""log, exp and the normal quantile with the same bits on every machine, for Python floats and numpy arrays.

Library logarithms differ between numpy versions and SIMD levels in the last bit, and one such bit can change a run.
Here only operations that IEEE 754 rounds correctly are used (+ - * / sqrt, and frexp, ldexp, floor, which are exact),
each as an operation of its own, so that no compiler fuses two of them. Scalars and arrays go through the same formulas.
"""

from __future__ import annotations

import math
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["exp", "log", "ndtri"]

FloatArray = NDArray[np.float64]
_F = TypeVar("_F", float, FloatArray)

# ln 2 in two parts; the upper has 32 trailing zero bits, so that its product with an exponent is exact (fdlibm).
_LN2_HI = 6.93147180369123816490e-01
_LN2_LO = 1.90821492927058770002e-10
_INV_LN2 = 1.44269504088896338700e00
_SQRT_HALF = 7.07106781186547524401e-01
# Remez coefficients of fdlibm's e_log.c and e_exp.c (Sun Microsystems, 1993); both stay below 1 ulp.
_LG = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
_P = (
    1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05,
    -1.65339022054652515390e-06, 4.13813679705723846039e-08,
)  # fmt: skip
# Algorithm AS 241, PPND16 (Wichura 1988, Applied Statistics 37, 477-484): numerator and denominator, lowest power
# first, for the centre, the tails and the far tails.
_CENTRE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


@overload
def log(x: float) -> float: ...
@overload
def log(x: FloatArray) -> FloatArray: ...
def log(x: float | FloatArray) -> float | FloatArray:
    """Return the natural logarithm of positive finite x, within 1 ulp; ValueError outside."""
    if isinstance(x, np.ndarray):
        if not bool(np.all((x > 0.0) & (x < np.inf))):
            raise ValueError("log needs positive finite values")
        m, e = np.frexp(x)
        low = m < _SQRT_HALF
        return _log_kernel(np.where(low, m + m, m) - 1.0, e - low.astype(np.float64))
    if not 0.0 < x < math.inf:
        raise ValueError(f"log needs a positive finite value, got {x!r}")
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        return _log_kernel(mantissa + mantissa - 1.0, exponent - 1.0)
    return _log_kernel(mantissa - 1.0, float(exponent))


@overload
def exp(x: float) -> float: ...
@overload
def exp(x: FloatArray) -> FloatArray: ...
def exp(x: float | FloatArray) -> float | FloatArray:
    """Return e to the power x for -708 <= x <= 709 (normal results), within 1 ulp; ValueError outside."""
    if isinstance(x, np.ndarray):
        if not bool(np.all((x >= -708.0) & (x <= 709.0))):
            raise ValueError("exp needs values from -708 to 709")
        ks = np.floor(x * _INV_LN2 + 0.5)
        powers: FloatArray = np.ldexp(_exp_kernel(x, ks), ks.astype(np.intc))
        return powers
    if not -708.0 <= x <= 709.0:
        raise ValueError(f"exp needs a value from -708 to 709, got {x!r}")
    k = math.floor(x * _INV_LN2 + 0.5)
    return math.ldexp(_exp_kernel(x, float(k)), k)


@overload
def ndtri(p: float) -> float: ...
@overload
def ndtri(p: FloatArray) -> FloatArray: ...
def ndtri(p: float | FloatArray) -> float | FloatArray:
    """Return the standard normal quantile of 0 < p < 1, relative error about 1e-16; ValueError outside."""
    if isinstance(p, np.ndarray):
        return _ndtri_array(p)
    if not 0.0 < p < 1.0:
        raise ValueError(f"ndtri needs a probability strictly between 0 and 1, got {p!r}")
    q = p - 0.5
    if -0.425 <= q <= 0.425:
        return q * _ratio(_CENTRE, 0.180625 - q * q)
    r = math.sqrt(-log(p if q < 0.0 else 1.0 - p))
    z = _ratio(_TAIL, r - 1.6) if r <= 5.0 else _ratio(_FAR, r - 5.0)
    return -z if q < 0.0 else z


def _ndtri_array(p: FloatArray) -> FloatArray:
    if not bool(np.all((p > 0.0) & (p < 1.0))):
        raise ValueError("ndtri needs probabilities strictly between 0 and 1")
    q = p - 0.5
    z = np.empty_like(q)
    centre = np.abs(q) <= 0.425
    inner = q[centre]
    z[centre] = inner * _ratio(_CENTRE, 0.180625 - inner * inner)
    outer, below = p[~centre], q[~centre] < 0.0
    r = np.sqrt(-log(np.where(below, outer, 1.0 - outer)))
    tail = r <= 5.0
    size = np.empty_like(r)
    size[tail] = _ratio(_TAIL, r[tail] - 1.6)
    size[~tail] = _ratio(_FAR, r[~tail] - 5.0)
    z[~centre] = np.where(below, -size, size)
    return z


def _log_kernel(f: _F, k: _F) -> _F:
    """Return log((1 + f) 2^k) for 1 + f in [sqrt(1/2), sqrt(2)) and whole k."""
    l1, l2, l3, l4, l5, l6, l7 = _LG
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    rest = z * (l1 + w * (l3 + w * (l5 + w * l7))) + w * (l2 + w * (l4 + w * l6))
    half = 0.5 * f * f
    return k * _LN2_HI - ((half - (s * (half + rest) + k * _LN2_LO)) - f)


def _exp_kernel(x: _F, k: _F) -> _F:
    """Return exp(x - k ln 2) for whole k nearest to x / ln 2."""
    p1, p2, p3, p4, p5 = _P
    hi = x - k * _LN2_HI
    lo = k * _LN2_LO
    r = hi - lo
    t = r * r
    c = r - t * (p1 + t * (p2 + t * (p3 + t * (p4 + t * p5))))
    return 1.0 - ((lo - (r * c) / (2.0 - c)) - hi)


def _ratio(pair: tuple[tuple[float, ...], tuple[float, ...]], r: _F) -> _F:
    """Return the quotient of two polynomials of degree 7 at r, by Horner's rule from the highest power."""
    (a0, a1, a2, a3, a4, a5, a6, a7), (b0, b1, b2, b3, b4, b5, b6, b7) = pair
    above = ((((((a7 * r + a6) * r + a5) * r + a4) * r + a3) * r + a2) * r + a1) * r + a0
    below = ((((((b7 * r + b6) * r + b5) * r + b4) * r + b3) * r + b2) * r + b1) * r + b0
    return above / below
