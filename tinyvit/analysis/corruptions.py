"""Common corruptions in five severities (Hendrycks and Dietterich 2019), and the mean corruption error.

A corruption takes images (B, H, W, C) in [0, 1], an amount and a generator. The amounts for images of 32×32 are those
of CIFAR-10-C. For 8×8 digits they are this package's own and stronger, because digits are easier to tell apart. Snow,
frost, glass, motion and elastic deformation need larger images and are left out. JPEG is the format's arithmetic (DCT,
the standard's tables) without the subsampling of colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 16  # images with a side below are as small as digits


class Corruption(NamedTuple):
    """What is done to images, and how much of it at severities 1 … 5, to images of 32×32 and to digits of 8×8."""

    apply: Callable
    amounts: Sequence
    of_digits: Sequence | None = None


def corrupted(images: np.ndarray, name: str, severity: int, *, rng: np.random.Generator) -> np.ndarray:
    """Images with one of CORRUPTIONS, in [0, 1] again.   (B, H, W, C) -> (B, H, W, C)

    Raises ValueError for an unknown name or severity, or a corruption that makes no sense at this size.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"name: expected one of {', '.join(CORRUPTIONS)}, got {name!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity: expected 1 to 5, got {severity}")
    if name not in corruptions_for(images):
        raise ValueError(f"name: {name} makes no sense for images of {images.shape[1]}×{images.shape[2]}")
    kind = CORRUPTIONS[name]
    amount = (kind.of_digits if _is_small(images) else kind.amounts)[severity - 1]
    return np.clip(kind.apply(images, amount, rng), 0, 1).astype(images.dtype)


def corruptions_for(images: np.ndarray) -> list[str]:
    """The names of those that make sense for images (B, H, W, C) of this size."""
    return [name for name, kind in CORRUPTIONS.items() if kind.of_digits or not _is_small(images)]


def _is_small(images: np.ndarray) -> bool:
    return min(images.shape[1:3]) < SMALL


def corruption_errors(errors: np.ndarray, reference: np.ndarray, *, clean: tuple[float, float] | None = None):
    """The error with each corruption in percent of a reference model's, CE = Σ_s E_s / Σ_s E_s(reference).

    errors, reference: (corruptions, severities)  ->  (corruptions,), whose mean is the mCE: 100 for the reference

    With ``clean``, the error of both without corruption, the relative CE: of what the corruption adds to it.
    """
    own, other = clean or (0.0, 0.0)
    return 100 * np.sum(np.subtract(errors, own), axis=-1) / np.sum(np.subtract(reference, other), axis=-1)


# noise -------------------------------------------------------------------------------------


def _gaussian_noise(x, deviation, rng):
    return x + rng.normal(0, deviation, x.shape)


def _shot_noise(x, photons, rng):
    return rng.poisson(x * photons) / photons


def _impulse_noise(x, share, rng):
    """Salt and pepper, in equal parts."""
    hit, salt = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return np.where(hit, salt, x)


def _speckle_noise(x, deviation, rng):
    return x * (1 + rng.normal(0, deviation, x.shape))


# blur --------------------------------------------------------------------------------------


def _gaussian_blur(x, deviation, rng):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (0, deviation, deviation, 0), mode="nearest")


def _defocus_blur(x, amount, rng):
    """A disc of that radius, its edge softened by a Gaussian of 3×3."""
    from scipy.ndimage import convolve

    radius, softness = amount
    at = np.arange(-3, 4)
    disc = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    tap = np.exp(-(np.arange(-1, 2) ** 2) / (2 * softness**2))
    kernel = convolve(disc / disc.sum(), np.outer(tap, tap) / tap.sum() ** 2, mode="constant")
    return convolve(x, kernel[None, :, :, None], mode="mirror")


def _zoom_blur(x, farthest, rng):
    """The mean of the image and of what is seen while the lens zooms in, in steps of a hundredth."""
    factors = np.arange(1, farthest, 0.01)
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (1 + len(factors))


def _zoomed(x, factor):
    from scipy.ndimage import zoom

    H, W = x.shape[1:3]
    h, w = (int(np.ceil(n / factor)) for n in (H, W))
    top, left = (H - h) // 2, (W - w) // 2
    large = zoom(x[:, top : top + h, left : left + w], (1, factor, factor, 1), order=1)
    top, left = (large.shape[1] - H) // 2, (large.shape[2] - W) // 2
    return large[:, top : top + H, left : left + W]


# weather and digital -----------------------------------------------------------------------


def _fog(x, amount, rng):
    strength, decay = amount
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    fog = _plasma(len(x), 1 << (max(x.shape[1:3]) - 1).bit_length(), decay, rng)[:, : x.shape[1], : x.shape[2], None]
    return (x + strength * fog) * brightest / np.maximum(brightest + strength, 1e-12)


