"""What an augmentation is, and batches that pass through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tinyvit.data.digits import Dataset

Augmentation = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def chained(*augmentations: Augmentation) -> Augmentation:
    """One augmentation after the other, in the order written."""

    def augment(images, labels, rng):
        for augmentation in augmentations:
            images, labels = augmentation(images, labels, rng)
        return images, labels

    return augment


class Augmented:
    """Batches (images, labels), each augmented anew when it is taken; as long as what it is made of.

    training(model, Augmented(Epochs(…), deit_digits(), rng=rng), …)

    Batches that are prepared ``ahead`` need generators that the model does not draw from: ``rng.spawn(1)[0]``.
    """

    def __init__(self, batches: Iterable, augmentation: Augmentation, *, rng: np.random.Generator):
        self.batches, self.augmentation, self.rng = batches, augmentation, rng

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Dataset]:
        for images, labels in self.batches:
            yield Dataset(*self.augmentation(images, labels, self.rng))


def check_images(images: np.ndarray) -> tuple[int, int, int, int]:
    """The shape (B, H, W, C). Raises ValueError for anything else."""
    if np.ndim(images) != 4:
        raise ValueError(f"images: expected (B, H, W, C), got shape {np.shape(images)}")
    return images.shape


def check_floats(images: np.ndarray) -> None:
    """Raise ValueError for images of whole numbers."""
    if images.dtype.kind != "f":
        raise ValueError(f"images: expected floating-point numbers, got {images.dtype}; images / 255 may be meant")


def check_probability(name: str, p: float) -> float:
    """``p`` itself. Raises ValueError unless it lies in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability, got {p}")
    return p


def first_that_fits(fits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every row of attempts (B, n): the first that fits, and whether one does."""
    return fits.argmax(axis=1), fits.any(axis=1)
