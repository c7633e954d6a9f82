"""Linear maps that share weights over places: linear, convolution and its transpose. Images are channels-last."""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.equations.correlation import correlation
from tinyvit.equations.sums import column_sums, plus
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.reduce import sum
from tinyvit.primitives.shape import borders, fold, per_axis, reshape, unfold, zero_padded


@equation
def linear(x, weight, bias=None):
    """``x Wᵀ + b``.   x (..., N, i), weight (o, i), bias (o,) -> (..., N, o)"""
    y = x @ weight.T
    return y if bias is None else y + bias


@linear.pullback
def _(g, out, x, weight, bias=None):
    rows = reshape(x, shape=(-1, x.shape[-1]))
    g_rows = reshape(g, shape=(-1, g.shape[-1]))
    return lambda: linear(g, weight.T), lambda: g_rows.T @ rows, lambda: sum(g_rows, axis=0)


@linear.kernel(analytic=True)
def _(x, weight, bias=None):
    if x.ndim < 2:
        raise ValueError("x needs at least two axes")  # as the equation's matmul does
    rows = np.reshape(x, (-1, x.shape[-1]))
    y = plus(rows @ weight.T, bias)

    def linear_pullback(g):
        g = np.reshape(g, (-1, g.shape[-1]))
        return (
            lambda: np.reshape(g @ weight, x.shape),
            lambda: g.T @ rows,
            lambda: column_sums(g),
        )

    return np.reshape(y, (*x.shape[:-1], weight.shape[0])), linear_pullback


@equation
def conv1d(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """``conv2d`` along one axis.   x (B, L, C), weight (O, C/groups, k), bias (O,) -> (B, L', O)"""
    return _equation(x, weight, bias, 1, stride, padding, dilation, groups)


@conv1d.kernel(analytic=True)
def _(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    return _kernel(x, weight, bias, 1, stride, padding, dilation, groups)


@equation
def conv2d(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation: every output is a weighted sum over a window of the (zero-padded) input.

    x (B, H, W, C), weight (O, C/groups, k, l), bias (O,) -> (B, H', W', O)
    H' = ⌊(H + 2p - d(k - 1) - 1)/s⌋ + 1. stride, padding, dilation: a number, or one per axis.
    Group g's outputs see only group g's share of the channels.
    Raises ValueError for shapes that do not fit each other.
    """
    return _equation(x, weight, bias, 2, stride, padding, dilation, groups)


@conv2d.kernel(analytic=True)
def _(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    return _kernel(x, weight, bias, 2, stride, padding, dilation, groups)


@equation
def conv3d(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """``conv2d`` for video.   x (B, T, H, W, C), weight (O, C/groups, k, l, m), bias (O,) -> (B, T', H', W', O)"""
    return _equation(x, weight, bias, 3, stride, padding, dilation, groups)


@conv3d.kernel(analytic=True)
def _(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    return _kernel(x, weight, bias, 3, stride, padding, dilation, groups)


def _equation(x, weight, bias, n: int, stride, padding, dilation, groups: int):
    """The equation of a convolution over ``n`` spatial axes."""
    _check_shapes(x, weight, bias, n, groups)
    windows = unfold(zero_padded(x, padding, n), size=weight.shape[2:], stride=stride, dilation=dilation)
    B, *places, C = windows.shape[: n + 2]
    shared = reshape(windows, shape=(B, *places, groups, C // groups, *windows.shape[n + 2 :]))
    kernels = reshape(weight, shape=(groups, weight.shape[0] // groups, *weight.shape[1:]))
    at, taps = "thw"[-n:], "klm"[:n]
    y = einsum(shared, kernels, spec=f"b{at}gc{taps},goc{taps}->b{at}go")
    y = reshape(y, shape=(B, *places, weight.shape[0]))
    return y if bias is None else y + bias


def _kernel(x, weight, bias, n: int, *options):
    """The same, fast."""
    _check_shapes(x, weight, bias, n, options[-1])
    return correlation(x, weight, bias, n, *options)


@equation
def conv_transpose2d(x, weight, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """The transpose of ``conv2d``: every input spreads a weighted window over the output, and windows add up.

    x (B, H, W, C), weight (C, O/groups, k, l), bias (O,) -> (B, H', W', O)
    H' = (H - 1)s - 2p + d(k - 1) + 1 + output_padding, which tells apart the heights that conv2d brings down to H.
    Raises ValueError for shapes that do not fit each other.
    """
    check_images(x)
    B, H, W, C = x.shape
    if len(weight.shape) != 4 or weight.shape[0] != C or C % groups:
        raise ValueError(f"weight {weight.shape} does not fit the channels of x {x.shape} (groups={groups})")
    steps, holes, extra = (per_axis(v, 2) for v in (stride, dilation, output_padding))
    o, *size = weight.shape[1:]
    shared = reshape(x, shape=(B, H, W, groups, C // groups))
    kernels = reshape(weight, shape=(groups, C // groups, o, *size))
    windows = reshape(einsum(shared, kernels, spec="bhwgc,gcokl->bhwgokl"), shape=(B, H, W, groups * o, *size))
    whole = [(m - 1) * s + d * (k - 1) + 1 + e for m, s, d, k, e in zip((H, W), steps, holes, size, extra, strict=True)]
    y = fold(windows, shape=(B, *whole, groups * o), stride=steps, dilation=holes)
    cut = (slice(before, m - after) for m, (before, after) in zip(whole, borders(padding, 2), strict=True))
    y = y[(slice(None), *cut)]
    return y if bias is None else y + bias


# shapes ------------------------------------------------------------------------------------


def _check_shapes(x, weight, bias, n: int, groups: int) -> None:
    """Raise ValueError, in words, for a convolution whose arguments do not fit each other."""
    check_images(x, n)
    if len(weight.shape) != n + 2 or weight.shape[1] * groups != x.shape[-1]:
        raise ValueError(f"weight {weight.shape} is for {weight.shape[1] * groups} channels, x has {x.shape[-1]}"
                         f" (groups={groups})")  # fmt: skip
    if weight.shape[0] % groups:
        raise ValueError(f"{weight.shape[0]} output channels cannot be shared out among {groups} groups")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected a number per output channel, {weight.shape[:1]}, got {bias.shape}")


def check_images(x, n: int = 2) -> None:
    """Raise ValueError for anything but a batch with ``n`` spatial axes and channels last."""
    if len(x.shape) != n + 2:
        expected = {1: "sequences (B, L, C)", 2: "images (B, H, W, C)", 3: "videos (B, T, H, W, C)"}[n]
        raise ValueError(f"x: expected {expected}, got {x.shape}")
