"""Activations and softmax."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.autodiff.watch import watch
from tinyvit.backend import special
from tinyvit.equations.sums import row_sums
from tinyvit.primitives.elementwise import equal, erf, exp, expm1, greater, log, log1p, relu, tanh, where
from tinyvit.primitives.reduce import peak, sum


@equation
def softmax(x, *, axis=-1):
    """``exp(xᵢ) / Σⱼ exp(xⱼ)`` along ``axis``, shifted by the largest so that nothing overflows.

    A row whose numbers are all -inf (nothing may be attended to) gives zeros, not NaN; NaN or +inf in it give NaN.
    """
    e = exp(x - peak(x, axis=axis))
    return e / _nonzero(sum(e, axis=axis, keepdims=True))


@softmax.pullback
def _(g, y, x, *, axis):
    gy = g * y
    return (gy - y * sum(gy, axis=axis, keepdims=True),)


@softmax.kernel(analytic=True)
def _(x, *, axis=-1):
    y = softmax_in_place(x - peak(x, axis=axis), axis)
    return y, lambda g: (softmax_cotangent(g, y, axis),)


def softmax_in_place(shifted, axis=-1):
    """Softmax of numbers whose peak has been taken off, written over them."""
    y = np.exp(shifted, out=shifted)
    y /= _nonzero(_sums(y, axis))
    return y


def softmax_cotangent(g, y, axis=-1):
    """The cotangent of softmax's argument: ``y (g - Σ g y)``."""
    gy = g * y
    gy -= y * _sums(gy, axis)
    return gy


def _sums(x, axis: int):
    """Sums along an axis, kept as an axis."""
    return row_sums(x) if axis in (-1, x.ndim - 1) else np.sum(x, axis=axis, keepdims=True)


def _nonzero(total):
    """One where the total is zero, so that 0/0 becomes 0."""
    return total + equal(total, 0)


@equation
def log_softmax(x, *, axis=-1):
    """``xᵢ - log Σⱼ exp(xⱼ)`` along ``axis``; exact where softmax itself would round to zero.

    A row whose numbers are all -inf stays so: the logarithms of softmax's zeros. One with NaN or +inf becomes NaN.
    """
    shifted = x - peak(x, axis=axis)
    return shifted - log(_nonzero(sum(exp(shifted), axis=axis, keepdims=True)))


@log_softmax.kernel(analytic=True)
def _(x, *, axis=-1):
    y = x - peak(x, axis=axis)
    y -= np.log(_nonzero(np.sum(np.exp(y), axis=axis, keepdims=True)))

    def log_softmax_pullback(g):
        return (g - np.exp(y) * np.sum(g, axis=axis, keepdims=True),)

    return y, log_softmax_pullback


@equation
def gelu(x):
    """``x Φ(x)`` with the normal distribution function Φ (Hendrycks & Gimpel 2016)."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


@gelu.pullback
def _(g, out, x):
    return (g * gelu_slope(x),)


@gelu.kernel(analytic=True)
def _(x):
    if isinstance(x, np.ndarray) and x.dtype == np.float32:
        return _gelu_single(x)
    cdf = 0.5 * (1 + special().erf(x / math.sqrt(2)))

    def gelu_pullback(g):
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return (g * (cdf + x * density),)

    return x * cdf, gelu_pullback


@equation
def gelu_slope(x):
    """``Φ(x) + x φ(x)``, the derivative of GELU, with the normal distribution's function Φ and density φ."""
    return 0.5 * (1 + erf(x / math.sqrt(2))) + x * _density(x)


@gelu_slope.kernel(analytic=True)
def _(x):
    density = _density(x)
    bend = 2 * density - x * (x * density)  # in this order nothing overflows
    return 0.5 * (1 + special().erf(x / math.sqrt(2))) + x * density, lambda g: (g * bend,)


def _density(x):
    """φ, of the normal distribution."""
    return exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


