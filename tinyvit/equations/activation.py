"""Activations and softmax."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.backend import special
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
    y /= _nonzero(np.sum(y, axis=axis, keepdims=True))
    return y


def softmax_cotangent(g, y, axis=-1):
    """The cotangent of softmax's argument: ``y (g - Σ g y)``."""
    gy = g * y
    gy -= y * np.sum(gy, axis=axis, keepdims=True)
    return gy


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


@gelu.kernel(analytic=True)
def _(x):
    if isinstance(x, np.ndarray) and x.dtype == np.float32:
        return _gelu_single(x)
    cdf = 0.5 * (1 + special().erf(x / math.sqrt(2)))

    def gelu_pullback(g):
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return (g * (cdf + x * density),)

    return x * cdf, gelu_pullback


# Φ(x) = (1 + tanh(x P(x²)))/2 for |x| ≤ 5.5, beyond which Φ is 0 or 1 in single precision. P is fitted to
# atanh(2Φ - 1)/x for the smallest worst error: 1.5e-7 in Φ, 5.6e-7 in xΦ, where erf itself takes ten times as long.
_NORMAL_CDF = tuple(map(np.float32, (0.797884268, 0.0363341494, -3.30267894e-05, -5.52733742e-05, 3.97407002e-06,
                                     -1.33783187e-07, 1.81392743e-09)))  # fmt: skip
_BLOCK = 1 << 16  # numbers that a chain of elementwise steps works on at a time, so that they stay in the cache


def _gelu_single(x):
    """GELU in single precision, block by block."""
    flat = np.reshape(x, -1)
    cdf, y = np.empty_like(flat), np.empty_like(flat)
    blocks = [slice(i, i + _BLOCK) for i in range(0, flat.size, _BLOCK)]
    for part in blocks:
        cdf[part] = _normal_cdf(flat[part])
        np.multiply(flat[part], cdf[part], out=y[part])

    def gelu_pullback(g):
        g, dx = np.reshape(g, -1), np.empty_like(flat)
        for part in blocks:
            slope = flat[part] * flat[part]
            slope *= np.float32(-0.5)
            np.exp(slope, out=slope)
            slope *= flat[part]
            slope *= np.float32(1 / math.sqrt(2 * math.pi))
            slope += cdf[part]  # the derivative of x Φ(x) is Φ(x) + x φ(x)
            np.multiply(slope, g[part], out=dx[part])
        return (np.reshape(dx, x.shape),)

    return np.reshape(y, x.shape), gelu_pullback


def _normal_cdf(x):
    """Φ(x) in single precision."""
    u = np.clip(x, np.float32(-5.5), np.float32(5.5))
    square = u * u
    polynomial = square * _NORMAL_CDF[-1]
    for coefficient in _NORMAL_CDF[-2:0:-1]:
        polynomial += coefficient
        polynomial *= square
    polynomial += _NORMAL_CDF[0]
    polynomial *= u
    np.tanh(polynomial, out=polynomial)
    polynomial += np.float32(1)
    polynomial *= np.float32(0.5)
    return polynomial


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
