"""Data by name, and what a model has to be like to learn it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tinyvit.data import Dataset, Photos, Splits, cifar10, cifar100, digits, image_folder, mnist, procedural
from tinyvit.equations.resize import resize
from tinyvit.models.catalogue import create_model
from tinyvit.nn.embed import pixels
from tinyvit.runs.config import known

COUNTS = (2000, 500, 1000)  # images of a procedural set: to learn from, to choose by, to report on
SETS = {
    "multi_scale": 4,
    "same_different": 2,
    "window_cross": 2,
    "path": 2,
    "where": 4,
    "what": 4,
    "needle": 2,
    "contours": 20,
    "texture_shape": 4,
}


@dataclass(frozen=True)
class Task:
    """A data set in three parts, how many classes it has, and what it is called."""

    splits: Splits
    classes: int
    name: str = ""

    @property
    def settings(self) -> dict:
        """What a model's config must say."""
        _, H, W, C = self.splits.train.images.shape
        return {"img_size": H if H == W else (H, W), "in_chans": C, "num_classes": self.classes}


def find_task(name: str, *, seed: int = 0, size: int = 0, train_size: int = 0) -> Task:
    """A task by name.

    name        ``digits``; a procedural set; or ``mnist:FOLDER``, ``cifar10:FOLDER``, ``cifar100:FOLDER`` (also their
                archives), ``folder:FOLDER`` with folders of classes in ``train`` and ``val``
    seed        of the split, and of what is drawn
    size        resize the images to size × size; a folder of photos needs one
    train_size  only the first so many training images, every class in proportion where the set is stratified

    Raises ValueError naming what there is, DataFileError for files that are not what they should be.
    """
    kind, _, place = name.partition(":")
    known("no such data", kind, [*SOURCES, *SETS], "data")
    if kind in SETS:
        task = _drawn(kind, seed)
    else:
        if (kind == "digits") == bool(place):
            raise ValueError(f"data: expected {kind if place else f'{kind}:FOLDER'}, got {name!r}")
        task = SOURCES[kind](place, seed, size)
    train, *others = task.splits
    if train_size > len(train.labels):
        raise ValueError(f"train_size: {name} has {len(train.labels)} training images, not {train_size}")
    if train_size:
        train = _part(train, slice(train_size))
    splits = Splits(train, *others)
    if size and kind != "folder":
        splits = Splits(*(Dataset(_resized(part.images, size), part.labels) for part in splits))
    return Task(splits, task.classes, kind)


def _drawn(kind: str, seed: int) -> Task:
    make = getattr(procedural, kind)
    parts = (Dataset(*make(n, rng=np.random.default_rng([seed, i]))[:2]) for i, n in enumerate(COUNTS))
    return Task(Splits(*parts), SETS[kind])


def _held_out(train: Dataset, test: Dataset, seed: int, classes: int) -> Task:
    """A tenth of the training images to choose by, at random."""
    order = np.random.default_rng(seed).permutation(len(train.labels))
    cut = len(order) // 10
    first, rest = np.sort(order[:cut]), order[cut:]
    return Task(Splits(_part(train, rest), _part(train, first), test), classes)


def _part(dataset: Dataset, index) -> Dataset:
    """Some of the images; photos stay in their files."""
    images = dataset.images
    return Dataset(images.chosen(index) if isinstance(images, Photos) else images[index], dataset.labels[index])


def _folder(place: str, seed: int, size: int) -> Task:
    if not size:
        raise ValueError("img_size: photos of any size need one to be resized to")
    train, names = image_folder(Path(place) / "train", size)
    val, others = image_folder(Path(place) / "val", size)
    if names != others:
        raise ValueError(f"{place}: train and val have other classes: {sorted(set(names) ^ set(others))[:3]}")
    order = np.random.default_rng(seed).permutation(len(val.labels))
    half = len(order) // 2
    return Task(Splits(train, *(_part(val, np.sort(i)) for i in (order[:half], order[half:]))), len(names))


SOURCES: dict[str, Callable] = {
    "digits": lambda place, seed, size: Task(digits(seed=seed), 10),
    "mnist": lambda place, seed, size: _held_out(mnist(place), mnist(place, train=False), seed, 10),
    "cifar10": lambda place, seed, size: _held_out(cifar10(place), cifar10(place, train=False), seed, 10),
    "cifar100": lambda place, seed, size: _held_out(cifar100(place), cifar100(place, train=False), seed, 100),
    "folder": _folder,
}


def _resized(images, size: int):
    return resize(pixels(images), size=(size, size), mode="bicubic", antialias=True)


def model_for(name: str, task: Task, *, rng, **changes):
    """A model of the catalogue, made for the images and classes of a task.

    Raises ValueError where the model cannot take such images, saying so.
    """
    blueprint = create_model(name)
    has = {f.name for f in fields(blueprint.config)}
    if not {"num_classes", "in_chans"} <= has:
        raise ValueError(f"model: {name} does not classify images")
    settings = {key: value for key, value in {**task.settings, **changes}.items() if key in has}
    return create_model(name, rng=rng, **settings)