# Φ(x) = (1 + tanh(x P(x²)))/2. P is fitted to atanh(2Φ - 1)/x for the smallest worst error in Φ: 3e-8, less than single
# precision resolves; erf takes ten times as long. Beyond the fit (5.6) x P(x²) goes on growing, so Φ is 0 or 1.
_NORMAL_CDF = tuple(map(np.float32, (0.797884942, 0.0363330843, -3.25946594e-05, -5.53063576e-05, 3.96478157e-06,
                                     -1.32267026e-07, 1.75630041e-09)))  # fmt: skip
_HALF_LOG_2PI = np.float32(0.5 * math.log(2 * math.pi))
_BLOCK = 1 << 16  # numbers that a chain of elementwise steps works on at a time, so that they stay in the cache


def _gelu_single(x):
    """GELU in single precision, block by block; its slope is kept, so that going back is one product."""
    flat = np.reshape(x, -1)
    y = np.empty_like(flat)
    slope = np.empty_like(flat) if watch().recording else None
    with np.errstate(over="ignore"):  # of x², which has to be large
        for i in range(0, flat.size, _BLOCK):
            part = slice(i, i + _BLOCK)
            square = flat[part] * flat[part]
            cdf = _normal_cdf(flat[part], square)
            np.multiply(flat[part], cdf, out=y[part])
            if slope is not None:
                _gelu_slope(flat[part], square, cdf, out=slope[part])

    def gelu_pullback(g):
        return (g * np.reshape(slope, x.shape),)

    return np.reshape(y, x.shape), gelu_pullback


def _normal_cdf(x, square):
    """Φ(x) in single precision."""
    u = square * _NORMAL_CDF[-1]
    for coefficient in _NORMAL_CDF[-2:0:-1]:
        u += coefficient
        u *= square
    u += _NORMAL_CDF[0]
    u *= x
    np.tanh(u, out=u)
    u += np.float32(1)
    u *= np.float32(0.5)
    return u


def _gelu_slope(x, square, cdf, out):
    """The derivative of x Φ(x): Φ(x) + x φ(x). Overwrites the square."""
    square *= np.float32(-0.5)
    square -= _HALF_LOG_2PI
    np.exp(square, out=square)
    square *= x
    np.add(square, cdf, out=out)


@equation
def gelu_tanh(x):
    """GELU with Φ approximated by a tanh (Hendrycks & Gimpel 2016, Sec. 2); the JAX models use it."""
    return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


@equation
def sigmoid(x):
    """``1 / (1 + exp(-x))``, written so that it never overflows."""
    return 0.5 * (1 + tanh(0.5 * x))


@equation
def silu(x):
    """``x σ(x)``, also called swish (Elfwing et al. 2018)."""
    return x * sigmoid(x)


@equation
def quick_gelu(x):
    """``x σ(1.702 x)``, GELU's logistic approximation; iGPT and CLIP use it."""
    return x * sigmoid(1.702 * x)


@equation
def softplus(x):
    """``log(1 + exp(x))`` (Dugas et al. 2001), by the smaller of exp(x) and exp(-x), so that nothing overflows."""
    return relu(x) + log1p(exp(where(greater(x, 0), -x, x)))


@equation
def log_sigmoid(x):
    """``log σ(x) = -log(1 + exp(-x))``, exact where σ itself would round to zero."""
    return -softplus(-x)


@equation
def elu(x, *, alpha=1.0):
    """``x`` above zero and ``α (exp(x) - 1)`` below (Clevert et al. 2016, Eq. 15); derivative α at 0."""
    above = greater(x, 0)
    return where(above, x, alpha * expm1(where(above, 0, x)))


@equation
def leaky_relu(x, *, slope=0.01):
    """``x`` above zero and ``slope · x`` below (Maas et al. 2013); derivative ``slope`` at 0."""
    return where(greater(x, 0), x, slope * x)


@equation
def relu6(x):
    """``min(max(x, 0), 6)`` (Krizhevsky 2010), with derivative 0 at 0 and at 6."""
    return where(greater(6, x), relu(x), 6)


@equation
def hardswish(x):
    """``x · relu6(x + 3) / 6``: silu from straight pieces (Howard et al. 2019, Sec. 5.2)."""
    return x * relu6(x + 3) / 6
