"""Attention of every place of a map to the k×k places around it; a matrix of all pairs is never formed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tinyvit.autodiff.op import equation
from tinyvit.autodiff.watch import tap
from tinyvit.backend import like
from tinyvit.equations.activation import softmax, softmax_cotangent, softmax_in_place
from tinyvit.equations.attention import additive
from tinyvit.equations.convolution import check_images
from tinyvit.primitives.contract import einsum
from tinyvit.primitives.reduce import peak
from tinyvit.primitives.shape import concatenate, reshape, unfold


@equation(taps=("weights",))
def neighbourhood_attention(q, k, v, bias=None, *, num_heads, kernel_size, scale=None):
    """``softmax(q kᵀ/√d + bias) v`` where every place has its own keys and values: those of its K×K neighbours.

    q (B, H, W, h·d), k and v (B, H + 2p, W + 2p, h·d) -> (B, H, W, h·d)
    bias   added to the scaled scores, broadcast to (B, h, H, W, K·K). Or booleans: True allows a neighbour
    scale  1/√d if left out
    Keys and values may have a border of p places more on every side, such as zeros (Ramachandran et al. 2019). Where
    a neighbourhood would reach beyond the last of them it moves inwards (Hassani et al. 2023): a corner, too, has K×K
    neighbours. The weights, neighbours in row-major order, are tapped as ``weights``, (B, h, H, W, K·K).
    Raises ValueError for maps of keys smaller than K×K, and for wider borders than ⌊K/2⌋.
    """
    d, scale = _head_width(q, k, v, num_heads, kernel_size, scale)
    (B, H, W, C), h, K = q.shape, num_heads, kernel_size
    scaled = reshape(q * scale, shape=(B, H, W, h, d))
    keys, values = (reshape(neighbours(x, (H, W), K), shape=(B, H, W, h, d, K, K)) for x in (k, v))
    scores = reshape(einsum(scaled, keys, spec="byxhd,byxhdkl->bhyxkl"), shape=(B, h, H, W, K * K))
    weights = tap("weights", softmax(scores if bias is None else scores + additive(bias, scores)))
    y = einsum(reshape(weights, shape=(B, h, H, W, K, K)), values, spec="bhyxkl,byxhdkl->byxhd")
    return reshape(y, shape=(B, H, W, C))


def neighbours(x, size: tuple[int, int], kernel_size: int):
    """The K×K places around each of H×W.   (B, H + 2p, W + 2p, C), (H, W) -> (B, H, W, C, K, K)

    The first and last windows that lie in the map are those of the places nearer to its edge as well.
    """
    windows = unfold(x, size=(kernel_size, kernel_size))
    for axis, n in enumerate(size, start=1):
        if nearer := (n - windows.shape[axis]) // 2:
            first, last = (windows[(slice(None),) * axis + (end,)] for end in (slice(0, 1), slice(-1, None)))
            windows = concatenate(*[first] * nearer, windows, *[last] * nearer, axis=axis)
    return windows


def first_neighbours(places: int, keys: int, kernel_size: int) -> np.ndarray:
    """Where the neighbourhood of every place along an axis begins, ``clamp(i - ⌊K/2⌋ + p, 0, n - K)``, (places,).

    keys  n, how many there are: as many as places, and a border of p on either side
    """
    border = (keys - places) // 2
    return np.clip(np.arange(places) - kernel_size // 2 + border, 0, keys - kernel_size)


# tiles -------------------------------------------------------------------------------------


@neighbourhood_attention.kernel(analytic=True)
def _(q, k, v, bias=None, *, num_heads, kernel_size, scale=None):
    """The scores of a tile's queries with all keys that they see between them are one product of matrices."""
    d, scale = _head_width(q, k, v, num_heads, kernel_size, scale)
    tiles = _tiles(q.shape[1:3], k.shape[1:3], kernel_size)
    if bias is not None:
        bias = np.broadcast_to(additive(bias, q), (len(q), num_heads, *q.shape[1:3], kernel_size**2))
    y = np.empty_like(q, dtype=np.result_type(*(x for x in (q, k, v, bias) if x is not None)))
    kept = []
    for tile in tiles:
        scores = tile.picked(_heads(q, tile.queries, d) @ _t(_heads(k, tile.keys, d)))
        scores *= scale
        if bias is not None:
            scores = scores + np.reshape(bias[:, :, *tile.queries], scores.shape)
        scores -= peak(scores)
        kept.append(softmax_in_place(scores))
        y[:, *tile.queries] = _merged(tile.spread(kept[-1]) @ _heads(v, tile.keys, d), tile.queries)

    def neighbourhood_pullback(g):
        dq, dk, dv = (np.zeros_like(x, dtype=y.dtype) for x in (q, k, v))
        dbias = None if bias is None else np.empty_like(y, shape=bias.shape)
        for tile, weights in zip(tiles, kept, strict=True):
            dy = _heads(g, tile.queries, d)
            dscores = softmax_cotangent(tile.picked(dy @ _t(_heads(v, tile.keys, d))), weights)
            if bias is not None:
                at = dbias[:, :, *tile.queries]
                at[...] = np.reshape(dscores, at.shape)
            scaled = tile.spread(dscores * scale)
            dq[:, *tile.queries] = _merged(scaled @ _heads(k, tile.keys, d), tile.queries)
            dk[:, *tile.keys] += _merged(_t(scaled) @ _heads(q, tile.queries, d), tile.keys)
            dv[:, *tile.keys] += _merged(_t(tile.spread(weights)) @ dy, tile.keys)
        return dq, dk, dv, dbias

    return y, neighbourhood_pullback


