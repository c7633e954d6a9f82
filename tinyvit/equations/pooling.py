"""Pooling: one number for every window of an image, or for every part of it. Images are channels-last."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.autodiff.tensor import raw
from tinyvit.backend import like
from tinyvit.equations.convolution import check_images
from tinyvit.primitives.reduce import max, sum
from tinyvit.primitives.shape import borders, fold, getitem, pad, per_axis, reshape, transpose, unfold


@equation
def max_pool2d(x, *, size, stride=None, padding=0, ceil_mode=False):
    """The largest number of every window; the border counts as -inf.   (B, H, W, C) -> (B, H', W', C)

    H' = ⌊(H + 2p - k)/s⌋ + 1; with ceil_mode rounded up, as long as the last window starts before the lower border.
    A tie's derivative goes to the first. A NaN is larger than all.
    """
    windows = _windows(x, size, stride, padding, ceil_mode, -math.inf)
    return max(reshape(windows, shape=(*windows.shape[:4], math.prod(windows.shape[4:]))), axis=-1)


@max_pool2d.kernel
def _(x, *, size, stride=None, padding=0, ceil_mode=False):
    windows = _windows(x, size, stride, padding, ceil_mode, -math.inf)
    taps = list(np.ndindex(*windows.shape[4:]))
    y = reduce(np.maximum, (windows[(..., *tap)] for tap in taps))

    def max_pool2d_pullback(g):
        shares = np.empty_like(g, shape=(*windows.shape[4:], *g.shape))
        left = np.ones_like(y, dtype=bool)  # whose derivative no tap has had yet
        for tap in taps:
            part = windows[(..., *tap)]
            first = left & ((part == y) | (part != part))  # a NaN is no number's equal, and larger than all
            np.multiply(g, first, out=shares[tap])
            left ^= first
        return (_window_sums(np.moveaxis(shares, (0, 1), (-2, -1)), x, size, stride, padding, ceil_mode),)

    return y, max_pool2d_pullback


@equation
def avg_pool2d(x, *, size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The mean of every window; the border counts as zeros.   (B, H, W, C) -> (B, H', W', C)

    H' as in ``max_pool2d``. count_include_pad: divide by all that the window holds of image and border, or else by what
    it holds of the image; what ceil_mode adds beyond the border never counts.
    """
    totals = sum(_windows(x, size, stride, padding, ceil_mode, 0.0), axis=(4, 5))
    rows, columns = (_counts(*along, ceil_mode, count_include_pad) for along in _axes(x, size, stride, padding))
    return totals / like(np.multiply.outer(rows, columns)[..., None].astype(x.dtype), raw(x))


@equation
def adaptive_avg_pool2d(x, *, size):
    """The mean of every part of an image cut into ``size = (H', W')`` parts.   (B, H, W, C) -> (B, H', W', C)

    Part i reaches from ⌊i H/H'⌋ to ⌈(i + 1) H/H'⌉: parts overlap where the lengths do not divide. size: one or two.
    """
    check_images(x)
    for axis, (n, parts) in enumerate(_parts(x, size), start=1):
        x = _part_means(x, axis, n, parts)
    return x


@equation
def adaptive_max_pool2d(x, *, size):
    """The largest number of every part of an image cut as ``adaptive_avg_pool2d`` cuts it."""
    check_images(x)
    rows, columns = (_part_indices(*along) for along in _parts(x, size))
    at = (slice(None), rows[:, None, :, None], columns[None, :, None, :])
    windows = getitem(x, index=at)  # (B, H', W', k, l, C)
    B, H, W, k, l, C = windows.shape
    return max(reshape(transpose(windows, axes=(0, 1, 2, 5, 3, 4)), shape=(B, H, W, C, k * l)), axis=-1)


# windows -----------------------------------------------------------------------------------


