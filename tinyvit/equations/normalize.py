"""Normalisations. The variance always divides by N."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.backend import on_device
from tinyvit.equations.blocks import blocks
from tinyvit.equations.sums import column_sums, plus, row_means
from tinyvit.primitives.reduce import mean
from tinyvit.primitives.shape import flatten, reshape


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
    Raises ValueError for a weight or bias of another shape.
    """
    _check_channels(x, weight, bias)
    return _affine(_standardised(x, tuple(range(len(x.shape) - 1)), eps), weight, bias)


@batch_norm.kernel(analytic=True)
def _(x, weight=None, bias=None, *, eps=1e-5):
    _check_channels(x, weight, bias)
    return _over_places(x, 1, weight, bias, groups=x.shape[-1], eps=eps)


@equation
def batch_norm_inference(x, running_mean, running_var, weight=None, bias=None, *, eps=1e-5):
    """Normalise every channel by statistics gathered in training (Ioffe & Szegedy 2015, Alg. 2).

    x (..., C) channels-last, all others (C,) -> (..., C). Raises ValueError for another shape.
    """
    _check_channels(x, running_mean, running_var, weight, bias)
    return _affine((x - running_mean) * (running_var + eps) ** -0.5, weight, bias)


@batch_norm_inference.kernel(analytic=True)
def _(x, running_mean, running_var, weight=None, bias=None, *, eps=1e-5):
    _check_channels(x, running_mean, running_var, weight, bias)
    rows = _rows(x, 1)
    scale = 1 / np.sqrt(running_var + eps)
    slope = scale if weight is None else scale * weight
    shift = -running_mean * slope if bias is None else bias - running_mean * slope

    def normalised(at, out):
        np.multiply(rows[at], slope, out=out)
        out += shift

    y = _by_blocks(normalised, rows, slope, shift)

    def batch_norm_inference_pullback(g):
        g_rows = _rows(g, 1)

        @cache
        def sums():
            """Of g, and of g times the normalised x."""
            along = _column_sums(lambda at: g_rows[at] * (rows[at] - running_mean), g_rows, rows)
            return _column_sums(lambda at: g_rows[at], g_rows)[0, 0], along[0, 0] * scale

        return (
            lambda: g * slope,
            lambda: -slope * sums()[0],
            lambda: -0.5 * slope * scale * sums()[1],
            lambda: sums()[1],
            lambda: sums()[0],
        )

    return np.reshape(y, x.shape), batch_norm_inference_pullback


