"""Real handwritten digits, 8 × 8 pixels: the test set of the UCI collection.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, in scikit-learn's copy; DATA_LICENSES.md beside this file holds the notices.
"""

from collections.abc import Callable, Iterator
from functools import cache
from operator import index
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyvit.nn.embed import pixels

CLASSES = 10


class Dataset(NamedTuple):
    """Images with their labels; being a pair, a whole data set is also a batch.

    images: (N, H, W, C), floats in [0, 1] or bytes, which `batches` makes floats of; labels: (N,)
    """

    images: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """Three disjoint data sets: to learn from, to choose by, to report on."""

    train: Dataset
    validation: Dataset
    test: Dataset


def digits(*, seed: int = 0, validation: int = 200, test: int = 300) -> Splits:
    """Split the 1,797 digits at random, with every class in proportion; the arrays are read-only.

    images: (N, 8, 8, 1) float32 in [0, 1], labels: (N,) int64

    Every class keeps its share, to within two images, in each split and in any first part of the
    training set, so `train.images[:100]` is a fair small training set.
    """
    everything = _all_digits()
    seed = _count("seed", seed)
    validation, test = _count("validation", validation), _count("test", test)
    total, held_out = len(everything.labels), validation + test
    if held_out > total - CLASSES:
        raise ValueError(
            f"validation={validation} and test={test} leave {total - held_out} of {total} digits "
            f"to train on; leave at least {CLASSES}"
        )
    order = _stratified_order(everything.labels, np.random.default_rng(seed))
    parts = order[held_out:], order[:validation], order[validation:held_out]
    return Splits(*(_read_only(*(a[part] for a in everything)) for part in parts))


def batches(
    dataset: tuple[np.ndarray, np.ndarray],
    batch_size: int,
    *,
    rng: np.random.Generator | None = None,
    order: np.ndarray | None = None,
    drop_last: bool = False,
) -> Iterator[Dataset]:
    """Go once through a data set in minibatches, shuffled if `rng` is given, or in an `order` of its indices.

    images: (N, …), labels: (N, …)  ->  pairs of (batch_size, …), (batch_size, …)

    Bytes come as floats in [0, 1]. The last batch is smaller where N is no multiple of `batch_size`;
    `drop_last` leaves it out.
    """
    images, labels = dataset
    if len(images) != len(labels):
        raise ValueError(f"dataset holds {len(images)} images but {len(labels)} labels")
    total, size = len(labels if order is None else order), _count("batch_size", batch_size)
    if size == 0 or (drop_last and size > total):
        raise ValueError(f"batch_size={size} makes no batch out of {total} images")
    if rng is not None:
        _check_rng(rng)
    if order is None:
        order = np.arange(total) if rng is None else rng.permutation(total)
    stop = total - total % size if drop_last else total
    chosen = (order[start : start + size] for start in range(0, stop, size))
    return (Dataset(pixels(images[i]), labels[i]) for i in chosen)


def shuffled(total: int, rng: np.random.Generator) -> np.ndarray:
    """Every index once, in a random order."""
    return rng.permutation(total)


class Epochs:
    """Several passes through a data set, as one sequence of minibatches whose length is known.

    Iterating gives pairs (images, labels). The last, smaller batch of a pass is left out, so every update sees as many
    images.

    order: a function (number of images, rng) -> the indices of a pass, called for every pass anew; always as many
    """

    def __init__(self, dataset: tuple, batch_size: int, epochs: int, *, rng: np.random.Generator,
                 order: Callable[[int, np.random.Generator], np.ndarray] = shuffled) -> None:  # fmt: skip
        self.dataset, self.batch_size, self.epochs, self.rng = dataset, batch_size, _count("epochs", epochs), rng
        self.order = order
        _check_rng(rng)
        first = order(len(dataset[1]), rng)
        batches(dataset, batch_size, order=first, drop_last=True)  # check the arguments now
        self.per_epoch = len(first) // batch_size

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __iter__(self) -> Iterator[Dataset]:
        for _ in range(self.epochs):
            order = self.order(len(self.dataset[1]), self.rng)
            yield from batches(self.dataset, self.batch_size, order=order, drop_last=True)


@cache
def _all_digits() -> Dataset:
    """Read the bundled file: 64 pixels from 0 to 16 in each row, then the digit."""
    rows = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.uint8)
    pixels = rows[:, :-1].reshape(-1, 8, 8, 1)
    return _read_only(pixels.astype(np.float32) / 16, rows[:, -1].astype(np.int64))


def _stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle so that every stretch of the order holds each class in proportion.

    labels: (N,)  ->  (N,), a permutation

    The k-th image of a class of n is put at the fraction (k + ½) / n of the way.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    ties = rng.permutation(len(labels))  # classes of one size share their places
    return ties[np.argsort(place[ties], kind="stable")]


def _read_only(images: np.ndarray, labels: np.ndarray) -> Dataset:
    """Pair two arrays of our own, closed to writing: a data set is shared by all who ask for it."""
    images.setflags(write=False)
    labels.setflags(write=False)
    return Dataset(images, labels)


def _check_rng(rng: np.random.Generator) -> None:
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a np.random.Generator or None, not {rng!r}")


def _count(name: str, value: int) -> int:
    """Check that an argument is a whole number, zero or more."""
    try:
        count = index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if count < 0:
        raise ValueError(f"{name} must be zero or more, not {count}")
    return count
