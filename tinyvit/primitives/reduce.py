"""Many numbers into one, along axes."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.broadcast import broadcast_to
from tinyvit.autodiff.op import constant, primitive
from tinyvit.primitives.shape import reshape, take_along_axis


@primitive
def sum(x, *, axis=None, keepdims=False):
    """The sum along ``axis`` (a number, several, or None for all)."""
    return np.sum(x, axis=axis, keepdims=keepdims)


@sum.pullback
def _(g, out, x, *, axis, keepdims):
    kept = reshape(g, shape=_kept_shape(x.shape, axis))
    return (broadcast_to(kept, shape=x.shape),)


def mean(x, *, axis=None, keepdims=False):
    """The arithmetic mean along ``axis``."""
    return sum(x, axis=axis, keepdims=keepdims) / math.prod(x.shape[i] for i in _axes(len(x.shape), axis))


def var(x, *, axis=None, keepdims=False):
    """The mean squared distance from the mean along ``axis`` (divided by N, not N - 1)."""
    centred = x - mean(x, axis=axis, keepdims=True)
    return mean(centred * centred, axis=axis, keepdims=keepdims)


def max(x, *, axis, keepdims=False):
    """The largest number along one axis (by real part); the derivative goes to the first one that reaches it."""
    best = take_along_axis(x, argmax(x, axis=axis, keepdims=True), axis=axis)
    return best if keepdims else reshape(best, shape=_dropped_shape(x.shape, axis))


@constant
def argmax(x, axis=-1, keepdims=False):
    """Where the largest number along ``axis`` stands (by real part), as integers."""
    return np.argmax(np.real(x), axis=axis, keepdims=keepdims)


@constant
def peak(x, axis=-1):
    """The largest real part along ``axis``, kept as an axis of length one and held constant.

    For shifts that cancel, as in softmax: the derivative of the shift need not be followed. Where all numbers
    are -inf it is 0, so that subtracting it makes no NaN.
    """
    top = np.max(np.real(x), axis=axis, keepdims=True)
    return np.where(top == -np.inf, top.dtype.type(0), top)


def _axes(ndim: int, axis) -> tuple:
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(i % ndim for i in axes)


def _kept_shape(shape, axis) -> tuple:
    axes = _axes(len(shape), axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _dropped_shape(shape, axis) -> tuple:
    return tuple(n for i, n in enumerate(shape) if i not in _axes(len(shape), axis))
