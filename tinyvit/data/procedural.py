"""Small data sets without a file, each made to need one ability of an architecture, and closed to cheaper ways.

All take the number of images and a generator, and give images (N, H, W, C) float32 in [0, 1] with labels (N,) int64.
What a set is closed to (mean colour, a bag of patches, one pixel, one frame) its test tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyvit.data.digits import Dataset
from tinyvit.data.drawing import SHAPES, SURROUNDING, coverage, distance, places, turned

TEXTURES = ("stripes", "checks", "rings", "dots")


class Cues(NamedTuple):
    """Images with two things to go by: labels of the shape and of the texture; the shape is where ``masks`` are."""

    images: np.ndarray
    shapes: np.ndarray
    textures: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class DrawnScenes:
    """Images of several shapes, with what a detector and a segmenter are asked for.

    images (N, H, W, 3) · boxes: per image (n, 4), corners x₀ y₀ x₁ y₁ of what is visible · labels: per image (n,)
    masks: per image (n, H, W) bool, the visible pixels of each object
    """

    images: np.ndarray
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    masks: list[np.ndarray]


# scenes ------------------------------------------------------------------------------------


def shapes(n: int, *, rng: np.random.Generator, size: int = 32, most: int = 4, noise: float = 0.05) -> DrawnScenes:
    """One to ``most`` discs, squares, triangles and stars, in any colour, the later ones in front of the earlier.

    An object of which less than nine pixels can be seen is left out of boxes, labels and masks.
    """
    scenes = [_scene(rng, size, most, noise) for _ in range(n)]
    images, boxes, labels, masks = map(list, zip(*scenes, strict=True)) if n else ([], [], [], [])
    return DrawnScenes(np.array(images, np.float32).reshape(n, size, size, 3), boxes, labels, masks)


def _scene(rng, size: int, most: int, noise: float):
    x, y = places(size)
    image = np.broadcast_to(rng.uniform(0.3, 0.7, 3), (size, size, 3))
    owner, kinds = np.full((size, size), -1), rng.integers(0, len(SHAPES), rng.integers(1, most + 1))
    for i, kind in enumerate(kinds):
        radius = rng.uniform(0.12, 0.3) * size
        middle = rng.uniform(radius, size - radius, 2)
        inside = coverage(
            distance(SHAPES[kind], *turned(x - middle[0], y - middle[1], rng.uniform(0, 2 * np.pi)), radius)
        )
        image = image + inside[..., None] * (_far_from(image.mean((0, 1)), rng) - image)
        owner[inside > 0.5] = i
    masks = owner == np.arange(len(kinds))[:, None, None]
    seen = masks.sum((1, 2)) >= 9
    image = np.clip(image + rng.normal(0, noise, image.shape), 0, 1)
    return image, _boxes_of(masks[seen]), kinds[seen], masks[seen]


def _far_from(colour, rng):
    """A colour that stands out from another."""
    while True:
        other = rng.uniform(0, 1, 3)
        if np.abs(other - colour).sum() > 0.6:
            return other


def _boxes_of(masks) -> np.ndarray:
    """The smallest boxes around masks.   (n, H, W) bool -> (n, 4)"""
    across, down = masks.any(1), masks.any(2)
    first = [side.argmax(1) for side in (across, down)]
    last = [side.shape[1] - side[:, ::-1].argmax(1) for side in (across, down)]
    return np.stack([*first, *last], axis=1).astype(np.float32)


def multi_scale(n: int, *, rng: np.random.Generator, size: int = 32) -> Dataset:
    """Which shape is it, of any size from an eighth of the image to nearly all of it? (Hierarchies of scales.)"""
    labels = rng.integers(0, len(SHAPES), n)
    radius = size / 16 * 4.8 ** rng.uniform(0, 1, n)  # evenly in its logarithm
    return Dataset(_on_grey(_figures(labels, radius, rng, size), rng), labels)


def _figures(labels, radius, rng, size: int) -> np.ndarray:
    """How much of each pixel a shape covers, at any place where it is whole, at any angle.   -> (N, H, W)

    radius  of the disc of the same area, (N,): area does not tell shapes apart
    """
    x, y = places(size)
    radius = radius * np.array([SURROUNDING[name] for name in SHAPES])[labels]
    out = np.zeros((len(labels), size, size), np.float32)
    middles = radius[:, None] + rng.uniform(0, 1, (len(labels), 2)) * (size - 2 * radius[:, None])
    angles = rng.uniform(0, 2 * np.pi, len(labels))
    for kind, name in enumerate(SHAPES):
        at = np.flatnonzero(labels == kind)
        here = turned(x - middles[at, 0, None, None], y - middles[at, 1, None, None], angles[at, None, None])
        out[at] = coverage(distance(name, *here, radius[at, None, None]))
    return out


def _on_grey(inside, rng, noise: float = 0.05) -> np.ndarray:
    """Bright or dark figures on grey, so that brightness says nothing, in noise.   (N, H, W) -> (N, H, W, 1)"""
    sign = rng.choice([-0.4, 0.4], (len(inside), 1, 1))
    return _noisy(0.5 + sign * inside, rng, noise)[..., None]


def _noisy(images, rng, noise: float = 0.05) -> np.ndarray:
    return np.clip(images + rng.normal(0, noise, images.shape), 0, 1).astype(np.float32)


def texture_shape(n: int, *, rng: np.random.Generator, size: int = 32, agreement: float = 1.0) -> Cues:
    """Shapes filled with textures. A part ``agreement`` has the texture of its shape's number, the rest another one.

    Trained where they agree and asked where they do not, a model shows which of the two it goes by
    (Geirhos et al. 2019).
    """
    kinds = rng.integers(0, len(SHAPES), n)
    other = (kinds + rng.integers(1, len(TEXTURES), n)) % len(TEXTURES)
    textures = np.where(rng.random(n) < agreement, kinds, other)
    inside = _figures(kinds, rng.uniform(0.18, 0.28, n) * size, rng, size)
    images = 0.5 + inside * (_textures(textures, rng, size) - 0.5)
    return Cues(_noisy(images, rng)[..., None], kinds, textures, inside > 0.5)


def _textures(kinds, rng, size: int) -> np.ndarray:
    """Patterns of period 4, black and white in equal parts, at a random phase.   (N,) -> (N, H, W)"""
    x, y = places(size)
    u, v = (axis + rng.uniform(0, 4, (len(kinds), 1, 1)) for axis in (x, y))
    along, across = np.cos(np.pi / 2 * u), np.cos(np.pi / 2 * v)
    rings = np.cos(np.pi / 2 * np.hypot(u - size / 2, v - size / 2))
    patterns = [along + 0 * across, along * across, rings, along + across]
    return (np.choose(kinds[:, None, None], patterns) > 0).astype(np.float32)


# relations ---------------------------------------------------------------------------------


def same_different(n: int, *, rng: np.random.Generator, size: int = 32, glyph: int = 6) -> Dataset:
    """Are the two glyphs, anywhere in the image, the same? Each has half of its pixels on. (Global comparison.)"""
    labels = rng.integers(0, 2, n)
    cells = glyph * glyph
    first, second = (rng.permuted(np.tile(np.arange(cells) % 2, (n, 1)), axis=1) for _ in range(2))
    second = np.where(labels[:, None] == 1, first, second)
    images = np.full((n, size, size), 0.5)
    places_of = _two_places(n, rng, size, glyph)
    for marks, at in zip((first, second), places_of, strict=True):
        _paste(images, marks.reshape(n, glyph, glyph), at)
    return Dataset(_noisy(images, rng)[..., None], labels)


def _two_places(n: int, rng, size: int, side: int):
    """Upper left corners (n, 2) of two squares that do not touch: one to the left of the other, or above it."""
    near = rng.integers(0, size - 2 * side, n)
    far = near + side + 1 + (rng.random(n) * (size - 2 * side - near)).astype(int)
    free = rng.integers(0, size - side + 1, (2, n))
    swap = rng.integers(0, 2, n)
    along = np.where(swap, far, near), np.where(swap, near, far)
    corners = [np.stack([a, b], axis=1) for a, b in zip(along, free, strict=True)]
    turn = rng.integers(0, 2, (n, 1))
    return [np.where(turn, corner, corner[:, ::-1]) for corner in corners]


def _paste(images, patches, at) -> None:
    """Put patch i into image i, with its upper left corner at (row, column).   (N, H, W), (N, h, w), (N, 2)"""
    N, h, w = patches.shape
    rows = at[:, 0, None, None] + np.arange(h)[:, None]
    columns = at[:, 1, None, None] + np.arange(w)
    images[np.arange(N)[:, None, None], rows, columns] = patches


def window_cross(n: int, *, rng: np.random.Generator, size: int = 32, window: int = 8) -> Dataset:
    """Do the halves of every mark have the same colour, where a window's border runs between them? (Shifted windows.)

    Four marks lie across borders between windows side by side, each in a row of windows of its own. Both classes have
    as many halves of either colour on either side, so whoever never looks across a border is left to guess.
    """
    if size < 4 * window:
        raise ValueError(f"size: four rows of windows of {window} need {4 * window} pixels, got {size}")
    labels = rng.integers(0, 2, n)
    rows = rng.permuted(np.tile(np.arange(size // window), (n, 1)), axis=1)
    borders = rng.integers(1, size // window, (n, 4))
    left = rng.permuted(np.tile([0, 0, 1, 1], (n, 1)), axis=1)
    right = np.where(labels[:, None] == 1, left, 1 - left)
    images = np.full((n, size, size), 0.5)
    half = window // 4
    for i in range(4):
        row = rows[:, i] * window + rng.integers(0, window - half + 1, n)
        border = borders[:, i] * window
        for colour, column in ((left, border - half), (right, border)):
            _paste(images, np.broadcast_to(colour[:, i, None, None], (n, half, half)), np.stack([row, column], axis=1))
    return Dataset(_noisy(images, rng)[..., None], labels)


def path(n: int, *, rng: np.random.Generator, size: int = 32) -> Dataset:
    """Are the two bright dots at the ends of one curve, or of two? (Long range; Pathfinder, Linsley et al. 2018.)

    Two curves cross the image side by side; each label has one dot above and one below.
    """
    labels = rng.integers(0, 2, n)
    x, y = places(size)
    height = np.linspace(2.5, size - 2.5, size)
    bends = _bends(n, rng, size)
    offsets = size * np.array([0.3, 0.7]) + bends + rng.uniform(-0.5, 0.5, (n, 1, 1))
    curves = offsets.transpose(0, 2, 1)  # (n, 2, size): column of each curve at each height
    images = np.zeros((n, size, size))
    on = (height[0] <= y) & (y <= height[-1])
    for i in range(2):
        across = np.abs(x - curves[:, i, :, None])
        images = np.maximum(images, 0.5 * np.clip(1.2 - across, 0, 1) * on)
    above = rng.integers(0, 2, n)
    below = np.where(labels == 1, above, 1 - above)
    for choice, row in ((above, 2), (below, size - 3)):
        middle = curves[np.arange(n), choice, row]
        images = np.maximum(images, coverage(np.hypot(x - middle[:, None, None], y - row - 0.5) - 2))
    return Dataset(_noisy(images, rng)[..., None], labels)


def _bends(n: int, rng, size: int) -> np.ndarray:
    """Two curves' wandering, (n, size, 2): both may change sides together, so that an end does not tell the other."""
    t = np.linspace(0, 1, size)
    waves = np.sin(np.pi * t[:, None] * np.array([1, 2, 3]))
    shared = (waves * rng.normal(0, 0.06, (n, 1, 3))).sum(-1)
    cross = np.where(rng.integers(0, 2, n)[:, None] == 1, 0.4 * t * t * (3 - 2 * t), 0.0)  # over and across the other
    own = (waves[None, :, :, None] * rng.normal(0, 0.02, (n, 1, 3, 2))).sum(2)
    return size * (shared[..., None] + own + np.stack([cross, -cross], axis=-1))