def _windows(x, size, stride, padding, ceil_mode: bool, value: float):
    """Every window of the image in a border of ``value``, (B, H', W', C, k, l)."""
    check_images(x)
    axes = _axes(x, size, stride, padding)
    widths = _widths(axes, ceil_mode)
    bordered = pad(x, widths=((0, 0), *widths, (0, 0)), value=value) if any(map(any, widths)) else x
    return unfold(bordered, size=tuple(k for _, k, _, _ in axes), stride=tuple(s for _, _, s, _ in axes))


def _window_sums(windows, x, size, stride, padding, ceil_mode: bool):
    """The transpose of ``_windows``: windows added up to an image like ``x``."""
    axes = _axes(x, size, stride, padding)
    widths = _widths(axes, ceil_mode)
    B, H, W, C = x.shape
    whole = (B, *(n + before + after for n, (before, after) in zip((H, W), widths, strict=True)), C)
    y = fold(windows, shape=whole, stride=tuple(s for _, _, s, _ in axes))
    (top, _), (left, _) = widths
    return y[:, top : top + H, left : left + W]


def _widths(axes, ceil_mode: bool) -> list:
    """For both spatial axes: the border before and after, with what the last window reaches beyond it."""
    return [(before, after + _overhang(n, k, s, (before, after), ceil_mode)) for n, k, s, (before, after) in axes]


def _axes(x, size, stride, padding) -> list:
    """For both spatial axes: length, window, step, (border before, border after)."""
    size = per_axis(size, 2)
    stride = size if stride is None else per_axis(stride, 2)
    return list(zip(x.shape[1:3], size, stride, borders(padding, 2), strict=True))


def _places(n: int, k: int, s: int, border: tuple, ceil_mode: bool) -> int:
    """How many windows there are along an axis."""
    room = n + border[0] + border[1] - k
    if ceil_mode and -(-room // s) * s < n + border[0]:  # one more, if it starts inside the image or the border before
        return -(-room // s) + 1
    return room // s + 1


def _overhang(n: int, k: int, s: int, border: tuple, ceil_mode: bool) -> int:
    """By how much the last window reaches over the border."""
    end = (_places(n, k, s, border, ceil_mode) - 1) * s + k
    return end - (n + border[0] + border[1]) if end > n + border[0] + border[1] else 0


def _counts(n: int, k: int, s: int, border: tuple, ceil_mode: bool, with_border: bool) -> np.ndarray:
    """How many places each window along an axis holds of the image, or of image and border."""
    starts = np.arange(_places(n, k, s, border, ceil_mode)) * s - border[0]
    low, high = (-border[0], n + border[1]) if with_border else (0, n)
    return np.clip(starts + k, None, high) - np.clip(starts, low, None)


# parts -------------------------------------------------------------------------------------


def _parts(x, size) -> list:
    """For both spatial axes: length, and number of parts."""
    size = per_axis(size, 2)
    if min(size) < 1:
        raise ValueError(f"size: expected at least one part along each axis, got {size}")
    return list(zip(x.shape[1:3], size, strict=True))


def _part_bounds(n: int, parts: int):
    """Where each part of an axis starts and ends."""
    i = np.arange(parts)
    return i * n // parts, -(-(i + 1) * n // parts)


def _part_means(x, axis: int, n: int, parts: int):
    """The mean of every part of one axis. No matrix product: pooling is not counted among them."""
    starts, ends = _part_bounds(n, parts)
    windows = getitem(x, index=(*[slice(None)] * axis, _part_indices(n, parts)))  # the axis becomes (parts, longest)
    share = (np.arange(windows.shape[axis + 1]) < (ends - starts)[:, None]) / (ends - starts)[:, None]
    share = share.reshape(*share.shape, *[1] * (x.ndim - axis - 1)).astype(x.dtype)
    return sum(windows * like(share, raw(x)), axis=axis + 1)


def _part_indices(n: int, parts: int) -> np.ndarray:
    """The places of each part, (parts, the longest's length); shorter ones name their last place again."""
    starts, ends = _part_bounds(n, parts)
    return np.minimum(starts[:, None] + np.arange((ends - starts).max()), ends[:, None] - 1)
