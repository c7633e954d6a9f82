"""Clips of moving digits, whose direction no single frame tells.

After Moving MNIST (Srivastava et al. 2015, "Unsupervised Learning of Video Representations using LSTMs"), in small.
"""

import numpy as np

from tinyvit.data.digits import Dataset, Splits, digits

DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}  # rows and columns a frame


def moving_digits(*, seed: int = 0, frames: int = 8, side: int = 16) -> Splits:
    """Every digit of `digits`, moving by a pixel a frame; what leaves the picture comes back on the other side.

    images: (N, frames, side, side, 1) float32 in [0, 1], labels: (N,) int64, a place in `DIRECTIONS`

    A digit starts anywhere, equally likely, so wherever it moves, it is anywhere in every frame: a single frame says
    nothing about the direction, and frames in a random order only along which axis it is.

    Raises ValueError for a picture smaller than a digit, or fewer than two frames.
    """
    if side < 8 or frames < 2:
        raise ValueError(f"expected a side of at least 8 pixels and at least 2 frames, got {side} and {frames}")
    rng = np.random.default_rng(seed)
    return Splits(*(_moving(split.images, frames, side, rng) for split in digits(seed=seed)))


def _moving(images: np.ndarray, frames: int, side: int, rng: np.random.Generator) -> Dataset:
    """A clip of every image.   (N, h, w, 1) -> (N, frames, side, side, 1)"""
    N, h, w, _ = images.shape
    pictures = np.zeros((N, side, side, 1), images.dtype)
    pictures[:, :h, :w] = images
    labels = rng.integers(len(DIRECTIONS), size=N)
    start, step = rng.integers(side, size=(N, 2)), np.array(list(DIRECTIONS.values()))[labels]
    corner = start[:, None] + step[:, None] * np.arange(frames)[:, None]  # (N, frames, 2)
    rows, columns = np.moveaxis((np.arange(side) - corner[..., None]) % side, 2, 0)  # (N, frames, side) each
    clips = pictures[np.arange(N)[:, None, None, None], rows[..., None], columns[:, :, None]]
    for array in (clips, labels):
        array.setflags(write=False)
    return Dataset(clips, labels)
