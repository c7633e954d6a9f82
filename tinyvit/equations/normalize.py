"""Normalisations. The variance always divides by N."""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.primitives.reduce import mean, var


@equation
def layer_norm(x, weight=None, bias=None, *, eps=1e-6):
    """``(x - μ) / √(σ² + ε) · weight + bias`` over the last axis (Ba et al. 2016, Eq. 4).

    x (..., D), weight and bias (D,) -> (..., D)
    """
    centred = x - mean(x, axis=-1, keepdims=True)
    normal = centred * (mean(centred * centred, axis=-1, keepdims=True) + eps) ** -0.5
    return _affine(normal, weight, bias)


@layer_norm.kernel(analytic=True)
def _(x, weight=None, bias=None, *, eps=1e-6):
    normal = x - _row_means(x)
    scale = 1 / np.sqrt(_row_means(normal * normal) + eps)
    normal *= scale

    def layer_norm_pullback(g):
        h = g if weight is None else g * weight
        dx = normal * -_row_means(h * normal)
        dx = dx + h
        dx -= _row_means(h)
        dx *= scale
        return dx, lambda: g * normal, lambda: g

    return _affine(normal, weight, bias), layer_norm_pullback


def _row_means(x):
    """The mean over the last axis, kept as an axis: as a product with 1/D, several times as fast as a sum."""
    D = x.shape[-1]
    return x @ (np.ones_like(x, shape=(D, 1)) / max(D, 1))


@equation
def batch_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Normalise every channel by its mean and variance over the batch (Ioffe & Szegedy 2015, Alg. 1).

    x (..., C) channels-last, weight and bias (C,) -> (..., C); all axes but the last are the batch
    """
    axes = tuple(range(len(x.shape) - 1))
    centred = x - mean(x, axis=axes, keepdims=True)
    return _affine(centred * (mean(centred * centred, axis=axes, keepdims=True) + eps) ** -0.5, weight, bias)


@equation
def batch_norm_inference(x, running_mean, running_var, weight=None, bias=None, *, eps=1e-5):
    """Normalise every channel by statistics gathered in training (Ioffe & Szegedy 2015, Alg. 2)."""
    return _affine((x - running_mean) * (running_var + eps) ** -0.5, weight, bias)


def batch_statistics(x):
    """Mean and variance of every channel over the batch, (..., C) -> (C,), (C,)."""
    axes = tuple(range(len(x.shape) - 1))
    return mean(x, axis=axes), var(x, axis=axes)


def _affine(x, weight, bias):
    """``x · weight + bias``, either of which may be absent."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
