"""Boxes in which the images of a batch take over each other's places: pixels in CutMix, tokens in MixToken.

Every image's partner is the one at the same place from the end of the batch.
"""

from __future__ import annotations

import math

import numpy as np

from tinyvit.primitives.elementwise import where

Box = tuple[int, int, int, int]  # top, bottom, left, right


def random_box(rng: np.random.Generator, size: tuple[int, int], share: float) -> Box:
    """A box of ⌊H√(1-λ)⌋ × ⌊W√(1-λ)⌋ places around one anywhere, cut off at the border (CutMix, Eq. 2)."""
    box = []
    for n in size:
        side, centre = int(n * math.sqrt(1 - share)), int(rng.integers(n))
        box += [max(centre - side // 2, 0), min(centre + (side + 1) // 2, n)]
    return tuple(box)


def share_kept(box: Box, size: tuple[int, int]) -> float:
    """λ, the share of the places that a box of a map of H × W leaves alone."""
    top, bottom, left, right = box
    return 1 - (bottom - top) * (right - left) / (size[0] * size[1])


def from_partner(x, box: Box):
    """``x ⊙ (1-M) + x' ⊙ M``: the partner's places in a box.   (B, H, W, C) -> (B, H, W, C)"""
    top, bottom, left, right = box
    inside = np.zeros((1, *x.shape[1:3], 1), bool)
    inside[:, top:bottom, left:right] = True
    return where(inside, x[::-1], x)
