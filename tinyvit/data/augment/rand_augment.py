"""RandAugment: a few operations drawn from a list, all of one magnitude (Cubuk et al. 2020, Sec. 3).

The operations and their ranges are timm's "rand-m9-mstd0.5-inc1", which DeiT uses: every one grows with the magnitude
m, and m itself is drawn, N(9, ½) within 0 … 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from tinyvit.data.augment import tone, warp
from tinyvit.data.augment.chain import Augmentation, check_images, check_probability

Amount = Callable[[np.ndarray, np.ndarray], np.ndarray]  # magnitudes, signs -> amounts; all (n,)


class Tone(NamedTuple):
    """A change of tone, ``change(x, amount)``, and how much of it a magnitude means."""

    change: Callable
    amount: Amount

    def __call__(self, x, m, sign, fill):
        return self.change(x, self.amount(m, sign))


class Move(NamedTuple):
    """A map of the plane, ``matrix(amount, (H, W))``, and how much of it a magnitude means."""

    matrix: Callable
    amount: Amount

    def __call__(self, x, m, sign, fill):
        return warp.warped(x, self.matrix(self.amount(m, sign), x.shape[1:3]), fill)


def _nothing(m, sign):
    return m


def _around_one(m, sign):
    return np.maximum(1 + sign * 0.09 * m, 0.1)


def _signed(per_magnitude: float) -> Amount:
    return lambda m, sign: sign * per_magnitude * m


DEIT: dict[str, Tone | Move] = {
    "AutoContrast": Tone(tone.auto_contrast, _nothing),
    "Equalize": Tone(tone.equalize, _nothing),
    "Invert": Tone(tone.invert, _nothing),
    "Rotate": Move(warp.rotation, _signed(3.0)),  # degrees
    "Posterize": Tone(tone.posterize, lambda m, sign: 4 - np.floor(0.4 * m)),  # bits
    "Solarize": Tone(tone.solarize, lambda m, sign: 256 - np.floor(25.6 * m)),
    "SolarizeAdd": Tone(tone.solarize_add, lambda m, sign: np.floor(11 * m)),
    "Color": Tone(tone.color, _around_one),
    "Contrast": Tone(tone.contrast, _around_one),
    "Brightness": Tone(tone.brightness, _around_one),
    "Sharpness": Tone(tone.sharpness, _around_one),
    "ShearX": Move(warp.shear_x, _signed(0.03)),
    "ShearY": Move(warp.shear_y, _signed(0.03)),
    "TranslateX": Move(warp.translation_x, _signed(0.045)),  # of the side
    "TranslateY": Move(warp.translation_y, _signed(0.045)),
}

# A digit of 8 × 8 pixels bears less: 15°, a shear of 0.2, one pixel; inverted or solarised it is no ink on paper.
DIGITS: dict[str, Tone | Move] = {
    "Rotate": Move(warp.rotation, _signed(1.5)),
    "Contrast": Tone(tone.contrast, _around_one),
    "Brightness": Tone(tone.brightness, _around_one),
    "ShearX": Move(warp.shear_x, _signed(0.02)),
    "ShearY": Move(warp.shear_y, _signed(0.02)),
    "TranslateX": Move(warp.translation_x, _signed(0.0125)),
    "TranslateY": Move(warp.translation_y, _signed(0.0125)),
}


def rand_augment(
    operations: Mapping[str, Tone | Move] = DEIT,
    *,
    count: int = 2,
    magnitude: float = 9.0,
    std: float = 0.5,
    p: float = 0.5,
    fill=0.5,
) -> Augmentation:
    """``count`` operations for each image, drawn with replacement; each is then done with probability p.

    magnitude, std  of the normal distribution that every operation's magnitude is drawn from, within 0 … 10
    fill            what comes from outside the image, in 0 … 1, a number or one for each channel
    Images are bytes, or numbers in 0 … 1 that are made bytes (v = round 255 x) and back: all operations are of 8 bits.
    """
    check_probability("p", p)
    if count < 0 or not (0 <= magnitude <= 10 and std >= 0):
        raise ValueError(f"expected count >= 0, magnitude in 0 … 10, std >= 0, got {count}, {magnitude}, {std}")
    fill = np.rint(255 * np.asarray(fill))

    def augment(images, labels, rng):
        B, *_ = check_images(images)
        x = _as_bytes(images)
        for _ in range(count):
            which, done = rng.integers(len(operations), size=B), rng.random(B) < p
            m, sign = np.clip(rng.normal(magnitude, std, B), 0, 10), rng.choice([-1.0, 1.0], B)
            for number, operation in enumerate(operations.values()):
                at = np.flatnonzero(done & (which == number))
                if at.size:
                    x[at] = operation(x[at], m[at], sign[at], fill)
        return (x if images.dtype == np.uint8 else x.astype(images.dtype) / 255), labels

    return augment


def _as_bytes(images: np.ndarray) -> np.ndarray:
    """A copy of 8 bits. Raises ValueError for whole numbers of another size."""
    if images.dtype == np.uint8:
        return images.copy()
    if images.dtype.kind != "f":
        raise ValueError(f"images: expected uint8 or floating-point numbers in 0 … 1, got {images.dtype}")
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
