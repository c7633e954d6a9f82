"""Attention inside windows, on maps of any number of axes (Swin, Liu et al. 2021, Sec. 3.2; Video Swin, Sec. 3.2).

A map is (B, *size, C), with one length per axis: (H, W), or (T, H, W) for video. Window and shift have one number per
axis too, and M is how many tokens a window holds.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tinyvit.equations.attention import self_attention
from tinyvit.equations.resize import resize
from tinyvit.nn.attention import Attention, offset_index
from tinyvit.nn.embed import beside
from tinyvit.nn.init import trunc_normal
from tinyvit.nn.module import Parameter
from tinyvit.primitives.shape import pad, reshape, roll, transpose

FORBIDDEN = -100.0  # not -inf: the reference's number


def window_partition(x, window):
    """The tokens of every window, windows in raster order.   (B, *size, C) -> (B·W, M, C)

    Raises ValueError unless every axis is a whole number of windows long.
    """
    B, *size, C = x.shape
    counts = _counts(size, window)
    n = len(window)
    cut = [length for axis in zip(counts, window, strict=True) for length in axis]
    order = (0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)  # counts first, places in a window after them
    x = transpose(reshape(x, shape=(B, *cut, C)), axes=order)
    return reshape(x, shape=(B * math.prod(counts), math.prod(window), C))


def window_reverse(windows, window, size):
    """The map whose windows these are: the inverse of ``window_partition``.   (B·W, M, C) -> (B, *size, C)"""
    counts, C = _counts(size, window), windows.shape[-1]
    n, B = len(window), len(windows) // math.prod(counts)
    x = reshape(windows, shape=(B, *counts, *window, C))
    order = (0, *(i for axis in range(1, n + 1) for i in (axis, axis + n)), 2 * n + 1)
    return reshape(transpose(x, axes=order), shape=(B, *size, C))


def _counts(size, window) -> tuple[int, ...]:
    """How many windows there are along every axis."""
    if len(size) != len(window) or any(n % m for n, m in zip(size, window, strict=True)):
        raise ValueError(f"window: a map of {tuple(size)} is not a whole number of windows of {tuple(window)}")
    return tuple(n // m for n, m in zip(size, window, strict=True))


@lru_cache(maxsize=64)
def window_regions(size, window, shift) -> np.ndarray:
    """Which part of the map the tokens of every window were brought from by a roll of -shift (Fig. 4), (W, M).

    Along an axis the last ``shift`` places came round from the other end, the others only moved up. A region's number
    has a binary digit for every axis: whether it came round. Of a window, those of one region were neighbours before.
    """
    came_round = [np.arange(n) >= n - s for n, s in zip(size, shift, strict=True)]
    numbers = sum(2**i * came for i, came in enumerate(np.meshgrid(*came_round, indexing="ij")))
    found = window_partition(numbers[None, ..., None].astype(np.float32), window)[..., 0]
    found.flags.writeable = False
    return found


def region_mask(regions):
    """What is added to the scores so that tokens attend within their region: 0, or -100.   (W, M) -> (W, M, M)"""
    together = np.equal(regions[:, :, None], regions[:, None])
    return np.where(together, regions.dtype.type(0), regions.dtype.type(FORBIDDEN))


def pad_to_whole(x, window):
    """A map with zeros after the end of every axis that is not a whole number of windows long."""
    missing = [-n % m for n, m in zip(x.shape[1:-1], window, strict=True)]
    return pad(x, widths=((0, 0), *((0, n) for n in missing), (0, 0))) if any(missing) else x


class WindowAttention(Attention):
    """``softmax(QKᵀ/√d + B) V`` among the M tokens of every window (Swin, Eq. 4).   (B·W, M, D) -> (B·W, M, D)

    B has an entry per head and offset of two tokens. Where regions (W, M) are given, of the W windows of every image,
    tokens attend within their own (``region_mask``).
    The weights (B·W, h, M, M) can be captured as ``<name>.weights``. Fewer tokens than a window holds use the offsets
    of its first ones, as Video Swin's reference does.
    """

    def __init__(self, dim, num_heads, *, window, rng, **options):
        super().__init__(dim, num_heads, rng=rng, **options)
        self.window = tuple(window)
        offsets = math.prod(2 * m - 1 for m in self.window)
        self.relative_position_bias_table = Parameter(trunc_normal((offsets, num_heads), std=0.02, rng=rng))

    def forward(self, x, regions=None):
        qkv = self.qkv(x)
        bias = self.position_bias(qkv)
        if regions is not None:
            bias = bias + region_mask(beside(regions, qkv))[:, None]  # (W, h, M, M), not once more for every image
        y = self_attention(qkv, bias, self.kept(qkv), num_heads=self.num_heads)
        return self.proj_drop(self.proj(y))

    def position_bias(self, qkv):
        """B, (1, h, M, M)."""
        M = qkv.shape[1]
        bias = self.relative_position_bias_table[offset_index(self.window)[:M, :M]]  # (M, M, h)
        return transpose(bias, axes=(2, 0, 1))[None]


def resize_bias_table(table, window):
    """A square window's bias table for another window, bicubic (Swin, Sec. 3.2).   (rows, h) -> (∏(2m - 1), h)

    Raises ValueError for a table that is not a square window's.
    """
    side, size = math.isqrt(len(table)), tuple(2 * m - 1 for m in window)
    if side % 2 == 0 or side * side != len(table):
        raise ValueError(f"table: expected (2M - 1)² rows for a square window, got {len(table)}")
    h = table.shape[-1]
    return reshape(resize(reshape(table, shape=(1, side, side, h)), size=size, mode="bicubic"), shape=(-1, h))


def attend_in_windows(x, attention, window, shift):
    """A map through ``attention(tokens, regions)``, window by window (Fig. 4).   (B, *size, C) -> (B, *size, C)

    Pad with zeros to whole windows, roll by -shift, attend, and undo both. Padded tokens are attended to like others,
    as in the references.
    """
    size = x.shape[1:-1]
    shift = shift_that_matters(shift, size, window)
    whole = tuple(n + -n % m for n, m in zip(size, window, strict=True))
    regions = window_regions(whole, tuple(window), shift) if any(shift) else None
    y = attention(shifted_windows(x, window, shift), regions)
    y = window_reverse(y, window, whole)
    if any(shift):
        y = roll(y, shift=shift, axis=_axes(size))
    return y if whole == size else y[(slice(None), *map(slice, size))]


def shifted_windows(x, window, shift):
    """The tokens of every window of a map that is padded to whole windows and rolled by -shift."""
    x = pad_to_whole(x, window)
    if any(shift):
        x = roll(x, shift=tuple(-s for s in shift), axis=_axes(shift))
    return window_partition(x, window)


def shift_that_matters(shift, size, window) -> tuple[int, ...]:
    """The shift along every axis; none where the map is one window long, which has no other to exchange tokens with."""
    return tuple(s if n > m else 0 for s, n, m in zip(shift, size, window, strict=True))


def _axes(size) -> tuple[int, ...]:
    """The axes of a map between batch and channels."""
    return tuple(range(1, len(size) + 1))
