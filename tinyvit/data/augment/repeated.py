"""Repeated augmentation: several versions of the same images in one batch (Berman et al. 2019; Hoffer et al. 2020)."""

from __future__ import annotations

import numpy as np

ROUND = 256  # an epoch is a multiple of this many images, in DeiT's code


def repeated(total: int, rng: np.random.Generator, *, repeats: int = 3, rank: int = 0, ranks: int = 1) -> np.ndarray:
    """The order of an epoch, as DeiT's sampler has it: indices, each ``repeats`` times in a row.

    An epoch is as long as ever, ⌊total/256⌋·256 images (all, if there are fewer), so it shows a part of the images
    only: a third of them, three times each, and which is drawn anew for every epoch.

    rank, ranks  of several machines, each takes every ranks-th index: the versions of an image go to different ones
    """
    if repeats < 1 or not 0 <= rank < ranks:
        raise ValueError(f"expected repeats >= 1 and 0 <= rank < ranks, got {repeats}, {rank} and {ranks}")
    order = np.repeat(rng.permutation(total), repeats)
    kept = total // ROUND * ROUND // ranks if total >= ROUND else -(-total // ranks)
    return order[(rank + ranks * np.arange(kept)) % len(order)]
