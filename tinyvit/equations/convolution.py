"""Linear maps that share weights over places: linear, convolution, pooling. Images are channels-last."""

from __future__ import annotations

import math

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.reduce import max, mean
from tinyvit.primitives.shape import fold, pad, per_axis, reshape, unfold


@equation
def linear(x, weight, bias=None):
    """``x Wᵀ + b``.   x (..., N, i), weight (o, i), bias (o,) -> (..., N, o)"""
    y = x @ weight.T
    return y if bias is None else y + bias


@linear.kernel(analytic=True)
def _(x, weight, bias=None):
    if x.ndim < 2:
        raise ValueError("x needs at least two axes")  # as the equation's matmul does
    rows = np.reshape(x, (-1, x.shape[-1]))
    y = rows @ weight.T
    if bias is not None:
        y = np.add(y, bias, out=y if y.dtype == np.result_type(y, bias) else None)

    def linear_pullback(g):
        g = np.reshape(g, (-1, g.shape[-1]))
        return (
            lambda: np.reshape(g @ weight, x.shape),
            lambda: g.T @ rows,
            lambda: np.ones_like(g[:, 0]) @ g,  # the sum over rows; as a product it is twice as fast
        )

    return np.reshape(y, (*x.shape[:-1], weight.shape[0])), linear_pullback


@equation
def conv2d(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation: every output is a weighted sum over a window of the (zero-padded) input.

    x (B, H, W, C), weight (O, C/groups, k, l), bias (O,) -> (B, H', W', O)
    H' = ⌊(H + 2p - d(k - 1) - 1)/s⌋ + 1. stride, padding, dilation: a number, or one per axis.
    Group g's outputs see only group g's share of the channels.
    Raises ValueError for shapes that do not fit each other.
    """
    _check_shapes(x, weight, groups)
    windows = unfold(_zero_padded(x, padding, 2), size=weight.shape[2:], stride=stride, dilation=dilation)
    B, H, W, C, *size = windows.shape
    shared = reshape(windows, shape=(B, H, W, groups, C // groups, *size))
    kernels = reshape(weight, shape=(groups, weight.shape[0] // groups, *weight.shape[1:]))
    y = reshape(einsum(shared, kernels, spec="bhwgckl,gockl->bhwgo"), shape=(B, H, W, weight.shape[0]))
    return y if bias is None else y + bias


@conv2d.kernel(analytic=True)
def _(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    _check_shapes(x, weight, groups)
    padded = _zero_padded(x, padding, 2)
    windows = unfold(padded, size=weight.shape[2:], stride=stride, dilation=dilation)
    B, H, W, C, k, l = windows.shape
    O, c = weight.shape[:2]
    windows = np.transpose(np.reshape(windows, (B, H, W, groups, c, k, l)), (3, 0, 1, 2, 5, 6, 4))
    kernels = np.reshape(weight, (groups, O // groups, c, k, l)).transpose(0, 3, 4, 2, 1)
    kernels = np.reshape(kernels, (groups, k * l * c, O // groups))
    at_once = -(-_COLUMN_BUDGET // (H * W * k * l * C))  # images whose windows are laid out as columns together
    chunks = [slice(b, b + at_once) for b in range(0, B or 1, at_once)]

    def columns(chunk):
        return np.reshape(windows[:, chunk], (groups, -1, k * l * c))

    def per_group(g):
        return np.moveaxis(np.reshape(g, (-1, groups, O // groups)), 1, 0)

    def dx(g):
        out = np.zeros_like(padded, dtype=g.dtype)
        for chunk in chunks:
            d = np.reshape(per_group(g[chunk]) @ np.swapaxes(kernels, 1, 2), (groups, -1, H, W, k, l, c))
            d = np.reshape(d.transpose(1, 2, 3, 4, 5, 0, 6), (-1, H, W, k, l, C)).transpose(0, 1, 2, 5, 3, 4)
            out[chunk] = fold(d, shape=(len(d), *padded.shape[1:]), stride=stride, dilation=dilation)
        (top, _), (left, _) = _borders(padding, 2)
        return out[:, top : top + x.shape[1], left : left + x.shape[2]]

    def dweight(g):
        total = np.zeros_like(kernels, dtype=g.dtype)
        for chunk in chunks:
            total += np.swapaxes(columns(chunk), 1, 2) @ per_group(g[chunk])
        return np.reshape(np.reshape(total, (groups, k, l, c, O // groups)).transpose(0, 4, 3, 1, 2), weight.shape)

    def conv2d_pullback(g):
        return lambda: dx(g), lambda: dweight(g), lambda: np.sum(g, axis=(0, 1, 2))

    y = np.concatenate([np.moveaxis(columns(chunk) @ kernels, 0, 1).reshape(-1, H, W, O) for chunk in chunks])
    return y if bias is None else y + bias, conv2d_pullback


def _check_shapes(x, weight, groups: int) -> None:
    """Raise ValueError, in words, for a convolution whose input and weight do not fit."""
    _check_images(x)
    if len(weight.shape) != 4 or weight.shape[1] * groups != x.shape[3]:
        raise ValueError(f"weight {weight.shape} is for {weight.shape[1] * groups} channels, x has {x.shape[3]}"
                         f" (groups={groups})")  # fmt: skip
    if weight.shape[0] % groups:
        raise ValueError(f"{weight.shape[0]} output channels cannot be shared out among {groups} groups")


def _check_images(x) -> None:
    if len(x.shape) != 4:
        raise ValueError(f"x: expected images (B, H, W, C), got {x.shape}")


_COLUMN_BUDGET = 1 << 18  # numbers; about the size of a core's second-level cache


@equation
def max_pool2d(x, *, size, stride=None, padding=0):
    """The largest number of every window; the border counts as -inf.   (B, H, W, C) -> (B, H', W', C)"""
    _check_images(x)
    size = per_axis(size, 2)
    bordered = pad(x, widths=((0, 0), *_borders(padding, 2), (0, 0)), value=-math.inf)
    windows = unfold(bordered, size=size, stride=size if stride is None else stride)
    return max(reshape(windows, shape=(*windows.shape[:4], math.prod(size))), axis=-1)


@equation
def avg_pool2d(x, *, size, stride=None, padding=0):
    """The mean of every window; the border counts as zeros.   (B, H, W, C) -> (B, H', W', C)"""
    _check_images(x)
    size = per_axis(size, 2)
    windows = unfold(_zero_padded(x, padding, 2), size=size, stride=size if stride is None else stride)
    return mean(windows, axis=(4, 5))


def _zero_padded(x, padding, n: int):
    """``x`` with a border of zeros around its ``n`` spatial axes."""
    borders = _borders(padding, n)
    return pad(x, widths=((0, 0), *borders, (0, 0))) if any(map(any, borders)) else x


def _borders(padding, n: int) -> tuple:
    """(before, after) for each of ``n`` spatial axes, from one number, one per axis, or the pairs themselves."""
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in per_axis(padding, n))