@equation
def group_norm(x, weight=None, bias=None, *, groups, eps=1e-5):
    """Normalise every image by its mean and variance over a group of channels and all places (Wu & He 2018, Eq. 4).

    x (B, ..., C) channels-last, weight and bias (C,) -> (B, ..., C); a group is C/groups consecutive channels
    Raises ValueError for channels that cannot be shared out evenly.
    """
    _check_groups(x, groups)
    _check_channels(x, weight, bias)
    B, *places, C = x.shape
    shared = reshape(x, shape=(B, math.prod(places), groups, C // groups))
    return _affine(reshape(_standardised(shared, (1, 3), eps), shape=x.shape), weight, bias)


@group_norm.kernel(analytic=True)
def _(x, weight=None, bias=None, *, groups, eps=1e-5):
    _check_groups(x, groups)
    _check_channels(x, weight, bias)
    return _over_places(x, len(x), weight, bias, groups=groups, eps=eps)


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
    return reshape(layer_norm(flatten(weight), eps=eps), shape=weight.shape)


def _standardised(x, axes: tuple, eps: float):
    """``(x - μ) / √(σ² + ε)`` over some axes."""
    centred = x - mean(x, axis=axes, keepdims=True)
    return centred * (mean(centred * centred, axis=axes, keepdims=True) + eps) ** -0.5


def _affine(x, weight, bias):
    """``x · weight + bias``, either of which may be absent."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _check_channels(x, *vectors) -> None:
    """Raise ValueError unless all vectors have a number for every channel."""
    for v in vectors:
        if v is not None and (not x.shape or v.shape != x.shape[-1:]):
            raise ValueError(f"expected a number for every channel of x {x.shape}, got {v.shape}")


def _check_groups(x, groups: int) -> None:
    """Raise ValueError for channels that cannot be shared out evenly."""
    if len(x.shape) < 2 or x.shape[-1] % groups:
        raise ValueError(f"x: expected (B, ..., C) with C a multiple of groups={groups}, got {x.shape}")


# the kernels of norms over places: x as (sets, places, C), block by block -------------------

BLOCK = 1 << 18  # numbers that a chain of steps works on at a time


def _over_places(x, sets: int, weight, bias, groups: int, eps: float):
    """Normalise every group of channels over the places of its set: all of the batch, or one image."""
    rows = _rows(x, sets)
    mean, variance = _moments(rows, groups)
    scale = 1 / np.sqrt(variance + eps)
    slope = scale if weight is None else scale * weight

    def normalised(at, out):
        np.subtract(rows[at], mean[at[0]], out=out)
        out *= slope[at[0]]
        if bias is not None:
            out += bias

    def over_places_pullback(g):
        g = _rows(g, sets)
        total = _column_sums(lambda at: g[at], g)
        along = _column_sums(lambda at: g[at] * (rows[at] - mean[at[0]]), g, rows) * scale
        by_mean = _group_means(total if weight is None else total * weight, rows, groups) * scale
        by_variance = _group_means(along if weight is None else along * weight, rows, groups) * scale * scale

        def back(at, out):
            """What flows through the value, less what changing the mean and the variance takes back."""
            np.multiply(g[at], slope[at[0]], out=out)
            out -= by_mean[at[0]]
            centred = rows[at] - mean[at[0]]
            centred *= by_variance[at[0]]
            out -= centred

        dx = np.reshape(_by_blocks(back, g, rows, slope), x.shape)
        return dx, np.sum(along, axis=(0, 1)), np.sum(total, axis=(0, 1))

    return np.reshape(_by_blocks(normalised, rows, slope, bias), x.shape), over_places_pullback


def batch_statistics(x):
    """Mean and variance of every channel over the batch, an array (..., C) -> (C,), (C,)."""
    mean, variance = _moments(_rows(x, 1), x.shape[-1])
    return mean[0, 0], variance[0, 0]


def _moments(rows, groups: int):
    """Mean and variance of every group, told to each of its channels.   (S, R, C) -> (S, 1, C), (S, 1, C)"""
    mean = _group_means(_column_sums(lambda at: rows[at], rows), rows, groups)

    def squares(at):
        centred = rows[at] - mean[at[0]]
        centred *= centred
        return centred

    return mean, _group_means(_column_sums(squares, rows), rows, groups)


def _group_means(sums, rows, groups: int):
    """Sums over places as means over places and the channels of a group.   (S, 1, C) -> (S, 1, C)"""
    S, R, C = rows.shape
    if groups == C:
        return sums / max(R, 1)
    shared = np.reshape(sums, (S, 1, groups, C // groups))
    means = np.sum(shared, axis=-1, keepdims=True) / max(R * (C // groups), 1)
    return np.reshape(np.broadcast_to(means, shared.shape), sums.shape)


def _rows(x, sets: int):
    """(..., C) -> (sets, places, C)"""
    return np.reshape(x, (sets, math.prod(x.shape[:-1]) // max(sets, 1), x.shape[-1]))


def _by_blocks(write, *arrays):
    """An array like the first, of a type that holds all, which ``write(at, out)`` fills block by block."""
    y = np.empty_like(arrays[0], dtype=_type(arrays))
    for at in _blocks(y):
        write(at, out=y[at])
    return y


def _column_sums(f, *arrays):
    """The sum of ``f(at)`` over all blocks and places.   (S, 1, C)"""
    S, _, C = arrays[0].shape
    out = np.zeros_like(arrays[0], shape=(S, 1, C), dtype=_type(arrays))
    for at in _blocks(arrays[0]):
        part = f(at)
        out[at[0]] += np.ones_like(part, shape=(1, part.shape[1])) @ part  # BLAS does it several times as fast
    return out


def _blocks(rows) -> list:
    return blocks(rows.shape[:2], rows.shape[2], rows.size if on_device(rows) else BLOCK)


def _type(arrays):
    return np.result_type(*(a for a in arrays if a is not None))
