"""The recipe of DeiT (Touvron et al. 2021, Table 9): what happens to images before the model sees them.

The rest of it is in ``nn`` and ``train``: AdamW with λ = 0.05 and no gradient clipping, η = 5·10⁻⁴ · batch/512 by a
cosine down to 10⁻⁵, warmed up over 5 of 300 epochs, labels smoothed by 0.1, stochastic depth 0.1, three versions of
every image, averaged weights (α = 0.99996).
"""

from __future__ import annotations

from tinyvit.data.augment.chain import Augmentation, chained
from tinyvit.data.augment.crop import random_crop, random_flip, random_resized_crop
from tinyvit.data.augment.erase import random_erasing
from tinyvit.data.augment.mix import mixup_or_cutmix
from tinyvit.data.augment.rand_augment import DIGITS, rand_augment
from tinyvit.data.photo import IMAGENET


def deit(size: int, classes: int, *, mean=IMAGENET.mean, std=IMAGENET.std) -> Augmentation:
    """Crop, flip, RandAugment, erase; then mix. For images in 0 … 1 that are not normalised yet.

    size       of the crops; images of up to 32 pixels are moved by up to 4 instead, as in DeiT's code
    mean, std  of the data: what fills the gaps that an operation leaves, and the noise of what is erased
    """
    frame = random_resized_crop(size) if size > 32 else random_crop(4)
    return chained(
        frame,
        random_flip(),
        rand_augment(fill=mean),
        random_erasing(mean=mean, std=std),
        mixup_or_cutmix(classes),
    )


def deit_digits(classes: int = 10) -> Augmentation:
    """The same for digits of 8 × 8 pixels: moved by one pixel, never flipped, gentler operations, no noise."""
    return chained(random_crop(1), rand_augment(DIGITS, fill=0.0), mixup_or_cutmix(classes))
