"""Attention that is not token by token, lifted to maps (B, h, N, N) that are: for rollout, distances, pictures.

Entry (b, i, q, k) of a lifted map says how much head i of image b moves from place k to place q. Plain NumPy arrays.
"""

from __future__ import annotations

import math

import numpy as np

from tinyvit.equations.neighbourhood import neighbours


def lift_outlook(weights: np.ndarray, grid: tuple[int, int], *, stride: int = 2, padding: int = 1) -> np.ndarray:
    """Outlook attention's window weights as what every place receives from every other, over all windows.

    weights (B, h, n, K², K²), grid (H, W)  ->  (B, h, H·W, H·W)

    VOLO (Yuan et al. 2021), Eq. 5: where windows overlap, what they give a place adds up. So a row sums to about as
    many windows as reach the place (2¼ on average for K = 3 and stride 2), less what the border would have given, and
    not to 1; `rollout` makes it 1 again.

    Raises ValueError for weights that are not those of the grid's windows.
    """
    weights = np.asarray(weights)
    places = _window_places(grid, math.isqrt(weights.shape[-1]), stride, padding)
    if weights.ndim != 5 or weights.shape[2:] != (*places.shape, places.shape[1]):
        raise ValueError(f"weights: expected (B, h, {len(places)}, K², K²) for a grid of {tuple(grid)}, "
                         f"stride {stride} and padding {padding}, got {weights.shape}")  # fmt: skip
    N = grid[0] * grid[1]
    lifted = np.zeros((*weights.shape[:2], N + 1, N + 1), weights.dtype)  # place N is the border, cut off below
    np.add.at(lifted, (..., places[:, :, None], places[:, None, :]), weights)
    return lifted[:, :, :N, :N]


def lift_neighbourhood(weights: np.ndarray, grid: tuple[int, int] | None = None, *, border: int = 0) -> np.ndarray:
    """Neighbourhood attention's weights at the places that they are of.

    weights (B, h, H, W, K²)  ->  (B, h, H·W, H·W), zero where a place is nobody's neighbour

    grid    the map's own size, where it was filled up to K×K at the bottom and on the right (NAT): the rest is cut off
    border  places of zeros around the map, K // 2 for stand-alone self-attention; at 0, neighbourhoods move inwards
    What a place gives to filling and border is nobody's: its row sums to less than 1.

    Raises ValueError for weights of another shape.
    """
    weights = np.asarray(weights)
    size = math.isqrt(weights.shape[-1])
    if weights.ndim != 5 or size**2 != weights.shape[-1] or size % 2 == 0:
        raise ValueError(f"weights: expected shape (B, h, H, W, K²), K odd, got {weights.shape}")
    B, h, *filled, _ = weights.shape
    H, W = grid or filled
    if H > filled[0] or W > filled[1]:
        raise ValueError(f"grid: expected at most that of the weights, {tuple(filled)}, got {grid}")
    beyond = [(border, border + n - inner) for n, inner in zip(filled, (H, W), strict=True)]
    numbered = np.pad(np.arange(H * W).reshape(H, W), beyond, constant_values=H * W)
    places = neighbours(numbered[None, ..., None], filled, size)[0, :H, :W].reshape(H * W, -1)
    lifted = np.zeros((B, h, H * W, H * W + 1), weights.dtype)  # place H·W is beyond the map, cut off below
    lifted[:, :, np.arange(H * W)[:, None], places] = weights[:, :, :H, :W].reshape(B, h, H * W, -1)
    return lifted[..., : H * W]


def lift_class_attention(weights: np.ndarray) -> np.ndarray:
    """Class attention's one row, the class token's, with rows for the patch tokens, which receive only themselves.

    weights (B, h, 1, 1 + N)  ->  (B, h, 1 + N, 1 + N)

    The block (CaiT, VOLO) leaves the patches as they are, so their rows are the identity's.
    Raises ValueError for weights of another shape.
    """
    weights = np.asarray(weights)
    if weights.ndim != 4 or weights.shape[2] != 1:
        raise ValueError(f"weights: expected shape (B, h, 1, 1 + N), got {weights.shape}")
    B, h, _, tokens = weights.shape
    lifted = np.tile(np.eye(tokens, dtype=weights.dtype), (B, h, 1, 1))
    lifted[:, :, :1] = weights
    return lifted


def _window_places(grid: tuple[int, int], size: int, stride: int, padding: int) -> np.ndarray:
    """The places r·W + c that every window holds, row by row, and H·W for those of the border.   (n, K²)"""
    H, W = grid
    numbered = np.pad(np.arange(H * W).reshape(H, W), padding, constant_values=H * W)
    windows = np.lib.stride_tricks.sliding_window_view(numbered, (size, size))[::stride, ::stride]
    return windows.reshape(-1, size * size)
