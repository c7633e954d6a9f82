"""Resizing images and position tables: a linear map along each axis. Channels turned into pixels."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.autodiff.tensor import raw
from tinyvit.backend import like
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.shape import reshape, transpose


@equation
def resize(x, *, size=None, scale=None, mode="bilinear", align_corners=False, antialias=False):
    """Resample an image to ``size = (H', W')``.   (B, H, W, C) -> (B, H', W', C)

    scale          a number, or one per axis, instead of a size: H' = ⌊scale · H⌋, and an output pixel is 1/scale wide,
                   though H/H' may be another number (DINO's position tables are resized so)
    mode           "nearest", "bilinear" or "bicubic" (a = -0.75; antialiased -0.5, as PyTorch and Pillow do)
    align_corners  the outermost samples coincide; otherwise the outermost pixel *borders* do
    antialias      widen the filter when shrinking, so that every input pixel counts
    Raises ValueError for anything but images, an empty size or an unknown mode.
    """
    if len(x.shape) != 4 or (size is None) == (scale is None):
        raise ValueError(f"expected images (B, H, W, C) and either size or scale, got {x.shape}, {size=} and {scale=}")
    scales = (None, None) if scale is None else (scale, scale) if isinstance(scale, int | float) else tuple(scale)
    size = tuple(math.floor(n * s) for n, s in zip(x.shape[1:3], scales, strict=True)) if size is None else size
    if min(size) < 1:
        raise ValueError(f"expected a size of at least (1, 1), got {size} for x {x.shape}")
    matrices = (resize_matrix(n, m, mode, align_corners, antialias, s and 1 / s)
                for n, m, s in zip(x.shape[1:3], size, scales, strict=True))  # fmt: skip
    rows, columns = (like(m.astype(x.dtype), raw(x)) for m in matrices)
    return einsum(einsum(x, rows, spec="bhwc,ph->bpwc"), columns, spec="bpwc,qw->bpqc")


@equation
def pixel_shuffle(x, *, factor):
    """Channels become pixels, r × r of them for ``factor`` r (Shi et al. 2016, Eq. 4).

    (B, H, W, C·r²) -> (B, H·r, W·r, C)
    Channel c·r² + i·r + j goes to row i and column j of every block. Raises ValueError for other numbers of channels.
    """
    if len(x.shape) != 4 or factor < 1 or x.shape[3] % factor**2:
        raise ValueError(f"x: expected images (B, H, W, C·{factor}²), got {x.shape}")
    B, H, W, C = x.shape
    blocks = reshape(x, shape=(B, H, W, C // factor**2, factor, factor))
    return reshape(transpose(blocks, axes=(0, 1, 4, 2, 5, 3)), shape=(B, H * factor, W * factor, C // factor**2))


@lru_cache(maxsize=256)
def resize_matrix(n_in: int, n_out: int, mode: str, align_corners=False, antialias=False, ratio=None) -> np.ndarray:
    """The (n_out, n_in) matrix that resamples one axis; its rows sum to one.

    ratio  how many input pixels an output pixel is wide; n_in/n_out if left out
    """
    ratio = ratio or n_in / n_out
    if mode not in _FILTERS:
        raise ValueError(f"mode: expected one of {sorted(_FILTERS)}, got {mode!r}")
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        if mode == "nearest":
            taps, weights = [math.floor(i * ratio)], [1.0]
        elif antialias:
            taps, weights = _antialiased(i, n_in, ratio, mode)
        else:
            taps, weights = _interpolated(
                i, (n_in - 1) / max(n_out - 1, 1) if align_corners else ratio, mode, align_corners
            )
        np.add.at(matrix[i], np.clip(taps, 0, n_in - 1), weights)  # beyond the border: the border's value
    matrix.flags.writeable = False
    return matrix


def _interpolated(i, ratio, mode, align_corners):
    """Input places and weights for output ``i``: the filter laid over the neighbours of where it falls."""
    if align_corners:
        x = i * ratio
    else:
        x = (i + 0.5) * ratio - 0.5
        x = max(x, 0.0) if mode == "bilinear" else x
    reach = _FILTERS[mode][0]
    taps = np.arange(math.floor(x) - reach + 1, math.floor(x) + reach + 1)
    return taps, _FILTERS[mode][1](np.abs(taps - x), -0.75)


def _antialiased(i, n_in, ratio, mode):
    """The same with a filter as wide as an output pixel, its weights normalised over the pixels inside."""
    stretch = max(ratio, 1.0)
    centre, reach = (i + 0.5) * ratio, _FILTERS[mode][0] * stretch
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
