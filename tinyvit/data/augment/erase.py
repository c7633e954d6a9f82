"""A box of noise in place of a part of the image: random erasing (Zhong et al. 2020, Alg. 1)."""

from __future__ import annotations

import numpy as np

from tinyvit.data.augment.chain import Augmentation, check_floats, check_images, check_probability, first_that_fits

ATTEMPTS = 10


def random_erasing(
    p: float = 0.25,
    *,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: float = 0.3,
    mean=0.0,
    std=1.0,
) -> Augmentation:
    """With probability p, every pixel in a box becomes noise of its own: DeiT's mode "pixel".

    area       the box's share of the image, uniform
    aspect     height over width, log-uniform between this and its inverse
    mean, std  of the noise, numbers or one for each channel: the data's own, which is N(0, 1) once images are
               normalised
    A box as high or as wide as the image does not count; if none does in ten attempts, nothing is erased.
    """
    check_probability("p", p)
    if not (0 < area[0] <= area[1] <= 1 and 0 < aspect <= 1):
        raise ValueError(f"expected 0 < area <= 1, rising, and 0 < aspect <= 1, got {area} and {aspect}")

    def augment(images, labels, rng):
        check_floats(images)
        B, H, W, C = check_images(images)
        erased = random_boxes(rng, B, (H, W), area, aspect) & (rng.random(B) < p)[:, None, None]
        images = images.copy()
        images[erased] = mean + std * rng.normal(size=(erased.sum(), C))
        return images, labels

    return augment


def random_boxes(rng: np.random.Generator, count: int, size: tuple[int, int], area, aspect: float) -> np.ndarray:
    """A box in each of ``count`` images (H, W), or none: booleans (count, H, W)."""
    H, W = size
    areas = rng.uniform(*area, (count, ATTEMPTS)) * H * W
    ratios = np.exp(rng.uniform(np.log(aspect), -np.log(aspect), (count, ATTEMPTS)))
    heights, widths = np.rint(np.sqrt(areas * ratios)).astype(int), np.rint(np.sqrt(areas / ratios)).astype(int)
    which, found = first_that_fits((heights < H) & (widths < W))
    h, w = (n[np.arange(count), which] for n in (heights, widths))
    top, left = (np.floor(rng.random(count) * (n - part + 1)).astype(int) for n, part in ((H, h), (W, w)))
    rows, columns = (
        (at[:, None] <= np.arange(n)) & (np.arange(n) < (at + part)[:, None])
        for at, part, n in ((top, h, H), (left, w, W))
    )
    return found[:, None, None] & rows[:, :, None] & columns[:, None, :]