# place and detail --------------------------------------------------------------------------

PALETTE = np.array([[0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.2, 0.4, 0.9], [0.9, 0.8, 0.2]])


def where(n: int, *, rng: np.random.Generator, size: int = 32) -> Dataset:
    """In which quarter is the red tile? All four colours are in every image. (Positions are needed.)"""
    order = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)
    return Dataset(_tiles(order, rng, size), (order == 0).argmax(1))


def what(n: int, *, rng: np.random.Generator, size: int = 32) -> Dataset:
    """Which colour do two of the four tiles have? They lie in any order. (Positions are not needed.)"""
    labels = rng.integers(0, 4, n)
    others = (labels[:, None] + rng.permuted(np.tile([1, 2, 3], (n, 1)), axis=1)[:, :2]) % 4
    colours = np.concatenate([labels[:, None], labels[:, None], others], axis=1)
    return Dataset(_tiles(rng.permuted(colours, axis=1), rng, size), labels)


def _tiles(colours, rng, size: int) -> np.ndarray:
    """Four tiles of the palette's colours, in reading order.   (N, 4) -> (N, H, W, 3)"""
    tiles = PALETTE[colours].reshape(-1, 2, 2, 3)
    return _noisy(tiles.repeat(size // 2, 1).repeat(size // 2, 2), rng)


def needle(n: int, *, rng: np.random.Generator, size: int = 32) -> Dataset:
    """Does the mark of two bright pixels, anywhere in weak noise, lie or stand? (Fine detail.)"""
    labels = rng.integers(0, 2, n)
    images = rng.uniform(0.2, 0.5, (n, size, size))
    at = rng.integers(0, size - 1, (n, 2))
    step = np.stack([labels, 1 - labels], axis=1)
    for place in (at, at + step):
        images[np.arange(n), place[:, 0], place[:, 1]] = 1
    return Dataset(images.astype(np.float32)[..., None], labels)


def drifting(dataset: Dataset, *, rng: np.random.Generator, size: int = 24, side: str = "anywhere") -> Dataset:
    """Images pasted into larger black ones, one each: "anywhere", or in the "left" or "right" half only.

    Trained on one side and asked on the other, a model shows whether it carries over what it has learned to places
    where it has never seen it. (Translation equivariance.)
    """
    images, labels = dataset
    N, h, w, C = images.shape
    room = size - w
    low, high = {"anywhere": (0, room), "left": (0, (size // 2) - w), "right": (size // 2, room)}.get(side, (0, -1))
    if size < h or high < low:
        raise ValueError(f"side: expected 'anywhere', 'left' or 'right' with room for {h}×{w} in it, got {side!r} of "
                         f"{size}×{size}")  # fmt: skip
    at = np.stack([rng.integers(0, size - h + 1, N), rng.integers(low, high + 1, N)], axis=1)
    out = np.zeros((N, size, size, C), np.float32)
    for channel in range(C):
        _paste(out[..., channel], images[..., channel], at)
    return Dataset(out, labels)


def contours(n: int, *, rng: np.random.Generator, size: int = 32, classes: int = 20, seed: int = 0) -> Dataset:
    """Closed curves r(φ) = r₀ (1 + Σ aₖ cos(kφ + bₖ)) whose waves are the class: pre-training without photos.

    seed  which curves the classes are (formula-driven, Kataoka et al. 2020); place, size and angle come from ``rng``
    """
    formula = np.random.default_rng(seed)
    amplitudes, phases = formula.normal(0, 0.16, (classes, 5)), formula.uniform(0, 2 * np.pi, (classes, 5))
    labels = rng.integers(0, classes, n)
    x, y = places(size)
    middle = size * (0.5 + rng.uniform(-0.1, 0.1, (2, n, 1, 1)))
    x, y = x - middle[0], y - middle[1]
    angle = np.arctan2(y, x) + rng.uniform(0, 2 * np.pi, (n, 1, 1))
    k = np.arange(2, 7)
    waves = np.cos(k * angle[..., None] + phases[labels][:, None, None]) * amplitudes[labels][:, None, None]
    edge = rng.uniform(0.2, 0.34, (n, 1, 1)) * size * (1 + waves.sum(-1))
    return Dataset(_on_grey(np.clip(1.5 - np.abs(np.hypot(x, y) - edge), 0, 1), rng), labels)
