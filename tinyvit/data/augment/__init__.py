"""Augmentation: functions ``(images, labels, rng) -> (images, labels)`` of whole batches.

Images are (B, H, W, C), numbers in 0 … 1; what is given is never changed. It stands with the data, not with training:
it knows neither models nor gradients, and whatever makes batches, in the background too, can apply it.
``Epochs(…, order=repeated)`` puts several versions of an image into a batch.

    recipe = chained(random_crop(4), random_flip(), mixup_or_cutmix(classes=10))
    for images, labels in Augmented(Epochs(splits.train, 128, 30, rng=rng), recipe, rng=rng):
"""

from tinyvit.data.augment.chain import Augmentation, Augmented, chained
from tinyvit.data.augment.crop import random_crop, random_flip, random_resized_crop
from tinyvit.data.augment.erase import random_erasing
from tinyvit.data.augment.mix import mixup_or_cutmix
from tinyvit.data.augment.rand_augment import DEIT, DIGITS, rand_augment
from tinyvit.data.augment.recipe import deit, deit_digits
from tinyvit.data.augment.repeated import repeated

__all__ = [
    "DEIT",
    "DIGITS",
    "Augmentation",
    "Augmented",
    "chained",
    "deit",
    "deit_digits",
    "mixup_or_cutmix",
    "rand_augment",
    "random_crop",
    "random_erasing",
    "random_flip",
    "random_resized_crop",
    "repeated",
]
