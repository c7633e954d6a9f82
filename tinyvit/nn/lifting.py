"""Attention that is not token by token, lifted to maps (B, h, N, N) that are: for rollout, distances, pictures.

Entry (b, i, q, k) of a lifted map says how much head i of image b moves from place k to place q. Plain NumPy arrays.

A module says how the weights captured in it, or in a module below it, are lifted, by a method ``token_map(weights,
shape)``, where shape is that of the module's input. A module that makes one token of many says of how many, along every
axis of its map or along each, by an attribute ``merges``. Then ``analysis.attention_maps`` finds them, and ``rollout``
composes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyvit.equations.neighbourhood import neighbours
from tinyvit.nn.window import shift_that_matters, shifted_windows


def lift_windows(weights: np.ndarray, grid: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> np.ndarray:
    """The attention map of every image from the weights inside (shifted) windows.

    weights (B·W, h, M, M), grid: tokens per axis, window and shift: of the block  ->  (B, h, N, N)

    Tokens stand in row-major order; those that share no window move nothing. Where a map was padded to whole windows,
    what a token gives to padding is nobody's: its row sums to less than 1. Works for any number of axes: Swin's (rows,
    columns), Video Swin's (frames, rows, columns).

    Raises ValueError for weights that are not those of such windows.
    """
    weights, grid, window = np.asarray(weights), tuple(grid), tuple(window)
    numbers = _numbered(grid)[None, ..., None]  # 0 is padding
    places = shifted_windows(numbers, window, shift_that_matters(shift, grid, window))[..., 0] - 1
    W, M = places.shape
    if weights.ndim != 4 or len(weights) % W or weights.shape[2:] != (M, M):
        raise ValueError(
            f"weights: expected (B·{W}, h, {M}, {M}) for windows of {window} on {grid}, got {weights.shape}"
        )
    weights = weights.reshape(-1, W, *weights.shape[1:]).swapaxes(1, 2)
    return _scattered(weights, places, places, math.prod(grid))


def lift_outlook(weights: np.ndarray, grid: tuple[int, int], *, stride: int = 2, padding: int = 1) -> np.ndarray:
    """Outlook attention's window weights as what every place receives from every other, over all windows.

    weights (B, h, n, K², K²), grid (H, W)  ->  (B, h, H·W, H·W)

    VOLO (Yuan et al. 2021), Eq. 5: where windows overlap, what they give a place adds up. So a row sums to about as
    many windows as reach the place (2¼ on average for K = 3 and stride 2), less what the border would have given, and
    not to 1; `rollout` makes it 1 again.

    Raises ValueError for weights that are not those of the grid's windows.
    """
    weights = np.asarray(weights)
    places = _window_places(grid, math.isqrt(weights.shape[-1]), padding, stride)
    if weights.ndim != 5 or weights.shape[2:] != (*places.shape, places.shape[1]):
        raise ValueError(f"weights: expected (B, h, {len(places)}, K², K²) for a grid of {tuple(grid)}, "
                         f"stride {stride} and padding {padding}, got {weights.shape}")  # fmt: skip
    return _scattered(weights, places, places, math.prod(grid))


def lift_neighbourhood(weights: np.ndarray, grid: tuple[int, int] | None = None, *, border: int = 0) -> np.ndarray:
    """The weights of every place's K×K neighbours as a map between all places.

    weights (B, h, H, W, K²), K odd  ->  (B, h, H·W, H·W)
    grid    the map's own size, where it was filled up to K×K (NAT, Hassani et al. 2023): the rest is cut off
    border  places beyond the map that are neighbours too, K // 2 on every side in stand-alone self-attention
            (Ramachandran et al. 2019); with 0, neighbourhoods move inwards where the map ends

    What a place gives to border and filling is nobody's. Raises ValueError for weights of another shape.
    """
    weights = np.asarray(weights)
    K = math.isqrt(weights.shape[-1])
    if weights.ndim != 5 or weights.shape[-1] != K * K or K % 2 == 0:
        raise ValueError(f"weights: expected shape (B, h, H, W, K²), K odd, got {weights.shape}")
    filled = weights.shape[2:4]
    H, W = grid or filled
    widths = [(border, border + n - own) for n, own in zip(filled, (H, W), strict=True)]
    if min(after for _, after in widths) < border:
        raise ValueError(f"grid: expected at most that of the weights, {filled}, got {grid}")
    numbers = np.pad(_numbered((H, W)), widths)[None, ..., None]  # 0 is beyond the map
    places = neighbours(numbers, filled, K)[0, :H, :W].reshape(H * W, K * K) - 1
    own = weights[:, :, :H, :W].reshape(*weights.shape[:2], H * W, 1, K * K)
    return _scattered(own, np.arange(H * W)[:, None], places, H * W)


def lift_class_attention(weights: np.ndarray, place: int = 0) -> np.ndarray:
    """One token's row of attention, the class token's, with rows for the others, which receive only themselves.

    weights (B, h, 1, N)  ->  (B, h, N, N), the row at ``place``

    The block (CaiT, VOLO) leaves the patches as they are, so their rows are the identity's.
    Raises ValueError for weights of another shape.
    """
    weights = np.asarray(weights)
    if weights.ndim != 4 or weights.shape[2] != 1:
        raise ValueError(f"weights: expected shape (B, h, 1, N), got {weights.shape}")
    B, h, _, tokens = weights.shape
    lifted = np.tile(np.eye(tokens, dtype=weights.dtype), (B, h, 1, 1))
    lifted[:, :, place] = weights[:, :, 0]
    return lifted


def merging(grid: Sequence[int], block: int | Sequence[int], tokens: int) -> np.ndarray:
    """What a coarser grid's tokens are made of: each is the mean of the block of fine tokens that it stands for.

    grid of fine tokens, block: how many along every axis become one  ->  (tokens, N), rows sum to 1

    Blocks that the border cuts are smaller, or are left out, as the number of coarse tokens says. Raises ValueError for
    a number that is neither.
    """
    blocks = (block,) * len(grid) if isinstance(block, int) else tuple(block)
    all_of_them = [-(-n // b) for n, b in zip(grid, blocks, strict=True)]
    whole_ones = [n // b for n, b in zip(grid, blocks, strict=True)]
    coarse = next((c for c in (all_of_them, whole_ones) if math.prod(c) == tokens), None)
    if coarse is None:
        raise ValueError(f"tokens: a map of {tuple(grid)} in blocks of {blocks} does not give {tokens}")
    places = np.indices(grid).reshape(len(grid), -1) // np.array(blocks)[:, None]
    inside = (places < np.array(coarse)[:, None]).all(axis=0)
    made_of = np.zeros((tokens, math.prod(grid)))
    made_of[np.ravel_multi_index(tuple(places[:, inside]), coarse), np.flatnonzero(inside)] = 1
    return made_of / made_of.sum(axis=1, keepdims=True)


def _numbered(grid: Sequence[int]) -> np.ndarray:
    """The places of a grid in row-major order, from 1."""
    return np.arange(1, math.prod(grid) + 1).reshape(grid)


def _window_places(grid: tuple[int, int], size: int, padding: int, stride: int = 1) -> np.ndarray:
    """The places r·W + c that every window holds, row by row, and -1 for those beyond the border.   (n, size²)"""
    numbered = np.pad(_numbered(grid), padding)
    windows = np.lib.stride_tricks.sliding_window_view(numbered, (size, size))[::stride, ::stride]
    return windows.reshape(-1, size * size) - 1


def _scattered(weights: np.ndarray, receive: np.ndarray, give: np.ndarray, tokens: int) -> np.ndarray:
    """The sum of many small maps, each between places of its own; place -1 is nobody's.

    weights (B, h, n, q, k), receive (n, q), give (n, k)  ->  (B, h, N, N)
    """
    lifted = np.zeros((*weights.shape[:2], tokens + 1, tokens + 1), weights.dtype)  # the last is nobody's
    np.add.at(lifted, (..., receive[:, :, None], give[:, None, :]), weights)
    return lifted[:, :, :tokens, :tokens]
