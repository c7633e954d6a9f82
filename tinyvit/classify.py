"""What a published model sees in a photo, and where it looked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tinyvit.analysis import attention_maps, rollout, token_grid
from tinyvit.autodiff.watch import no_grad
from tinyvit.data.photo import IMAGENET, INCEPTION, Preprocess, framed, load_photo, normalised
from tinyvit.equations.activation import softmax
from tinyvit.models.catalogue import create_model, paper_of
from tinyvit.nn.module import Module
from tinyvit.nn.weights import load_weights

STYLES = {"inception": INCEPTION, "imagenet": IMAGENET}

# How the published weights were tested, by family or by name: colours, crop at 224 pixels, crop of larger images. From
# timm's configurations (ViT: those of "How to train your ViT?"; ResNet: torchvision's crop, here with bicubic
# interpolation).
TESTED = {
    "vit": (INCEPTION, 0.9, 1.0),
    "mixer": (INCEPTION, 0.875, 1.0),
    "bit": (INCEPTION, 0.875, 1.0),
    **dict.fromkeys(("resnetv2_50", "resnetv2_101"), (INCEPTION, 0.95, 1.0)),
    "volo": (IMAGENET, 0.96, 1.0),
    **dict.fromkeys(("volo_d4_448", "volo_d5_448", "volo_d5_512"), (IMAGENET, 0.96, 1.15)),
    "cait": (IMAGENET, 1.0, 1.0),
    "deit": (IMAGENET, 0.9, 1.0),
    "swin": (IMAGENET, 0.9, 1.0),
}
OTHERS = (IMAGENET, 0.875, 1.0)


@dataclass(frozen=True)
class Seen:
    """What came out.

    classes    the most probable, best first: (name, probability) · picture: what the model was given, (H, W, 3) bytes
    attention  how much of each place reached what the head reads, (gh, gw), if that was asked for
    """

    classes: list[tuple[str, float]]
    picture: np.ndarray
    attention: np.ndarray | None = None


def classify(path, name: str, *, weights, labels=None, style: str | None = None, top: int = 5,
             attention: bool = False) -> Seen:  # fmt: skip
    """Run a model of the catalogue, with weights from a file, on a photo.

    labels     a text file with a name for every class, one a line; without it a class is its number
    style      "inception" or "imagenet": other colours than those of the paper's own weights
    attention  whether to follow the attention

    Raises ValueError for a model that takes no photos, an image or labels that do not fit, or no attention to follow.
    """
    image = load_photo(path)
    blueprint = create_model(name)
    size = photo_size(blueprint, name)
    names = read_labels(labels, blueprint.config.num_classes)
    model = load_weights(blueprint, weights)
    how = preprocessing(name, size, style)
    picture = framed(image, size, how.crop)
    batch = normalised(picture, how)
    with no_grad():
        odds = softmax(model(batch)).data[0]
    best = np.argsort(-odds, kind="stable")[:top]
    flow = class_flow(model, batch) if attention else None
    return Seen([(names[i], float(odds[i])) for i in best], np.asarray(picture), flow)


def preprocessing(name: str, size: int, style: str | None = None) -> Preprocess:
    """How photos are prepared for a model."""
    own, crop, large = TESTED.get(name) or TESTED.get(paper_of(name).family, OTHERS)
    return replace(STYLES[style] if style else own, crop=crop if size <= 224 else large)


def photo_size(model: Module, name: str) -> int:
    """The side of the photos that a model takes. Raises ValueError if it takes none."""
    size, channels = getattr(model.config, "img_size", None), getattr(model.config, "in_chans", None)
    of_clips = hasattr(model.config, "num_frames")
    if of_clips or not isinstance(size, int) or channels != 3 or not getattr(model.config, "num_classes", 0):
        raise ValueError(f"model: {name} does not classify square photos in colour")
    return size


def read_labels(path, classes: int) -> list[str]:
    """A name for every class. Raises ValueError if there are more or fewer."""
    if path is None:
        return [f"class {i}" for i in range(classes)]
    names = Path(path).read_text(encoding="utf-8").splitlines()
    if len(names) != classes:
        raise ValueError(f"labels: {path} has {len(names)} lines, and the model {classes} classes")
    return names


def class_flow(model: Module, images) -> np.ndarray:
    """How much of each place reaches what the head reads, by rollout.   -> (gh, gw)

    The head reads the class token, or the mean of all. Raises ValueError for a model without attention.
    """
    try:
        flow = rollout(attention_maps(model, images))[0]
    except ValueError as error:
        raise ValueError(f"attention: this model has none that can be followed ({error})") from error
    return looked_at(model, flow, images.shape[1:3])


def looked_at(model: Module, maps: np.ndarray, size, at: tuple[float, float] | None = None) -> np.ndarray:
    """What the head, or one place, takes of every place, in the mean over what the head reads.

    maps (..., N, N₀), of a layer or a rollout, size: (H, W) of the images, at: a place as shares of both
    -> (..., gh, gw)

    The head reads the class token, or the mean of all. Tokens must be a grid behind those that are no patches.
    """
    (prefix, grid), (others, seen) = token_grid(maps.shape[-2], size), token_grid(maps.shape[-1], size)
    pooled = not prefix or getattr(model.config, "global_pool", "token") == "avg"
    if at is not None:
        row, column = (min(int(share * n), n - 1) for share, n in zip(at, grid, strict=True))
        read = maps[..., prefix + row * grid[1] + column, :]
    else:
        read = maps[..., prefix:, :].mean(axis=-2) if pooled else maps[..., getattr(model, "class_place", 0), :]
    return read[..., others:].reshape(*maps.shape[:-2], *seen)