def _plasma(n: int, side: int, decay: float, rng) -> np.ndarray:
    """Clouds from 0 to 1 on a torus, by the diamond–square algorithm.   (n, side, side)"""
    clouds, step, wobble = np.zeros((n, side, side)), side, 100.0

    def displaced(a, b, c, d):
        return (a + b + c + d) / 4 + wobble * rng.uniform(-wobble, wobble, a.shape)

    def neighbours(a, shift, axis):
        return a, np.roll(a, shift, axis)

    while step >= 2:
        half = step // 2
        corner = clouds[:, ::step, ::step]
        beside = np.roll(corner, -1, 1)
        clouds[:, half::step, half::step] = displaced(*neighbours(corner, -1, 2), *neighbours(beside, -1, 2))
        middle = clouds[:, half::step, half::step]
        clouds[:, ::step, half::step] = displaced(*neighbours(middle, 1, 1), *neighbours(corner, -1, 2))
        clouds[:, half::step, ::step] = displaced(*neighbours(middle, 1, 2), *neighbours(corner, -1, 1))
        step, wobble = half, wobble / decay
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    return clouds / np.maximum(clouds.max(axis=(1, 2), keepdims=True), 1e-12)


def _brightness(x, amount, rng):
    """More value in HSV; hue and saturation stay."""
    value = x.max(axis=-1, keepdims=True)
    more = np.clip(value + amount, 0, 1)
    return np.where(value > 0, x * more / np.maximum(value, 1e-12), more)


def _contrast(x, factor, rng):
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + factor * (x - mean)


def _pixelate(x, share, rng):
    """Down and up again with pillow's box filter."""
    for axis in (1, 2):
        n = x.shape[axis]
        few = int(n * share)
        there_and_back = _boxes(few, n) @ _boxes(n, few)
        x = np.moveaxis(np.tensordot(there_and_back, x, (1, axis)), 0, axis)
    return x


def _boxes(n_in: int, n_out: int) -> np.ndarray:
    """Means over the pixels whose centres lie within half an output pixel, or half an input pixel if that is larger."""
    centres = (np.arange(n_out) + 0.5) * n_in / n_out
    away = (np.arange(n_in) + 0.5 - centres[:, None]) / max(n_in / n_out, 1)
    inside = (away > -0.5) & (away <= 0.5)
    return inside / inside.sum(axis=1, keepdims=True)


LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]])  # fmt: skip
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _jpeg(x, quality, rng):
    """What JPEG's quantisation of 8×8 blocks loses, in brightness and, where there are three channels, in colour."""
    levels = 255 * x.astype(np.float64)
    if x.shape[-1] == 3:
        y, *colours = np.moveaxis(levels @ YCBCR.T, -1, 0)
        parts = [_quantised(y - 128, LUMINANCE, quality) + 128, *(_quantised(c, CHROMINANCE, quality) for c in colours)]
        return np.stack(parts, axis=-1) @ np.linalg.inv(YCBCR).T / 255
    parts = [_quantised(levels[..., c] - 128, LUMINANCE, quality) + 128 for c in range(x.shape[-1])]
    return np.stack(parts, axis=-1) / 255


def _quantised(x, table, quality):
    """Blocks of 8×8 whose cosine coefficients are whole multiples of the table's entries.   (B, H, W)"""
    from scipy.fft import dctn, idctn

    B, H, W = x.shape
    padded = np.pad(x, ((0, 0), (0, -H % 8), (0, -W % 8)), mode="edge")
    blocks = padded.reshape(B, padded.shape[1] // 8, 8, padded.shape[2] // 8, 8)
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.clip((table * scale + 50) // 100, 1, 255)[:, None]
    rounded = steps * np.round(dctn(blocks, axes=(2, 4), norm="ortho") / steps)
    return idctn(rounded, axes=(2, 4), norm="ortho").reshape(padded.shape)[:, :H, :W]


FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
CORRUPTIONS = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "shot_noise": Corruption(_shot_noise, (500, 250, 100, 75, 50), (30, 15, 8, 5, 3)),
    "impulse_noise": Corruption(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.05, 0.1, 0.15, 0.2, 0.3)),
    "speckle_noise": Corruption(_speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20), (0.2, 0.4, 0.6, 0.8, 1.0)),
    "gaussian_blur": Corruption(_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (0.4, 0.5, 0.6, 0.8, 1.0)),
    "defocus_blur": Corruption(_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "zoom_blur": Corruption(_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": Corruption(_fog, FOG, FOG),
    "brightness": Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.6, 0.5, 0.4, 0.3, 0.2)),
    "pixelate": Corruption(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.875, 0.625, 0.5, 0.375, 0.25)),
    "jpeg": Corruption(_jpeg, (80, 65, 58, 50, 40), (50, 30, 20, 10, 5)),
}
