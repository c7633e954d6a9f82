"""Resizing images and position tables: a linear map along each axis."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.autodiff.tensor import raw
from tinyvit.backend import like
from tinyvit.primitives.contract import einsum


@equation
def resize(x, *, size, mode="bilinear", align_corners=False, antialias=False):
    """Resample an image to ``size = (H', W')``.   (B, H, W, C) -> (B, H', W', C)

    mode           "nearest", "bilinear" or "bicubic" (a = -0.75; antialiased -0.5, as PyTorch and Pillow do)
    align_corners  the outermost samples coincide; otherwise the outermost pixel *borders* do
    antialias      widen the filter when shrinking, so that every input pixel counts
    Raises ValueError for anything but images, an empty size or an unknown mode.
    """
    if len(x.shape) != 4 or min(size) < 1:
        raise ValueError(f"expected images (B, H, W, C) and a size of at least (1, 1), got {x.shape} and size {size}")
    rows = resize_matrix(x.shape[1], size[0], mode, align_corners, antialias)
    columns = resize_matrix(x.shape[2], size[1], mode, align_corners, antialias)
    rows, columns = (like(m.astype(x.dtype), raw(x)) for m in (rows, columns))
    return einsum(einsum(x, rows, spec="bhwc,ph->bpwc"), columns, spec="bpwc,qw->bpqc")


@lru_cache(maxsize=256)
def resize_matrix(n_in: int, n_out: int, mode: str, align_corners=False, antialias=False) -> np.ndarray:
    """The (n_out, n_in) matrix that resamples one axis; its rows sum to one."""
    if mode not in _FILTERS:
        raise ValueError(f"mode: expected one of {sorted(_FILTERS)}, got {mode!r}")
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        if mode == "nearest":
            taps, weights = [math.floor(i * n_in / n_out)], [1.0]
        elif antialias:
            taps, weights = _antialiased(i, n_in, n_out, mode)
        else:
            taps, weights = _interpolated(i, n_in, n_out, mode, align_corners)
        np.add.at(matrix[i], np.clip(taps, 0, n_in - 1), weights)  # beyond the border: the border's value
    matrix.flags.writeable = False
    return matrix


def _interpolated(i, n_in, n_out, mode, align_corners):
    """Input places and weights for output ``i``: the filter laid over the neighbours of where it falls."""
    if align_corners:
        x = i * (n_in - 1) / max(n_out - 1, 1)
    else:
        x = (i + 0.5) * n_in / n_out - 0.5
        x = max(x, 0.0) if mode == "bilinear" else x
    reach = _FILTERS[mode][0]
    taps = np.arange(math.floor(x) - reach + 1, math.floor(x) + reach + 1)
    return taps, _FILTERS[mode][1](np.abs(taps - x), -0.75)


def _antialiased(i, n_in, n_out, mode):
    """The same with a filter as wide as an output pixel, its weights normalised over the pixels inside."""
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    centre, reach = (i + 0.5) * scale, _FILTERS[mode][0] * stretch
    taps = np.arange(max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), n_in))
    weights = _FILTERS[mode][1](np.abs((taps + 0.5 - centre) / stretch), -0.5)
    return taps, weights / weights.sum()


def _triangle(t, a):
    return np.clip(1 - t, 0, None)


def _cubic(t, a):
    """Keys' cubic convolution kernel with parameter ``a`` (Keys 1981, Eq. 15)."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


_FILTERS = {"nearest": (1, None), "bilinear": (1, _triangle), "bicubic": (2, _cubic)}
