"""Attention inside windows as attention between all tokens of a map, so that layers can be compared and composed."""

from collections.abc import Sequence

import numpy as np

from tinyvit.nn.window import shift_that_matters, shifted_windows


def lift_windows(weights: np.ndarray, grid: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> np.ndarray:
    """The attention map of every image from the weights inside (shifted) windows.

    weights: (B·W, h, M, M), grid: tokens per axis, window and shift: of the block  ->  (B, h, N, N)

    Entry (b, i, q, k) is what head i moves from token k to token q, tokens in row-major order; zero where they share no
    window. Where a map was padded to whole windows, what a token gives to padding is nobody's: its row sums to less
    than 1. Works for any number of axes: Swin's (rows, columns), Video Swin's (frames, rows, columns).

    Raises ValueError for weights that are not those of such windows.
    """
    weights, grid, window = np.asarray(weights), tuple(grid), tuple(window)
    N = int(np.prod(grid))
    numbers = np.arange(1, N + 1).reshape(1, *grid, 1)  # padding has the number 0
    places = shifted_windows(numbers, window, shift_that_matters(shift, grid, window))[..., 0]  # (W, M)
    W, M = places.shape
    if weights.ndim != 4 or len(weights) % W or weights.shape[2:] != (M, M):
        raise ValueError(
            f"weights: expected (B·{W}, h, {M}, {M}) for windows of {window} on {grid}, got {weights.shape}"
        )
    B, h = len(weights) // W, weights.shape[1]
    lifted = np.zeros((B, h, N + 1, N + 1), weights.dtype)
    lifted[:, :, places[:, :, None], places[:, None, :]] = weights.reshape(B, W, h, M, M).swapaxes(1, 2)
    return lifted[:, :, 1:, 1:]
