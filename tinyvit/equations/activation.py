"""Activations and softmax."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.backend import special
from tinyvit.primitives.elementwise import equal, erf, exp, log, tanh
from tinyvit.primitives.reduce import peak, sum


@equation
def softmax(x, *, axis=-1):
    """``exp(xᵢ) / Σⱼ exp(xⱼ)`` along ``axis``, shifted by the largest so that nothing overflows.

    A row whose numbers are all -inf (nothing may be attended to) gives zeros, not NaN.
    """
    e = exp(x - peak(x, axis=axis))
    return e / _nonzero(sum(e, axis=axis, keepdims=True))


@softmax.kernel(analytic=True)
def _(x, *, axis=-1):
    y = np.exp(x - peak(x, axis=axis))
    y /= _nonzero(np.sum(y, axis=axis, keepdims=True))

    def softmax_pullback(g):
        gy = g * y
        return (gy - y * np.sum(gy, axis=axis, keepdims=True),)

    return y, softmax_pullback


def _nonzero(total):
    """One where the total is zero, so that 0/0 becomes 0."""
    return total + equal(total, 0)


@equation
def log_softmax(x, *, axis=-1):
    """``xᵢ - log Σⱼ exp(xⱼ)`` along ``axis``; exact where softmax itself would round to zero."""
    shifted = x - peak(x, axis=axis)
    return shifted - log(sum(exp(shifted), axis=axis, keepdims=True))


@log_softmax.kernel(analytic=True)
def _(x, *, axis=-1):
    y = x - peak(x, axis=axis)
    y -= np.log(np.sum(np.exp(y), axis=axis, keepdims=True))

    def log_softmax_pullback(g):
        return (g - np.exp(y) * np.sum(g, axis=axis, keepdims=True),)

    return y, log_softmax_pullback


@equation
def gelu(x):
    """``x Φ(x)`` with the normal distribution function Φ (Hendrycks & Gimpel 2016)."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


@gelu.kernel(analytic=True)
def _(x):
    cdf = 0.5 * (1 + special().erf(x / math.sqrt(2)))

    def gelu_pullback(g):
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return (g * (cdf + x * density),)

    return x * cdf, gelu_pullback


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
