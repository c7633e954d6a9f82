"""Changes of tone, image by image: what a darkroom does. All are of 8 bits, as published, and agree with Pillow.

x are images (n, H, W, C) of bytes, ``amount`` holds one number for each of them, (n,).
"""

from __future__ import annotations

import numpy as np

GREY = np.array([19595, 38470, 7471])  # of R, G, B, times 2¹⁶: 0.299, 0.587, 0.114 (ITU-R 601)


def auto_contrast(x: np.ndarray, amount) -> np.ndarray:
    """The darkest value of each channel becomes 0, the lightest 255."""
    low, high = (f(x, axis=(1, 2), keepdims=True).astype(float) for f in (np.min, np.max))
    scale = 255 / np.where(high > low, high - low, 255)
    return np.where(high > low, np.clip(np.trunc(x * scale - low * scale), 0, 255), x).astype(np.uint8)


def equalize(x: np.ndarray, amount) -> np.ndarray:
    """Every value becomes its rank: as many pixels in each part of the range, channel by channel."""
    n, H, W, C = x.shape
    columns = np.arange(n * C).reshape(n, 1, 1, C)
    counts = np.bincount((columns * 256 + x).ravel(), minlength=n * C * 256).reshape(n * C, 256)
    lightest = np.take_along_axis(counts, 255 - (counts[:, ::-1] > 0).argmax(axis=1)[:, None], axis=1)
    step = (H * W - lightest) // 255
    below = counts.cumsum(axis=1) - counts
    table = np.where(step > 0, np.minimum((below + step // 2) // np.maximum(step, 1), 255), np.arange(256))
    return table.astype(np.uint8)[columns, x]


def invert(x: np.ndarray, amount) -> np.ndarray:
    """``255 - x``."""
    return 255 - x


def posterize(x: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Only the first ``bits`` bits stay; none of them is black."""
    return x & _each(256 - (1 << (8 - bits.astype(int)))).astype(np.uint8)


def solarize(x: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """What is at least ``threshold`` is inverted."""
    return np.where(x < _each(threshold), x, 255 - x)


def solarize_add(x: np.ndarray, more: np.ndarray) -> np.ndarray:
    """What is darker than the middle becomes lighter by ``more``."""
    return np.where(x < 128, np.minimum(x + _each(more.astype(int)), 255), x).astype(np.uint8)


def color(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Away from grey: 0 is a grey image, 1 the image itself."""
    return _blended(np.broadcast_to(_grey(x), x.shape), x, factor)


def contrast(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Away from the image's mean grey."""
    return _blended(np.floor(_grey(x).mean(axis=(1, 2, 3), keepdims=True) + 0.5), x, factor)


def brightness(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Away from black."""
    return _blended(np.zeros_like(x), x, factor)


def sharpness(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Away from the image smoothed over 3×3 pixels, of which the middle counts 5 in 13; the border stays."""
    wide = x.astype(int)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * wide[:, 1:-1, 1:-1]
    smooth = x.copy()
    smooth[:, 1:-1, 1:-1] = (2 * total + 13) // 26  # rounded
    return _blended(smooth, x, factor)


def _blended(degenerate: np.ndarray, x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """``d + factor (x - d)``, the part behind the point dropped."""
    d = degenerate.astype(np.float32)
    return np.clip(d + _each(factor).astype(np.float32) * (x - d), 0, 255).astype(np.uint8)


def _grey(x: np.ndarray) -> np.ndarray:
    """Brightness as the eye sees it.   (n, H, W, 1 or 3) -> (n, H, W, 1)

    Raises ValueError for another number of channels.
    """
    if x.shape[3] == 1:
        return x
    if x.shape[3] != 3:
        raise ValueError(f"images: expected 1 or 3 channels, got {x.shape[3]}")
    return (x.astype(int) @ GREY[:, None] + (1 << 15)) >> 16


def _each(amount: np.ndarray) -> np.ndarray:
    """One number for each image, beside them.   (n,) -> (n, 1, 1, 1)"""
    return np.asarray(amount)[:, None, None, None]