@dataclass(frozen=True)
class Tile:
    """A rectangle of queries and the rectangle of keys that they see between them, as slices of rows and columns.

    picks  where, of all scores t·m of the tile, each query's own are, (t, K·K)
    """

    queries: tuple[slice, slice]
    keys: tuple[slice, slice]
    picks: np.ndarray

    def picked(self, scores):
        """Every query's own of the scores with all keys of the rectangle.   (B, h, t, m) -> (B, h, t, K·K)"""
        B, h, t, m = scores.shape
        return np.take(np.reshape(scores, (B, h, t * m)), like(self.picks, scores), axis=-1)

    def spread(self, weights):
        """Every query's weights at their keys, and zeros at the others.   (B, h, t, K·K) -> (B, h, t, m)"""
        B, h, t, _ = weights.shape
        m = math.prod(part.stop - part.start for part in self.keys)
        spread = np.zeros_like(weights, shape=(B, h, t * m))
        spread[:, :, like(self.picks, weights)] = weights
        return np.reshape(spread, (B, h, t, m))


@lru_cache(maxsize=16)
def _tiles(places: tuple[int, int], keys: tuple[int, int], kernel_size: int) -> list[Tile]:
    """Tiles that cover a map, about as large as a neighbourhood: so not too much is computed and not picked."""
    side = max(kernel_size, 8)
    cuts = [[slice(a, min(a + side, n)) for a in range(0, n, side)] for n in places]
    first = [first_neighbours(n, m, kernel_size) for n, m in zip(places, keys, strict=True)]
    tiles = []
    for queries in itertools.product(*cuts):
        starts = [f[part] for f, part in zip(first, queries, strict=True)]
        seen = tuple(slice(int(f[0]), int(f[-1]) + kernel_size) for f in starts)
        rows, columns = (f[:, None] - f[0] + np.arange(kernel_size) for f in starts)  # within what is seen
        height, width = (part.stop - part.start for part in seen)
        t = len(rows) * len(columns)
        of_query = np.reshape(rows[:, None, :, None] * width + columns[None, :, None, :], (t, kernel_size**2))
        tiles.append(Tile(queries, seen, of_query + np.arange(t)[:, None] * (height * width)))
    return tiles


def _heads(x, part, d: int):
    """A rectangle of a map as tokens, by head.   (B, H, W, h·d) -> (B, h, t, d)"""
    x = x[:, *part]
    B, rows, columns, C = x.shape
    return np.swapaxes(np.reshape(x, (B, rows * columns, C // d, d)), 1, 2)


def _merged(y, part):
    """Tokens by head as the rectangle of a map that they are.   (B, h, t, d) -> (B, rows, columns, h·d)"""
    rows, columns = (axis.stop - axis.start for axis in part)
    B, h, _, d = y.shape
    return np.reshape(np.swapaxes(y, 1, 2), (B, rows, columns, h * d))


# shapes ------------------------------------------------------------------------------------


def check_kernel_size(kernel_size: int) -> None:
    """Raise ValueError for a neighbourhood that has no place in its middle."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number, which has a middle, got {kernel_size}")


def _head_width(q, k, v, num_heads: int, kernel_size: int, scale) -> tuple[int, float]:
    """A head's width d and the scale, 1/√d if none is given. Raises ValueError for arguments that do not fit."""
    check_images(q)
    check_kernel_size(kernel_size)
    B, H, W, C = q.shape
    if C % num_heads:
        raise ValueError(f"num_heads: {num_heads} heads cannot share a width of {C}")
    if not any(k.shape == v.shape == (B, H + 2 * p, W + 2 * p, C) for p in range(kernel_size // 2 + 1)):
        raise ValueError(f"k, v: expected the shape of q, or one with a border of up to {kernel_size // 2} places, "
                         f"got {k.shape} and {v.shape} for {q.shape}")  # fmt: skip
    if min(k.shape[1:3]) < kernel_size:
        raise ValueError(f"k: a map of {k.shape[1]}×{k.shape[2]} has no {kernel_size}×{kernel_size} neighbours; pad it")
    return C // num_heads, (C // num_heads) ** -0.5 if scale is None else scale


def _t(x):
    return np.swapaxes(x, -1, -2)
