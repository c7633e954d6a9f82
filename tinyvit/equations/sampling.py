"""Looking numbers up: rows of a table by number, values of an image at places between its pixels."""

from __future__ import annotations

import numpy as np

from tinyvit.autodiff.op import constant, equation
from tinyvit.autodiff.tensor import raw
from tinyvit.backend import like
from tinyvit.blueprint import Blueprint
from tinyvit.equations.convolution import check_images
from tinyvit.primitives.shape import getitem, reshape


@equation
def embedding(indices, weight):
    """The rows of a table: ``weight[indices]``.   indices (...) integers, weight (V, D) -> (..., D)

    Raises ValueError for a table without two axes and for indices outside 0 … V-1.
    """
    indices = raw(indices)
    if len(weight.shape) != 2 or indices.dtype.kind not in "iu":
        raise ValueError(f"expected indices as integers and a weight (V, D), got {indices.dtype} and {weight.shape}")
    check_within("indices: rows", indices, weight.shape[0])
    return getitem(weight, index=indices)


def check_within(name: str, indices, n: int) -> None:
    """Raise ValueError for integers outside 0 … n-1; shapes alone cannot be wrong."""
    if isinstance(indices, Blueprint) or not indices.size:
        return
    low, high = indices.min(), indices.max()
    if not (low >= 0 and high < n):
        raise ValueError(f"{name} must lie in 0 … {n - 1}, found {low} … {high}")


@equation
def grid_sample(x, grid, *, align_corners=False):
    """The image at given places, linear between neighbouring pixels and zero outside (Jaderberg et al. 2015, Eq. 5).

    x (B, H, W, C), grid (B, H', W', 2) -> (B, H', W', C)
    grid holds (x, y), from -1 to 1 over the image: over its borders or, with align_corners, over the centres of its
    outermost pixels. A place that is NaN gives NaN.
    """
    check_images(x)
    if len(grid.shape) != 4 or grid.shape[::3] != (x.shape[0], 2):
        raise ValueError(f"grid: expected (B, H', W', 2) for the B of x {x.shape}, got {grid.shape}")
    B, H, W, C = x.shape
    pixels = reshape(x, shape=(B * H * W, C))
    images = like(np.arange(B)[:, None, None] * (H * W), raw(x))
    total = 0
    for row, vertical in neighbours(_in_pixels(grid[..., 1], H, align_corners)):
        for column, horizontal in neighbours(_in_pixels(grid[..., 0], W, align_corners)):
            share = vertical * horizontal * _inside(row, column, H, W)
            at = images + _held(row, H) * W + _held(column, W)
            total = total + getitem(pixels, index=at) * reshape(share, shape=(*share.shape, 1))
    return total


def _in_pixels(place, n: int, align_corners: bool):
    """-1 … 1 as a number of pixels along an axis of ``n``."""
    return (place + 1) * (0.5 * (n - 1)) if align_corners else ((place + 1) * n - 1) * 0.5


def neighbours(place):
    """The two pixels that a place lies between, as whole numbers, and the share of each."""
    below = _floor(place)
    return (below, below + 1 - place), (below + 1, place - below)


@constant
def _floor(place):
    return np.floor(np.real(place))


@constant
def _inside(row, column, H: int, W: int):
    return (row >= 0) * (row < H) * (column >= 0) * (column < W)


@constant
def _held(place, n: int):
    """The nearest place that the image has, as an integer; NaN becomes 0."""
    return np.nan_to_num(np.clip(place, 0, n - 1)).astype(np.intp)
