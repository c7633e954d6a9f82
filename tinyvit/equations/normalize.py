"""Normalisations. The variance always divides by N."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.equations.sums import column_sums, plus, row_means
from tinyvit.primitives.reduce import mean, var
from tinyvit.primitives.shape import reshape


@equation
def layer_norm(x, weight=None, bias=None, *, eps=1e-6):
    """``(x - μ) / √(σ² + ε) · weight + bias`` over the last axis (Ba et al. 2016, Eq. 4).

    x (..., D), weight and bias (D,) -> (..., D). A constant row gives the bias; one with NaN or infinity becomes NaN.
    """
    centred = x - mean(x, axis=-1, keepdims=True)
    normal = centred * (mean(centred * centred, axis=-1, keepdims=True) + eps) ** -0.5
    return _affine(normal, weight, bias)


@layer_norm.pullback
def _(g, out, x, weight=None, bias=None, *, eps):
    centred = x - mean(x, axis=-1, keepdims=True)
    scale = (mean(centred * centred, axis=-1, keepdims=True) + eps) ** -0.5
    normal = centred * scale
    h = g if weight is None else g * weight
    along = mean(h * normal, axis=-1, keepdims=True)  # what changing the variance takes back; the mean takes mean(h)
    return (h - mean(h, axis=-1, keepdims=True) - normal * along) * scale, lambda: g * normal, lambda: g


@layer_norm.kernel(analytic=True)
def _(x, weight=None, bias=None, *, eps=1e-6):
    normal = x - row_means(x)
    scale = 1 / np.sqrt(row_means(normal * normal) + eps)
    normal *= scale

    def layer_norm_pullback(g):
        along = g * normal
        dweight, dbias = (column_sums(c) if np.ndim(p) == 1 else c for c, p in ((along, weight), (g, bias)))
        dx = g * (1 if weight is None else weight)
        dx -= normal * row_means(along, weight)  # what changing the variance takes back
        dx -= row_means(g, weight)  # and the mean
        dx *= scale
        return dx, dweight, dbias

    y = normal * (1 if weight is None else weight)
    return plus(y, bias), layer_norm_pullback


@equation
def batch_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Normalise every channel by its mean and variance over the batch (Ioffe & Szegedy 2015, Alg. 1).

    x (..., C) channels-last, weight and bias (C,) -> (..., C); all axes but the last are the batch
    """
    return _affine(_standardised(x, tuple(range(len(x.shape) - 1)), eps), weight, bias)


@equation
def batch_norm_inference(x, running_mean, running_var, weight=None, bias=None, *, eps=1e-5):
    """Normalise every channel by statistics gathered in training (Ioffe & Szegedy 2015, Alg. 2)."""
    return _affine((x - running_mean) * (running_var + eps) ** -0.5, weight, bias)


@equation
def group_norm(x, weight=None, bias=None, *, groups, eps=1e-5):
    """Normalise every image by its mean and variance over a group of channels and all places (Wu & He 2018, Eq. 4).

    x (B, ..., C) channels-last, weight and bias (C,) -> (B, ..., C); a group is C/groups consecutive channels
    Raises ValueError for channels that cannot be shared out evenly.
    """
    if len(x.shape) < 2 or x.shape[-1] % groups:
        raise ValueError(f"x: expected (B, ..., C) with C a multiple of groups={groups}, got {x.shape}")
    B, *places, C = x.shape
    shared = reshape(x, shape=(B, math.prod(places), groups, C // groups))
    return _affine(reshape(_standardised(shared, (1, 3), eps), shape=x.shape), weight, bias)


@equation
def instance_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Normalise every channel of every image over its places (Ulyanov et al. 2016): a group norm of C groups."""
    return group_norm(x, weight, bias, groups=x.shape[-1], eps=eps)


@equation
def rms_norm(x, weight=None, *, eps=1e-6):
    """``x / √(mean x² + ε) · weight`` over the last axis: a layer norm without the mean (Zhang & Sennrich 2019, Eq. 4).

    x (..., D), weight (D,) -> (..., D)
    """
    return _affine(x * (mean(x * x, axis=-1, keepdims=True) + eps) ** -0.5, weight, None)


@equation
def weight_standardise(weight, *, eps=1e-5):
    """Filters of mean 0 and variance 1, ``(w - μ) / √(σ² + ε)`` (Qiao et al. 2019, Eq. 7).   (O, ...) -> (O, ...)

    Raises ValueError for a weight of one axis, whose filters are single numbers.
    """
    if len(weight.shape) < 2:
        raise ValueError(f"weight: expected filters (O, ...), got {weight.shape}")
    return _standardised(weight, tuple(range(1, len(weight.shape))), eps)


def _standardised(x, axes: tuple, eps: float):
    """``(x - μ) / √(σ² + ε)`` over some axes."""
    centred = x - mean(x, axis=axes, keepdims=True)
    return centred * (mean(centred * centred, axis=axes, keepdims=True) + eps) ** -0.5


def batch_statistics(x):
    """Mean and variance of every channel over the batch, (..., C) -> (C,), (C,)."""
    axes = tuple(range(len(x.shape) - 1))
    return mean(x, axis=axes), var(x, axis=axes)


def _affine(x, weight, bias):
    """``x · weight + bias``, either of which may be absent."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
