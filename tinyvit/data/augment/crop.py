"""Another frame around the same thing: flips and crops."""

from __future__ import annotations

import numpy as np

from tinyvit.data.augment.chain import Augmentation, check_images, check_probability, first_that_fits
from tinyvit.equations.resize import resize_matrix

ATTEMPTS = 10  # to draw a crop that fits into the image


def random_flip(p: float = 0.5) -> Augmentation:
    """Left and right exchanged, with probability p."""
    check_probability("p", p)

    def augment(images, labels, rng):
        B, *_ = check_images(images)
        flipped = rng.random(B) < p
        return np.where(flipped[:, None, None, None], images[:, :, ::-1], images), labels

    return augment


def random_crop(padding: int) -> Augmentation:
    """A border of ``padding`` zeros, and a frame of the old size anywhere in it: moved by up to that many pixels."""
    if padding < 0:
        raise ValueError(f"padding: expected a number of pixels, got {padding}")

    def augment(images, labels, rng):
        B, H, W, _ = check_images(images)
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        top, left = rng.integers(2 * padding + 1, size=(2, B))
        rows, columns = top[:, None] + np.arange(H), left[:, None] + np.arange(W)
        return padded[np.arange(B)[:, None, None], rows[:, :, None], columns[:, None, :]], labels

    return augment


def random_resized_crop(
    size: int, *, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Augmentation:
    """A part of the image, made ``size`` × ``size`` by antialiased bicubic interpolation (Szegedy et al. 2015, Sec. 6).

    scale  the part's share of the area, uniform · ratio  width over height, log-uniform
    If no part fits in ten attempts, it is the middle of the image, with a ratio as near to its own as is allowed.
    Values outside [0, 1] (0 … 255 for whole numbers), which the cubic overshoots to, are cut off.
    """
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1] and size >= 1):
        raise ValueError(
            f"expected 0 < scale <= 1, ratio > 0, both rising, and size >= 1, got {scale}, {ratio}, {size}"
        )

    def augment(images, labels, rng):
        B, H, W, C = check_images(images)
        tops, lefts, heights, widths = random_frames(rng, B, (H, W), scale, ratio)
        rows, columns = frame_matrices(tops, heights, H, size), frame_matrices(lefts, widths, W, size)
        y = (rows @ images.reshape(B, H, W * C)).reshape(B, size, W, C)
        return _within(columns[:, None] @ y, images.dtype), labels

    return augment


def random_frames(rng: np.random.Generator, count: int, size: tuple[int, int], scale, ratio) -> np.ndarray:
    """``count`` frames in an image (H, W), as (4, count) integers: top, left, height, width."""
    H, W = size
    area = rng.uniform(*scale, (count, ATTEMPTS)) * H * W
    aspect = np.exp(rng.uniform(*np.log(ratio), (count, ATTEMPTS)))
    heights, widths = np.rint(np.sqrt(area / aspect)).astype(int), np.rint(np.sqrt(area * aspect)).astype(int)
    heights, widths = np.maximum(heights, 1), np.maximum(widths, 1)
    which, found = first_that_fits((heights <= H) & (widths <= W))
    own = np.clip(W / H, *ratio)  # the middle, if nothing fits
    middle = np.minimum(H, round(W / own)), np.minimum(W, round(H * own))
    h, w = (np.where(found, n[np.arange(count), which], m) for n, m in zip((heights, widths), middle, strict=True))
    top, left = (np.floor(rng.random(count) * (n - part + 1)).astype(int) for n, part in ((H, h), (W, w)))
    return np.stack([np.where(found, top, (H - h) // 2), np.where(found, left, (W - w) // 2), h, w])


def frame_matrices(starts, lengths, n_in: int, n_out: int) -> np.ndarray:
    """For every frame the matrix that resizes its part of an axis.   (B,), (B,) -> (B, n_out, n_in)"""
    matrices = np.zeros((len(starts), n_out, n_in), np.float32)
    for matrix, start, length in zip(matrices, starts, lengths, strict=True):
        matrix[:, start : start + length] = resize_matrix(int(length), n_out, "bicubic", antialias=True)
    return matrices


def _within(x: np.ndarray, dtype) -> np.ndarray:
    """Values cut off at black and white; whole numbers rounded."""
    return np.clip(x, 0, 1).astype(dtype) if dtype.kind == "f" else np.clip(np.rint(x), 0, 255).astype(dtype)
